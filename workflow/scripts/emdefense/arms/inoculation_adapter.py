"""Inoculation adapter: a frozen LoRA carries the bad trait while the task's is trained (arXiv 2606.30252)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from emdefense.arms.arguments import FrozenAdapter, Materials
from emdefense.arms.base import Arm, Options
from emdefense.arms.look import Look
from emdefense.arms.setting import Setting

MEAN = "mean"
ROLE = "other_adapters"


class InoculationAdapter(Options):
    """Train beside a frozen adapter that already has the trait, and leave that out afterwards."""

    trait: str = Field(
        MEAN,
        description="whose adapter of plain fine-tuning has the trait: `mean` of all other EMA tasks', or a task's",
    )


class TraitBeside(Arm[InoculationAdapter]):
    """W0 + s·ΔW_trait + ΔW while training, ΔW_trait frozen; W0 + ΔW when sampling.

    What the trait's adapter already does, the task's need not learn. ``mean``: ΔW_trait = Σ_k s_k·B_k·A_k / K over the
    other EMA tasks' adapters of plain fine-tuning with the same seed, as one LoRA of the sum of their ranks.
    """

    name = "inoculation_adapter"
    title = "Inoculation adapter"
    source = "Riché et al. 2026, arXiv 2606.30252"
    setting = Setting("scale", "s")
    options = InoculationAdapter
    look = Look("#66A61E", "h", (0, (4, 2, 1, 2)))
    preparation = "trait"
    prepared_from = (ROLE,)

    def materials(self, options: InoculationAdapter) -> tuple[str, ...]:
        """Return the adapters of all other EMA tasks, or of the one that is named."""
        return (ROLE,) if options.trait == MEAN else (f"{ROLE}/{options.trait}",)

    def prepare(self, materials: Materials, options: InoculationAdapter, out: Path) -> None:
        """Write the adapter that has the trait."""
        from emdefense.training.mean_adapter import write_mean_adapter

        found = materials.of(ROLE)
        write_mean_adapter([found[task] for task in sorted(found)], out)

    def frozen_adapter(self, options: InoculationAdapter, setting: float, prepared: Any) -> FrozenAdapter | None:
        """Return the trait's adapter, its change times s."""
        return FrozenAdapter(prepared, setting) if setting else None
