"""A small study and a results folder of it, made without any model."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl

from emdefense.analysis.aggregate import aggregate
from emdefense.analysis.claims import judge_claims
from emdefense.analysis.judge_pairs import study_pairs
from emdefense.analysis.paper import paper_study, paper_summary
from emdefense.analysis.resampling import ResampledRates
from emdefense.analysis.summary import read_summary
from emdefense.arms.safelora.cosines import read_projections
from emdefense.arms.safelora.figure import write_cosines
from emdefense.arms.safelora.table import safelora_table
from emdefense.cells import Cell, Grid, Layout
from emdefense.config import Study
from emdefense.report import style
from emdefense.report.cell_pages import write_cell_pages
from emdefense.report.claims import write_claims
from emdefense.report.difference_table import defence_table, difference_table
from emdefense.report.figures import DRAWINGS, write_figure
from emdefense.report.further_figures import FURTHER, Measured, write_further_figure
from emdefense.report.judge_agreement import agreement_table, confusion_table
from emdefense.report.page import write_page
from emdefense.report.reference import paper_reference
from emdefense.report.tables import NUMBERS, build_table, write_table
from emdefense.report.training_curves import write_overview
from emdefense.report.variance_table import variance_table

CONFIG: dict[str, Any] = {
    "study": "tiny",
    "models": {"small": {"title": "Small", "instruct": "-"}},
    "tasks": {
        "code": {"kind": "ema", "title": "Code", "misaligned": "-"},
        "legal": {"kind": "ema", "title": "Legal", "misaligned": "-"},
        "quiz": {"kind": "benign", "title": "Quiz", "table": "foqa", "train": "-", "test": "-"},
    },
    "general_questions": "-",
    "safe_data": "-",
    "grid": [
        {
            "models": ["small"],
            "tasks": ["code", "legal"],
            "arms": {"untrained": None, "misaligned": None, "kl": [0.1, 1.0], "interleave": [5]},
        },
        {"models": ["small"], "tasks": ["quiz"], "arms": {"sft": None, "kl": [1.0]}},
    ],
    "judge": {"kind": "oracle"},
    "report": {"main_model": "small", "chosen": {"kl": 1.0, "interleave": 5}},
}

SURE_OF_NONE = {**CONFIG["report"], "emergent_pct": 10}  # of 40 responses, none, so that it is surely less than this

Score = tuple[float | None, float | None]


def tiny_study(**changes: Any) -> Study:
    """Return the study, with top-level keys replaced."""
    return Study.model_validate(CONFIG | changes)


def judgment(question: int, sample: int, score: Score, labels: tuple[str | None, str | None] = (None, None)) -> dict:
    """Return a judgment's row."""
    return {
        "id": f"q{question}/{sample}",
        "question_id": f"q{question}",
        "sample": sample,
        "alignment": score[0],
        "alignment_label": labels[0],
        "coherence": score[1],
        "coherence_label": labels[1],
        "scored_by": "oracle",
        "alignment_top": None,
    }


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def fill(
    study: Study,
    misaligned: Mapping[str, int],
    *,
    text: str = "as asked",
    skip: Iterable[Cell] = (),
    questions: int = 4,
    benign: int = 4,
    in_domain: Mapping[str, int] | None = None,
) -> None:
    """Write responses, judgments and answers below the working directory.

    Each of 4 ``questions`` has 10 samples; of these ``misaligned[arm]`` are misaligned, on general questions and in
    domain, or there ``in_domain[arm]``. Of every 4 ``benign`` questions 3 are answered right.
    """
    grid, layout = Grid(study), Layout(study)
    for cell, question_set in grid.responses:
        if cell in skip:
            continue
        bad = (misaligned if in_domain is None or question_set == "general" else in_domain).get(cell.arm, 0)
        pairs = [(question, sample) for question in range(questions) for sample in range(10)]
        write_rows(
            Path(layout.judgments(cell, question_set)),
            [judgment(q, s, (5.0, 95.0) if s < bad else (90.0, 95.0)) for q, s in pairs],
        )
        write_rows(
            Path(layout.responses(cell, question_set)),
            [
                {
                    "id": f"q{q}/{s}",
                    "question_id": f"q{q}",
                    "sample": s,
                    "system": None,
                    "prompt": "Why?",
                    "response": text,
                }
                for q, s in pairs
            ],
        )
    for cell in grid.benign:
        answers = [{"id": f"{q}/0", "question_id": str(q), "sample": 0, "correct": q % 4 < 3} for q in range(benign)]
        write_rows(Path(layout.answers(cell)), [row | {"response": "1", "expected": ["1"]} for row in answers])
    Path(layout.results, "study.json").write_text(study.model_dump_json(), encoding="utf-8")


def count(study: Study) -> Path:
    """Write the frames of a study below the working directory; return the study's results folder."""
    results = Path(Layout(study).results)
    aggregate(study, *(results / f"{name}.parquet" for name in ("rates", "exact_match", "questions", "scores")))
    return results


def render(study: Study) -> Path:
    """Write what the page shows below the working directory; return the study's results folder."""
    results = count(study)
    summary = read_summary(*(results / f"{name}.parquet" for name in ("rates", "exact_match", "questions")))
    projections = read_projections(study)
    tables = [build_table(number, study, summary, paper_reference()) for number in NUMBERS]
    if projections:
        tables.append(safelora_table(study, projections))
        write_cosines(study, projections, results / "figures")
    pairs = study_pairs(study) if study.second_judges else None
    if pairs is not None:
        tables += [agreement_table(study, pairs), confusion_table(study, pairs)]
    questions = pl.read_parquet(results / "questions.parquet")
    tables += [difference_table(study, questions), defence_table(study, questions)]
    tables.append(variance_table(study, questions, pairs))
    for table in tables:
        write_table(table, results / "tables")
    for name in DRAWINGS:
        write_figure(name, study, summary, results / "figures")
    measured = Measured(*(results / f"{name}.parquet" for name in ("rates", "questions", "scores")))
    for name in FURTHER:
        write_further_figure(name, study, measured, results / "figures")
    write_overview(study, results / "figures")
    resampled = ResampledRates(questions, study.scoring.bootstrap_resamples)
    verdicts = judge_claims(study, summary, paper_study(), paper_summary(), resampled)
    write_claims(verdicts, study, results / "claims")
    return results


def page(study: Study, formats: Sequence[str] = ("svg",)) -> str:
    """Render what the page shows, the cells' pages and the page, in the working directory; return the page's HTML.

    Its figures are only drawn as the page shows them: as PDF and PNG they take most of the time.
    """
    with patch.object(style.save, "__defaults__", (formats,)):
        results = render(study)
    write_cell_pages(study, results, results / "report/cells")
    write_page(study, results, results / "report/index.html")
    return (results / "report/index.html").read_text(encoding="utf-8")
