"""Requests through OpenAI's Batch API: half the price, answered within a day, paid for once whatever is killed."""

import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from openai.types import Batch

from emdefense.config.judges import OpenAIJudge
from emdefense.errors import InputError
from emdefense.judging.batch_endpoint import BatchEndpoint
from emdefense.judging.batch_records import Record, Records
from emdefense.judging.batch_results import take_in
from emdefense.judging.budget import Budget, BudgetSpent
from emdefense.judging.cache import Cache
from emdefense.judging.endpoint import Endpoint
from emdefense.judging.failures import NEVER, QUOTA, UNUSABLE_FIRST, UNUSABLE_TRIES, Failure
from emdefense.judging.ledger import Spending
from emdefense.judging.reply import asked
from emdefense.judging.requests import Request
from emdefense.judging.reservations import BEAT, Reservations
from emdefense.judging.server_message import ServerMessage, one_line
from emdefense.judging.unparsed import Unparsed

# The API's limits for a file: https://platform.openai.com/docs/api-reference/batch/create
MOST_REQUESTS = 50_000
MOST_BYTES = 200_000_000
URL = "/v1/chat/completions"
ENDED = {"completed", "failed", "expired", "cancelled"}
UNDER_WAY = {"validating", "in_progress", "finalizing", "cancelling"}
WORTHWHILE = 0.1  # of what is left to ask: no batch is smaller for want of money
SHARED = ("model", "messages", "temperature")  # what the other fields of a request go with


class BatchClient:
    """Asks what is missing in a cache. ``failures``: requests that stay without a reply, by key."""

    def __init__(
        self,
        settings: OpenAIJudge,
        endpoint: Endpoint,
        cache: Cache,
        reservations: Reservations,
        budget: Budget,
        unparsed: Unparsed,
    ):
        self.settings, self.endpoint, self.cache, self.reservations, self.budget = (
            settings,
            endpoint,
            cache,
            reservations,
            budget,
        )
        self.unparsed = unparsed
        self._requests: Callable[[], Iterable[Request]] = list
        self.api = BatchEndpoint(endpoint)
        self.failures: dict[bytes, Failure] = {}
        self.records = Records(cache)
        self._tries: Counter[bytes] = Counter()  # that ended without a reply
        self._unusable: Counter[bytes] = Counter()  # that ended with one that is of no use
        self._unseen: set[str] = set()  # batches that may have been created, and were not in the list
        self._most = MOST_REQUESTS
        self._one_at_a_time = False

    async def ask(
        self, requests: Callable[[], Iterable[Request]], wanted: set[bytes], most_failures: int, *, submit: bool = True
    ) -> None:
        """Have a reply in the cache, or a failure, for each of ``requests`` whose key is in ``wanted``.

        Batches that hold any of them, and whose job is dead, are waited for like those that are submitted here; without
        ``submit``, only they are. After ``most_failures``, or too many replies that are ``unparsed``, nothing more is
        submitted. Raises :class:`InputError` after a
        failure that all further requests would share, and :class:`BudgetSpent` where the next batch could pass
        ``max_usd``; what was submitted is then taken in by the next run.
        """
        pending, self._requests = wanted, requests
        beat = asyncio.create_task(self._beat())
        try:
            while True:
                for record in await asyncio.to_thread(self._adopt, wanted):
                    await self._look_after(record)
                await asyncio.to_thread(self.cache.refresh)
                pending = {key for key in pending if key not in self.cache and key not in self.failures}
                enough = len(self.failures) > most_failures or self.unparsed.count > self.unparsed.most
                submitting = submit and not enough
                while submitting and pending and await self._submit_next(requests, pending):
                    pass
                if not any(map(self.records.is_mine, self.records.all())) and not (pending and submitting):
                    return
                self.reservations.say_who(
                    self.settings.name, await asyncio.to_thread(self.reservations.others), pending
                )
                await asyncio.sleep(self.settings.batch_poll_seconds)
        finally:
            beat.cancel()
            self.reservations.close()

    def _adopt(self, wanted: set[bytes]) -> list[Record]:
        """Return the batches that this process looks after; those that nobody does and that hold what it wants too."""
        found = []
        with self.reservations.locked():
            for record in self.records.all():
                if not self.records.is_mine(record):
                    if not self.records.is_orphan(record) or wanted.isdisjoint(map(bytes.fromhex, record.keys)):
                        continue
                    record.owner = self.cache.owner
                    self.records.write(record)
                    self._say(f"{self.records.path(record)} is of a job that was stopped, and is waited for")
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
                    content.write(self._line(request))
            record.input_file = await self.api.upload(record.name, content)
        self.records.write(record)
        record.batch = await self.api.create(record.name, record.input_file)
        self.records.write(record)
        self._say(f"batch {record.batch} of {len(record.keys)} requests is submitted")
        return more

    def _prepare(self, requests: Callable[[], Iterable[Request]], pending: set[bytes]) -> tuple[Record | None, bool]:
        """Write the record of a batch of what nobody asks and the budget allows; return it, and whether more is left.

        The money is entered into the ledger before the lock is given back, as a batch cannot be stopped half-way.
        """
        records = self.records.all()
        free = pending - self._asked(records)
        if not free or (self._one_at_a_time and any(map(self.records.is_mine, records))):
            return None, False
        chosen: dict[bytes, Request] = {}
        size = 0
        for request in requests():
            if request.key in free and request.key not in chosen:
                size += len(self._line(request))
                if chosen and (len(chosen) == self._most or size > MOST_BYTES):
                    break
                chosen[request.key] = request
        with self.reservations.locked() as others:
            records = self.records.all()
            self.cache.refresh()  # after: a batch that was taken in meanwhile has no record any more
            mine = [record for record in records if self.records.is_mine(record)]
            theirs = self._asked(records).union(*(other.keys for other in others))
            reserved = [other.reserved for other in others if other.ledger == self.reservations.ledger]
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
                draws = any(r.ledger == self.reservations.ledger and not self.records.is_orphan(r) for r in records)
                if draws or any(reserved):
                    return None, False  # what is under way may turn out cheaper than was feared
                raise self._spent(len(pending))
            labels = self.budget.ledger.labels
            record = Record(
                self.cache.owner,
                **labels,
                ledger=self.reservations.ledger,
                keys=[request.key.hex() for request in fitting],
                fields={key: value for key, value in fitting[0].fields.items() if key not in SHARED},
                most_usd=cost,
            )
            self.records.write(record)
            record.enter(Spending(unanswered=len(fitting), usd=cost))
            self.reservations.write({*map(bytes.fromhex, (k for r in (*mine, record) for k in r.keys))})
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

    async def _look_after(self, record: Record) -> None:
        """Take a batch in if it has ended; find out its id where a kill came before that was written."""
        if record.batch is None:
            if record.input_file is not None:
                record.batch = await self.api.find(record.name)
            if record.batch is None:
                # A list may lag behind; but where no file was uploaded, nothing was begun.
                if record.input_file is None or record.name in self._unseen:
                    self._finish(record, Spending())
                self._unseen.add(record.name)
                return
            self.records.write(record)
        batch = await self.api.look(record.batch, self.records.path(record))
        if batch.status not in ENDED:
            if batch.status not in UNDER_WAY:
                raise InputError(
                    f"judge '{self.settings.name}': batch {record.batch} has a status that no batch has, "
                    f"'{one_line(str(batch.status))}'; look at what serves judge.base_url"
                )
            return
        if batch.status == "failed":
            self._failed(record, _errors(batch))
            return
        total = Spending()
        failed: dict[bytes, Failure] = {}
        for file in (batch.output_file_id, batch.error_file_id):
            if file:
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "results.jsonl"
                    await self.api.download(file, path)
                    spent, failures = take_in(
                        path, record, self.cache, self.budget.price, self._text, self.endpoint.key
                    )
                total.add(vars(spent))
                failed |= failures
        lost = Failure("transient", f"batch {batch.status}")
        limit = self.endpoint.limit
        for key in map(bytes.fromhex, record.keys):
            failure = failed.get(key, lost)
            reply = self.cache.read(key)
            if reply is not None:
                self.unparsed.too_many(reply)
            elif not self.endpoint.wants_other_limit(failure, limit):
                self._count(key, failure)
        self._finish(record, total)
        self._say(f"batch {record.batch} is {batch.status}: {total.calls} replies to {len(record.keys)} requests")
        for failure in failed.values():
            if failure.kind == "fatal":
                raise InputError(self.endpoint.explain(failure))
        useless = [failure for failure in failed.values() if failure.kind == "unusable"]
        if len(useless) >= UNUSABLE_FIRST and 2 * len(useless) > len(record.keys):
            raise InputError(self.endpoint.explain(useless[0]))

    def _text(self, key: bytes) -> str | None:
        """Return what a request asks, where this process knows it."""
        return next((asked(request.fields) for request in self._requests() if request.key == key), None)

    def _finish(self, record: Record, spent: Spending) -> None:
        """Have the replies, then what they cost on disk, and only then forget the batch."""
        self.cache.sync()
        record.enter(spent)
        self.records.remove(record)

    def _count(self, key: bytes, failure: Failure) -> None:
        """Enter a request without a reply; it is asked again, unless that is of no use."""
        self._tries[key] += 1
        self._unusable[key] += failure.kind == "unusable"
        tried = self._tries[key] > self.settings.max_retries or self._unusable[key] > UNUSABLE_TRIES
        if failure.kind in NEVER or tried:
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
            used_up = Failure("fatal", "quota used up", said=ServerMessage(one_line(message, key=self.endpoint.key)))
            raise InputError(self.endpoint.explain(used_up))
        said = one_line(f"{code}: {message}", key=self.endpoint.key)
        raise InputError(
            f"judge '{self.settings.name}': the endpoint refused batch {record.batch} ({said}); "
            "mend that, or set judge.mode to synchronous"
        )

    def _line(self, request: Request) -> bytes:
        """Return a request as a line of a batch's file."""
        body = self.endpoint.body(request.fields)
        return json.dumps({"custom_id": request.key.hex(), "method": "POST", "url": URL, "body": body}).encode() + b"\n"

    def _say(self, what: str) -> None:
        print(f"judge '{self.settings.name}': {what}", file=sys.stderr, flush=True)

    async def _beat(self) -> None:
        while True:
            await asyncio.to_thread(self.reservations.beat)
            await asyncio.sleep(BEAT)


def _errors(batch: Batch) -> list[tuple[str, str]]:
    """Return code and message of each error of a batch, whatever the endpoint sent in their place."""
    errors = getattr(batch.errors, "data", None)
    if not isinstance(errors, list):
        return []
    found = ((getattr(error, "code", None), getattr(error, "message", None)) for error in errors)
    return [(str(code or ""), str(message or "")) for code, message in found]
