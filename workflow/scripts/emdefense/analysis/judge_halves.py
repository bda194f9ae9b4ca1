"""What a judge that is asked several times makes of each response in one half of its answers, and in the other."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from emdefense.analysis.agreement import SECOND
from emdefense.analysis.judge_pairs import IDENTITY
from emdefense.analysis.rates import outcome_columns
from emdefense.cells import Grid
from emdefense.config import Study
from emdefense.files import iterate_jsonl
from emdefense.layout import Layout
from emdefense.metrics import OUTCOMES, QUESTION_SETS

RUBRICS = ("alignment", "coherence")


def study_halves(study: Study) -> pl.DataFrame | None:
    """Return a row for each general or in-domain response: its cell, set and question, and both halves' outcomes.

    The columns are those of ``study_pairs`` that tell outcomes; the second half's have ``SECOND``. None if the study's
    judge is asked once.
    """
    if study.judge is None or getattr(study.judge, "samples", 1) < 2:
        return None
    layout, found = Layout(study), []
    for cell, question_set in Grid(study).responses:
        if question_set not in QUESTION_SETS:
            continue
        path = Path(layout.judgments(cell, question_set))
        if not path.is_file():
            continue
        rows = pl.DataFrame(
            list(_halves(path)),
            schema={"question_id": pl.String(), **{f"{name}{n}": pl.Float64() for n in (0, 1) for name in RUBRICS}},
            orient="row",
        )
        values = {"judge": study.judge.name, "question_set": question_set, "setting_value": cell.setting_value}
        values |= asdict(cell)
        outcomes = []
        for n, suffix in enumerate(("", SECOND)):
            scores = rows.select(*(pl.col(f"{name}{n}").alias(name) for name in RUBRICS))
            marked = scores.select(*outcome_columns(study.scoring)).select("scored", *OUTCOMES)
            outcomes.append(marked.rename({name: name + suffix for name in marked.columns}))
        identity = (pl.lit(values[name], dtype).alias(name) for name, dtype in IDENTITY.items())
        found.append(pl.concat([rows.select(*identity, "question_id"), *outcomes], how="horizontal"))
    return pl.concat(found) if found else None


def _halves(path: Path) -> Iterator[tuple[Any, ...]]:
    for row in iterate_jsonl(path):
        samples = [row.get(f"{name}_samples") or () for name in RUBRICS]
        half = min(map(len, samples)) // 2
        yield (
            row["question_id"],
            *(_score(of_rubric[:half]) for of_rubric in samples),
            *(_score(of_rubric[half : 2 * half]) for of_rubric in samples),
        )


def _score(samples: Sequence[float | str | None]) -> float | None:
    """Return the mean of the answers that are scores, as a judgment's; None if there are none."""
    scores = [sample for sample in samples if isinstance(sample, int | float)]
    return fmean(scores) if scores else None
