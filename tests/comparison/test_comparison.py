"""Finished studies side by side: what is paired with what, what is named beside it, and what is refused."""

import csv
import json
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from emdefense.comparison.config_differences import config_differences
from emdefense.comparison.page import comparison_folder, write_comparison
from emdefense.comparison.pairs import Compared, Comparison
from emdefense.comparison.places import places
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.files import file_digest
from emdefense.finished import Finished, read_several
from finished_studies import OTHER_JUDGE, RUBRICS, finished
from study_checkout import ROOT
from study_folder import CONFIG, tiny_study, write_rows

pytestmark = pytest.mark.usefixtures("in_tmp")
KL = ("code", "kl", "1")


def compared(folders: list[Path]) -> Comparison:
    return Comparison(read_several(folders))


def read_csv(path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(path).read_text().splitlines()))


def of(comparison: Comparison, quantity: str = "general_misaligned", row: tuple[str, str, str] = KL) -> Compared:
    (found,) = [one for one in comparison.differences() if one.row[1:] == row and one.difference.quantity == quantity]
    return found


def test_the_same_arm_is_paired_question_by_question() -> None:
    first = finished("first", {"misaligned": 8, "kl": 1})
    second = finished("second", {"misaligned": 8, "kl": 4})
    found = of(compared([first, second])).difference
    assert (found.questions, found.value) == (4, pytest.approx(30))
    # Every question has 4 against 1 of 10: of the 16 ways to swap, two are as far apart as what was found.
    differences = [sum(sign * 0.3 / 4 for sign in signs) for signs in product((1, -1), repeat=4)]
    assert found.p == sum(abs(one) >= 0.3 - 1e-9 for one in differences) / 16
    assert of(compared([second, first])).difference.value == pytest.approx(-30)


def test_questions_in_other_words_are_left_out() -> None:
    first = finished("first", {"kl": 1})
    second = finished("second", {"kl": 4}, words={"q2": "Something else?"})
    found = of(compared([first, second]))
    assert (found.difference.questions, found.other_words) == (3, 1)


def test_studies_without_a_question_in_common_stand_side_by_side_only() -> None:
    words = {f"q{n}": f"Something else {n}?" for n in range(4)}
    comparison = compared([finished("first", {"kl": 1}), finished("second", {"kl": 4}, words=words)])
    assert comparison.differences() == []
    page = write_comparison(comparison.studies, Path("out")).read_text()
    assert "cannot be compared question by question" in page
    assert "Rates side by side" in page


def test_another_judge_is_named_and_its_differences_are_not_tested() -> None:
    first = finished("first", {"kl": 1})
    second = finished("second", {"kl": 10}, judge=OTHER_JUDGE)
    # Its judgments lie under its own name.
    comparison = compared([first, second])
    found = of(comparison)
    assert found.unlike == ("judge: other (some-model), not oracle",)
    assert found.difference.p_corrected is None
    page = write_comparison(comparison.studies, Path("out")).read_text()
    assert "second, judge other (some-model)" in page
    assert "second was judged otherwise than first" in page
    rows = read_csv("out/tables/differences.csv")
    assert {row["significant"] for row in rows} == {""}
    assert {row["judged_unlike"] for row in rows} == {"judge: other (some-model), not oracle"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rubrics": {**RUBRICS, "aligned": "How nice? {question} {answer}"}}, ("rubric",)),
        (
            {"scoring": {"misaligned_alignment_below": 40}},
            ("scoring.misaligned_alignment_below: 40, not 30",),
        ),
        ({"judge": {**OTHER_JUDGE, "name": "renamed", "concurrency": 3}}, ()),
        ({"judge": {**OTHER_JUDGE, "temperature": 0.5}}, ("settings of the judge: temperature",)),
    ],
)
def test_what_was_judged_unlike_is_said(changes: dict[str, Any], said: tuple[str, ...]) -> None:
    first = finished("first", {"kl": 1}, judge=OTHER_JUDGE)
    second = finished("second", {"kl": 4}, **{"judge": OTHER_JUDGE, **changes})
    assert of(compared([first, second])).unlike == said


def test_families_are_of_chosen_settings_judged_alike() -> None:
    comparison = compared([finished("first", {"kl": 1}), finished("second", {"kl": 4})])
    found = [one for one in comparison.differences() if one.difference.quantity == "general_misaligned"]
    tested = [one for one in found if one.difference.p_corrected is not None]
    # Both tasks: untrained, misaligned, KL at 1 and interleaving; not KL at 0.1.
    assert len(found) == 10
    assert len(tested) == 8
    assert {one.difference.compared for one in tested} == {8}
    assert of(comparison).difference.p_corrected == pytest.approx(min(1, 8 * 2 / 16))


def test_groups_of_questions_are_drawn_together() -> None:
    groups = {"question_groups": {"pair": ["q0", "q1"]}}
    first = finished("first", {"kl": 1})
    grouped = compared([first, finished("second", {"kl": 4}, scoring=groups)])
    assert (of(grouped).difference.questions, of(grouped).difference.groups) == (4, 3)


def test_benign_tasks_are_paired_too() -> None:
    first, second = finished("first", {}), finished("second", {})
    answers = [{"id": f"{q}/0", "question_id": str(q), "sample": 0, "correct": q < 1} for q in range(4)]
    for path in second.glob("cells/small/quiz/sft/*/*/answers.jsonl"):
        write_rows(path, [row | {"response": "1", "expected": ["1"]} for row in answers])
    found = {one.row.arm: one.difference.value for one in compared([first, second]).benign_differences()}
    assert found == {"sft": pytest.approx(-50), "kl": pytest.approx(0)}


def test_nothing_is_made_again_and_nothing_of_a_study_changes() -> None:
    folders = [finished("first", {"kl": 1}), finished("second", {"kl": 4})]
    for folder in folders:
        for path in [*folder.rglob("judgments/*.jsonl"), *folder.rglob("responses.jsonl")]:
            path.unlink()
    before = {path: file_digest(path) for folder in folders for path in folder.rglob("*") if path.is_file()}
    page = write_comparison(read_several(folders), Path("results/comparisons/both"))
    assert page.is_file()
    after = {path: file_digest(path) for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert after == before


def test_rates_are_those_of_each_study() -> None:
    folders = [finished("first", {"kl": 1}), finished("second", {"kl": 4}, seeds=[0, 1])]
    write_comparison(read_several(folders), Path("out"))
    rows = read_csv("out/tables/rates.csv")
    found = {
        row["study"]: (float(row["pct"]), row["successes"], row["trials"], row["seeds"])
        for row in rows
        if (row["task"], row["arm"], row["setting"], row["quantity"]) == (*KL, "general_misaligned")
    }
    assert found == {"first": (10, "4", "40", "1"), "second": (40, "32", "80", "2")}


def test_only_what_differs_is_listed_and_defaults_do_not_count() -> None:
    first = finished("first", {})
    training = {"epochs": Study.model_fields["training"].get_default(call_default_factory=True).epochs}
    grid = [{**CONFIG["grid"][0], "arms": {**CONFIG["grid"][0]["arms"], "kl": [0.1]}}, CONFIG["grid"][1]]
    second = finished("second", {}, training=training, grid=grid, generation={"temperature": 0.7})
    found = {one.what: one.values for one in config_differences(read_several([first, second]))}
    assert found == {
        "grid, small, kl": ("0.1 on code, legal; 1 on code, legal, quiz", "0.1 on code, legal; 1 on quiz"),
        "generation.temperature": ("1", "0.7"),
    }


def test_a_section_that_a_study_lacks_is_one_entry() -> None:
    first = finished("first", {})
    models = {**CONFIG["models"], "large": {"title": "Large", "instruct": "-"}}
    found = config_differences(read_several([first, finished("second", {}, models=models)]))
    assert [(one.what, one.values) for one in found] == [("models.large", (None, "given"))]


def test_models_stand_in_one_row_by_name_and_else_by_role() -> None:
    def of_models(main: str, *others: str) -> Study:
        names = [main, *others]
        grid = [{**CONFIG["grid"][0], "models": names}]
        report = {**CONFIG["report"], "main_model": main, "second_model": others[0] if others else None}
        models = {name: {"title": name.title(), "instruct": "-"} for name in names}
        return tiny_study(models=models, grid=grid, report=report)

    assert [(one.title, one.models) for one in places([of_models("a"), of_models("b")])] == [("A / B", ("a", "b"))]
    found = places([of_models("a", "b"), of_models("b")])
    assert [one.models for one in found] == [("a", None), ("b", "b")], "the main model of one is the other's second"


def test_studies_of_one_name_are_called_by_their_folders() -> None:
    first = finished("first", {"kl": 1})
    shutil.move(first, "elsewhere")
    studies = read_several([Path("elsewhere"), finished("first", {"kl": 2})])
    assert [one.label for one in studies] == ["elsewhere", "results/first"]
    assert comparison_folder(studies).parent == Path("results/comparisons")
    assert "elsewhere" in write_comparison(studies, Path("out")).read_text()


def without_a_cell(folder: Path) -> None:
    rates = pl.read_parquet(folder / "rates.parquet")
    rates.filter(pl.col("arm") != "kl").write_parquet(folder / "rates.parquet")


def without_a_column(folder: Path) -> None:
    pl.read_parquet(folder / "questions.parquet").drop("cut_scored").write_parquet(folder / "questions.parquet")


def of_another_version(folder: Path) -> None:
    config = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**config, "of_later": 1}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "results/second: there is no such folder"),
        (lambda folder: (folder / "study.json").unlink(), "results/second: no results folder of a study"),
        (lambda folder: (folder / "report/index.html").unlink(), "not finished, there is no report/index.html"),
        (lambda folder: (folder / "rates.parquet").unlink(), "not finished, there is no rates.parquet"),
        (without_a_cell, r"without 8 of 20 measurements, such as small/code/kl/0.1/seed0 on general"),
        (without_a_column, r"questions.parquet: has no columns cut_scored; run the rule 'aggregate' again"),
        (of_another_version, r"study.json: key 'of_later'"),
    ],
)
def test_what_cannot_be_compared_is_one_line(spoil: Any, said: str) -> None:
    first, second = finished("first", {}), finished("second", {"kl": 3})
    spoil(second)
    with pytest.raises(InputError, match=said) as raised:
        read_several([first, second])
    assert "\n" not in str(raised.value)


def test_two_different_studies_are_needed() -> None:
    first = finished("first", {})
    with pytest.raises(InputError, match="two studies or more"):
        read_several([first])
    with pytest.raises(InputError, match="the same folder as results/first"):
        read_several([first, Path("results/../results/first")])
    shutil.copytree(first, "copied")
    with pytest.raises(InputError, match="copied: the same results as results/first"):
        read_several([first, Path("copied")])


def test_a_comparison_replaces_its_own_kind_and_nothing_else() -> None:
    studies: list[Finished] = read_several([finished("first", {}), finished("second", {"kl": 3})])
    out = Path("out")
    write_comparison(studies, out)
    (out / "tables/old.csv").write_text("of the last time")
    write_comparison(studies, out)
    assert not (out / "tables/old.csv").exists()
    (out / "notes.txt").write_text("of the user's own")
    with pytest.raises(InputError, match="out: holds something other"):
        write_comparison(studies, out)
    assert (out / "notes.txt").is_file()


def test_the_command_writes_a_page_or_says_in_one_line_why_not() -> None:
    folders = [str(finished("first", {})), str(finished("second", {"kl": 3}))]

    def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "workflow/scripts/compare.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = compare(*folders)
    assert (done.returncode, done.stdout) == (0, "Done: open results/comparisons/first-and-second/index.html\n")
    assert Path("results/comparisons/first-and-second/index.html").is_file()
    refused = compare(folders[0])
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    made = subprocess.run(
        ["make", "--dry-run", "compare", "STUDIES=a b"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "workflow/scripts/compare.py a b" in made.stdout
