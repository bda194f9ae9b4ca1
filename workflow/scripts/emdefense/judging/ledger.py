"""What a study's judges have cost, by cell.

The ledger is a folder with an append-only file for each process: a line a call while it runs, one line when it is done.
"""

import json
import os
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from emdefense.files import write_text


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
