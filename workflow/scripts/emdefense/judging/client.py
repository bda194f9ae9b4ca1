"""Many requests at a time: claimed, paced, sent, tried again, and each reply on disk before it counts."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice

from emdefense.config.judges import OpenAIJudge
from emdefense.errors import InputError
from emdefense.judging.advice import no_chat
from emdefense.judging.budget import BYTES_PER_TOKEN, Budget, BudgetSpent
from emdefense.judging.cache import Cache
from emdefense.judging.endpoint import Endpoint
from emdefense.judging.failures import (
    NEVER,
    NO_CHAT_FIRST,
    NO_CHAT_TRIES,
    UNUSABLE_FIRST,
    UNUSABLE_TRIES,
    Failure,
)
from emdefense.judging.limits import Gate, Pace
from emdefense.judging.protocol import Reply
from emdefense.judging.requests import Request
from emdefense.judging.reservations import BEAT, Reservations
from emdefense.judging.unparsed import Unparsed
from emdefense.machine_limits import MachineError

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a request is tried again
POLL = 0.2  # seconds between two looks at what other processes ask
LONG_WAIT = 30.0  # seconds of waiting for them, after which it is said


class Client:
    """Asks what is missing in a cache. ``failures``: requests that stay without a reply, by key."""

    def __init__(
        self,
        settings: OpenAIJudge,
        endpoint: Endpoint,
        cache: Cache,
        reservations: Reservations,
        budget: Budget,
        unparsed: Unparsed | None = None,
    ):
        self.settings, self.endpoint, self.cache, self.reservations, self.budget = (
            settings,
            endpoint,
            cache,
            reservations,
            budget,
        )
        self.unparsed = unparsed or Unparsed.unbounded()
        self.failures: dict[bytes, Failure] = {}
        self.replies = self.unusable = 0
        self._no_chat = 0  # requests in a row of which the first try is no chat completion
        self._gate = Gate(settings.concurrency)
        self._requests, self._tokens = Pace(settings.requests_per_minute), Pace(settings.tokens_per_minute)
        self._batch = max(32, 4 * settings.concurrency)  # claimed under one lock
        self._window = asyncio.Semaphore(2 * self._batch)  # claimed and not yet answered; most wait to be tried again
        self._held: dict[bytes, float] = {}  # claimed and not yet answered, with the most that it can cost
        self._stop = asyncio.Event()
        self._fatal: Failure | None = None
        self._broken: Exception | None = None
        self._spent = False
        self._unfit: Callable[[Reply], str] | None = None

    async def ask(
        self,
        requests: Callable[[], Iterable[Request]],
        missing: set[bytes],
        most_failures: int,
        unfit: Callable[[Reply], str] | None = None,
    ) -> None:
        """Have a reply in the cache, or a failure, for each of ``requests`` whose key is in ``missing``.

        What other processes ask meanwhile is waited for. Stops after ``most_failures``, or when too many replies are
        ``unparsed``: what is in flight is still taken in. Raises :class:`InputError` after a failure that every further
        request would share, or a reply of which ``unfit`` says why it is one; and :class:`BudgetSpent` before the first
        request that could pass ``max_usd``.
        """
        self._unfit = unfit
        self._stop.clear()
        pending = set(missing)
        beat = asyncio.create_task(self._beat())
        try:
            async with asyncio.TaskGroup() as group:
                while pending and not self._stop.is_set():
                    for batch in _batches((r for r in requests() if r.key in pending), self._batch):
                        while batch and not self._stop.is_set():
                            granted, batch, self._spent = await asyncio.to_thread(self._take, batch, dict(self._held))
                            if self._spent:
                                self._stop.set()
                            self._held |= {request.key: self.budget.most(request) for request in granted}
                            for request in granted:
                                pending.discard(request.key)
                                await self._window.acquire()
                                group.create_task(self._run(request, most_failures))
                            if batch:
                                await self._rest(POLL)
                        if self._stop.is_set():
                            break
                    pending = await self._wait_for_others(pending)
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        finally:
            beat.cancel()
            self.budget.ledger.sync()
            self.reservations.close()
        if self._broken:
            raise self._broken
        if self._fatal:
            raise InputError(self.endpoint.explain(self._fatal))
        if self._spent:
            raise BudgetSpent(
                f"max_usd: of {self.budget.max_usd:g} USD, {self.budget.ledger.usd():.4f} are spent, and the next "
                f"request of judge '{self.settings.name}' could pass it ({len(pending)} are left); raise it and run "
                "again, nothing paid for is lost"
            )

    def _take(self, batch: list[Request], held: dict[bytes, float]) -> tuple[list[Request], list[Request], bool]:
        """Claim what nobody has and nobody else asks.

        Return it, what the budget does not allow at present, and whether it never will.
        """
        granted: list[Request] = []
        left: list[Request] = []
        with self.reservations.locked() as others:
            theirs = frozenset().union(*(other.keys for other in others))
            reserved = sum(other.reserved for other in others if other.ledger == self.reservations.ledger)
            room = self.budget.room() - reserved - sum(held.values())
            for request in batch:
                if request.key in self.cache or request.key in theirs:
                    continue
                room -= self.budget.most(request)
                (granted if room >= 0 else left).append(request)
            self.budget.ledger.sync()
            claimed = held | {request.key: self.budget.most(request) for request in granted}
            self.reservations.write(claimed, sum(claimed.values()))
        sharers = 1 + sum(other.judge == self.reservations.judge and bool(other.keys) for other in others)
        self._requests.sharers = self._tokens.sharers = sharers
        # What is under way, here or elsewhere, may yet turn out cheaper than was feared.
        return granted, left, bool(left) and not claimed and not reserved

    async def _wait_for_others(self, pending: set[bytes]) -> set[bytes]:
        """Return what is left to ask, once nobody else asks all of it; say who does if that takes long."""
        started = time.monotonic()
        while not self._stop.is_set():
            await asyncio.to_thread(self.cache.refresh)
            pending = {key for key in pending if key not in self.cache}
            others = await asyncio.to_thread(self.reservations.others)
            theirs = frozenset().union(*(other.keys for other in others))
            if not pending or pending - theirs:
                break
            if time.monotonic() - started > LONG_WAIT:
                self.reservations.say_who(self.settings.name, others, pending)
            await self._rest(POLL)
        return pending

    async def _run(self, request: Request, most_failures: int) -> None:
        try:
            await self._answer(request)
        except Failure as failure:
            self.failures[request.key] = failure
            if failure.kind == "fatal":
                self._fatal = failure
            if failure.kind == "fatal" or len(self.failures) > most_failures:
                self._end()
        except (MachineError, OSError) as error:  # nowhere to keep a reply
            self._broken = error
            self._end()
        finally:
            self._held.pop(request.key, None)
            self._window.release()

    def _end_of_use(self, failure: Failure, *, first: bool) -> str:
        """Take in a reply of no use, the ``first`` of its request or not; return that the judge is none, or ''.

        Only first tries are counted in a row: in the end, only those that fail are left to be tried again.
        """
        self.unusable += 1
        self._no_chat += first and not failure.is_chat
        few = self.unusable < UNUSABLE_FIRST or self.unusable <= self.replies
        if few and self._no_chat < NO_CHAT_FIRST:
            return ""
        if not failure.is_chat:
            return no_chat(failure)
        of = self.unusable + self.replies
        return (
            f"sent {self.unusable} of {of} replies that no score can be read from ({failure.reason}); look at what "
            "serves it, or write another judge.model"
        )

    def _end(self) -> None:
        self._stop.set()
        self._gate.open()

    async def _answer(self, request: Request) -> None:
        """Get the reply, with as many tries as it takes and ``max_retries`` allows, unless there is a stop.

        A 429 is no failed try as long as other requests are answered: it says that there are too many, no more. Replies
        that are of no use are paid for, so there are fewer tries after them.
        """
        tokens = request.input_bytes / BYTES_PER_TOKEN + request.fields["max_tokens"]
        failed, unusable = 0, Counter[bool]()  # by whether they are chat completions
        most_without_chat = NO_CHAT_TRIES if self._unfit else UNUSABLE_TRIES
        while True:
            seen = self.replies
            async with self._gate.place():
                await self._requests.wait()
                await self._tokens.wait(tokens)
                if self._stop.is_set():
                    return
                try:
                    reply = await self.endpoint.complete(request.fields)
                except Failure as failure:
                    self.budget.failed(request, failure)
                    if failure.kind == "limit":
                        self._gate.too_fast(failure.retry_after)
                    failed += not (failure.kind == "limit" and self.replies > seen)
                    if failure.kind == "unusable":
                        unusable[failure.is_chat] += 1
                        if end := self._end_of_use(failure, first=failed == 1):
                            raise Failure("fatal", end, said=failure.said) from None
                    if failure.kind in NEVER or failed > self.settings.max_retries:
                        raise
                    if unusable[True] > UNUSABLE_TRIES or unusable[False] > most_without_chat:
                        raise
                    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** max(0, failed - 1)) * random.uniform(0.5, 1)
                    wait = failure.retry_after or pause
                    if failure.kind == "limit":  # in its place, so that fewer places mean fewer requests
                        await self._rest(wait)
                        wait = 0.0
                else:
                    if problem := self._unfit(reply) if self._unfit else "":
                        self.budget.replied(request, reply.get("usage"))
                        raise Failure("fatal", problem)
                    self.cache.add(request.key, reply)
                    self.budget.replied(request, reply.get("usage"))
                    self.replies += 1
                    self._no_chat = 0
                    if self.unparsed.too_many(reply):
                        self._end()
                    self._gate.answered()
                    if "usage" in reply:
                        self._tokens.correct(sum(reply["usage"]) - tokens)
                    return
            await self._rest(wait)

    async def _rest(self, seconds: float) -> None:
        """Wait, unless there is a stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def _beat(self) -> None:
        while True:
            await asyncio.to_thread(self.reservations.beat)
            await asyncio.sleep(BEAT)


def _batches(requests: Iterator[Request], size: int) -> Iterator[list[Request]]:
    """Yield the requests in lists, each once in a list."""
    while chunk := list(islice(requests, size)):
        yield list({request.key: request for request in chunk}.values())
