"""What a study's judges have cost, by cell, and whether they may cost more.

The ledger is a folder with an append-only file for each process: a line a call while it runs, one line when it is done.
"""

import json
import os
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from emdefense.errors import InputError
from emdefense.files import write_text
from emdefense.judging.failures import Failure
from emdefense.judging.prices import Price
from emdefense.judging.requests import Request

BYTES_PER_TOKEN = 4.0  # roughly, where the endpoint does not say how many there were
MESSAGE_TOKENS = 32  # more than any chat template adds


class BudgetSpent(InputError):
    """The study's ``max_usd`` would be passed by the next request; all that was paid for is kept."""

    status = 3


@dataclass(frozen=True)
class Purse:
    """A study's ``ledger`` and the most it may come to, and the ``cell`` (with its question set) that spends."""

    ledger: Path
    max_usd: float | None = None
    cell: str = ""


@dataclass
class Spending:
    """``calls``: replies that came. ``unanswered``: calls without one that may have been charged for; they count.

    ``usd`` is 0 where no price is known.
    """

    calls: int = 0
    unanswered: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0

    def add(self, line: dict[str, Any]) -> None:
        """Add a line of a ledger."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + line[field.name])


class Ledger:
    """This process's file in a study's ledger, and the sum of all of them."""

    def __init__(self, folder: Path, owner: str, judge: str, cell: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.own = folder, Spending()
        self.labels = {"judge": judge, "cell": cell}
        self._path = folder / f"{owner}.jsonl"
        self._out: int | None = None
        self._others: dict[str, tuple[tuple[int, int], float]] = {}  # each file's state and its dollars then

    def add(self, spent: Spending) -> None:
        """Append one call."""
        line = asdict(spent)
        self.own.add(line)
        if self._out is None:
            self._out = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(self._out, (json.dumps({**self.labels, **line}) + "\n").encode())

    def sync(self) -> None:
        """Have it on disk, where other hosts see it."""
        if self._out is not None:
            os.fsync(self._out)

    def usd(self) -> float:
        """Return what all processes together have spent."""
        for path in self.folder.glob("*.jsonl"):
            state = (path.stat().st_size, path.stat().st_mtime_ns)
            if path != self._path and self._others.get(path.name, (None, 0.0))[0] != state:
                self._others[path.name] = (state, sum(line["usd"] for line in _lines(path)))
        return self.own.usd + sum(usd for _, usd in self._others.values())

    def close(self) -> None:
        """Leave one line of this process's."""
        if self._out is not None:
            os.close(self._out)
            self._out = None
            write_entry(self._path, **self.labels, spent=self.own)


class Budget:
    """How much more may be asked."""

    def __init__(self, ledger: Ledger, price: Price | None, max_usd: float | None):
        """``price`` may be None only if ``max_usd`` is (:class:`InputError`)."""
        if max_usd is not None and price is None:
            raise InputError("judge.prices: max_usd is set and this judge's price is not known; write input and output")
        self.ledger, self.price, self.max_usd = ledger, price, max_usd

    def most(self, request: Request) -> float:
        """Return the most that a request can cost in USD: no token is shorter than a byte."""
        if self.price is None:
            return 0.0
        return self.price.of(request.input_bytes + MESSAGE_TOKENS, request.fields["max_tokens"])

    def room(self) -> float:
        """Return how many USD are left of ``max_usd``."""
        return float("inf") if self.max_usd is None else self.max_usd - self.ledger.usd()

    def replied(self, request: Request, usage: tuple[int, int] | None) -> None:
        """Enter a reply; without the endpoint's word on its tokens, they are guessed from the length."""
        self.ledger.add(self._spending(request, usage, calls=1))

    def failed(self, request: Request, failure: Failure) -> None:
        """Enter a failure that was, or may have been, charged for."""
        if failure.usage is not None:
            self.replied(request, failure.usage)
        elif failure.may_be_paid:
            self.ledger.add(self._spending(request, None, unanswered=1))

    def _spending(self, request: Request, usage: tuple[int, int] | None, **counts: int) -> Spending:
        guess = round(request.input_bytes / BYTES_PER_TOKEN), int(request.fields["max_tokens"])
        tokens = guess if usage is None else (usage[0], usage[1])
        return Spending(
            **counts, input_tokens=tokens[0], output_tokens=tokens[1], usd=self.price.of(*tokens) if self.price else 0.0
        )


def write_entry(path: Path, judge: str, cell: str, spent: Spending) -> None:
    """Write a file of a ledger that has one line, in the place of what is there."""
    write_text(path, json.dumps({"judge": judge, "cell": cell, **asdict(spent)}) + "\n")


def read_ledger(folder: Path) -> dict[tuple[str, str], Spending]:
    """Return what was spent by judge and cell (with its question set); nothing where there is no ledger."""
    found: dict[tuple[str, str], Spending] = defaultdict(Spending)
    for path in sorted(folder.glob("*.jsonl")):
        for line in _lines(path):
            found[line.pop("judge"), line.pop("cell")].add(line)
    return dict(found)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a file that may be written to at this moment."""
    found = []
    for line in path.read_bytes().split(b"\n"):
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
