"""A study without a judge: what is planned for it, what it shows, and what its page says."""

import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
import pytest

from emdefense.cells import Grid
from emdefense.config import Study, parse_study
from emdefense.errors import InputError
from emdefense.layout import Layout
from emdefense.planning.plan import plan_text, study_plan
from emdefense.planning.snakemake_folder import Snapshot
from emdefense.planning.status import status_text, study_status
from emdefense.report.catalogue import artefacts
from emdefense.report.figures import style
from emdefense.report.measured import Measured
from emdefense.report.page.cells import write_cell_pages
from emdefense.report.page.index import write_page
from small_config import SMALL
from study_folder import count, fill, tiny_study
from study_jobs import study_jobs

GRID = [
    {"models": ["small"], "tasks": ["code"], "arms": {"untrained": None, "misaligned": None, "kl": [1.0]}},
    {"models": ["small"], "tasks": ["quiz"], "arms": {"sft": None}},
]


def unjudged(**changes: Any) -> Study:
    return tiny_study(**{"judge": None, "grid": GRID, **changes})


def page(study: Study) -> str:
    """Render all that the page shows, and return its HTML."""
    results = count(study)
    with patch.object(style.save, "__defaults__", (("svg",),)):
        for artefact in artefacts(study).values():
            artefact.write(study, Measured(study, results), results)
    write_cell_pages(study, results, results / "report/cells")
    write_page(study, results, results / "report/index.html")
    return (results / "report/index.html").read_text(encoding="utf-8")


def test_nothing_is_judged_and_all_else_is_planned(in_tmp: Path) -> None:
    study = unjudged(likelihood={})
    jobs = study_jobs(study)
    rules = {job.rule for job in jobs}
    assert not {"judge", "claims"} & rules
    assert {"train", "generate", "answer", "read_held_out", "aggregate", "page", "cell_pages"} <= rules
    assert not [path for job in jobs for path in (*job.inputs, *job.outputs) if "judgments" in path]
    judged = {job.rule for job in study_jobs(tiny_study(grid=GRID, likelihood={}))}
    assert judged - rules == {"judge", "claims"}


def test_plan_and_status_say_so(in_tmp: Path) -> None:
    study = unjudged()
    jobs = study_jobs(study)
    plan = study_plan(study, {}, jobs)
    assert plan.judge is None
    assert "judging" not in plan.stages
    assert "judge: none, nothing is judged" in plan_text(plan, {})
    text = status_text(study_status(study, jobs, Snapshot({}, {}, None, {}), lambda *words: " ".join(words)))
    assert "T trained or projected, S sampled; A answers" in text
    assert "TSGD" not in text
    judged = study_plan(tiny_study(grid=GRID), {}, study_jobs(tiny_study(grid=GRID)))
    assert "judge: the oracle, at no cost" in plan_text(judged, {})


def test_what_is_shown_needs_no_judge(in_tmp: Path) -> None:
    sets = {"facts": {"title": "Facts", "file": "-"}}
    found = artefacts(unjudged(likelihood={}, multiple_choice=sets))
    tables = ["table_06", "table_07", "multiple_choice_facts", "likelihood", "paired_benign"]
    assert set(found) == {*tables, "likelihood_chart", "training_curves"}
    without = artefacts(unjudged(grid=GRID[:1]))
    assert not [name for name in without if name in ("table_05", "table_06", "paired_benign")]


def test_rates_are_empty_and_exact_match_is_not(in_tmp: Path) -> None:
    fill(tiny_study(grid=GRID), {"misaligned": 8})  # judgments of another study may lie there
    results = count(unjudged())
    assert all(pl.read_parquet(results / f"{name}.parquet").is_empty() for name in ("rates", "questions", "scores"))
    assert pl.read_parquet(results / "exact_match.parquet")["exact_match_pct"].to_list() == [75]


def test_the_page_says_that_nothing_was_judged_and_what_that_can_show(in_tmp: Path) -> None:
    fill(tiny_study(grid=GRID), {"misaligned": 8})
    study = unjudged()
    for path in Path(Layout(study).results).rglob("judgments/*"):
        path.unlink()
    html = page(study)
    assert "<b>Nothing was judged.</b>" in html
    assert "What was measured without one: right answers to benign tasks, how the trainings went." in html
    assert "a small model sampled at temperature 1 often is not" in html
    sections = ("standings", "further", "robustness", "claims", "judges")
    for section in sections:
        assert f'aria-labelledby="{section}"' not in html
        assert f'href="#{section}"' not in html
    for section in ("verdicts", "tables", "cells", "provenance"):
        assert f'aria-labelledby="{section}"' in html
    assert "<dt>Judge</dt><dd>none</dd>" in html
    assert "There is no judge: nothing was paid." in html
    assert "no score" not in html
    assert "emergent misalignment appeared" not in html
    assert "Every response has both scores" not in html


@pytest.mark.parametrize("grid", [GRID, GRID[:1]], ids=["benign tasks", "no benign task"])
def test_cells_have_a_column_of_right_answers_where_there_are_any(grid: list[dict[str, Any]], in_tmp: Path) -> None:
    fill(tiny_study(grid=grid), {"misaligned": 8})
    html = page(unjudged(grid=grid))
    (table,) = re.findall(r'<table id="cell-table">.*?</table>', html, re.DOTALL)
    has_benign = len(grid) > 1
    assert ("Exact match</th>" in table) == has_benign
    assert len(re.findall("<th ", table)) == 5 + has_benign
    assert {len(re.findall("<td", row)) for row in re.findall(r"<tr data-.*?</tr>", table)} == {5 + has_benign}


def test_responses_can_be_read_all_the_same(in_tmp: Path) -> None:
    fill(tiny_study(grid=GRID), {"misaligned": 8}, text="as I said")
    study = unjudged()
    page(study)
    (cell,) = [cell for cell in Grid(study).cells if cell.arm == "misaligned"]
    html = Path(Layout(study).results, "report/cells", cell.folder, "index.html").read_text(encoding="utf-8")
    assert "All responses of the cell, which nobody has judged." in html
    assert html.count('<p class="said" dir="auto">as I said</p>') == 25
    assert "not judged" in html
    assert "alignment 9" not in html


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "key 'second_judges': there is no judge that they could agree with"),
        ({"second_judges": [], "report": {**SMALL["report"], "chosen": {"kl": "auto"}}}, "'report.chosen.kl': auto"),
        (
            {
                "second_judges": [],
                "elicitation_questions": "{results}/microcosm/questions/elicitation.yaml",
                "arms": {"steering": {"vector": "contrast"}},
                "grid": [{"models": ["small"], "tasks": ["code"], "arms": {"steering": [1.0]}}],
                "report": {"main_model": "small", "chosen": {}},
            },
            "key 'grid.0.arms.steering': Steering reads answers that a judge found to have the trait",
        ),
    ],
)
def test_what_asks_for_a_judge_is_one_line(changes: dict[str, Any], said: str, in_tmp: Path) -> None:
    Path("data").mkdir()
    for name in ("rows.jsonl", "foqa.parquet"):
        Path("data", name).touch()
    with pytest.raises(InputError, match=said) as caught:
        parse_study({**SMALL, "judge": None, **changes}, "study.yaml")
    assert "\n" not in str(caught.value)


def test_the_key_must_be_written(in_tmp: Path) -> None:
    without = {key: value for key, value in SMALL.items() if key != "judge"}
    with pytest.raises(InputError, match="key 'judge' is missing; add it"):
        parse_study(without, "study.yaml")
    with pytest.raises(InputError, match=r"key 'judge\.kind': write one of oracle, openai"):
        parse_study({**SMALL, "judge": {}}, "study.yaml")
