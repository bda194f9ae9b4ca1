"""Requests through OpenAI's Batch API: half the price, answered within a day, paid for once whatever is killed."""

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import openai

from emdefense.config.study import OpenAIJudge
from emdefense.errors import InputError
from emdefense.judging.asking import FIRST_PAUSE, LONGEST_PAUSE
from emdefense.judging.batch_records import Record, Records
from emdefense.judging.budget import Budget, BudgetSpent, Spending
from emdefense.judging.cache import Cache
from emdefense.judging.claims import BEAT, Claims
from emdefense.judging.endpoint import Endpoint, read_reply
from emdefense.judging.failures import QUOTA, Failure, by_status, classify
from emdefense.judging.requests import Request

# The API's limits for a file: https://platform.openai.com/docs/api-reference/batch/create
MOST_REQUESTS = 50_000
MOST_BYTES = 200_000_000
URL = "/v1/chat/completions"
MARK = "emdefense"  # in a batch's metadata: the name of its record
FILE_SECONDS = 600.0  # for an upload or a download
ENDED = {"completed", "failed", "expired", "cancelled"}
WORTHWHILE = 0.1  # of what is left to ask: no batch is smaller for want of money
SHARED = ("model", "messages", "temperature")  # what the other fields of a request go with

T = TypeVar("T")


class BatchAsker:
    """Asks what is missing in a cache. ``failures``: requests that stay without a reply, by key."""

    def __init__(self, settings: OpenAIJudge, endpoint: Endpoint, cache: Cache, claims: Claims, budget: Budget):
        self.settings, self.endpoint, self.cache, self.claims, self.budget = settings, endpoint, cache, claims, budget
        self.failures: dict[bytes, Failure] = {}
        self.records = Records(cache)
        self._tries: Counter[bytes] = Counter()  # that ended without a reply
        self._unseen: set[str] = set()  # batches that may have been created, and were not in the list
        self._most = MOST_REQUESTS
        self._one_at_a_time = False

    async def ask(
        self, requests: Callable[[], Iterable[Request]], wanted: set[bytes], most_failures: int, *, submit: bool = True
    ) -> None:
        """Have a reply in the cache, or a failure, for each of ``requests`` whose key is in ``wanted``.

        Batches that hold any of them, and whose job is dead, are waited for like those that are submitted here; without
        ``submit``, only they are. After ``most_failures`` nothing more is submitted. Raises :class:`InputError` after a
        failure that all further requests would share, and :class:`BudgetSpent` where the next batch could pass
        ``max_usd``; what was submitted is then taken in by the next run.
        """
        pending = wanted
        beat = asyncio.create_task(self._beat())
        try:
            while True:
                for record in await asyncio.to_thread(self._adopt, wanted):
                    await self._look_after(record)
                await asyncio.to_thread(self.cache.refresh)
                pending = {key for key in pending if key not in self.cache and key not in self.failures}
                submitting = submit and len(self.failures) <= most_failures
                while submitting and pending and await self._submit_next(requests, pending):
                    pass
                if not any(map(self.records.is_mine, self.records.all())) and not (pending and submitting):
                    return
                await asyncio.sleep(self.settings.batch_poll_seconds)
        finally:
            beat.cancel()
            self.claims.close()

    def _adopt(self, wanted: set[bytes]) -> list[Record]:
        """Return the batches that this process looks after; those that nobody does and that hold what it wants too."""
        found = []
        with self.claims.locked():
            for record in self.records.all():
                if not self.records.is_mine(record):
                    if not self.records.is_orphan(record) or wanted.isdisjoint(map(bytes.fromhex, record.keys)):
                        continue
                    record.owner = self.cache.owner
                    self.records.write(record)
                found.append(record)
        return found

    async def _submit_next(self, requests: Callable[[], Iterable[Request]], pending: set[bytes]) -> bool:
        """Submit what fits into a batch; return whether there may be more that does."""
        record, more = await asyncio.to_thread(self._prepare, requests, pending)
        if record is None:
            return False
        wanted = set(map(bytes.fromhex, record.keys))
        with tempfile.TemporaryFile() as content:
            for request in requests():
                if request.key in wanted:
                    wanted.remove(request.key)
                    content.write(_line(request))

            async def upload() -> str:
                content.seek(0)
                file = (f"{record.name}.jsonl", content)
                return str((await self._files.create(file=file, purpose="batch")).id)

            record.input_file = await self._call(upload)
        self.records.write(record)
        await self._create(record)
        return more

    def _prepare(self, requests: Callable[[], Iterable[Request]], pending: set[bytes]) -> tuple[Record | None, bool]:
        """Write the record of a batch of what nobody asks and the budget allows; return it, and whether more is left.

        The money is entered into the ledger before the lock is given back, as a batch cannot be stopped half-way.
        """
        free = pending - self._asked(self.records.all())
        if not free:
            return None, False
        chosen: dict[bytes, Request] = {}
        size = 0
        for request in requests():
            if request.key in free and request.key not in chosen:
                size += len(_line(request))
                if chosen and (len(chosen) == self._most or size > MOST_BYTES):
                    break
                chosen[request.key] = request
        with self.claims.locked() as others:
            records = self.records.all()
            mine = [record for record in records if self.records.is_mine(record)]
            if self._one_at_a_time and mine:
                return None, False
            theirs = self._asked(records).union(*(other.keys for other in others))
            reserved = [other.reserved for other in others if other.ledger == self.claims.ledger]
            room = self.budget.room() - sum(reserved)
            fitting: list[Request] = []
            open_to_ask = [r for r in chosen.values() if r.key not in theirs and r.key not in self.cache]
            cost = 0.0
            for request in open_to_ask:
                cost += self.budget.most(request)
                if cost > room:
                    cost -= self.budget.most(request)
                    break
                fitting.append(request)
            if not open_to_ask:
                return None, False
            if len(fitting) < len(open_to_ask) and len(fitting) < max(1, WORTHWHILE * len(open_to_ask)):
                # What is under way may turn out cheaper than was feared.
                if (
                    not mine
                    and not any(reserved)
                    and not any(r.ledger == self.claims.ledger and self._is_others(r) for r in records)
                ):
                    raise self._spent(len(pending))
                return None, False
            labels = self.budget.ledger.labels
            record = Record(
                self.cache.owner,
                **labels,
                ledger=self.claims.ledger,
                keys=[request.key.hex() for request in fitting],
                fields={key: value for key, value in fitting[0].fields.items() if key not in SHARED},
                most_usd=cost,
            )
            self.records.write(record)
            record.enter(Spending(unanswered=len(fitting), usd=cost))
            self.claims.write({*map(bytes.fromhex, (k for r in (*mine, record) for k in r.keys))})
        return record, len(fitting) == len(open_to_ask) and not self._one_at_a_time

    def _asked(self, records: Iterable[Record]) -> frozenset[bytes]:
        return frozenset(bytes.fromhex(key) for record in records for key in record.keys)

    def _is_others(self, record: Record) -> bool:
        """Whether another process, which is alive, looks after a batch."""
        return not self.records.is_mine(record) and not self.records.is_orphan(record)

    def _spent(self, left: int) -> BudgetSpent:
        return BudgetSpent(
            f"max_usd: of {self.budget.max_usd:g} USD, {self.budget.ledger.usd():.4f} are spent, and the next batch of "
            f"judge '{self.settings.name}' could pass it ({left} requests are left); raise it and run again, nothing "
            "paid for is lost"
        )

    async def _create(self, record: Record) -> None:
        """Have the endpoint begin with an uploaded file, once, even where its answer to that is lost."""
        tried = False

        async def create() -> str:
            nonlocal tried
            if tried and (found := await self._find(record)):
                return found
            tried = True
            batch = await self.endpoint.client.batches.create(
                input_file_id=record.input_file or "",
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={MARK: record.name},
            )
            return batch.id

        record.batch = await self._call(create)
        self.records.write(record)

    async def _find(self, record: Record) -> str | None:
        """Return the id of a record's batch, if the endpoint has it."""
        async for batch in self.endpoint.client.batches.list(limit=100):
            if (batch.metadata or {}).get(MARK) == record.name:
                return batch.id
        return None

    async def _look_after(self, record: Record) -> None:
        """Take a batch in if it has ended; find out its id where a kill came before that was written."""
        if record.batch is None:
            if record.input_file is not None:
                record.batch = await self._call(lambda: self._find(record))
            if record.batch is None:
                # A list may lag behind; but where no file was uploaded, nothing was begun.
                if record.input_file is None or record.name in self._unseen:
                    self._finish(record, Spending())
                self._unseen.add(record.name)
                return
            self.records.write(record)
        known = record.batch
        batch = await self._call(lambda: self.endpoint.client.batches.retrieve(known), record)
        if batch.status not in ENDED:
            return
        if batch.status == "failed":
            self._failed(record, [(error.code or "", error.message or "") for error in _errors(batch)])
            return
        outcomes = [
            await self._call(lambda file=file: self._read(file, record))  # type: ignore[misc]
            for file in (batch.output_file_id, batch.error_file_id)
            if file
        ]
        failed = {key: failure for _, failures in outcomes for key, failure in failures.items()}
        lost = Failure("transient", f"batch {batch.status}")
        for key in map(bytes.fromhex, record.keys):
            if key not in self.cache:
                self._count(key, failed.get(key, lost))
        total = Spending()
        for spent, _ in outcomes:
            total.add(vars(spent))
        self._finish(record, total)
        for failure in failed.values():
            if failure.kind == "fatal":
                raise InputError(self.endpoint.explain(failure))

    def _finish(self, record: Record, spent: Spending) -> None:
        """Have the replies, then what they cost on disk, and only then forget the batch."""
        self.cache.sync()
        record.enter(spent)
        self.records.remove(record)

    def _count(self, key: bytes, failure: Failure) -> None:
        """Enter a request without a reply; it is asked again, unless that is of no use."""
        self._tries[key] += 1
        if failure.kind == "content" or self._tries[key] > self.settings.max_retries:
            self.failures[key] = failure

    def _failed(self, record: Record, errors: list[tuple[str, str]]) -> None:
        """Take in that a batch was refused as a whole, at no cost."""
        self._finish(record, Spending())
        code, message = errors[0] if errors else ("", "no reason given")
        if code == "token_limit_exceeded":
            # More is queued than the account may have; if nothing else is, the batch was too large by itself.
            if self._one_at_a_time and not any(self._is_others(other) for other in self.records.all()):
                self._most = max(1, len(record.keys) // 2)
                if len(record.keys) == 1:
                    self._count(bytes.fromhex(record.keys[0]), Failure("limit", code))
            self._one_at_a_time = True
            return
        if code in QUOTA:
            raise InputError(self.endpoint.explain(Failure("fatal", "quota used up")))
        said = " ".join(f"{code}: {message}".split())[:200]
        raise InputError(
            f"judge '{self.settings.name}': the endpoint refused batch {record.batch} ({said}); "
            "mend that, or set judge.mode to synchronous"
        )

    async def _read(self, file: str, record: Record) -> tuple[Spending, dict[bytes, Failure]]:
        """Take a file of results in; return what they cost, and the failures by key."""
        spent, failures = Spending(), {}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "results.jsonl"
            async with self._files.with_streaming_response.content(file) as response:
                await response.stream_to_file(path)
            self.cache.want(map(bytes.fromhex, record.keys))
            wanted = set(record.keys)
            with path.open("rb") as lines:
                for line in lines:
                    if not line.strip():
                        continue
                    result = json.loads(line)
                    if result["custom_id"] not in wanted:
                        continue
                    key = bytes.fromhex(result["custom_id"])
                    try:
                        reply = _reply(result, record.fields)
                    except Failure as failure:
                        failures[key] = failure
                        usage = failure.usage
                        if usage is None and not failure.may_be_paid:
                            continue
                    else:
                        usage = reply.get("usage")
                        if key not in self.cache:
                            self.cache.add(key, reply)
                    self._charge(spent, usage, record)
        return spent, failures

    def _charge(self, spent: Spending, usage: tuple[int, int] | None, record: Record) -> None:
        """Add a reply; one whose tokens are not told costs the most that it could."""
        price, tokens = self.budget.price, usage or (0, 0)
        spent.calls += 1
        spent.input_tokens += tokens[0]
        spent.output_tokens += tokens[1]
        if usage is None:
            spent.usd += record.most_usd / len(record.keys)
        elif price is not None:
            spent.usd += price.of(*usage)

    @property
    def _files(self) -> Any:
        return self.endpoint.client.with_options(timeout=FILE_SECONDS).files

    async def _call(self, make: Callable[[], Awaitable[T]], record: Record | None = None) -> T:
        """Return what the endpoint says, with ``max_retries`` further tries; :class:`InputError` where it does not."""
        failed = 0
        while True:
            try:
                return await make()
            except openai.APIError as error:
                failure = classify(error)
            except (httpx2.TransportError, ValueError, KeyError):  # in a download: cut, or garbled
                failure = Failure("transient", "connection cut")
            failed += 1
            if record is not None and failure.status == 404:
                raise InputError(
                    f"{self.records.path(record)}: the endpoint does not know batch {record.batch}; use the account "
                    "that it was submitted from, or delete this file to have its requests asked, and paid for, anew"
                )
            if failure.kind in {"fatal", "content"} or failed > self.settings.max_retries:
                raise InputError(self._explain(failure))
            await asyncio.sleep(failure.retry_after or min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (failed - 1)))

    def _explain(self, failure: Failure) -> str:
        if failure.status == 404:
            return f"judge '{self.settings.name}': the endpoint has no Batch API; set judge.mode to synchronous"
        return self.endpoint.explain(failure)

    async def _beat(self) -> None:
        while True:
            await asyncio.to_thread(self.claims.beat)
            await asyncio.sleep(BEAT)


def _line(request: Request) -> bytes:
    """Return a request as a line of a batch's file."""
    line = {"custom_id": request.key.hex(), "method": "POST", "url": URL, "body": request.fields}
    return json.dumps(line).encode() + b"\n"


def _reply(result: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Return the reply in a line of a file of results; raises :class:`Failure`."""
    response = result.get("response")
    if not response:  # expired, or cancelled
        raise Failure("transient", str((result.get("error") or {}).get("code") or "no reply"))
    body = response.get("body") or {}
    if response["status_code"] != 200:
        raise by_status(response["status_code"], str((body.get("error") or {}).get("code") or ""), {})
    try:
        return read_reply(body, fields)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise Failure("transient", "garbled reply", may_be_paid=True) from None


def _errors(batch: Any) -> list[Any]:
    return list((batch.errors.data if batch.errors else None) or [])
