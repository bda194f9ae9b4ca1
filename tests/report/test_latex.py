"""Every table in LaTeX: on its own, inside a paper of two columns, and how wide and long tables are broken up."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from emdefense.analysis.paper import paper_study, paper_summary
from emdefense.cells import Cell, Grid
from emdefense.report.catalogue import artefacts
from emdefense.report.measured import Measured
from emdefense.report.tables.panels import FLOAT_LINES, TEXT_WIDTH, floats, is_wide, panels
from emdefense.report.tables.reference import paper_reference
from emdefense.report.tables.rendering import latex, latex_table, write_table
from emdefense.report.tables.table import Column, Table, TableCell
from latex import needs_latex, pdflatex
from safelora_study import study_with_safelora, write_cosines_of
from second_judge import SECOND, judged_again
from study_folder import NUMBERS, build_table, count, fill, tiny_study

FURTHER = ("statistics", "judges", "robustness")


@pytest.fixture
def stems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of every kind of table, rendered into the working directory."""
    monkeypatch.chdir(tmp_path)
    study = tiny_study(judge={"kind": "openai", "name": "gpt-4o-mini", "model": "m"}, second_judges=[SECOND])
    fill(study, {"misaligned": 8, "kl": 1}, skip=[Cell("small", "code", "kl", "1", 0)])
    judged_again(study, 2, skip=[Cell("small", "code", "kl", "1", 0)])
    projected = study_with_safelora(study="projected")
    for cell in Grid(projected).prepared:
        write_cosines_of(projected, cell)
    measured = Measured(study, count(study))
    summary = measured.summary
    found, matrices = artefacts(study), artefacts(projected)["safelora_matrices"]
    tables = [
        *(build_table(number, paper_study(), paper_summary()) for number in NUMBERS if number not in (3, 8)),
        *(build_table(number, study, summary, paper_reference()) for number in (3, 8)),
        *(one.make(study, measured) for one in found.values() if one.kind == "table" and one.section in FURTHER),
        matrices.make(projected, Measured(projected)),
    ]
    for table in tables:
        write_table(table, tmp_path)
    return sorted(table.name for table in tables)


@needs_latex
def test_each_table_compiles_on_its_own(stems: list[str]) -> None:
    assert len(stems) == 20
    for stem in stems:
        pdflatex(Path(f"{stem}.tex"))
        assert Path(f"{stem}.pdf").is_file()


@needs_latex
def test_all_compile_inside_a_paper_of_two_columns(stems: list[str]) -> None:
    packages = r"\usepackage{booktabs,amssymb}"
    inputs = "\n".join(rf"Before. \input{{{stem}}} After." for stem in stems)
    document = rf"\documentclass[twocolumn]{{article}}{packages}\begin{{document}}{inputs}\end{{document}}"
    Path("paper.tex").write_text(document, encoding="utf-8")
    pdflatex(Path("paper.tex"))
    labels = re.findall(r"newlabel{tab:(\w+)}", Path("paper.aux").read_text())
    assert sorted(labels) == sorted(stem.removeprefix("table_") for stem in stems), "the paper went on to its end"


def test_a_table_has_its_number_on_its_own_or_none() -> None:
    assert r"\setcounter{table}{7}" in latex_table(build_table(8, paper_study(), paper_summary()))
    further = latex_table(replace(made(2, 1), number=None, name="further"))
    assert r"\setcounter{table}" not in further
    assert r"\def\csname fnum@table\endcsname{\tablename}" in further


def made(columns: int, rows: int, blocks: int = 1, text: str = "12.34") -> Table:
    """A table of two columns under each of some shared headings."""
    headings = (Column("Task", numeric=False), *(Column(f"c{n}", f"group {n // 2}") for n in range(columns)))
    block = tuple(tuple(TableCell(text) for _ in headings) for _ in range(rows))
    return Table("t", headings, (block,) * blocks, ("a",), (), number=1)


def test_a_wide_table_becomes_panels_alike_in_width() -> None:
    assert [len(panel.columns) for panel in panels(made(8, 1))] == [9]
    wide = made(8, 2, text="12.34 [12.3, 56.7]")
    # A column takes 18 characters of 4.3 points and a gap of 6: four and the headers fit into 455 points.
    assert [[column.title for column in panel.columns] for panel in panels(wide)] == [
        ["Task", "c0", "c1", "c2", "c3"],
        ["Task", "c4", "c5", "c6", "c7"],
    ]
    assert all(panel.width <= TEXT_WIDTH for panel in panels(wide))
    # Three of the four groups would fit into the first panel, but then the second had only one.
    assert [len(panel.columns) for panel in panels(made(8, 1, text="12.34 [1.2, 5.6]"))] == [5, 5]
    three_groups = panels(made(6, 1, text="12.34 [12.3, 56.7]"))
    assert [panel.groups for panel in three_groups] == [
        [("", 1), ("group 0", 2), ("group 1", 2)],
        [("", 1), ("group 2", 2)],
    ]


def test_a_heading_is_never_torn_apart() -> None:
    columns = (Column("Task", numeric=False), *(Column(f"c{n}", f"group {n // 6}") for n in range(12)))
    rows = ((tuple(TableCell("12.34 [12.3, 56.7]") for _ in columns),),)
    assert [len(panel.columns) for panel in panels(Table("t", columns, rows, ("a",), ()))] == [7, 7]


def test_panels_share_a_page_as_long_as_they_fit() -> None:
    wide = "12.34 [12.3, 56.7]"
    assert [len(page) for page in floats(made(8, 10, text=wide))] == [2]
    assert [len(page) for page in floats(made(8, 30, text=wide))] == [1, 1]
    long = floats(made(2, 20, blocks=4))
    assert [[len(panel.blocks) for panel in page] for page in long] == [[2], [2]]
    noted = replace(made(2, 20, blocks=2), remarks=("twenty characters... " * 30,))
    assert [[len(panel.blocks) for panel in page] for page in floats(noted)] == [[1], [1]], "notes need room too"
    assert all(panel.lines <= FLOAT_LINES for page in long for panel in page)
    text = latex_table(made(2, 20, blocks=4))
    assert text.count(r"\begin{table}") == 2
    assert text.count("(continued)") == text.count(r"\addtocounter{table}{-1}") == 1


def test_only_what_needs_both_columns_of_a_paper_takes_them() -> None:
    assert not is_wide(made(2, 1))
    assert is_wide(made(8, 1))
    assert r"\begin{table*}" in latex_table(made(8, 1))


@needs_latex
def test_no_title_keeps_a_table_from_compiling(tmp_path: Path) -> None:
    letters = "".join(map(chr, range(1, 0x180))) + "…‘’“”—€" + "αβλτ→×÷−✓✗~中文😀ẽ\u202e"
    rows = tuple((TableCell(character), TableCell("1.00")) for character in letters)
    blocks = tuple(rows[start : start + 20] for start in range(0, len(rows), 20))
    columns = (Column("x", numeric=False), Column("y"))
    table = Table(
        f"\\end{{document}} %{' '.join(letters[:64])}", columns, blocks, ("a",), (), number=1, name="table_01"
    )
    write_table(table, tmp_path)
    log = pdflatex(tmp_path / "table_01.tex")
    assert "Output written on table_01.pdf" in log


def test_what_latex_has_no_sign_for_is_spelt_out() -> None:
    assert latex("Kaczér, Łódź, naïve — “so”") == "Kaczér, Łódź, naïve — “so”"
    assert latex("a | b") == "a $|$ b"
    assert latex("A 中 λ ą") == r"A [U+4E2D] $\lambda$ [U+0105]"
    assert latex("αστΩΛ") == r"$\alpha$$\sigma$$\tau$$\Omega$$\Lambda$"  # symbols of settings
