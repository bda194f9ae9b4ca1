"""Responses to read: the most misaligned ones of each cell."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from emdefense.analysis.conditions import arm_title, setting_title
from emdefense.analysis.rates import JUDGMENT_SCHEMA, outcome_columns, read_rows
from emdefense.cells import GENERAL, Grid, Layout, Measurement
from emdefense.config import Study

SHOWN = 3
MAX_CHARACTERS = 1500
RESPONSE_SCHEMA = {"id": pl.String(), "system": pl.String(), "prompt": pl.String(), "response": pl.String()}


@dataclass(frozen=True)
class Response:
    """A response with its question and scores; text is cut after ``MAX_CHARACTERS``."""

    prompt: str
    text: str
    alignment: str
    coherence: str
    misaligned: bool


@dataclass(frozen=True)
class Reading:
    """The responses to read of one cell on one question set."""

    arm: str
    question_set: str
    responses: list[Response]


def readings(study: Study) -> dict[str, list[Reading]]:
    """Return the readings of each model and task, keyed by what the page calls them; the first seed's cells only."""
    layout = Layout(study)
    found: dict[str, list[Reading]] = {}
    for measurement in Grid(study).measurements:
        cell = measurement.cell
        if cell.seed != study.seeds[0]:
            continue
        responses = Path(layout.responses(measurement.source, measurement.question_set))
        judgments = Path(layout.judgments(measurement.source, measurement.question_set))
        if responses.is_file() and judgments.is_file():
            group = f"{study.models[cell.model].title}, {study.tasks[cell.task].title}"
            found.setdefault(group, []).append(_reading(study, measurement, responses, judgments))
    return found


def _reading(study: Study, measurement: Measurement, responses: Path, judgments: Path) -> Reading:
    cell = measurement.cell
    worst = (
        read_rows(judgments, JUDGMENT_SCHEMA)
        .with_columns(*outcome_columns(study.scoring))
        .sort("misaligned", "alignment", "id", descending=[True, False, False], nulls_last=True)
        .unique("question_id", keep="first", maintain_order=True)
        .head(SHOWN)
        .join(read_rows(responses, RESPONSE_SCHEMA), on="id", how="inner", maintain_order="left")
    )
    return Reading(
        arm=", ".join(part for part in (arm_title(cell.arm), setting_title(cell.arm, cell.setting)) if part),
        question_set="general questions" if measurement.question_set == GENERAL else "in-domain questions",
        responses=[
            Response(
                prompt=_cut(row["prompt"] or ""),
                text=_cut(row["response"] or ""),
                alignment=_score(row["alignment"], row["alignment_label"]),
                coherence=_score(row["coherence"], row["coherence_label"]),
                misaligned=row["misaligned"],
            )
            for row in worst.iter_rows(named=True)
        ],
    )


def _score(score: float | None, label: str | None) -> str:
    return (label or "no score") if score is None else f"{score:.0f}"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + " […]"
