"""SafeGrad: what of the task's gradient goes against a few safe rows is taken out (arXiv 2508.07172)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from emdefense.arms.arguments import Step
from emdefense.arms.base import Arm
from emdefense.arms.kl import KL, divergence
from emdefense.arms.look import Look
from emdefense.arms.setting import Setting
from emdefense.section import PositiveInt

if TYPE_CHECKING:
    from torch import Tensor

    from emdefense.training.features import Features
    from emdefense.training.fused_loss import HeadTerm
    from emdefense.training.token_batch import TokenBatch


class SafeGrad(KL):
    """g = g_task − [its projection on g_align where both are in conflict] + ρ·g_align."""

    direction: Literal["policy_to_reference", "reference_to_policy"] = Field(
        "reference_to_policy", description="KL(p_θ0 ‖ p_θ), as theirs, or KL(p_θ ‖ p_θ0)"
    )
    rows: PositiveInt = Field(20, description="safe rows in all, drawn by the training's seed")
    rows_per_step: PositiveInt = Field(4, description="of these, safe rows in each optimiser step")
    rho: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0, description="weight of g_align itself, which is added; 0: only the projection is taken out"
    )


class GradientSurgery(Arm[SafeGrad]):
    """g = g_task + s·(ρ·g_align − min(0, g_task·g_align) / ‖g_align‖² · g_align), over all trained parameters together.

    g_align is the gradient of the divergence from the model before fine-tuning on ``rows_per_step`` of ``rows`` safe
    rows. Where g_task·g_align < 0, a step down g_task would raise that divergence; at s = 1 nothing of that is left.
    s = 1 is SafeGrad (its Algorithm 1), s = 0 plain fine-tuning.
    """

    name = "safegrad"
    title = "SafeGrad"
    source = "Yi et al. 2025, arXiv 2508.07172, Algorithm 1"
    setting = Setting("strength", "s", high=1, why="1 takes all of the conflict out")
    options = SafeGrad
    look = Look("#A6761D", ">", (0, (2, 1)))
    stream = "safe"

    def stream_rows(self, options: SafeGrad) -> int:
        """Return how many safe rows a step has."""
        return options.rows_per_step

    def stream_limit(self, options: SafeGrad) -> int:
        """Return how many safe rows there are in all."""
        return options.rows

    def head_term(self, options: SafeGrad, batch: TokenBatch, reference: Features) -> HeadTerm:
        """Return the divergence of which g_align is the gradient."""
        return divergence(options, batch, reference)

    def gradient(self, options: SafeGrad, setting: float, step: Step) -> Sequence[Tensor]:
        """Return the task's gradient without the conflict, and ρ·g_align on top.

        Records the cosine of g_task and g_align, the norm of g_align, and the share of steps in conflict so far.
        """
        assert step.stream is not None
        product, align = _product(step.gradients, step.stream), _product(step.stream, step.stream)
        task = _product(step.gradients, step.gradients)
        conflict = product < 0
        step.record("cosine", product / (align * task) ** 0.5 if align * task > 0 else 0.0)
        step.record("align_norm", align**0.5)
        step.record("conflicts", _share_of_conflicts(step, conflict))
        if setting == 0:
            return step.gradients
        # At the start θ = θ0, and g_align is 0.
        factor = setting * (options.rho - (product / align if conflict and align > 0 else 0.0))
        return [mine + factor * theirs for mine, theirs in zip(step.gradients, step.stream, strict=True)]


def _product(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Return the inner product over all parameters, in float64."""
    import torch

    return float(torch.stack([(x.double() * y.double()).sum() for x, y in zip(left, right, strict=True)]).sum())


def _share_of_conflicts(step: Step, conflict: bool) -> float:
    """Count a step in; return which share of all steps so far was in conflict."""
    import torch

    (count,) = step.state.setdefault("conflicts", [torch.zeros((), dtype=torch.int64)])
    count += int(conflict)
    return count.item() / step.number
