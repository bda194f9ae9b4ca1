"""Multiple choice: how many questions each cell has right, and how many fewer than the model as it is."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emdefense.analysis.intervals import cluster_interval, wilson_interval
from emdefense.analysis.paired import Pair
from emdefense.analysis.rates import CELL_SCHEMA, read_rows
from emdefense.cells import Cell, Grid
from emdefense.choice.asked import asked
from emdefense.config.multiple_choice import SCORES, Score
from emdefense.config.study import Study
from emdefense.files import written_whole
from emdefense.layout import Layout

Against = Literal["untrained", "plain"]
AGAINST: tuple[Against, ...] = ("untrained", "plain")
"""What a cell is compared with: its model as it is, and plain fine-tuning on the same rows."""
ROW_SCHEMA: dict[str, pl.DataType] = {
    "id": pl.String(),
    "log_probs": pl.List(pl.Float64()),
    **{score: pl.Struct({"correct": pl.Boolean()}) for score in SCORES},
}
_OF_PAIR: dict[str, pl.DataType] = {
    **dict.fromkeys(("lost", "won"), pl.Int64()),
    **dict.fromkeys(("p", "difference_pct", "low_pct", "high_pct", "pooled_p"), pl.Float64()),
}
CHOICE_SCHEMA: dict[str, pl.DataType] = {
    **CELL_SCHEMA,
    "set": pl.String(),
    "score": pl.String(),
    "questions": pl.Int64(),
    "correct": pl.Int64(),
    "chance_pct": pl.Float64(),
    "correct_pct": pl.Float64(),
    **{f"{kind}_{end}_pct": pl.Float64() for kind in ("wilson", "cluster", "pooled") for end in ("low", "high")},
    "pooled_pct": pl.Float64(),
    **{f"{other}_{name}": kind for other in AGAINST for name, kind in _OF_PAIR.items()},
}

Right = Mapping[str, bool]
"""Whether the right option of each question was chosen, by the question's id."""


@dataclass(frozen=True)
class Answered:
    """What a cell made of a set: which questions it has right by each score, and what guessing would have."""

    right: Mapping[Score, Right]
    chance: float

    @classmethod
    def read(cls, path: Path) -> "Answered":
        """Read what was chosen; :class:`InputError` names a broken file."""
        rows = read_rows(path, ROW_SCHEMA)
        options = rows["log_probs"].list.len()
        right = {score: dict(zip(rows["id"], rows[score].struct.field("correct"), strict=True)) for score in SCORES}
        return cls(right, float(np.mean(1 / options.to_numpy())) if rows.height else 0.0)


def write_multiple_choice(study: Study, path: Path) -> None:
    """Write ``multiple_choice.parquet``: a row for each cell, set and score, columns as in ``CHOICE_SCHEMA``."""
    with written_whole(path) as temporary:
        choice_frame(study).write_parquet(temporary)


def choice_frame(study: Study) -> pl.DataFrame:
    """Return a row for each cell, set and score that was measured, in the order of the study.

    Of one seed are ``correct``, its share, Wilson's interval (for these questions), the bootstrap's (for questions like
    these), and, against the same seed of another arm, ``lost`` (it has them right, the cell has not), ``won`` and the
    exact p-value of McNemar's test. ``pooled`` and differences with their intervals and ``pooled_p`` are of all seeds
    of the condition together: whole questions are drawn for both arms at once. A mean over one seed has McNemar's
    p-value, over more that of the permutation test which swaps the arms' answers to whole questions.
    """
    compared = Compared(study)
    rows = [
        {
            **asdict(cell),
            "setting_value": cell.setting_value,
            "set": name,
            "score": score,
            "chance_pct": 100 * answered.chance,
            **compared.of_seed(cell, name, score),
            **compared.of_condition(cell, name, score),
        }
        for (cell, name), answered in compared.answered.items()
        for score in SCORES
    ]
    return pl.DataFrame(rows, schema=CHOICE_SCHEMA)


class Compared:
    """What was chosen in a study, and how cells compare."""

    def __init__(self, study: Study):
        self._grid, self._layout = Grid(study), Layout(study)
        self._resamples = study.scoring.bootstrap_resamples

    @cached_property
    def answered(self) -> dict[tuple[Cell, str], Answered]:
        """What was measured, in the order of the study."""
        found = {}
        for cell, name in asked(self._grid):
            path = Path(self._layout.choices(cell, name))
            if path.is_file():
                found[cell, name] = Answered.read(path)
            else:
                print(f"{path}: not there; its cell stays empty in the tables", file=sys.stderr)
        return found

    def of_seed(self, cell: Cell, name: str, score: Score) -> dict[str, Any]:
        """Return what is known of one cell by itself, and against the same seed of the other arms."""
        right = self.answered[cell, name].right[score]
        values = np.array(list(right.values()), dtype=np.int64)
        found: dict[str, Any] = {"questions": len(values), "correct": int(values.sum())}
        if not len(values):
            return found
        found["correct_pct"] = 100 * float(values.mean())
        found |= _bounds("wilson", wilson_interval(found["correct"], len(values)))
        found |= _bounds("cluster", cluster_interval(values, np.ones_like(values), self._resamples))
        for against in AGAINST:
            other = self.answered.get((self._other(cell, against), name)) if self._is_other(cell, against) else None
            if other is not None:
                lost, won = discordant(right, other.right[score])
                found |= {f"{against}_lost": lost, f"{against}_won": won, f"{against}_p": mcnemar(lost, won)}
        return found

    def of_condition(self, cell: Cell, name: str, score: Score) -> dict[str, Any]:
        """Return what is known of all seeds of a cell's condition together."""
        mine = self._seeds(cell, name, score)
        ids = list(mine[0])
        if not ids:
            return {}
        correct, asked_of = _counted(mine, ids)
        found: dict[str, Any] = {"pooled_pct": 100 * float(correct.sum() / asked_of.sum())}
        found |= _bounds("pooled", cluster_interval(correct, asked_of, self._resamples))
        for against in AGAINST:
            others = self._seeds(self._other(cell, against), name, score) if self._is_other(cell, against) else []
            both = [one for one in ids if others and one in others[0]]
            if not both:
                continue
            pair = Pair(*_counted(mine, both), *_counted(others, both))
            low, high = pair.interval(self._resamples)
            single = len(mine) == len(others) == 1
            p = mcnemar(*discordant(mine[0], others[0])) if single else pair.p_value()
            found |= {
                f"{against}_difference_pct": 100 * pair.difference,
                f"{against}_low_pct": 100 * low,
                f"{against}_high_pct": 100 * high,
                f"{against}_pooled_p": p,
            }
        return found

    def _seeds(self, cell: Cell, name: str, score: Score) -> list[Right]:
        """Return what every seed of a cell's condition has right."""
        return [answered.right[score] for answered in self._conditions.get((replace(cell, seed=0), name), [])]

    @cached_property
    def _conditions(self) -> dict[tuple[Cell, str], list[Answered]]:
        """What was measured, the seeds of a condition together."""
        found: dict[tuple[Cell, str], list[Answered]] = {}
        for (cell, name), answered in self.answered.items():
            found.setdefault((replace(cell, seed=0), name), []).append(answered)
        return found

    def _is_other(self, cell: Cell, against: Against) -> bool:
        """Whether a cell has something to be compared with: not the model as it is, and none with itself."""
        return self._grid.arm(cell).is_trained and self._other(cell, against) != cell

    def _other(self, cell: Cell, against: Against) -> Cell:
        return self._grid.untrained(cell.model) if against == "untrained" else self._grid.changed_from(cell)


def discordant(mine: Right, other: Right) -> tuple[int, int]:
    """Return of how many questions that both have the other alone is right, and the first alone."""
    both = [(mine[one], other[one]) for one in mine if one in other]
    return sum(theirs and not ours for ours, theirs in both), sum(ours and not theirs for ours, theirs in both)


def mcnemar(lost: int, won: int) -> float:
    """Return the two-sided exact p-value of McNemar's test (1947): of a fair coin's falling so unevenly."""
    from scipy.stats import binomtest  # not imported by what only reads the frame

    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def _counted(seeds: list[Right], ids: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many seeds have each question right, and how many were asked it."""
    correct = np.array([sum(right.get(one, False) for right in seeds) for one in ids], dtype=np.int64)
    return correct, np.array([sum(one in right for right in seeds) for one in ids], dtype=np.int64)


def _bounds(kind: str, interval: tuple[float, float]) -> dict[str, float]:
    return {f"{kind}_{end}_pct": 100 * bound for end, bound in zip(("low", "high"), interval, strict=True)}
