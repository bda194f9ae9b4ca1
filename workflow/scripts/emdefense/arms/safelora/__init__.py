"""SafeLoRA: project an adapter's matrices onto the direction of alignment, Eqs. 1–3 of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from emdefense.arms.arguments import FinishedAdapter, Materials
from emdefense.arms.base import Arm, Options
from emdefense.arms.look import Look, Sweep, SweepFigure
from emdefense.arms.setting import Setting
from emdefense.metrics import GENERAL_MISALIGNED, IN_DOMAIN_MISALIGNED

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from emdefense.model_checks.subject import Subject


class SafeLoRA(Options):
    """Project B·A onto the alignment subspace where the cosine is below τ, Eqs. 1–3 of the paper."""

    reads: ClassVar[tuple[str, ...]] = ()

    normalisation: Literal["squared_norm", "norm"] = Field(
        "squared_norm", description="C = VVᵀ/‖V‖² (the paper), or VVᵀ/‖V‖ (IBM's code)"
    )


class ProjectedAdapter(Arm[SafeLoRA]):
    """The adapter of plain fine-tuning, its matrices with cosine < τ replaced by their projections."""

    name = "safelora"
    title = "SafeLoRA"
    source = "Hsu et al. 2024, arXiv 2405.16833; Kaczér et al. 2025, Eqs. 1–3"
    setting = Setting("tau", "τ", high=1, why="cosines do not")
    options = SafeLoRA
    look = Look("#009E73", "^", (0, (1.2, 1.2)))
    preparation = "projection"
    prepared_from = ("adapter", "base", "model")
    artefacts = "emdefense.arms.safelora.artefacts"
    sweep = Sweep(
        table=10,
        axis="SafeLoRA threshold τ",
        figures=(
            SweepFigure("5", (GENERAL_MISALIGNED, IN_DOMAIN_MISALIGNED), "SafeLoRA: misaligned responses against τ"),
        ),
    )

    def prepare(self, materials: Materials, options: SafeLoRA, out: Path) -> None:
        """Write the projection of every matrix, which is the same for every τ."""
        from emdefense.arms.safelora.projection import project_adapter

        project_adapter(options, materials["adapter"], materials["base"], materials["model"], out)

    def adapter(self, finished: FinishedAdapter, setting: float, options: SafeLoRA) -> dict[str, Tensor]:
        """Return the adapter with the projections of the matrices below the threshold."""
        from emdefense.arms.safelora.projection import threshold_adapter

        return threshold_adapter(setting, finished)

    def check(self, options: SafeLoRA, subject: Subject, model: PreTrainedModel) -> Mapping[str, Any]:
        """Find out whether the direction of alignment can be told from the models' files."""
        from emdefense.arms.safelora.check import check_base

        return check_base(subject, model)
