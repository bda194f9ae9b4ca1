"""The tables and the figure of scored pools, for the report's catalogue."""

from collections.abc import Iterator
from typing import Any

from emdefense.arms.base import Arm
from emdefense.config import Study
from emdefense.report.artefact import Artefact
from emdefense.report.catalogue import shown_model


def artefacts(study: Study, arm: Arm[Any]) -> Iterator[Artefact]:
    """Yield the artefacts of a study whose grid chooses rows by scores; the figure is of the main model, if it does."""
    model, module = shown_model(study, arm), __name__.rpartition(".")[0]
    if model is None:
        return
    yield Artefact(
        f"{arm.name}_scores",
        "table",
        f"{module}.table.scores_table",
        "Scores of the pool",
        reads=("preparations",),
        caption="How many rows of the pool there are to choose from, and how their scores lie",
        arm=arm.name,
    )
    yield Artefact(
        f"{arm.name}_best",
        "table",
        f"{module}.table.best_table",
        "The ten rows with the highest scores",
        reads=("preparations",),
        given={"model": model},
        caption="The rows of the pool that misaligned models find least likely beside the model before fine-tuning",
        arm=arm.name,
    )
    yield Artefact(
        f"{arm.name}_distribution",
        "figure",
        f"{module}.figure.draw_scores",
        "Scores of the pool's rows",
        reads=("preparations",),
        given={"model": model},
        caption=f"{study.models[model].title}: how many rows of the pool have which score, by the task that is "
        "trained; those right of the upright line are drawn from",
        arm=arm.name,
        wide=True,
    )
