"""The training logs of a study, read for drawing."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from emdefense.errors import InputError
from emdefense.files import read_jsonl

LOG = "train_log.jsonl"
SMOOTHED_SHARE = 20  # a running mean is over a twentieth of the steps


@dataclass(frozen=True)
class Curve:
    """A quantity over the steps at which it was recorded."""

    steps: list[int]
    values: list[float]

    def smoothed(self) -> "Curve":
        """Return the running mean over a twentieth of the steps, fewer at the ends."""
        reach = len(self.values) // SMOOTHED_SHARE // 2
        windows = (self.values[max(0, i - reach) : i + reach + 1] for i in range(len(self.values)))
        return Curve(self.steps, [fmean(window) for window in windows])

    def regular(self) -> "Curve":
        """Return the curve without a last step soon after the one before: its batch is what rows were left over."""
        if len(self.steps) > 2 and 2 * (self.steps[-1] - self.steps[-2]) < self.steps[-2] - self.steps[-3]:
            return Curve(self.steps[:-1], self.values[:-1])
        return self

    def positive(self) -> "Curve":
        """Return what a logarithmic axis can show."""
        kept = [(step, value) for step, value in zip(self.steps, self.values, strict=True) if value > 0]
        return Curve([step for step, _ in kept], [value for _, value in kept])


class TrainingLog:
    """One training's log, ``train_log.jsonl`` of its cell."""

    def __init__(self, path: Path):
        self._path = path
        self._entries = read_jsonl(path)
        steps = [entry.get("step", 0) for entry in self._entries]
        if not steps or any(before >= after for before, after in pairwise([0, *steps])):
            raise InputError(f"{path}: not a training log with ascending steps; train the cell again")

    def curve(self, name: str) -> Curve:
        """Return a column where it was recorded: nowhere if the log was written without it."""
        found = [(entry["step"], entry[name]) for entry in self._entries if entry.get(name) is not None]
        return Curve([step for step, _ in found], [value for _, value in found])


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the mean over seeds, at the steps that all of them have."""
    tables = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves]
    shared = [step for step in tables[0] if all(step in table for table in tables)] if tables else []
    return Curve(shared, [fmean(table[step] for table in tables) for step in shared])
