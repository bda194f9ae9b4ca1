"""The table and the figure of SafeLoRA's matrices, for the report's catalogue."""

from collections.abc import Iterator
from typing import Any

from emdefense.arms.base import Arm
from emdefense.config import Study
from emdefense.report.artefact import Artefact
from emdefense.report.catalogue import shown_model


def artefacts(study: Study, arm: Arm[Any]) -> Iterator[Artefact]:
    """Yield the artefacts of a study that has the arm; the figure is of the main model, if that has it."""
    model, module = shown_model(study, arm), __name__.rpartition(".")[0]
    assert model is not None
    seeds = f", mean over {len(study.seeds)} seeds" if len(study.seeds) > 1 else ""
    yield Artefact(
        f"{arm.name}_matrices",
        "table",
        f"{module}.table.matrices_table",
        "SafeLoRA's matrices",
        reads=("preparations",),
        caption="Which matrices SafeLoRA projects at each threshold, and how close each is to its projection",
        arm=arm.name,
    )
    yield Artefact(
        f"{arm.name}_cosines",
        "figure",
        f"{module}.figure.draw_cosines",
        "SafeLoRA's cosines",
        reads=("preparations",),
        given={"model": model},
        caption=f"{study.models[model].title}: cosine of each adapted matrix with its projection, by block{seeds}; "
        "below a τ it is projected",
        arm=arm.name,
        wide=True,
    )
