"""Two judges on the same responses: their tables and their part of the page, there only if there are two."""

import csv
import io
from pathlib import Path

import pytest

from emdefense.analysis.aggregate import Counted
from emdefense.analysis.judge_pairs import study_pairs
from emdefense.cells import Grid
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.files import read_jsonl
from emdefense.layout import Layout
from emdefense.report.catalogue import artefacts
from emdefense.report.measured import Measured
from emdefense.report.tables.judges import agreement_table, confusion_table
from emdefense.report.tables.rendering import csv_table, html_table, latex_table, markdown_table
from emdefense.report.tables.table import Table
from second_judge import SECOND, judged_again
from study_folder import fill, page, tiny_study, write_rows


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The tiny study with eight in ten misaligned without defence, two of which only the oracle calls so."""
    monkeypatch.chdir(tmp_path)
    study = tiny_study(second_judges=[SECOND])
    fill(study, {"misaligned": 8, "kl": 1})
    judged_again(study, 2)
    return study


def lines(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_table(table))))


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for block in table.blocks for row in block]


def test_rates_are_the_first_judges(study: Study) -> None:
    rates = Counted.of(study).rates(study.scoring).filter(arm="misaligned", question_set="general", task="code")
    assert rates["misaligned_pct"].item() == 80


def test_the_table_has_a_row_for_all_cells_and_for_each_arm(study: Study) -> None:
    table = agreement_table(study, study_pairs(study))
    general = texts(table)[:5]
    # Untrained shares its general responses; of the others' eight cells two are misaligned, four are KL.
    assert [row[:4] for row in general] == [
        ["gpt_4", "general", "all", str(9 * 40)],
        ["", "", "Untrained", "40"],
        ["", "", "Misaligned", "80"],
        ["", "", "KL", "160"],
        ["", "", "Interleaving", "80"],
    ]
    of_arm = dict(zip(("untrained", "misaligned", "kl", "interleave"), general[1:], strict=True))
    assert of_arm["misaligned"][4:7] == ["80.00", "60.00", "−20.00 [−20.00, −20.00]"]
    assert of_arm["kl"][4:7] == ["10.00", "0.00", "−10.00 [−10.00, −10.00]"]
    assert of_arm["untrained"][10:] == ["–"] * 4, "all scores are the same"
    assert "not defined" in table.remarks[1]
    assert len(texts(table)) == 10


def test_the_csv_has_a_line_a_cell(study: Study) -> None:
    found = lines(agreement_table(study, study_pairs(study)))
    assert len(found) == len(Grid(study).responses)
    (line,) = [
        row for row in found if (row["task"], row["arm"], row["question_set"]) == ("legal", "misaligned", "general")
    ]
    assert (line["judge"], line["responses"], line["scored_by_both"]) == ("gpt_4", "40", "40")
    assert (line["misaligned_pct"], line["misaligned_pct_of_judge"], line["misaligned_difference"]) == (
        "80",
        "60",
        "-20",
    )
    # 40 responses, of which 32 and 24 are misaligned and 8 in dispute: 1 - (8/40) / (2·56·24/(80·79)).
    assert float(line["alpha_misaligned"]) == pytest.approx(1 - 0.2 / (2 * 56 * 24 / (80 * 79)), rel=1e-5)
    assert line["alpha_coherence"] == ""


def test_the_confusion_table_counts_by_hand_and_says_how_narrow_it_was(study: Study) -> None:
    table = confusion_table(study, study_pairs(study))
    # Of 9 cells' 360 general responses, 2·32 + 4·4 are misaligned to the oracle, 2·24 to the other.
    assert [row[2:] for row in texts(table)[:4]] == [
        ["misaligned", "48", "0", "32", "0"],
        ["incoherent", "0", "0", "0", "0"],
        ["neither", "0", "0", "280", "0"],
        ["no score", "0", "0", "0", "0"],
    ]
    assert "32 of 32 (gpt_4, general)" in table.remarks[1]
    assert sum(int(line["responses"]) for line in lines(table)) == 40 * len(Grid(study).responses)


def test_names_are_escaped_in_every_format(study: Study) -> None:
    table = agreement_table(study, study_pairs(study))
    assert r"gpt\_4" in latex_table(table)
    assert r"gpt\_4" in markdown_table(table)
    assert r"$\alpha$" in latex_table(table)


def test_the_page_compares_judges_only_if_there_are_several(study: Study) -> None:
    both = page(study)
    assert html_table(artefacts(study)["judge_confusion"].make(study, Measured(study))) in both
    assert "oracle (oracle), gpt_4 (openai)" in both
    alone = page(study.model_copy(update={"second_judges": ()}))
    assert "table-judge_" not in alone
    assert "gpt_4" not in alone
    assert "One judge, oracle, scored all responses" in alone


def test_the_general_questions_are_the_same_for_all_tasks_and_the_others_are_not(study: Study) -> None:
    questions = {
        question_set: set(study_pairs(study).filter(question_set=question_set)["question_id"])
        for question_set in ("general", "in_domain")
    }
    assert questions["general"] == {f"q{number}" for number in range(4)}
    assert questions["in_domain"] == {f"{task}/q{number}" for task in ("code", "legal") for number in range(4)}


def test_what_one_judge_has_not_judged_is_left_out(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(study)
    missing, unjudged = Grid(study).responses[0], Grid(study).responses[3]
    Path(layout.judgments(*missing, "gpt_4")).unlink()
    Path(layout.judgments(*unjudged)).unlink()
    pairs = study_pairs(study)
    assert pairs.height == 40 * (len(Grid(study).responses) - 2)
    said = capsys.readouterr().err
    assert said.count("not there; its responses are left out") == 2
    assert "judgments/gpt_4.jsonl" in said


def test_judgments_of_other_responses_are_named(study: Study) -> None:
    path = Path(Layout(study).judgments(*Grid(study).responses[0], "gpt_4"))
    write_rows(path, read_jsonl(path)[1:])
    with pytest.raises(InputError, match=r"gpt_4\.jsonl: not of the same responses as oracle\.jsonl"):
        study_pairs(study)


def test_a_single_judge_has_none_to_agree_with(study: Study) -> None:
    with pytest.raises(InputError, match="key 'second_judges': there is none"):
        study_pairs(study.model_copy(update={"second_judges": ()}))
    with pytest.raises(InputError, match="no response was judged by two judges"):
        study_pairs(study.model_copy(update={"study": "elsewhere"}))
