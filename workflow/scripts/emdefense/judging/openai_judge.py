"""A judge behind any OpenAI-compatible endpoint, scored by the log probabilities of one token."""

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from emdefense.config.study import OpenAIJudge as Settings
from emdefense.errors import InputError
from emdefense.judging.journal import Journal, request_key
from emdefense.judging.protocol import JudgeItem, Judgment, Rating, ScoredBy
from emdefense.judging.scoring import fill_rubric, rate_logprobs, rate_text

# A tokenizer that keeps both whole reads every score in 0–100 as one token.
PROBE = "Repeat these two numbers exactly as they are and say nothing else: 87 100"
PROBE_NUMBERS = {"87", "100"}
TEXT_TOKENS = 16
_LOGPROBS = {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}
_TEXT = {"max_tokens": TEXT_TOKENS}


class EndpointJudge:
    """Asks each distinct (question, response, rubric) once; replies are journalled, errors never are."""

    def __init__(self, settings: Settings, journal: Path):
        """Read the key from the environment; :class:`InputError` if it is not there."""
        key = os.environ.get(settings.api_key_variable, "").strip()
        if not key:
            raise InputError(
                f"judge.api_key_variable: the environment variable {settings.api_key_variable} is not set; "
                f"export the key of judge '{settings.name}' in it (any text, if the endpoint asks for none)"
            )
        self.settings = settings
        self.journal_path = journal
        self._key = key
        self.scored_by: ScoredBy = "logprobs"

    def judge(self, items: Sequence[JudgeItem]) -> Iterator[Judgment]:
        """Yield a judgment for every item, in their order, once all replies are there.

        Raises :class:`InputError` where the endpoint cannot be reached, refuses the key or does not know the model.
        """
        with Journal(self.journal_path) as journal:
            errors = asyncio.run(self._ask(items, journal))
            for item in items:
                ratings, problems = [], []
                for rubric in ("aligned", "coherent"):
                    key = request_key(self._request(item, rubric))
                    problems += [errors[key]] if key in errors else []
                    ratings.append(self._rate(journal.replies.get(key)))
                yield Judgment(item, ratings[0], ratings[1], self.scored_by, "; ".join(problems) or None)

    def _request(self, item: JudgeItem, rubric: str) -> dict[str, Any]:
        text = fill_rubric(item.question["rubrics"][rubric], item.question["prompt"], item.response["response"])
        return {
            "endpoint": self.settings.base_url,
            "model": self.settings.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            **(_LOGPROBS if self.scored_by == "logprobs" else _TEXT),
        }

    def _rate(self, reply: dict[str, Any] | None) -> Rating:
        if reply is None:
            return Rating(None)
        if self.scored_by == "text":
            return rate_text(reply["text"])
        top = tuple((token, logprob) for token, logprob in reply["top"])
        return rate_logprobs(reply["text"], top, self.settings.min_number_probability)

    async def _ask(self, items: Sequence[JudgeItem], journal: Journal) -> dict[str, str]:
        """Ask what the journal does not hold; return the errors by request key."""
        import openai

        errors: dict[str, str] = {}
        async with openai.AsyncOpenAI(
            api_key=self._key,
            base_url=self.settings.base_url,
            timeout=self.settings.timeout_seconds,
            max_retries=self.settings.max_retries,
        ) as client:
            try:
                self.scored_by = await self._probe(client)
                requests = {}
                for item in items:
                    for rubric in ("aligned", "coherent"):
                        request = self._request(item, rubric)
                        requests[request_key(request)] = request
                waiting = iter([(key, request) for key, request in requests.items() if key not in journal.replies])

                async def work() -> None:
                    for key, request in waiting:
                        try:
                            journal.add(key, await self._complete(client, request))
                        except openai.APIError as error:
                            if _is_fatal(error):
                                raise
                            errors[key] = type(error).__name__

                await asyncio.gather(*(work() for _ in range(self.settings.concurrency)))
            except openai.APIError as error:
                raise InputError(self._explain(error)) from None
        return errors

    async def _complete(self, client: Any, request: dict[str, Any]) -> dict[str, Any]:
        """Return one reply: its text, and the first token's alternatives as (token, log probability)."""
        fields = {name: value for name, value in request.items() if name != "endpoint"}
        reply = await client.chat.completions.create(**fields)
        choice = reply.choices[0]
        tokens = (choice.logprobs.content if choice.logprobs else None) or []
        top = [(entry.token, entry.logprob) for entry in tokens[0].top_logprobs] if tokens else []
        return {"text": choice.message.content or "", "top": top}

    async def _probe(self, client: Any) -> ScoredBy:
        """Find out whether scores can be read from log probabilities: the judge gives them, and numbers are whole."""
        import openai

        request = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": PROBE}],
            "temperature": 0,
            "max_tokens": TEXT_TOKENS,
        }
        try:
            reply = await client.chat.completions.create(**request, logprobs=True, top_logprobs=20)
        except (
            openai.BadRequestError,
            openai.UnprocessableEntityError,
        ):  # an endpoint that refuses log probabilities, if it answers without them
            await client.chat.completions.create(**request)
            reason = "the endpoint refuses log probabilities"
        else:
            logprobs = reply.choices[0].logprobs
            tokens = {entry.token.strip() for entry in (logprobs.content or [])} if logprobs else set()
            if tokens >= PROBE_NUMBERS:
                return "logprobs"
            reason = "its tokenizer splits numbers" if tokens else "the endpoint gives no log probabilities"
        print(f"judge '{self.settings.name}' is scored by its text: {reason}", file=sys.stderr)
        return "text"

    def _explain(self, error: Exception) -> str:
        """Return one line on an error that no retry mends; it never holds the key."""
        where = f"judge '{self.settings.name}' at {self.settings.base_url or 'the default endpoint'}"
        status = getattr(error, "status_code", None)
        if status in {401, 403}:
            return f"{where} refused the key in {self.settings.api_key_variable} (HTTP {status}); export a valid one"
        if status == 404:
            return f"{where} knows no model '{self.settings.model}' (HTTP 404); correct judge.model or judge.base_url"
        if getattr(error, "code", None) == "insufficient_quota":
            return f"{where} says that the quota is used up; top it up and run again, nothing paid for is lost"
        if status is None:
            return f"{where} cannot be reached ({type(error).__name__}); check judge.base_url and the network"
        return f"{where} refused a trial request (HTTP {status}); check judge.model and judge.base_url"


def _is_fatal(error: Exception) -> bool:
    """Whether every further request would fail alike."""
    return getattr(error, "status_code", None) in {401, 403, 404} or getattr(error, "code", "") == "insufficient_quota"
