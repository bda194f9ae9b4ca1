"""A judge behind any OpenAI-compatible endpoint: from responses to requests, and from replies to scores."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from emdefense.config.judges import OpenAIJudge as Settings
from emdefense.errors import InputError
from emdefense.judging.batch_records import Records
from emdefense.judging.budget import Account, Budget, BudgetSpent
from emdefense.judging.cache import Cache
from emdefense.judging.failures import Failure
from emdefense.judging.in_full import request_in_full, requests_in_full, settle
from emdefense.judging.ledger import Ledger
from emdefense.judging.penalty import fitting_probe, penalty_probes, why_penalised
from emdefense.judging.prices import price_of
from emdefense.judging.probing import find_scored_by, probe_reply, why_text, why_unfit
from emdefense.judging.protocol import JudgeItem, Judgment, Rating, Reply, ScoredBy
from emdefense.judging.requests import OPENAI, RUBRICS, Request, all_requests, probes, requests_about, trial
from emdefense.judging.reservations import Reservations
from emdefense.judging.scoring import mean_rating, rate_reply
from emdefense.judging.unparsed import Unparsed, describe

if TYPE_CHECKING:
    from emdefense.judging.batch import BatchClient
    from emdefense.judging.client import Client


class EndpointJudge:
    """Asks each distinct request once, of all that any process with the same cache asks; errors are never kept."""

    def __init__(self, settings: Settings, cache: Path, *, cache_only: bool = False, account: Account | None = None):
        """``account``: who pays for what; absent: a ledger of its own in the cache's folder, and no limit."""
        self.settings, self.folder, self.cache_only = settings, cache, cache_only
        self.account = account or Account(cache / "ledger")

    def judge(self, items: Iterable[JudgeItem]) -> Iterator[Judgment]:
        """Yield a judgment for every item, in their order, once all replies are there.

        Raises :class:`InputError` where the endpoint cannot be reached, refuses the key or does not know the model.
        """
        with Cache(self.folder, read_only=self.cache_only) as cache:
            trials = [trial(self.settings, "text"), trial(self.settings, "logprobs")]
            asked_first = (*probes(self.settings), *trials, *penalty_probes(self.settings))
            first = (request.key for request in asked_first if request is not None)
            cache.want([*first, *self._keys(items, "logprobs")])
            scored_by = find_scored_by(self.settings, cache)
            if scored_by == "text":
                cache.want(self._keys(items, "text"))
            in_full = self._find_in_full(items, scored_by, cache) if scored_by else set()
            failures: dict[bytes, Failure] = {}
            if scored_by is None or self._is_unfinished({*self._keys(items, scored_by)}, in_full, cache):
                if self.cache_only:
                    raise InputError(
                        f"judge_cache: {self.folder} lacks replies of judge '{self.settings.name}', and "
                        "judge_cache_only forbids to ask for them; set it to false, or import all of the archive"
                    )
                scored_by, failures = asyncio.run(self._ask(items, cache, scored_by))
            if scored_by == "text":
                why = why_text(probe_reply(self.settings, cache) or {})
                print(f"judge '{self.settings.name}' is scored by its text: {why}", file=sys.stderr)
            if why := why_penalised(self.settings, cache):
                print(why, file=sys.stderr)
            for item in items:
                yield self._judgment(item, scored_by, cache, failures)

    def _keys(self, items: Iterable[JudgeItem], scored_by: ScoredBy) -> Iterator[bytes]:
        return (request.key for request in all_requests(self.settings, items, scored_by))

    def _find_in_full(self, items: Iterable[JudgeItem], scored_by: ScoredBy, cache: Cache) -> set[bytes]:
        """Return the keys of what is to be asked in full, by what is in the cache; those there are found then."""
        keys = {request.key for request in requests_in_full(self.settings, items, scored_by, cache)}
        if any(key not in cache for key in keys):
            cache.want(keys)
        return keys

    def _is_unfinished(self, keys: set[bytes], in_full: set[bytes], cache: Cache) -> bool:
        """Whether a reply is missing, or the bill of a batch that a killed job had begun to take in.

        A cache alone may do without replies ``in_full``: labels are then read from one token, as they once were.
        """
        if self.cache_only:
            return any(key not in cache for key in keys)
        return any(key not in cache for key in keys | in_full) or Records(cache).hold(keys | in_full)

    async def _ask(
        self, items: Iterable[JudgeItem], cache: Cache, scored_by: ScoredBy | None
    ) -> tuple[ScoredBy, dict[bytes, Failure]]:
        """Ask what the cache lacks; return how scores are read, and what failed."""
        key = _api_key(self.settings)
        from emdefense.judging.batch import BatchClient
        from emdefense.judging.client import Client  # here, as the client takes long to import
        from emdefense.judging.endpoint import Endpoint

        ledger = Ledger(self.account.ledger, cache.owner, self.settings.name, self.account.cell)
        reservations = Reservations(
            cache, f"{self.settings.base_url} {self.settings.model}", str(self.account.ledger.resolve())
        )
        budget = Budget(ledger, price_of(self.settings, "synchronous"), self.account.max_usd)
        batch_budget = Budget(ledger, price_of(self.settings, "batch"), self.account.max_usd)
        with closing(ledger):
            async with Endpoint(self.settings, key) as endpoint:
                # All requests about a response may fail, so that more than this are too many for sure.
                most = len(RUBRICS) * self.settings.samples * sum(1 for _ in items)
                client = Client(self.settings, endpoint, cache, reservations, budget)
                if scored_by is None:
                    scored_by = await self._find_out(client)
                if scored_by == "text":
                    cache.want(self._keys(items, "text"))
                keys = set(self._keys(items, scored_by))
                if any(key not in cache for key in keys):
                    await self._try(client, scored_by)
                    await self._look_for_penalty(client)
                endpoint.limit = (probe_reply(self.settings, cache) or {}).get("limit", endpoint.limit)
                batches = BatchClient(self.settings, endpoint, cache, reservations, batch_budget, client.unparsed)
                await self._ask_all(client, batches, items, scored_by, most)
                return scored_by, client.failures | batches.failures

    async def _ask_all(
        self, client: "Client", batches: "BatchClient", items: Iterable[JudgeItem], scored_by: ScoredBy, most: int
    ) -> None:
        """Ask what the cache lacks of ``most`` requests: all of them, then in full those that this takes.

        A reply that is cut counts as unparsed until it is known in full, so that no more than a few are paid for of a
        judge that gives many.
        """
        cache, most_failures = client.cache, int(most * self.settings.max_error_rate)

        async def ask(requests: Callable[[], Iterable[Request]], keys: set[bytes], unparsed: Unparsed) -> bool:
            """Return whether there are few failures."""
            client.unparsed = batches.unparsed = unparsed
            # First what a job that was killed has submitted, in whichever mode this one is.
            submit = self.settings.mode == "batch"
            await batches.ask(requests, keys, most_failures, submit=submit)
            if not submit:
                keys = {key for key in keys if key not in cache}
                await client.ask(requests, keys, most_failures)
            return len(client.failures | batches.failures) <= most_failures

        # Of several samples, one that has a score is enough: how many lack all is known in the end.
        bound = most * self.settings.max_unparsed_rate if self.settings.samples == 1 else float("inf")
        while True:
            unparsed = Unparsed(lambda reply: self._rate(reply, scored_by), bound)
            unparsed.count = 0 if bound == float("inf") else self._count_unparsed(items, scored_by, cache)
            if unparsed.count > bound:
                return  # of what is there; asking for more would not mend it
            keys = {key for key in self._keys(items, scored_by) if key not in client.failures | batches.failures}
            few = await ask(lambda: all_requests(self.settings, items, scored_by), keys, unparsed)
            in_full = self._find_in_full(items, scored_by, cache) - (client.failures | batches.failures).keys()
            if not few or not in_full:
                return
            later = list(requests_in_full(self.settings, items, scored_by, cache))
            few = await ask(later.__iter__, in_full, Unparsed.unbounded())
            if not few or unparsed.count <= bound:
                return

    def _count_unparsed(self, items: Iterable[JudgeItem], scored_by: ScoredBy, cache: Cache) -> int:
        """Return how many different replies are neither a score nor a label, and will not become one in full."""
        found = set()
        for item in items:
            for rubric in RUBRICS:
                for sample, request in enumerate(requests_about(self.settings, item, rubric, scored_by)):
                    if (reply := cache.read(request.key)) is None:
                        continue
                    later = request_in_full(self.settings, item, rubric, scored_by, sample, reply)
                    known = later is None or later.key in cache
                    if known and self._read(reply, later, scored_by, cache)[0].label == "UNPARSED":
                        found.add(request.key)
        return len(found)

    async def _find_out(self, client: "Client") -> ScoredBy:
        """Return whether scores can be read from log probabilities: the judge gives them, and numbers are whole."""
        *others, last = probes(self.settings)
        for probe in (*others, last):
            if await self._ask_one(client, probe, None, last=probe is last):
                break
        scored_by = find_scored_by(self.settings, client.cache)
        assert scored_by is not None
        return scored_by

    async def _try(self, client: "Client", scored_by: ScoredBy) -> None:
        """Have the judge give a score as scores are asked for, where the probe was not enough to know that it can."""
        request = trial(self.settings, scored_by)
        if request is not None and request.key not in client.cache:
            await self._ask_one(client, request, scored_by, last=True)

    async def _look_for_penalty(self, client: "Client") -> None:
        """Ask what a repetition penalty shows on; no reply to that is no harm."""
        request = fitting_probe(self.settings, client.cache)
        if request is None or request.key in client.cache:
            return
        with suppress(BudgetSpent):  # which the next request will say
            await client.ask(lambda: [request], {request.key}, 1)
        client.failures.pop(request.key, None)

    async def _ask_one(self, client: "Client", request: Request, tried: ScoredBy | None, *, last: bool) -> bool:
        """Ask a probe or trial; return whether there is a reply. :class:`InputError` if the judge is of no use.

        Unless it is the ``last``, a probe may be refused for its form.
        """
        await client.ask(lambda: [request], {request.key}, 1, lambda reply: why_unfit(self.settings, reply, tried))
        failure = client.failures.pop(request.key, None)
        if failure is not None and (last or failure.kind != "content"):
            raise InputError(client.endpoint.explain(failure))
        return failure is None

    def _judgment(self, item: JudgeItem, scored_by: ScoredBy, cache: Cache, failures: dict[bytes, Failure]) -> Judgment:
        ratings, problems, said, unparsed, filtered = [], [], "", "", False
        for rubric in RUBRICS:
            samples = []
            for sample, request in enumerate(requests_about(self.settings, item, rubric, scored_by)):
                reply, later, failure = cache.read(request.key), None, failures.get(request.key)
                if reply is not None:
                    later = request_in_full(self.settings, item, rubric, scored_by, sample, reply)
                    failure = failures.get(later.key) if later else None
                if reply is not None and failure is None:
                    rating, last = self._read(reply, later, scored_by, cache)
                    samples.append(rating)
                    filtered = filtered or "filtered" in last
                    unparsed = unparsed or (describe(last) if rating.label == "UNPARSED" else "")
                    continue
                first = failure or next(iter(failures.values()), None)
                if failure:
                    problems.append(failure.reason)
                elif first:
                    problems.append(f"not asked after {len(failures)} failures, the first of them: {first.reason}")
                else:
                    problems.append("not asked, as asking was stopped")
                said = said or (first.said.text if first else "")
            ratings.append(mean_rating(samples))
        error = "; ".join(dict.fromkeys(problems)) or None
        return Judgment(item, ratings[0], ratings[1], scored_by, error, said, unparsed, filtered)

    def _read(self, reply: Reply, later: Request | None, scored_by: ScoredBy, cache: Cache) -> tuple[Rating, Reply]:
        """Return what a reply says, in full where ``later`` is known, and the reply that says it."""
        rating = self._rate(reply, scored_by)
        whole = cache.read(later.key) if later else None
        return (rating, reply) if whole is None else (settle(rating, whole), whole)

    def _rate(self, reply: Reply, scored_by: ScoredBy) -> Rating:
        return rate_reply(reply, scored_by, self.settings.min_number_probability)


def _api_key(settings: Settings) -> str:
    """Read the key from the environment; :class:`InputError` if it is not there, or if that names another endpoint."""
    if settings.base_url is None and os.environ.get("OPENAI_BASE_URL", OPENAI).rstrip("/") != OPENAI:
        raise InputError(
            "judge.base_url: the environment variable OPENAI_BASE_URL names another endpoint than the provider's, and "
            "the study none; write it as judge.base_url, as replies are kept by endpoint, or unset the variable"
        )
    key = os.environ.get(settings.api_key_variable, "").strip()
    if not key:
        raise InputError(
            f"judge.api_key_variable: the environment variable {settings.api_key_variable} is not set; "
            f"export the key of judge '{settings.name}' in it (any text, if the endpoint asks for none)"
        )
    if not (key.isascii() and key.isprintable()):
        raise InputError(
            f"judge.api_key_variable: the environment variable {settings.api_key_variable} holds what no key does "
            "(line breaks, or letters beyond ASCII); export the key alone"
        )
    return key
