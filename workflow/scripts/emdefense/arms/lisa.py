"""Lisa: steps on safe and on task rows in turn, each held near where the other ended (github.com/git-disl/Lisa)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from emdefense.arms.arguments import Step
from emdefense.arms.base import Arm, Options, Row
from emdefense.arms.look import Look
from emdefense.arms.setting import Setting
from emdefense.errors import InputError
from emdefense.section import PositiveInt

if TYPE_CHECKING:
    from torch import Tensor

SAFE, TASK = "safe", "task"  # kinds of steps; rows that are not marked as safe are the task's


class Lisa(Options):
    """Blocks of steps on safe rows and on the task's in turn, with ρ/2·‖w − w_other‖²."""

    safe_steps: PositiveInt = Field(2, description="steps of a block on safe rows")
    task_steps: PositiveInt = Field(18, description="steps of a block on the task's rows")
    proximal_after: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="share of a training's steps that are made before the proximal term counts"
    )


class AlternatingTraining(Arm[Lisa]):
    """L = CE on rows of one kind + ρ/2·‖w − w_other‖², w_other the weights when the last block of the other kind ended.

    w are the adapter's parameters. Blocks of ``safe_steps`` and ``task_steps`` optimiser steps alternate, safe ones
    first; no step has rows of both kinds. At ρ = 0 this is still alternating training, not plain fine-tuning.
    """

    name = "lisa"
    title = "Lisa"
    source = "Huang et al. 2024, arXiv 2405.18641; github.com/git-disl/Lisa"
    setting = Setting("rho", "ρ")
    options = Lisa
    look = Look("#8C564B", "<", (0, (7, 1.5, 1.5, 1.5)))
    reads_rows = ("safe",)
    repeats_rows = True

    def rows(
        self, rows: list[Row], more: Mapping[str, list[Row]], setting: float, options: Lisa, seed: int
    ) -> list[Row]:
        """Return the task's rows and after them safe ones, marked ``"source": "safe"``, in the blocks' proportion."""
        count = max(1, math.floor(len(rows) * options.safe_steps / options.task_steps + 0.5))
        safe = more["safe"]
        if count > len(safe):
            raise InputError(
                f"safe_data: {options.safe_steps} steps for {options.task_steps} on the task's {len(rows)} rows are "
                f"{count} safe rows, but the file has {len(safe)}; give more, or lower arms.{self.name}.safe_steps"
            )
        return [*rows, *({**row, "source": SAFE} for row in Random(seed).sample(safe, len(safe))[:count])]

    def row_share(self, setting: float | None, options: Lisa) -> float:
        """Return how many rows there are for each of the task's."""
        return 1 + options.safe_steps / options.task_steps

    def order(self, options: Lisa, sources: Sequence[str], rows_per_step: int, seed: int) -> list[int]:
        """Return blocks of safe and of task rows in turn, rows of each kind in an order of their own.

        A last step that would have rows of both kinds is filled up with the task's once more, in place of safe ones.
        """
        draw = Random(seed)
        places: dict[str, list[int]] = {SAFE: [], TASK: []}
        for place, source in enumerate(sources):
            places[SAFE if source == SAFE else TASK].append(place)
        for kind in places:
            draw.shuffle(places[kind])
        steps = math.ceil(len(sources) / rows_per_step)
        left = {TASK: math.ceil(len(places[TASK]) / rows_per_step)}
        left[SAFE] = steps - left[TASK]
        if left[SAFE] < 1 or not places[SAFE]:
            raise InputError(
                f"arm '{self.name}': beside {len(places[TASK])} rows of the task, {len(places[SAFE])} safe ones make "
                f"no step of {rows_per_step}; raise arms.{self.name}.safe_steps, or give more rows"
            )
        kinds: list[str] = []
        while left[SAFE] or left[TASK]:
            for kind, block in ((SAFE, options.safe_steps), (TASK, options.task_steps)):
                made = min(block, left[kind])
                kinds += [kind] * made
                left[kind] -= made
        slots = [kind for kind in kinds for _ in range(rows_per_step)][: len(sources)]
        taken = {kind: 0 for kind in places}
        order = []
        for kind in slots:
            order.append(places[kind][taken[kind] % len(places[kind])])
            taken[kind] += 1
        return order

    def gradient(self, options: Lisa, setting: float, step: Step) -> Sequence[Tensor]:
        """Return the gradient and that of the proximal term.

        Records the distance to the weights when the other kind's last block ended, and which kind the step is.
        """
        import torch

        safe = step.sources.get(SAFE, 0)
        if safe not in (0, sum(step.sources.values())):
            raise InputError(f"arm '{self.name}': step {step.number} has rows of both kinds; do not reorder its rows")
        kind, now = int(safe > 0), [parameter.detach() for parameter in step.parameters]
        if not step.state or int(step.state["kind"][0]) != kind:  # where this block starts, the other one ended
            step.state.update({"other": [one.clone() for one in now], "kind": [torch.tensor(kind)]})
        away = [mine - theirs for mine, theirs in zip(now, step.state["other"], strict=True)]
        step.record("distance", torch.nn.utils.get_total_norm(away).item())
        step.record("safe", float(kind))
        if setting == 0 or step.number - 1 <= options.proximal_after * step.total:
            return step.gradients
        return [gradient + setting * term for gradient, term in zip(step.gradients, away, strict=True)]
