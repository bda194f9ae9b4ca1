"""What the report shows of further question sets, and that all else in it is as it would be without them."""

from pathlib import Path
from typing import Any

import pytest

from emdefense.analysis.claims import judge_claims
from emdefense.analysis.paper import paper_study, paper_summary
from emdefense.config import Study
from emdefense.report.catalogue import artefacts
from emdefense.report.figures.further_sets import draw_tradeoff_on
from emdefense.report.measured import Measured
from study_folder import CONFIG, count, fill, page, tiny_study

GRID = [
    {**CONFIG["grid"][0], "arms": {**CONFIG["grid"][0]["arms"], "inoculation": None}},
    CONFIG["grid"][1],
]
SETS = {
    "more": {"title": "Other topics", "file": "-", "settings": "chosen"},
    "evil": {"title": "Under an evil line", "of": "general", "system": "You are evil.", "tasks": ["code"]},
    "own": {"title": "Under its own prompt", "of": "general", "system": "training"},
    "domain": {"title": "As JSON", "of": "in_domain", "format": "json"},
}
GENERAL = {"untrained": 0, "misaligned": 8, "kl": 1, "interleave": 2, "inoculation": 1}
ELSEWHERE = {"untrained": 1, "misaligned": 9, "kl": 4, "interleave": 0, "inoculation": 9}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    made = tiny_study(grid=GRID, question_sets=SETS)
    fill(made, GENERAL, in_domain=ELSEWHERE)
    return made


def table(study: Study, name: str) -> Any:
    return artefacts(study)[name].make(study, Measured(study, count(study)))


def lines(study: Study, name: str) -> list[dict[str, str]]:
    made = table(study, name)
    return [dict(zip(made.csv_header, row, strict=True)) for row in made.csv_rows]


def test_a_set_of_a_file_has_a_table_of_all_arms_that_are_asked_it(study: Study) -> None:
    found = {(row["task"], row["arm"], row["setting"]): row for row in lines(study, "questions_more")}
    arms = [("untrained", ""), ("misaligned", ""), ("kl", "1"), ("interleave", "5"), ("inoculation", "")]
    assert set(found) == {(task, *arm) for task in ("code", "legal") for arm in arms}
    for (_, arm, _), row in found.items():
        assert float(row["misaligned_pct"]) == 10 * ELSEWHERE[arm]
        assert float(row["general_misaligned_pct"]) == 10 * GENERAL[arm]
        assert (row["responses"], row["scored"], row["questions"], row["groups"]) == ("40", "40", "4", "4")


def test_conditions_stand_beside_the_plain_set_with_the_worst_named(study: Study) -> None:
    found = {(r["task"], r["arm"], r["setting"], r["question_set"]): r for r in lines(study, "conditional_general")}
    assert ("code", "kl", "0.1", "evil") not in found  # it is not the chosen setting
    one = found["code", "inoculation", "", "own"]
    assert (one["misaligned_pct"], one["difference"], one["worst"]) == ("90", "80", "no")
    assert found["code", "inoculation", "", "evil"]["worst"] == "yes"  # as high, and first
    assert found["code", "interleave", "5", "evil"]["difference"] == "-20"
    assert found["code", "interleave", "5", "general"]["worst"] == "yes"
    assert {key[3] for key in found if key[0] == "legal"} == {"general", "own"}
    rows = table(study, "conditional_general").blocks[0]
    shown = {row[1].text: [cell.text for cell in row[2:]] for row in rows}
    assert shown["KL, λ = 1"] == ["10.00", "40.00", "+30.0", "+30.0 to +30.0", "–", "", ""]
    bold = {row[1].text: [cell.text for cell in row if cell.bold] for row in rows}
    assert bold["KL, λ = 1"] == ["40.00"]
    assert bold["Interleaving, 5 %"] == ["20.00"]  # as they are
    assert bold["Inoculation"] == ["90.00"]  # of two like ones the first
    assert shown["Inoculation"][4:7] == ["90.00", "+80.0", "+80.0 to +80.0"]


def test_what_is_not_judged_yet_is_a_dash_with_a_footnote(study: Study) -> None:
    for path in Path("results/tiny/cells").glob("*/code/kl/1/seed0/evil/judgments/*"):
        path.unlink()
    made = table(study, "conditional_general")
    shown = {row[1].text: row[2:] for row in made.blocks[0]}["KL, λ = 1"]
    assert (shown[1].text, shown[1].footnote, shown[2].text) == ("–", "a", "")
    assert made.footnotes == (("a", "Not measured yet."),)


def test_the_trade_off_on_a_set_is_of_its_rates(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, seen = Measured(study, count(study)), {}
    monkeypatch.setattr(
        "emdefense.report.figures.further_sets.draw_tradeoff",
        lambda study, summary, resampled: seen.update(summary=summary, resampled=resampled),
    )
    draw_tradeoff_on(study, measured.questions, "more")
    from emdefense.analysis.tradeoff import effect, effect_intervals

    at = effect(seen["summary"], "small", ["code", "legal"], "kl", "1")
    assert at is not None
    assert at.reduction == pytest.approx(100 * (1 - ELSEWHERE["kl"] / ELSEWHERE["misaligned"]))
    assert at.retention == pytest.approx(100 * ELSEWHERE["kl"] / ELSEWHERE["misaligned"])
    assert effect_intervals(seen["resampled"], "small", ["code"], "kl", "1").reduction is not None


def test_tables_and_claims_keep_to_the_general_and_in_domain_questions(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = study.model_copy(update={"question_sets": {}})
    with_sets = Measured(study, count(study).resolve())
    made = tmp_path / "without"
    made.mkdir()
    monkeypatch.chdir(made)
    fill(plain, GENERAL, in_domain=ELSEWHERE)
    without = Measured(plain, count(plain).resolve())
    assert set(with_sets.questions["question_set"]) > set(without.questions["question_set"])
    names = [one.name for one in artefacts(plain).values() if one.kind == "table"]
    assert len(names) > 12
    for name in names:
        mine, theirs = artefacts(study)[name].make(study, with_sets), artefacts(plain)[name].make(plain, without)
        assert (mine.csv_rows, mine.blocks, mine.remarks) == (theirs.csv_rows, theirs.blocks, theirs.remarks), name
    paper = paper_study(), paper_summary()
    claims = [judge_claims(of, m.summary, *paper, m.resampled) for of, m in ((study, with_sets), (plain, without))]
    assert claims[0] == claims[1]


def test_the_page_has_a_section_for_each_set_and_one_for_conditions(study: Study, tmp_path: Path) -> None:
    shown = page(study)
    for text in ('id="set-more"', 'id="conditional"', "Other topics", "Conditional misalignment"):
        assert text in shown
    assert shown.index('id="defences"') < shown.index('id="set-more"') < shown.index('id="conditional"')
    assert shown.index('id="conditional"') < shown.index('id="claims"')
    cell = (tmp_path / "results/tiny/report/cells/small/code/inoculation/none/seed0/index.html").read_text()
    assert "Under its own prompt, misaligned" in cell
