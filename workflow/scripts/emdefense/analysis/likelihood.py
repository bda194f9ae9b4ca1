"""How likely held-out answers are to each cell's model, and how far that is from the model as it is."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emdefense.analysis.intervals import draw_questions, percentile_interval
from emdefense.analysis.paired import Pair
from emdefense.analysis.rates import CELL_SCHEMA, read_rows
from emdefense.cells import Cell, Grid
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.files import written_whole
from emdefense.layout import Layout
from emdefense.likelihood.read import SIDES, reading, untrained

Against = Literal["untrained", "plain"]
AGAINST: tuple[Against, ...] = ("untrained", "plain")
"""What a cell is compared with: its model as it is, and plain fine-tuning on the same task."""
ROW_SCHEMA: dict[str, pl.DataType] = {
    "id": pl.String(),
    "side": pl.String(),
    "tokens": pl.Int64(),
    "log_prob": pl.Float64(),
}
LIKELIHOOD_SCHEMA: dict[str, pl.DataType] = {
    **CELL_SCHEMA,
    "side": pl.String(),
    **dict.fromkeys(("rows", "too_long", "tokens"), pl.Int64()),
    **dict.fromkeys(("log_prob", "pooled", "pooled_low", "pooled_high"), pl.Float64()),
    **{f"{other}_{name}": pl.Float64() for other in AGAINST for name in ("difference", "low", "high", "p")},
}


class Answer(NamedTuple):
    """An answer's log-probability in nats, its tokens' added up, and how many these are."""

    log_prob: float
    tokens: int


Read = Mapping[str, Answer]
"""The answers of a side that were read, by the rows' ids."""


@dataclass(frozen=True)
class HeldOut:
    """What a cell's model made of the held-out answers of its task, by side, and how many were too long."""

    sides: Mapping[str, Read]
    too_long: Mapping[str, int]

    @classmethod
    def read(cls, path: Path) -> "HeldOut":
        """Read what was measured; :class:`InputError` names a broken file."""
        sides: dict[str, dict[str, Answer]] = {}
        too_long: dict[str, int] = {}
        for row in read_rows(path, ROW_SCHEMA).iter_rows(named=True):
            of_side = sides.setdefault(row["side"], {})
            too_long.setdefault(row["side"], 0)
            if row["log_prob"] is None:
                too_long[row["side"]] += 1
            else:
                of_side[row["id"]] = Answer(row["log_prob"], row["tokens"])
        if unknown := set(sides) - set(SIDES):
            raise InputError(f"{path}: there is no side '{min(unknown)}'; delete the file and run its job again")
        return cls({side: sides[side] for side in SIDES if side in sides}, too_long)


def write_likelihood(study: Study, path: Path) -> None:
    """Write ``likelihood.parquet``: a row for each cell and side, columns as in ``LIKELIHOOD_SCHEMA``."""
    with written_whole(path) as temporary:
        likelihood_frame(study).write_parquet(temporary)


def likelihood_frame(study: Study) -> pl.DataFrame:
    """Return a row for each cell and side that was measured, in the order of the study.

    ``log_prob`` is the mean over all tokens of a side's answers, in nats a token. ``pooled``, and differences from
    other arms on the same rows, are of all seeds of the condition together, each row's mean over seeds. Intervals draw
    whole rows, for both arms of a difference at once; ``p`` is that of the permutation test which swaps the arms' rows.
    """
    compared = Compared(study)
    rows = [
        {
            **asdict(cell),
            "setting_value": cell.setting_value,
            "side": side,
            "rows": len(read),
            "too_long": held_out.too_long[side],
            "tokens": sum(one.tokens for one in read.values()),
            **compared.values(cell, side),
        }
        for cell, held_out in compared.measured.items()
        for side, read in held_out.sides.items()
    ]
    return pl.DataFrame(rows, schema=LIKELIHOOD_SCHEMA)


class Compared:
    """What was measured in a study, and how cells compare."""

    def __init__(self, study: Study):
        self._grid, self._layout = Grid(study), Layout(study)
        self._resamples = study.scoring.bootstrap_resamples

    @cached_property
    def measured(self) -> dict[Cell, HeldOut]:
        """What was measured, in the order of the study."""
        found = {}
        for cell in reading(self._grid):
            path = Path(self._layout.held_out(cell))
            if path.is_file():
                found[cell] = HeldOut.read(path)
            else:
                print(f"{path}: not there; its cell stays empty in the tables", file=sys.stderr)
        return found

    def values(self, cell: Cell, side: str) -> dict[str, float]:
        """Return a side's mean under a cell and its condition, and the condition's differences from others."""
        mine, seeds = self.measured[cell].sides[side], self._seeds(cell, side)
        if not mine:
            return {}
        log_probs, tokens = _averaged(seeds, list(mine))
        found = {
            "log_prob": sum(one.log_prob for one in mine.values()) / sum(one.tokens for one in mine.values()),
            "pooled": float(log_probs.sum() / tokens.sum()),
        }
        if len(tokens) > 1:
            drawn = draw_questions(len(tokens), self._resamples)
            found |= _bounds("pooled", percentile_interval((drawn @ log_probs) / (drawn @ tokens)))
        for against in AGAINST if self._grid.arm(cell).is_trained else ():
            other = untrained(self._grid, cell) if against == "untrained" else self._grid.changed_from(cell)
            others = [] if replace(other, seed=0) == replace(cell, seed=0) else self._seeds(other, side)
            both = [one for one in mine if others and one in others[0]]
            if both:
                pair = Pair(*_averaged(seeds, both), *_averaged(others, both))
                found |= {f"{against}_difference": pair.difference, f"{against}_p": pair.p_value()}
                found |= _bounds(against, pair.interval(self._resamples)) if len(both) > 1 else {}
        return found

    def _seeds(self, cell: Cell, side: str) -> list[Read]:
        """Return what every seed of a cell's condition made of a side."""
        of_condition = self._conditions.get(replace(cell, seed=0), ())
        return [held_out.sides[side] for held_out in of_condition if side in held_out.sides]

    @cached_property
    def _conditions(self) -> dict[Cell, list[HeldOut]]:
        found: dict[Cell, list[HeldOut]] = {}
        for cell, held_out in self.measured.items():
            found.setdefault(replace(cell, seed=0), []).append(held_out)
        return found


def _averaged(seeds: Sequence[Read], ids: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return each row's log-probability, the mean over the seeds that read it, and its tokens."""
    means = [np.mean([seed[one].log_prob for seed in seeds if one in seed]) for one in ids]
    tokens = [next(seed[one].tokens for seed in seeds if one in seed) for one in ids]
    return np.array(means, dtype=np.float64), np.array(tokens, dtype=np.int64)


def _bounds(kind: str, interval: tuple[float, float]) -> dict[str, float]:
    return {f"{kind}_{end}": bound for end, bound in zip(("low", "high"), interval, strict=True)}
