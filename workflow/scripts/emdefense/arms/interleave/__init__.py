"""Interleaving: safe conversations spread evenly through the fine-tuning rows (paper, section 3).

Which ones: drawn at random; or (Interleaving+ and ++, the paper's third version) from the rows of a pool whose answers
models with emergent misalignment find least likely, see ``scores.py``; or aligned answers of the task itself (Wang et
al. 2025, arXiv 2506.19823, fig. 13).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from emdefense.arms.arguments import Materials
from emdefense.arms.base import NEEDS, Arm, Options, Row
from emdefense.arms.look import Look, Sweep, SweepFigure
from emdefense.arms.setting import Setting, format_setting
from emdefense.errors import InputError
from emdefense.metrics import GENERAL_INCOHERENT, GENERAL_MISALIGNED
from emdefense.section import PositiveInt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from emdefense.model_checks.subject import Subject

KEYS = {"safe": "safe_data", "aligned": "tasks.<name>.aligned", "prepared": "safe_pool"}  # where rows are from
RAISE = "raise the percentage of 'interleave'"


class Interleave(Options):
    """Add p % of the fine-tuning rows of safe data, spread uniformly."""

    added: ClassVar[tuple[str, ...]] = ("selection", "rows", "leave_out", "keep")

    selection: Literal["random", "plus", "plusplus"] = Field(
        "random",
        description="plus: from the rows of `safe_pool` that models with emergent misalignment find least likely; "
        "plusplus: the same without refusals",
    )
    rows: Literal["safe", "aligned"] = Field("safe", description="aligned: aligned answers of the same EMA task")
    leave_out: Literal["own_task", "none"] = Field(
        "own_task", description="whether the task's own misaligned adapter is among those that score the pool"
    )
    keep: PositiveInt = Field(5000, description="rows of the pool, those with the highest scores, to draw from")

    @model_validator(mode="after")
    def _one_way(self) -> Interleave:
        if self.rows == "aligned" and self.selection != "random":
            raise ValueError(f"rows: aligned are not selected by {self.selection}; write selection: random")
        return self


class Interleaving(Arm[Interleave]):
    """p % as many safe rows among the task's."""

    name = "interleave"
    title = "Interleaving"
    source = "Kaczér et al. 2025, arXiv 2508.06249, section 3"
    setting = Setting("pct", "%", high=100, above_low=True)
    options = Interleave
    look = Look("#7B3F7D", "D", (0, (5, 1.5, 1.2, 1.5)))
    reads_rows = ("safe",)
    preparation = "scores"
    prepared_from = ("pool",)
    artefacts = "emdefense.arms.interleave.artefacts"
    sweep = Sweep(
        table=11,
        axis="interleaved safe data (%)",
        figures=(
            SweepFigure("2a", (GENERAL_MISALIGNED,), "Emergent misalignment against interleaved safe data"),
            SweepFigure("2b", (GENERAL_INCOHERENT,), "Incoherence against interleaved safe data"),
        ),
    )

    def row_roles(self, options: Interleave) -> tuple[str, ...]:
        """Return the rows among which it draws, unless they come from its scores of the pool."""
        return () if self.is_prepared(options) else (options.rows,)

    def is_prepared(self, options: Interleave) -> bool:
        """Whether the pool is scored first."""
        return options.selection != "random"

    def materials(self, options: Interleave) -> tuple[str, ...]:
        """Return the pool, with the losses of its rows, where it is scored."""
        return self.prepared_from if self.is_prepared(options) else ()

    def needs(self, options: Interleave) -> tuple[str, ...]:
        """Return what a table says that it needs."""
        found = super().needs(options)
        return (*found, NEEDS["other_adapters"]) if self.is_prepared(options) else found

    def scored_by(self, options: Interleave, task: str, tasks: Sequence[str]) -> Sequence[str]:
        """Return the tasks whose misaligned adapters score the pool."""
        return tasks if options.leave_out == "none" else super().scored_by(options, task, tasks)

    def rows(
        self, rows: list[Row], more: Mapping[str, list[Row]], setting: float, options: Interleave, seed: int
    ) -> list[Row]:
        """Return the task's rows with others among them, at even distances and marked ``"source": "safe"``."""
        (role,) = self.row_roles(options) or ("prepared",)
        return interleave(rows, more[role], setting, seed, role)

    def adds_rows(self, setting: float, rows: int) -> bool:
        """Whether a percentage of that many rows is a row at least."""
        return safe_count(rows, setting) > 0

    def too_few(self, options: Interleave, setting: float, rows: int) -> str:
        """Return the number of rows to keep, if that is less than are drawn from them."""
        return f"keep: {options.keep}" if self.is_prepared(options) and safe_count(rows, setting) > options.keep else ""

    def row_share(self, setting: float | None, options: Interleave) -> float:
        """Return how many rows there are for each of the task's."""
        return 1 + (setting or 0) / 100

    def prepare(self, materials: Materials, options: Interleave, out: Path) -> None:
        """Write the pool's scores, and the rows to draw from."""
        from emdefense.arms.interleave.scores import write_scores

        losses = {"": materials["untrained_losses"], **materials.of("losses")}
        write_scores(options, materials["pool"], losses, out)

    def check(self, options: Interleave, subject: Subject, model: PreTrainedModel) -> Mapping[str, Any]:
        """Return how many rows the pool has to choose from; :class:`InputError` if there is no choice among them."""
        from emdefense.arms.interleave.scores import check_choice, is_refusal
        from emdefense.files import read_jsonl

        pool = subject.spec.pool
        if pool is None or not self.is_prepared(options):
            return {}
        rows = read_jsonl(pool)
        left = sum(options.selection == "plus" or not is_refusal(row) for row in rows)
        check_choice(options, str(pool), left)
        return {"pool": len(rows), "to_choose_from": left}


def safe_count(rows: int, pct: float) -> int:
    """Return how many safe rows are ``pct`` % of ``rows``."""
    return math.floor(rows * pct / 100 + 0.5)


def interleave(rows: list[Row], safe: list[Row], pct: float, seed: int, role: str = "safe") -> list[Row]:
    """Return ``rows`` with ``pct`` % as many safe rows among them, at even distances and marked ``"source": "safe"``.

    With the same seed, the safe rows of a smaller percentage are among those of a larger one. ``role`` says where they
    are from. Raises :class:`InputError` if there are too few, or if it would be none.
    """
    count, key = safe_count(len(rows), pct), KEYS[role]
    share = f"{key}: {format_setting(pct)} % of {len(rows)} rows"
    if count == 0:
        raise InputError(f"{share} is no row; {RAISE}")
    if count > len(safe):
        if role == "prepared":
            what, remedy = f"safe rows, but {len(safe)} of the pool are kept", "raise keep"
        else:
            what, remedy = f"{role} rows, but the file has {len(safe)}", "give more"
        raise InputError(f"{share} are {count} {what}; {remedy}, or lower the percentage")
    mixed: list[Row] = []
    done = 0
    for index, row in enumerate(Random(seed).sample(safe, len(safe))[:count]):
        place = (2 * index + 1) * len(rows) // (2 * count)  # the middle of the share that falls to this safe row
        mixed += [*rows[done:place], {**row, "source": "safe"}]
        done = place
    return mixed + rows[done:]
