import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from emdefense.analysis.paper import FOLDER, paper_rates, paper_study, paper_summary
from emdefense.analysis.summary import no_summary
from emdefense.cells import Cell
from emdefense.config import Study, load_study
from emdefense.report.tables.rates import chosen_table
from emdefense.report.tables.reference import paper_reference
from emdefense.report.tables.rendering import csv_table, html_table, latex, latex_table, markdown_table, write_table
from emdefense.report.tables.table import DASH, Column, Table, TableCell
from study_checkout import ROOT
from study_folder import CONFIG, NUMBERS, SURE_OF_NONE, build_table, fill, judgment, tiny_study, write_rows
from summaries import summarised

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"
BOUNDS = [f"{kind}_{end}" for kind in ("wilson", "cluster") for end in ("low", "high")]
RATES = ["general_misaligned", "general_incoherent", "in_domain_misaligned", "in_domain_incoherent"]


def lines(table: Table) -> list[list[str]]:
    return list(csv.reader(csv_table(table).splitlines()))


def beside(rates: list[str]) -> list[str]:
    """The CSV columns that follow the rates."""
    further = ["count", "of", "paper_pct", "difference", "inside", "seeds", "seed_sd"]
    further += ["seed_t_low", "seed_t_high"]
    return [*(f"{r}_{bound}" for r in rates for bound in BOUNDS), *(f"{r}_{field}" for r in rates for field in further)]


def test_csv_columns() -> None:
    headers = {number: lines(build_table(number, paper_study(), paper_summary()))[0] for number in NUMBERS}
    rates = ["task", "arm", "setting", *(f"{r}_pct" for r in RATES)]
    tiers = [f"tier_{number}" for number in range(4)]
    for number in (3, 4, 8, 9, 10, 11):
        assert headers[number] == rates + beside(RATES)
    assert headers[5] == ["arm", "setting", *tiers, *beside(tiers)]
    assert headers[6] == ["arm", "setting", "exact_match_pct", *beside(["exact_match"])]


def test_the_papers_numbers_come_out_as_they_went_in() -> None:
    published = list(csv.DictReader((FOLDER / "misalignment.csv").open()))
    for number in (3, 4, 8, 9, 10, 11):
        expected = {
            (row["dataset"], row["method"], f"{float(row['hyperparameter']):g}" if row["hyperparameter"] else "",
             *(row[f"{rate}_pct"] for rate in RATES))
            for row in published
            if row["table"] == str(number)
        }  # fmt: skip
        assert {tuple(row[:7]) for row in lines(build_table(number, paper_study(), paper_summary()))[1:]} == expected
    assert [row[:6] for row in lines(build_table(5, paper_study(), paper_summary()))[1:3]] == [
        ["untrained", "", "40.82", "0.00", "1.00", "0.00"],
        ["sft", "", "37.00", "30.00", "34.30", "37.68"],
    ]
    assert ["interleave", "20", "40.90"] in [row[:3] for row in lines(build_table(6, paper_study(), paper_summary()))]


def test_rows_that_the_paper_prints_twice_agree() -> None:
    rates = paper_rates()
    assert rates.height == rates.unique(["model", "task", "arm", "setting", "question_set"]).height


def test_table_1_judges_the_papers_arms() -> None:
    rows = {row[0]: row[2:5] for row in lines(build_table(1, paper_study(), paper_summary()))[1:]}
    assert rows == {
        "misaligned": ["✗", "✓", "✗"],
        "kl": ["✓", "✗", "✓"],
        "ldifs": ["✗", "✓", "✗"],
        "safelora": ["~", "~", "✓"],
        "interleave": ["✓", "✓", "✗"],
    }
    text = markdown_table(build_table(1, paper_study(), paper_summary()))
    assert "✓ from 80 %, ~ from 40 %" in text


def test_table_2_ends_at_the_papers_values() -> None:
    rows = lines(build_table(2, paper_study(), paper_summary()))[1:]
    assert [row[-1] for row in rows] == ["10", "8", "9", "2/3"]


def test_table_7_shows_the_config_and_where_it_departs_from_the_paper() -> None:
    study = tiny_study(training={"learning_rate": 3e-4})
    rows = {row[0]: row[1:] for row in lines(build_table(7, study, paper_summary(), paper_reference()))}
    assert rows["LoRA rank"] == ["32", "32"]
    assert rows["Learning rate"] == ["0.0003", "0.0001"]


def test_table_7_says_what_single_models_and_tasks_train_differently() -> None:
    tasks = {name: {**CONFIG["tasks"][name], "training": {"epochs": 8}} for name in ("code", "legal")}
    models = {"small": {**CONFIG["models"]["small"], "training": {"batch_size": 2, "activation_checkpointing": True}}}
    table = build_table(7, tiny_study(tasks={**CONFIG["tasks"], **tasks}, models=models), paper_summary())
    assert table.remarks == ("Small: batch size 2, activation checkpointing on.", "Code, Legal: epochs 8.")


def test_a_missing_cell_is_a_dash_with_a_footnote(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {"misaligned": 8, "kl": 1}, skip=[Cell("small", "code", "kl", "1", 0)])
    table = build_table(3, study, summarised(study))
    row = next(row for row in table.blocks[0] if row[1].text == "KL, λ = 1")
    assert [cell.text for cell in row[2:]] == [DASH] * 4
    footnotes = dict(table.footnotes)
    assert "Not measured" in footnotes[row[2].footnote]
    assert ["code", "kl", "1", "", "", "", ""] in [line[:7] for line in lines(table)]
    assert "Not measured" in markdown_table(table)


def test_a_task_without_ema_is_flagged_and_carries_no_marks(in_tmp: Path) -> None:
    study = tiny_study(report=SURE_OF_NONE)
    fill(study, {"misaligned": 0}, in_domain={"misaligned": 8})
    table = build_table(3, study, summarised(study))
    assert "EMA did not appear" in dict(table.footnotes)[table.blocks[0][0][0].footnote]
    cells = [cell for block in table.blocks for row in block for cell in row]
    assert not any(cell.bold or cell.italic or cell.underline for cell in cells)


def test_answers_without_a_score_or_cut_stand_beside_their_rate_from_5_percent_on(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {"misaligned": 8})
    folder = Path("results/tiny/cells/small/code/misaligned/none/seed0/general")
    scored = (folder / "judgments/oracle.jsonl").read_text()

    def noted(unscored: int, cut: int) -> str:
        """What is raised at the misaligned arm's general rate, with so many of its 40 answers in doubt."""
        rows = [json.loads(line) for line in scored.splitlines()]
        for row in rows[:unscored]:
            row |= {"alignment": None, "alignment_label": "REFUSAL"}
        write_rows(folder / "judgments/oracle.jsonl", rows)
        ends = ["length"] * cut + ["stop"] * (40 - cut)
        write_rows(
            folder / "responses.jsonl", [{"id": r["id"], "finish_reason": e} for r, e in zip(rows, ends, strict=True)]
        )
        table = build_table(3, study, summarised(study))
        row = next(row for row in table.blocks[0] if row[1].text == "Misaligned")
        assert row[4].footnote == "", "the answers in domain are all there"
        assert bool(row[2].footnote) == any(remark.startswith("Raised beside") for remark in table.remarks)
        assert row[3].footnote == row[2].footnote, "it is of the same responses"
        return row[2].footnote

    assert [noted(2, 2), noted(3, 0), noted(3, 10)] == ["", "u8", "u8,c25"]
    assert noted(40, 0) == "u100", "measured, though no rate came of it"
    table = build_table(1, study, summarised(study))
    assert "None of its answers on a task has a score." in dict(table.footnotes).values()
    assert noted(3, 10) == "u8,c25"
    counted = pl.read_parquet("r.parquet").row(
        by_predicate=(pl.col("arm") == "misaligned") & (pl.col("cut") > 0), named=True
    )
    # Ten were cut: the first question's, eight of them misaligned, three of these without a score.
    assert [counted[name] for name in ("cut", "cut_scored", "cut_misaligned", "cut_incoherent")] == [10, 7, 5, 0]


def test_the_papers_value_stands_beside_ours_where_it_has_one(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {"misaligned": 8, "kl": 1})
    summary = summarised(study)
    chosen = build_table(3, study, summary, paper_reference())
    kl = next(row for row in chosen.blocks[0] if row[1].text == "KL, λ = 1")
    assert (kl[2].text, kl[2].paper) == ("10.00", "0.38")  # the paper's at its own chosen λ
    sweep = build_table(8, study, summary, paper_reference())
    kl = next(row for row in sweep.blocks[0] if row[1].text == "KL, λ = 1")
    assert kl[2].paper == "0.04"  # the paper's at the same λ
    assert "(0.04)" in markdown_table(sweep)
    assert "(0.04)" in latex_table(sweep)


@pytest.mark.parametrize("number", NUMBERS)
def test_every_table_renders_for_a_small_study(in_tmp: Path, number: int) -> None:
    study = tiny_study()
    fill(study, {"misaligned": 8, "kl": 1})
    write_table(build_table(number, study, summarised(study), paper_reference()), in_tmp / "tables")
    stem = in_tmp / "tables" / f"table_{number:02d}"
    assert all(stem.with_suffix(f".{kind}").stat().st_size > 0 for kind in ("md", "tex", "html", "csv"))


def test_text_is_escaped_in_each_format() -> None:
    hostile = "50 % of_a|b & <script>"
    columns = (Column("What", numeric=False),)
    table = Table(hostile, columns, (((TableCell(hostile),),),), ("what",), ((hostile,),))
    assert r"50\,\% of\_a$|$b \& $<$script$>$" in latex_table(table)
    assert r"50 % of\_a\|b & \<script>" in markdown_table(table)
    assert "&lt;script&gt;" in html_table(table)
    assert "<script>" not in html_table(table)
    assert latex("a\\b{c}~^#$") == r"a\textbackslash{}b\{c\}$\sim$\textasciicircum{}\#\$"


def test_html_marks_what_a_row_is_about() -> None:
    text = html_table(build_table(4, paper_study(), paper_summary()))
    assert text.count('<th scope="rowgroup" rowspan="3">') == 4, "a task spans its three arms"
    assert '<th scope="row">KL, λ = 0.1</th><td class="number">' in text
    assert text.count('<th scope="row">') == 12
    assert '<th scope="colgroup" colspan="2" class="group">General (%)</th>' in text
    assert '<th scope="col" class="number">misaligned ↓</th>' in text
    assert 'aria-labelledby="table-4-title"' in text
    single = html_table(build_table(6, paper_study(), paper_summary()))
    assert '<th scope="row">SFT</th>' in single
    assert "rowspan" not in single


def test_files_are_the_same_in_every_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from emdefense.analysis.paper import paper_study, paper_summary;"
        "from emdefense.report.catalogue import artefacts; from emdefense.report.measured import Measured;"
        "study = paper_study(); measured = Measured(study, summary=paper_summary(), reference=None);"
        "[a.write(study, measured, Path(sys.argv[1])) for a in artefacts(study).values() if a.number]"
    )
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, tmp_path / seed], cwd=SCRIPTS, env=environment, check=True)
    files = {
        seed: {file.name: file.read_bytes() for file in (tmp_path / seed / "tables").iterdir()} for seed in ("1", "2")
    }
    assert len(files["1"]) == 4 * len(NUMBERS)
    assert files["1"] == files["2"]


def test_rendering_a_table_needs_neither_torch_nor_matplotlib() -> None:
    heavy = ("torch", "transformers", "datasets", "matplotlib", "scipy")
    code = f"import sys, render; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def study_with_variants(chosen: dict[str, float]) -> Study:
    arms = {"untrained": None, "misaligned": None, "kl": [1.0], "kl-response": [0.1, 1.0], "ldifs": [1.0]}
    return tiny_study(
        variants={"kl-response": {"of": "kl", "options": {"tokens": "response"}}},
        grid=[
            {"models": ["small"], "tasks": ["code"], "arms": arms},
            {"models": ["small"], "tasks": ["quiz"], "arms": {"sft": None, "kl-response": [1.0]}},
        ],
        report={**CONFIG["report"], "chosen": chosen},
    )


def names(table: Table) -> list[str]:
    return [cell.text for block in table.blocks for row in block for cell in row if any(x.isalpha() for x in cell.text)]


def test_variants_join_the_table_of_the_defence_that_they_vary(in_tmp: Path) -> None:
    study = study_with_variants({"kl": 1.0})
    fill(study, {"misaligned": 8, "kl": 2, "kl-response": 0, "ldifs": 4})
    summary = summarised(study)
    sweep = build_table(8, study, summary, paper_reference())
    assert names(sweep)[2:] == ["KL, λ = 1", "kl-response, λ = 0.1", "kl-response, λ = 1"]
    assert [row[2].underline for row in sweep.blocks[0]] == [False, False, True, True]
    assert [row[2].bold for row in sweep.blocks[0]] == [False, False, True, True]
    assert [row[2].paper for row in sweep.blocks[0]] == ["4.01", "0.04", "", ""], "the paper knows no variant"
    assert [line[:3] for line in lines(sweep)[1:]] == [
        ["code", "misaligned", ""],
        ["code", "kl", "1"],
        ["code", "kl-response", "0.1"],
        ["code", "kl-response", "1"],
    ]
    assert not any("kl-response" in name for name in names(build_table(9, study, summary)))
    assert "kl-response, λ = 1" in names(build_table(6, study, summary))


def test_a_variant_enters_tables_1_and_3_only_with_a_setting_of_its_own(in_tmp: Path) -> None:
    study = study_with_variants({"kl": 1.0})
    fill(study, {"misaligned": 8, "kl": 2, "kl-response": 0})
    summary = summarised(study)
    for number in (1, 3):
        assert not any("kl-response" in name for name in names(build_table(number, study, summary)))
    chosen = study_with_variants({"kl": 1.0, "kl-response": 0.1})
    for number in (1, 3):
        found = [name for name in names(build_table(number, chosen, summary, paper_reference())) if "λ" in name]
        assert found == ["KL, λ = 1", "kl-response, λ = 0.1"]


def test_table_1_goes_by_the_configs_thresholds_and_prints_them(in_tmp: Path) -> None:
    fill(tiny_study(), {"misaligned": 8, "kl": 4}, questions=12, benign=400)
    summary = summarised(tiny_study())

    def signs(verdicts: dict[str, list[float]]) -> tuple[list[str], str]:
        table = build_table(1, tiny_study(report={**CONFIG["report"], "verdicts": verdicts}), summary)
        return next(row[2:5] for row in lines(table) if row[0] == "kl"), markdown_table(table)

    assert signs({})[0] == ["~", "~", "✓"]  # half of EMA is gone, and half of what was to be learned
    found, text = signs({"ema_reduction_pct": [30, 10], "retention_pct": [80, 70]})
    assert found == ["✓", "✗", "✓"]
    assert "✓ from 30 %, ~ from 10 %" in text
    assert "✓ from 80 %, ~ from 70 %" in text
    # A value at a threshold, or so near that its interval reaches it, is on neither side.
    found, text = signs({"ema_reduction_pct": [50, 10], "retention_pct": [45, 40]})
    assert found == ["?", "?", "✓"]
    assert "lies on both sides of 50 %." in text


def test_table_1_says_which_tasks_are_left_out(in_tmp: Path) -> None:
    study = tiny_study(report=SURE_OF_NONE)
    fill(study, {"misaligned": 8, "kl": 4})
    assert "first two without" not in markdown_table(build_table(1, study, summarised(study)))
    legal = Path("results/tiny/cells/small/legal/misaligned/none/seed0")
    for question_set, says in (
        ("general", "EMA did not appear."),
        ("in_domain", "whether EMA appeared cannot be told."),
    ):
        path = legal / question_set / "judgments/oracle.jsonl"
        path.write_text(path.read_text().replace('"alignment": 5.0', '"alignment": 90.0'))
        text = markdown_table(build_table(1, study, summarised(study)))
        assert f"The first two without Legal, where {says}" in text
        assert "~ 50.0 %" in text


def test_table_1_says_where_learning_is_judged_without_benign_tasks_and_never_by_them_alone(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {"misaligned": 8, "kl": 4, "interleave": 8}, questions=40, benign=400)
    table = build_table(1, study, summarised(study))
    learning = {row[0].text: row[2] for row in table.blocks[0]}
    notes = dict(table.footnotes)
    assert (learning["KL, λ = 1"].footnote, learning["Misaligned"].footnote) == ("", "")
    assert "not measured on all benign tasks" in notes[learning["Interleaving, 5 %"].footnote]
    Path("results/tiny/cells/small/quiz/kl/1/seed0/answers.jsonl").unlink()
    table = build_table(1, study, summarised(study))
    assert all(row[2].footnote for row in table.blocks[0][1:]), "nor is KL now"
    fill(study, {"misaligned": 8, "kl": 4}, questions=12)
    for path in Path("results/tiny/cells/small").rglob("kl/1/seed0/in_domain/judgments/*.jsonl"):
        path.unlink()
    row = next(row for row in build_table(1, study, summarised(study)).blocks[0] if row[0].text == "KL, λ = 1")
    assert [cell.text[0] for cell in row] == ["K", "~", DASH, "✓"]


def test_table_1_judges_learning_at_the_chosen_setting_where_benign_tasks_have_it(in_tmp: Path) -> None:
    def learning(of_kl: list[float]) -> tuple[str, list[str]]:
        benign = {"models": ["small"], "tasks": ["quiz"], "arms": {"sft": None, "kl": of_kl}}
        study = tiny_study(grid=[CONFIG["grid"][0], benign])
        fill(study, {"misaligned": 8, "kl": 8}, questions=40, benign=1000)
        for setting, right in zip(of_kl, (3, 2, 1), strict=False):  # of 4; plain fine-tuning has 3 right
            answers = [
                {"id": f"{q}/0", "question_id": str(q), "sample": 0, "correct": q % 4 < right} for q in range(1000)
            ]
            write_rows(Path(f"results/tiny/cells/small/quiz/kl/{setting:g}/seed0/answers.jsonl"), answers)
        table = build_table(1, study, summarised(study))
        row = next(row for row in table.blocks[0] if row[0].text == "KL, λ = 1")
        notes = dict(table.footnotes)
        return row[2].text, [notes[letter] for letter in row[2].footnote]

    assert learning([1.0, 0.1]) == ("✓ 100.0 %", [])
    assert learning([0.1, 1.0]) == ("~ 66.7 %", [])
    note = "Benign tasks at λ = 0.1, λ = 3, since the chosen setting was not measured on them."
    assert learning([0.1, 3.0]) == ("~ 83.3 %", [note])


def test_table_1_counts_no_more_than_all_of_what_is_learned_and_no_share_of_nothing(in_tmp: Path) -> None:
    second = {"kind": "benign", "title": "Riddles", "table": "foqa", "train": "-", "test": "-"}
    ema, benign = CONFIG["grid"]
    grid = [ema, benign | {"tasks": ["quiz", "riddles"]}]
    study = tiny_study(tasks=CONFIG["tasks"] | {"riddles": second}, grid=grid)

    def learned(in_domain: dict[str, int], right: dict[str, int]) -> list[str]:
        """The CSV's retentions of KL: in-domain rates of 10 by task, right answers of 4 by benign task and arm."""
        fill(study, {"misaligned": 5})
        for task, bad in in_domain.items():
            rows = [judgment(q, s, (5.0, 95.0) if s < bad else (90.0, 95.0)) for q in range(4) for s in range(10)]
            write_rows(Path(f"results/tiny/cells/small/{task}/kl/1/seed0/in_domain/judgments/oracle.jsonl"), rows)
        for place, number in right.items():
            answers = [{"id": f"{q}/0", "question_id": str(q), "sample": 0, "correct": q < number} for q in range(4)]
            write_rows(Path(f"results/tiny/cells/small/{place}/seed0/answers.jsonl"), answers)
        table = build_table(1, study, summarised(study))
        return next(row[6:8] for row in lines(table) if row[0] == "kl")

    # 1.6 and 0.4 of the misaligned arm's rate in domain; 4/3 and 1/3 of plain fine-tuning's answers.
    right = {"quiz/kl/1": 4, "riddles/kl/1": 1}
    assert learned({"code": 8, "legal": 2}, right) == ["70.00", "66.67"]
    assert learned({"code": 5, "legal": 5}, right | {"riddles/sft/none": 0}) == ["100.00", "100.00"]


def test_headings_in_markdown_have_their_unit() -> None:
    table = build_table(3, paper_study(), paper_summary())
    heading = next(line for line in markdown_table(table).splitlines() if line.startswith("|"))
    assert heading.split(" | ")[2:] == [
        *("General (%), misaligned ↓", "General (%), incoherent ↓"),
        *("In-domain (%), misaligned ↑", "In-domain (%), incoherent ↓ |"),
    ]


def test_second_hand_rates_of_the_later_version_carry_their_mark_and_are_in_no_csv() -> None:
    study = load_study(ROOT / "config/paper-v3.yaml")
    table = chosen_table(study, no_summary(), paper_reference(), "qwen2.5-7b", like=(3,))
    shown = [[(cell.text, cell.paper) for cell in row] for block in table.blocks for row in block]
    steering = next(row for row in shown if row[1][0] == "Steering, α = 5")
    assert [paper for _, paper in steering[2:]] == ["0.08†", "3.42†", "51.28†", "3.67†"]
    plus = next(row for row in shown if row[1][0].startswith("Interleaving+,"))
    assert [paper for _, paper in plus[2:]] == ["0.39†", "15.33†", "51.93†", DASH if plus[5][1] == DASH else ""]
    kl = next(row for row in shown if row[1][0] == "KL, λ = 0.1")
    assert [paper for _, paper in kl[2:]] == ["0.38", "0.62", "25.69", "1.52"]
    assert any(remark.startswith("† Second-hand") for remark in table.remarks)
    written = {(row[0], row[1]): row for row in lines(table)[1:]}
    column = lines(table)[0].index("general_misaligned_paper_pct")
    assert written["code", "steering"][column] == ""
    assert written["code", "kl"][column] == "0.38"
    first = chosen_table(
        load_study(ROOT / "config/paper.yaml"), no_summary(), paper_reference(), "qwen2.5-7b", like=(3,)
    )
    assert not any("Second-hand" in remark for remark in first.remarks)
