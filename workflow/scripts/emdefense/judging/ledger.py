"""What a study's judges have cost, by cell.

The ledger is a folder with an append-only file for each process: a line per call while it runs, one when it is done.
"""

import json
import os
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from emdefense.errors import InputError
from emdefense.files import write_text
from emdefense.judging.foreign import name_once, read_bytes, regular_files
from emdefense.machine_limits import writing


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
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: the ledger's folder cannot be made ({error.strerror})") from None
        self.folder, self.own = folder, Spending()
        self.labels = {"judge": judge, "cell": cell}
        self._path = folder / f"{owner}.jsonl"
        self._out: int | None = None
        self._others: dict[str, tuple[tuple[int, int], float]] = {}  # each file's state and its dollars then

    def add(self, spent: Spending) -> None:
        """Append one call."""
        line = asdict(spent)
        self.own.add(line)
        with writing(self._path):
            if self._out is None:
                self._out = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.write(self._out, (json.dumps({**self.labels, **line}) + "\n").encode())

    def sync(self) -> None:
        """Have it on disk, where other hosts see it."""
        if self._out is not None:
            os.fsync(self._out)

    def usd(self) -> float:
        """Return what all processes together have spent."""
        for path, state in regular_files(self.folder, ".jsonl"):
            if path != self._path and self._others.get(path.name, (None, 0.0))[0] != state:
                self._others[path.name] = (state, sum(line["usd"] for line in _lines(path)))
        return self.own.usd + sum(usd for _, usd in self._others.values())

    def close(self) -> None:
        """Leave one line of this process's."""
        if self._out is not None:
            os.close(self._out)
            self._out = None
            write_entry(self._path, **self.labels, spent=self.own)


def write_entry(path: Path, judge: str, cell: str, spent: Spending) -> None:
    """Write a file of a ledger that has one line, in the place of what is there."""
    write_text(path, json.dumps({"judge": judge, "cell": cell, **asdict(spent)}) + "\n")


def read_ledger(folder: Path) -> dict[tuple[str, str], Spending]:
    """Return what was spent by judge and cell (with its question set); nothing where there is no ledger."""
    found: dict[tuple[str, str], Spending] = defaultdict(Spending)
    for path, _ in regular_files(folder, ".jsonl"):
        for line in _lines(path):
            found[line.pop("judge"), line.pop("cell")].add(line)
    return dict(found)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a file that may be written to at this moment; others in it are named."""
    found, wrong = [], []
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if _is_entry(entry):
            found.append(entry)
        elif line.strip():
            wrong.append(number)
    if wrong:
        name_once(path, "no entry of a ledger", wrong)
    return found


def _is_entry(entry: Any) -> bool:
    """Whether it is a line that this module wrote."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in ("judge", "cell")):
        return False
    counts = [entry.get(field.name) for field in fields(Spending)]
    return all(
        isinstance(count, int | float) and not isinstance(count, bool) and 0 <= count < float("inf") for count in counts
    )
