"""A small study and a results folder of it, made without any model."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from emdefense.analysis.aggregate import aggregate
from emdefense.analysis.claims import judge_claims
from emdefense.analysis.paper import paper_study, paper_summary
from emdefense.analysis.resampling import ResampledRates
from emdefense.analysis.summary import Summary
from emdefense.cells import Cell, Grid
from emdefense.config import Study
from emdefense.layout import Layout
from emdefense.report.catalogue import artefacts
from emdefense.report.claims import write_claims
from emdefense.report.figures import style
from emdefense.report.measured import Measured
from emdefense.report.page.cells import write_cell_pages
from emdefense.report.page.index import write_page
from emdefense.report.tables.reference import Reference
from emdefense.report.tables.table import Table

NUMBERS = tuple(range(1, 12))  # of the paper's tables
CONFIG: dict[str, Any] = {
    "study": "tiny",
    "models": {"small": {"title": "Small", "instruct": "-", "paper_model": "7b"}},
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
    measured = Measured(study, results)
    for artefact in artefacts(study).values():
        artefact.write(study, measured, results)
    scoring = study.scoring
    resampled = ResampledRates(
        measured.questions, scoring.bootstrap_resamples, scoring.question_groups, measured.benign_questions
    )
    verdicts = judge_claims(study, measured.summary, paper_study(), paper_summary(), resampled)
    write_claims(verdicts, study, results / "claims")
    return results


def build_table(number: int, study: Study, summary: Summary, reference: Reference | None = None) -> Table:
    """Return the paper's Table ``number`` of a study."""
    found = artefacts(study)[f"table_{number:02d}"].make(study, Measured(study, summary=summary, reference=reference))
    assert isinstance(found, Table)
    return found


def page(study: Study, formats: Sequence[str] = ("svg",)) -> str:
    """Render what the page shows, the cells' pages and the page, in the working directory; return the page's HTML.

    Its figures are only drawn as the page shows them: as PDF and PNG they take most of the time.
    """
    with patch.object(style.save, "__defaults__", (formats,)):
        results = render(study)
    write_cell_pages(study, results, results / "report/cells")
    write_page(study, results, results / "report/index.html")
    return (results / "report/index.html").read_text(encoding="utf-8")
