"""What stands beside a rate: any choice of columns, in every format, and always all of it in the CSV."""

import csv
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import pytest

from emdefense.analysis.paper import paper_study, paper_summary
from emdefense.analysis.printed import points, signed
from emdefense.analysis.summary import Estimate, Summary
from emdefense.config import Study
from emdefense.config.study import TableColumn
from emdefense.report.tables.panels import TEXT_WIDTH, panels
from emdefense.report.tables.rate_columns import CSV_BESIDE, Rate, cells, kinds_shown
from emdefense.report.tables.reference import paper_reference
from emdefense.report.tables.rendering import csv_table, html_table, latex_table, markdown_table
from emdefense.report.tables.table import Table
from latex import needs_latex, pdflatex
from study_folder import CONFIG, build_table, fill, tiny_study
from summaries import summarised

KINDS: tuple[TableColumn, ...] = get_args(TableColumn)
RATE = Rate(Estimate(12.345, wilson=(10.0, 15.0), cluster=(9.004, 16.0), successes=1234, trials=10000), paper=9.0)


def study_with(*kinds: str, **changes: Any) -> Study:
    return tiny_study(report={**CONFIG["report"], "table_columns": kinds}, **changes)


@pytest.fixture
def summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Summary:
    """Three seeds with one, two and three of ten misaligned under KL."""
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1, 2):
        fill(tiny_study(seeds=(seed,)), {"misaligned": 8, "kl": 1 + seed})
    return summarised(tiny_study(seeds=(0, 1, 2)))


def texts(rate: Rate, *kinds: TableColumn) -> list[str]:
    return [cell.text for cell in cells(rate, kinds, "a")]


def lines(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(csv_table(table).splitlines()))


def test_each_column_says_what_it_is_called() -> None:
    assert texts(RATE, *KINDS) == ["12.35", "[9.00, 16.00]", "1,234/10,000", "9.00", "+3.35", "yes", ""]
    assert texts(Rate(None, paper=9.0), *KINDS) == ["–", "", "", "9.00", "", "", ""]
    assert texts(Rate(RATE.estimate), "interval", "paper", "inside") == ["12.35", "[9.00, 16.00]", "", ""]
    outside = Rate(Estimate(12.345, wilson=(8.0, 15.0), cluster=(10.0, 15.0)), paper=9.0)
    assert texts(outside, "interval", "inside") == ["12.35", "[10.00, 15.00]", "no"], "not by Wilson's interval"


def test_the_paper_alone_stands_in_brackets() -> None:
    (cell,) = cells(RATE, ("paper",), "")
    assert (cell.text, cell.paper) == ("12.35", "9.00")
    (bare,) = cells(RATE, (), "")
    assert bare.paper == ""


def test_what_no_rate_has_makes_no_column() -> None:
    assert kinds_shown(KINDS, [RATE]) == ("interval", "count", "paper", "difference", "inside")
    assert kinds_shown(("paper", "paper"), [RATE, Rate(None)]) == ("paper",)
    assert kinds_shown(KINDS, [Rate(Estimate(1.0))]) == ()


def test_signs_of_differences() -> None:
    assert [signed(value) for value in (1.0, -1.0, 0.004, -0.004)] == ["+1.00", "−1.00", "0.00", "0.00"]
    assert [signed(value, plus=False) for value in (1.0, -1.0)] == ["1.00", "−1.00"]
    assert [points(value) for value in (1.0, -1.26, -0.04)] == ["1.0", "−1.3", "0.0"]


@pytest.mark.parametrize("number", [3, 6, 8])
def test_every_choice_of_columns_fits_on_a_page_and_is_in_every_format(summary: Summary, number: int) -> None:
    for count in range(len(KINDS) + 1):
        for kinds in combinations(KINDS, count):
            table = build_table(number, study_with(*kinds, seeds=(0, 1, 2)), summary, paper_reference())
            assert all(len(row) == len(table.columns) for block in table.blocks for row in block)
            assert all(panel.width <= TEXT_WIDTH for panel in panels(table)), kinds
            found = (
                " 95 % interval |" in markdown_table(table),
                ">95 % interval</th>" in html_table(table),
                r"& 95\,\% interval" in latex_table(table),
            )
            assert found == ("interval" in kinds,) * 3, kinds


def test_a_table_with_all_columns_in_markdown(summary: Summary) -> None:
    text = markdown_table(build_table(8, study_with(*KINDS, seeds=(0, 1, 2)), summary, paper_reference()))
    kl = next(line for line in text.splitlines() if "λ = 1 |" in line)
    # One, two and three of ten are misaligned in the three seeds of 40 responses; the paper has 0.04 at λ = 1.
    assert r"| **20.00** | \[20.00, 20.00\] | 24/120 | 0.04 | +19.96 | no | 10.00 |" in kl
    assert "Count: responses of all that have both scores." in text
    assert "Paper: its rate for Qwen2.5-7B, at the same setting." in text
    assert "Each rate is of all its seeds together, up to 3; the CSV says how many." in text


def test_seeds_are_spoken_of_only_where_there_are_several() -> None:
    assert not any("seed" in remark for remark in build_table(3, paper_study(), paper_summary()).remarks)


def test_the_csv_has_all_of_it_whatever_is_shown(summary: Summary) -> None:
    tables = [build_table(8, study_with(*kinds, seeds=(0, 1, 2)), summary, paper_reference()) for kinds in ((), KINDS)]
    assert csv_table(tables[0]) == csv_table(tables[1])
    kl = next(row for row in lines(tables[0]) if (row["task"], row["arm"], row["setting"]) == ("code", "kl", "1"))
    found = {field: kl[f"general_misaligned_{field}"] for field in ("pct", *CSV_BESIDE)}
    assert found == {
        "pct": "20.00",
        "count": "24",
        "of": "120",
        "paper_pct": "0.04",
        "difference": "19.96",
        "inside": "no",
        "seeds": "3",
        "seed_sd": "10.00",
        "seed_t_low": "-4.84",  # 20 less 4.303 × 10 / √3
        "seed_t_high": "44.84",
    }
    legal = next(row for row in lines(tables[0]) if (row["task"], row["arm"]) == ("legal", "misaligned"))
    assert legal["general_misaligned_paper_pct"] == "25.29"


def test_the_papers_own_tables_have_no_further_columns() -> None:
    study = paper_study().model_copy(
        update={"report": paper_study().report.model_copy(update={"table_columns": KINDS})}
    )
    assert len(build_table(3, study, paper_summary()).columns) == 6


@needs_latex
def test_all_columns_compile(summary: Summary) -> None:
    study = study_with(*KINDS, seeds=(0, 1, 2))
    inputs = []
    for number in (3, 6, 8):
        Path(f"t{number}.tex").write_text(latex_table(build_table(number, study, summary, paper_reference())))
        pdflatex(Path(f"t{number}.tex"))
        inputs.append(rf"\input{{t{number}}}")
    document = r"\documentclass[twocolumn]{article}\usepackage{booktabs,amssymb}\begin{document}%s\end{document}"
    Path("paper.tex").write_text(document % " ".join(inputs))
    assert "Output written on paper.pdf" in pdflatex(Path("paper.tex"))
