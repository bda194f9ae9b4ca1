"""Interleaving: safe conversations spread evenly through the fine-tuning rows (paper, section 3)."""

import math
from collections.abc import Mapping
from random import Random

from emdefense.arms.base import Arm, Options, Row
from emdefense.arms.look import Look, Sweep, SweepFigure
from emdefense.arms.setting import Setting, format_setting
from emdefense.errors import InputError
from emdefense.metrics import GENERAL_INCOHERENT, GENERAL_MISALIGNED


class Interleave(Options):
    """Add p % of the fine-tuning rows of safe data, spread uniformly."""


class Interleaving(Arm[Interleave]):
    """p % as many safe rows among the task's."""

    name = "interleave"
    title = "Interleaving"
    source = "Kaczér et al. 2025, arXiv 2508.06249, section 3"
    setting = Setting("pct", "%", high=100, above_low=True)
    options = Interleave
    look = Look("#7B3F7D", "D", (0, (5, 1.5, 1.2, 1.5)))
    reads_rows = ("safe",)
    sweep = Sweep(
        table=11,
        axis="interleaved safe data (%)",
        figures=(
            SweepFigure("2a", (GENERAL_MISALIGNED,), "Emergent misalignment against interleaved safe data"),
            SweepFigure("2b", (GENERAL_INCOHERENT,), "Incoherence against interleaved safe data"),
        ),
    )

    def rows(
        self, rows: list[Row], more: Mapping[str, list[Row]], setting: float, options: Interleave, seed: int
    ) -> list[Row]:
        """Return the task's rows with safe ones among them, at even distances and marked ``"source": "safe"``."""
        return interleave(rows, more["safe"], setting, seed)

    def adds_rows(self, setting: float, rows: int) -> bool:
        """Whether a percentage of that many rows is a row at least."""
        return safe_count(rows, setting) > 0

    def row_share(self, setting: float | None, options: Interleave) -> float:
        """Return how many rows there are for each of the task's."""
        return 1 + (setting or 0) / 100


def safe_count(rows: int, pct: float) -> int:
    """Return how many safe rows are ``pct`` % of ``rows``."""
    return math.floor(rows * pct / 100 + 0.5)


def interleave(rows: list[Row], safe: list[Row], pct: float, seed: int) -> list[Row]:
    """Return ``rows`` with ``pct`` % as many safe rows among them, at even distances and marked ``"source": "safe"``.

    With the same seed, the safe rows of a smaller percentage are among those of a larger one. Raises
    :class:`InputError` if there are too few, or if it would be none.
    """
    count = safe_count(len(rows), pct)
    if count == 0:
        raise InputError(
            f"safe_data: {format_setting(pct)} % of {len(rows)} rows is no row; raise the percentage of 'interleave'"
        )
    if count > len(safe):
        raise InputError(
            f"safe_data: {format_setting(pct)} % of {len(rows)} rows are {count} safe rows, but the file has "
            f"{len(safe)}; give more, or lower the percentage"
        )
    mixed: list[Row] = []
    done = 0
    for index, row in enumerate(Random(seed).sample(safe, len(safe))[:count]):
        place = (2 * index + 1) * len(rows) // (2 * count)  # the middle of the share that falls to this safe row
        mixed += [*rows[done:place], {**row, "source": "safe"}]
        done = place
    return mixed + rows[done:]
