"""One request to an OpenAI-compatible endpoint: a reply, or a failure of a known kind."""

import asyncio
import json
from typing import Any

import httpx2
import openai

from emdefense.config.study import OpenAIJudge
from emdefense.judging.failures import Failure, classify
from emdefense.judging.requests import LOGPROBS


class Endpoint:
    """An open client; use as an asynchronous context manager."""

    def __init__(self, settings: OpenAIJudge, key: str):
        self.settings = settings
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

    async def complete(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to a chat completion; raises :class:`Failure`.

        ``text``: what was said. ``top``: the first token's alternatives as (token, natural log probability).
        ``usage``: input and output tokens, where the endpoint says so. ``tokens``: those of the text, where there may
        be several and log probabilities were asked for. ``refused``: true where the endpoint says that it was.
        """
        try:
            # As bytes: the client's own models of a reply with log probabilities take longer than all else.
            async with asyncio.timeout(self.settings.timeout_seconds):
                response = await self.client.post("/chat/completions", body=fields, cast_to=httpx2.Response)
        except (openai.APIError, TimeoutError) as error:
            raise classify(error) from None
        try:
            return read_reply(json.loads(response.content), fields)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise Failure("transient", "garbled reply", may_be_paid=True) from None

    def explain(self, failure: Failure) -> str:
        """Return one line on a failure that no retry mends; it never holds the key."""
        settings, status = self.settings, failure.status
        where = f"judge '{settings.name}' at {settings.base_url or 'the default endpoint'}"
        if failure.reason == "quota used up" or status == 402:
            return f"{where} says that the quota is used up; top it up and run again, nothing paid for is lost"
        if status in {401, 403}:
            return f"{where} refused the key in {settings.api_key_variable} (HTTP {status}); export a valid one"
        if status == 429 and failure.kind == "fatal":
            return f"{where} wants {failure.retry_after:.0f} s of rest; run again then, nothing paid for is lost"
        if status == 404 or (failure.kind == "fatal" and status == 400):
            return f"{where} knows no model '{settings.model}' (HTTP {status}); correct judge.model or judge.base_url"
        if status is None:
            return f"{where} cannot be reached ({failure.reason}); check judge.base_url and the network"
        return f"{where} refused a trial request (HTTP {status}); check judge.model and judge.base_url"


def read_reply(body: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Return what counts of a chat completion's ``body``, as :meth:`Endpoint.complete`; raises :class:`Failure`.

    A body of another shape raises one of the errors that looking into it brings.
    """
    choice = body["choices"][0]
    message, logprobs = choice["message"], choice.get("logprobs") or {}
    tokens = logprobs.get("content") or []
    reply: dict[str, Any] = {
        "text": message.get("content") or message.get("refusal") or "",
        "top": [(entry["token"], entry["logprob"]) for entry in tokens[0]["top_logprobs"]] if tokens else [],
    }
    usage = body.get("usage") or {}
    if "prompt_tokens" in usage:
        reply["usage"] = (int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0))
    if message.get("refusal") or choice.get("finish_reason") == "content_filter":
        reply["refused"] = True
    elif LOGPROBS.items() <= fields.items():
        if not reply["top"]:
            raise Failure("transient", "no log probabilities", usage=reply.get("usage"), may_be_paid=True)
    elif fields.get("logprobs"):
        reply["tokens"] = [entry["token"] for entry in tokens]
    return reply
