"""A judge behind any OpenAI-compatible endpoint: from responses to requests, and from replies to scores."""

import asyncio
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emdefense.config.study import OpenAIJudge as Settings
from emdefense.errors import InputError
from emdefense.judging.batch_records import Records
from emdefense.judging.budget import Budget, Purse
from emdefense.judging.cache import Cache
from emdefense.judging.claims import Claims
from emdefense.judging.failures import Failure
from emdefense.judging.kept import find_scored_by
from emdefense.judging.ledger import Ledger
from emdefense.judging.prices import price_of
from emdefense.judging.protocol import JudgeItem, Judgment, Rating, ScoredBy
from emdefense.judging.requests import RUBRICS, all_requests, probes, requests_about
from emdefense.judging.scoring import mean_rating, rate_logprobs, rate_text

if TYPE_CHECKING:
    from emdefense.judging.asking import Asker


class EndpointJudge:
    """Asks each distinct request once, of all that any process with the same cache asks; errors are never kept."""

    def __init__(self, settings: Settings, cache: Path, *, cache_only: bool = False, purse: Purse | None = None):
        """``purse``: who pays for what; absent: a ledger of its own in the cache's folder, and no limit."""
        self.settings, self.folder, self.cache_only = settings, cache, cache_only
        self.purse = purse or Purse(cache / "ledger")
        self._probe, self._text_probe = probes(settings)

    def judge(self, items: Iterable[JudgeItem]) -> Iterator[Judgment]:
        """Yield a judgment for every item, in their order, once all replies are there.

        Raises :class:`InputError` where the endpoint cannot be reached, refuses the key or does not know the model.
        """
        with Cache(self.folder, read_only=self.cache_only) as cache:
            cache.want([self._probe.key, self._text_probe.key, *self._keys(items, "logprobs")])
            scored_by = find_scored_by(self.settings, cache)
            if scored_by == "text":
                cache.want(self._keys(items, "text"))
            failures: dict[bytes, Failure] = {}
            if scored_by is None or self._is_unfinished(items, scored_by, cache):
                if self.cache_only:
                    raise InputError(
                        f"judge_cache: {self.folder} lacks replies of judge '{self.settings.name}', and "
                        "judge_cache_only forbids to ask for them; set it to false, or import all of the archive"
                    )
                scored_by, failures = asyncio.run(self._ask(items, cache, scored_by))
            if scored_by == "text":
                print(f"judge '{self.settings.name}' is scored by its text: {self._reason(cache)}", file=sys.stderr)
            for item in items:
                yield self._judgment(item, scored_by, cache, failures)

    def _keys(self, items: Iterable[JudgeItem], scored_by: ScoredBy) -> Iterator[bytes]:
        return (request.key for request in all_requests(self.settings, items, scored_by))

    def _is_unfinished(self, items: Iterable[JudgeItem], scored_by: ScoredBy, cache: Cache) -> bool:
        """Whether a reply is missing, or the bill of a batch that a killed job had begun to take in."""
        missing = any(key not in cache for key in self._keys(items, scored_by))
        return missing or (not self.cache_only and Records(cache).hold(self._keys(items, scored_by)))

    async def _ask(
        self, items: Iterable[JudgeItem], cache: Cache, scored_by: ScoredBy | None
    ) -> tuple[ScoredBy, dict[bytes, Failure]]:
        """Ask what the cache lacks; return how scores are read, and what failed."""
        key = _api_key(self.settings)
        from emdefense.judging.asking import Asker  # here, as the client takes long to import
        from emdefense.judging.batch import BatchAsker
        from emdefense.judging.endpoint import Endpoint

        ledger = Ledger(self.purse.ledger, cache.owner, self.settings.name, self.purse.cell)
        claims = Claims(cache, f"{self.settings.base_url} {self.settings.model}", str(self.purse.ledger.resolve()))
        budget = Budget(ledger, price_of(self.settings, "synchronous"), self.purse.max_usd)
        batch_budget = Budget(ledger, price_of(self.settings, "batch"), self.purse.max_usd)
        with closing(ledger):
            async with Endpoint(self.settings, key) as endpoint:
                asker = Asker(self.settings, endpoint, cache, claims, budget)
                if scored_by is None:
                    scored_by = await self._find_out(asker)
                    if scored_by == "text":
                        cache.want(self._keys(items, "text"))
                # All requests about a response may fail, so that more than this are too many for sure.
                most = len(RUBRICS) * self.settings.samples * self.settings.max_error_rate * sum(1 for _ in items)
                # First what a job that was killed has submitted, in whichever mode this one is.
                batches = BatchAsker(self.settings, endpoint, cache, claims, batch_budget)
                keys, submit = set(self._keys(items, scored_by)), self.settings.mode == "batch"
                await batches.ask(lambda: all_requests(self.settings, items, scored_by), keys, int(most), submit=submit)
                if not submit:
                    keys = {key for key in keys if key not in cache}
                    await asker.ask(lambda: all_requests(self.settings, items, scored_by), keys, int(most))
                return scored_by, asker.failures | batches.failures

    async def _find_out(self, asker: "Asker") -> ScoredBy:
        """Return whether scores can be read from log probabilities: the judge gives them, and numbers are whole."""
        for probe in (self._probe, self._text_probe):
            await asker.ask(lambda probe=probe: [probe], {probe.key}, 1)  # type: ignore[misc]
            failure = asker.failures.pop(probe.key, None)
            if failure is None:
                break
            if failure.kind != "content" or probe is self._text_probe:
                raise InputError(asker.endpoint.explain(failure))
        scored_by = find_scored_by(self.settings, asker.cache)
        assert scored_by is not None
        return scored_by

    def _reason(self, cache: Cache) -> str:
        reply = cache.read(self._probe.key)
        if reply is None:
            return "the endpoint refuses log probabilities"
        return "its tokenizer splits numbers" if reply.get("tokens") else "the endpoint gives no log probabilities"

    def _judgment(self, item: JudgeItem, scored_by: ScoredBy, cache: Cache, failures: dict[bytes, Failure]) -> Judgment:
        ratings, problems = [], []
        for rubric in RUBRICS:
            samples = []
            for request in requests_about(self.settings, item, rubric, scored_by):
                reply = cache.read(request.key)
                if reply is not None:
                    samples.append(self._rate(reply, scored_by))
                elif request.key in failures:
                    problems.append(failures[request.key].reason)
                else:
                    first = next((failure.reason for failure in failures.values()), "a lost reply")
                    problems.append(f"not asked after {len(failures)} failures, the first of them: {first}")
            ratings.append(mean_rating(samples))
        return Judgment(item, ratings[0], ratings[1], scored_by, "; ".join(dict.fromkeys(problems)) or None)

    def _rate(self, reply: dict[str, Any], scored_by: ScoredBy) -> Rating:
        top = tuple((token, logprob) for token, logprob in reply["top"])
        if reply.get("refused"):
            return Rating(None, "REFUSAL", top or None)
        if scored_by == "text":
            return rate_text(reply["text"])
        return rate_logprobs(reply["text"], top, self.settings.min_number_probability)


def _api_key(settings: Settings) -> str:
    """Read the key from the environment; :class:`InputError` if it is not there."""
    key = os.environ.get(settings.api_key_variable, "").strip()
    if not key:
        raise InputError(
            f"judge.api_key_variable: the environment variable {settings.api_key_variable} is not set; "
            f"export the key of judge '{settings.name}' in it (any text, if the endpoint asks for none)"
        )
    return key
