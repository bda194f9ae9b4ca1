"""The calls to OpenAI's Batch API: each tried again where that is safe, and one line where it is of no use."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx2
import openai
from openai.types import Batch

from emdefense.errors import InputError
from emdefense.judging.client import FIRST_PAUSE, LONGEST_PAUSE
from emdefense.judging.endpoint import Endpoint
from emdefense.judging.failures import Failure, classify

MARK = "emdefense"  # in a batch's metadata: the name of its record
FILE_SECONDS = 600.0  # for an upload or a download

T = TypeVar("T")


class BatchEndpoint:
    """Files and batches of an endpoint; all raise :class:`InputError` after ``max_retries`` further tries."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint, self.settings, self.client = endpoint, endpoint.settings, endpoint.client

    async def upload(self, name: str, content: IO[bytes]) -> str:
        """Upload requests; return the file's id."""

        async def upload() -> str:
            content.seek(0)
            return _id(await self._files.create(file=(f"{name}.jsonl", content), purpose="batch"))

        return await self._call(upload)

    async def create(self, name: str, input_file: str) -> str:
        """Have a batch begin, once, even where the answer to that is lost; return its id."""
        tried = False

        async def create() -> str:
            nonlocal tried
            if tried:
                await asyncio.sleep(self.settings.batch_poll_seconds)  # a list may lag behind
                if found := await self.find(name):
                    return found
            tried = True
            batch = await self.client.batches.create(
                input_file_id=input_file,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={MARK: name},
            )
            return _id(batch)

        return await self._call(create)

    async def find(self, name: str) -> str | None:
        """Return the id of the batch of this name, if the endpoint has it."""

        async def find() -> str | None:
            async for batch in self.client.batches.list(limit=100):
                if isinstance(batch.metadata, dict) and batch.metadata.get(MARK) == name:
                    return _id(batch)
            return None

        return await self._call(find)

    async def look(self, batch: str, record: Path) -> Batch:
        """Return a batch as it stands; ``record`` is the file to name if there is none of this id."""

        async def look() -> Batch:
            found = await self.client.batches.retrieve(batch)
            _id(found)
            return found

        return await self._call(
            look,
            f"{record}: the endpoint does not know batch {batch}; use the account that it was submitted from, or "
            "delete this file to have its requests asked, and paid for, anew",
        )

    async def download(self, file: str, path: Path) -> None:
        """Write a file of the endpoint's to ``path``."""

        async def download() -> None:
            async with self._files.with_streaming_response.content(file) as response:
                await response.stream_to_file(path)

        await self._call(download)

    @property
    def _files(self) -> Any:
        return self.client.with_options(timeout=FILE_SECONDS).files

    async def _call(self, make: Callable[[], Awaitable[T]], not_found: str = "") -> T:
        failed = 0
        while True:
            try:
                return await make()
            except InputError:
                raise
            except openai.APIError as error:
                failure = classify(error, key=self.endpoint.key)
            except httpx2.TransportError:  # in a download
                failure = Failure("transient", "connection cut")
            except (AttributeError, TypeError, ValueError):  # the client does not check what it is sent
                failure = Failure("transient", "a garbled answer about batches")
            failed += 1
            if failure.status == 404:
                what = f"judge '{self.settings.name}': the endpoint has no Batch API; set judge.mode to synchronous"
                raise InputError(not_found or what)
            if failure.kind in {"fatal", "content"} or failed > self.settings.max_retries:
                raise InputError(self.endpoint.explain(failure))
            await asyncio.sleep(failure.retry_after or min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (failed - 1)))


def _id(found: Any) -> str:
    """Return the id of what the endpoint says that it has; ValueError if it says something else."""
    if not isinstance(name := getattr(found, "id", None), str) or not name:
        raise ValueError("no id")
    return name
