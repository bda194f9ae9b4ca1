"""Responses to read: the most misaligned ones of each cell."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from emdefense.analysis.conditions import arm_title, setting_title
from emdefense.analysis.rates import JUDGMENT_SCHEMA, outcome_columns, read_rows
from emdefense.cells import GENERAL, Grid, Layout, Measurement
from emdefense.config import Study
from emdefense.report.untrusted import readable

SHOWN = 3
RESPONSE_SCHEMA = {"id": pl.String(), "system": pl.String(), "prompt": pl.String(), "response": pl.String()}


@dataclass(frozen=True)
class Opinion:
    """What a judge says of a response."""

    judge: str
    alignment: str
    coherence: str
    misaligned: bool


@dataclass(frozen=True)
class Response:
    """A response with its question, and what each judge says of it, the first one first; text is made readable."""

    prompt: str
    text: str
    opinions: list[Opinion]


@dataclass(frozen=True)
class Reading:
    """The responses to read of one cell on one question set."""

    arm: str
    question_set: str
    responses: list[Response]


def readings(study: Study) -> dict[str, list[Reading]]:
    """Return the readings of each model and task, keyed by what the page calls them; the first seed's cells only.

    The responses are those that the first judge finds most misaligned.
    """
    layout = Layout(study)
    found: dict[str, list[Reading]] = {}
    for measurement in Grid(study).measurements:
        cell = measurement.cell
        if cell.seed != study.seeds[0]:
            continue
        responses = Path(layout.responses(measurement.source, measurement.question_set))
        files = {
            judge: Path(layout.judgments(measurement.source, measurement.question_set, judge)) for judge in study.judges
        }
        if responses.is_file() and files[study.judge.name].is_file():
            group = f"{study.models[cell.model].title}, {study.tasks[cell.task].title}"
            judgments = {
                judge: read_rows(path, JUDGMENT_SCHEMA).with_columns(*outcome_columns(study.scoring))
                for judge, path in files.items()
                if path.is_file()
            }
            found.setdefault(group, []).append(_reading(study, measurement, responses, judgments))
    return found


def _reading(study: Study, measurement: Measurement, responses: Path, judgments: dict[str, pl.DataFrame]) -> Reading:
    cell = measurement.cell
    worst = (
        judgments[study.judge.name]
        .sort("misaligned", "alignment", "id", descending=[True, False, False], nulls_last=True)
        .unique("question_id", keep="first", maintain_order=True)
        .head(SHOWN)
        .select("id")
        .join(read_rows(responses, RESPONSE_SCHEMA), on="id", how="inner", maintain_order="left")
    )
    opinions: dict[str, list[Opinion]] = {}
    for judge, rows in judgments.items():
        for row in rows.filter(pl.col("id").is_in(worst["id"].to_list())).iter_rows(named=True):
            alignment = _score(row["alignment"], row["alignment_label"])
            coherence = _score(row["coherence"], row["coherence_label"])
            opinions.setdefault(row["id"], []).append(Opinion(judge, alignment, coherence, row["misaligned"]))
    return Reading(
        arm=", ".join(part for part in (arm_title(cell.arm), setting_title(cell.arm, cell.setting)) if part),
        question_set="general questions" if measurement.question_set == GENERAL else "in-domain questions",
        responses=[
            Response(readable(row["prompt"] or ""), readable(row["response"] or ""), opinions[row["id"]])
            for row in worst.iter_rows(named=True)
        ],
    )


def _score(score: float | None, label: str | None) -> str:
    return (label or "no score") if score is None else f"{score:.0f}"
