"""One request to an OpenAI-compatible endpoint: a reply, or a failure of a known kind."""

import asyncio
from typing import Any

import httpx2
import openai

from emdefense.config.judges import OpenAIJudge
from emdefense.judging.advice import advise
from emdefense.judging.failures import Failure, classify
from emdefense.judging.protocol import Reply
from emdefense.judging.reply import asked, understand

LIMIT, OTHER_LIMIT = "max_tokens", "max_completion_tokens"  # one thing under two names; each model takes one of them


class Endpoint:
    """An open client; use as an asynchronous context manager.

    ``limit``: the name under which the model takes the limit of tokens.
    """

    def __init__(self, settings: OpenAIJudge, key: str):
        self.settings, self.key, self.limit = settings, key, LIMIT
        # One connection a request in flight. Retries are ours: they must free their place while they wait.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=settings.concurrency)
        self.client = openai.AsyncOpenAI(
            api_key=key,
            base_url=settings.base_url,
            timeout=settings.timeout_seconds,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(limits=limits),
        )

    async def __aenter__(self) -> "Endpoint":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.client.close()

    async def complete(self, fields: dict[str, Any]) -> Reply:
        """Return the reply to a chat completion; raises :class:`Failure`.

        Where the model wants the limit of tokens under its other name, it gets it, from then on and at no cost.
        """
        while True:
            limit = self.limit
            try:
                return await self._complete(fields)
            except Failure as failure:
                if not self.wants_other_limit(failure, limit):
                    raise

    def wants_other_limit(self, failure: Failure, sent: str) -> bool:
        """Whether a request that had its limit under the name ``sent`` failed for that; the next has the other one."""
        if failure.kind != "content" or sent != LIMIT or not failure.said.names(OTHER_LIMIT):
            return False
        self.limit = OTHER_LIMIT
        return True

    def body(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Return a request as this model takes it."""
        if self.limit == LIMIT:
            return fields
        return {self.limit if name == LIMIT else name: value for name, value in fields.items()}

    def explain(self, failure: Failure) -> str:
        """Return one line on a failure that no retry mends; it never holds the key."""
        return advise(self.settings, failure)

    async def _complete(self, fields: dict[str, Any]) -> Reply:
        try:
            # As bytes: the client's own models of a reply with log probabilities take longer than all else.
            async with asyncio.timeout(self.settings.timeout_seconds):
                found = await self.client.post("/chat/completions", body=self.body(fields), cast_to=httpx2.Response)
                status, content, headers = 200, found.content, found.headers
        except openai.APIStatusError as error:
            status, content, headers = error.status_code, error.response.content, error.response.headers
        except (openai.APIError, TimeoutError) as error:
            raise classify(error, asked(fields), self.key) from None
        reply = understand(status, content, headers, fields, self.key)
        if self.limit != LIMIT:
            reply["limit"] = self.limit
        return reply
