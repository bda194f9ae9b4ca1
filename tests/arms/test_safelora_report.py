"""The table and the figure of SafeLoRA's matrices, from cosines alone."""

import csv
from pathlib import Path

import pytest

from emdefense.arms.safelora.cosines import read_projections
from emdefense.arms.safelora.figure import draw_cosines
from emdefense.arms.safelora.table import matrices_table
from emdefense.cells import Cell, Grid
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.report.catalogue import artefacts
from emdefense.report.figures.style import styled
from emdefense.report.measured import Measured
from emdefense.report.tables.rendering import csv_table, html_table, latex_table, markdown_table
from emdefense.report.tables.table import Table
from safelora_study import MATRICES, study_with_safelora, write_cosines_of
from study_folder import fill, page, tiny_study


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study with the projections of its three tasks."""
    monkeypatch.chdir(tmp_path)
    study = study_with_safelora()
    for cell in Grid(study).prepared:
        write_cosines_of(study, cell)
    return study


def prepared(study: Study) -> dict[Cell, Path]:
    return Measured(study).preparations


def table_of(study: Study) -> Table:
    return matrices_table(study, prepared(study))


def test_projections_are_those_of_the_grid_with_the_taus_of_their_task(study: Study) -> None:
    found = read_projections(study, prepared(study))
    assert [(p.cell.task, p.taus) for p in found] == [
        ("code", ("0.05", "0.5")),
        ("legal", ("0.05", "0.5")),
        ("quiz", ("0.3",)),
    ]
    assert [matrix.name for matrix in found[0].matrices] == MATRICES  # block 10 after block 9, q before k


def test_the_table_counts_what_each_tau_projects(study: Study) -> None:
    table = table_of(study)
    rows = [[cell.text for cell in row] for block in table.blocks for row in block]
    assert [column.title for column in table.columns][2:10] == ["q", "k", "v", "o", "gate", "up", "down", "all"]
    # At 0.05 that is q of block 0 alone, for in block 1 its cosine is 0.05 itself.
    adapter = 100 * ((83 * 2**2 + 0.01**2) / (84 * 2**2)) ** 0.5
    assert rows[0] == ["Code", "0.05", "1/12", *["0/12"] * 6, "1/84", "0.50", "0.50–0.50", f"{adapter:.2f}"]
    assert rows[1][:10] == ["", "0.5", *["12/12"] * 7, "84/84"]
    assert rows[1][10:] == ["2.00", "0.50–3.50", f"{100 * 0.01 * (140 / 7) ** 0.5 / 2:.2f}"]
    assert [row[:2] for row in rows[2:]] == [["Legal", "0.05"], ["", "0.5"], ["Quiz", "0.3"]]
    assert "equation" in table.remarks[1]
    ibm = study_with_safelora(arms={"safelora": {"normalisation": "norm"}})
    assert "IBM" in table_of(ibm).remarks[1]


def test_nothing_projected_is_a_dash(study: Study) -> None:
    low = study_with_safelora(
        grid=[{"models": ["small"], "tasks": ["code"], "arms": {"misaligned": None, "safelora": [0]}}]
    )
    row = [cell.text for cell in table_of(low).blocks[0][0]]
    assert row[9:] == ["0/84", "–", "–", "100.00"]


def test_the_csv_has_a_line_for_every_matrix_of_every_adapter(study: Study) -> None:
    lines = list(csv.DictReader(csv_table(table_of(study)).splitlines()))
    assert len(lines) == 3 * len(MATRICES)
    assert lines[1] == {
        "model": "small", "task": "code", "seed": "0", "matrix": "model.layers.0.self_attn.k_proj", "block": "0",
        "kind": "k", "cosine": "0.08", "norm_before": "2", "norm_after": "0.02", "norm_kept": "0.01", "norm_v": "3",
        "projected_0.05": "no", "projected_0.3": "", "projected_0.5": "yes",
    }  # fmt: skip
    assert {line["projected_0.3"] for line in lines if line["task"] == "quiz"} == {"yes", "no"}


def test_seeds_and_models_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    models = {name: {"title": name.title(), "instruct": "-", "base": "-"} for name in ("small", "large")}
    block = {"models": ["small", "large"], "tasks": ["code"], "arms": {"misaligned": None, "safelora": [0.05]}}
    study = study_with_safelora(seeds=[0, 1], models=models, grid=[block])
    for cell in Grid(study).prepared:
        write_cosines_of(study, cell, cosine=0.03 if cell.seed == 0 else 0.04)
    table = table_of(study)
    assert [[cell.text for cell in row][:3] for block in table.blocks for row in block] == [
        ["Small: Code", "0.05", "3/24"],  # blocks 0 and 1 of seed 0, block 0 of seed 1
        ["Large: Code", "0.05", "3/24"],
    ]
    with styled():
        figure = draw_cosines(study, prepared(study), "small")
    assert len(figure.axes) == 1
    q = figure.axes[0].lines[0].get_ydata()
    assert list(q) == pytest.approx([0.035 + 0.01 * block for block in range(12)])


def test_the_figure_has_a_panel_a_task_a_line_a_kind_and_a_line_a_tau(study: Study) -> None:
    with styled():
        figure = draw_cosines(study, prepared(study), "small")
    assert [axes.get_title() for axes in figure.axes] == ["Code", "Legal", "Quiz"]
    lines = {line.get_label(): line for line in figure.axes[0].lines if not str(line.get_label()).startswith("_")}
    assert list(lines) == ["q", "k", "v", "o", "gate", "up", "down"]
    assert list(lines["down"].get_xdata()) == list(range(12))
    assert list(lines["down"].get_ydata()) == pytest.approx([0.28 + 0.01 * block for block in range(12)])
    taus = [line for line in figure.axes[0].lines if str(line.get_label()).startswith("_")]
    assert [line.get_ydata()[0] for line in taus] == [0.05, 0.5]
    assert taus[1].get_linewidth() > taus[0].get_linewidth()  # the chosen one


def test_the_formats_name_the_table_by_its_title(study: Study) -> None:
    table = artefacts(study)["safelora_matrices"].make(study, Measured(study))
    assert markdown_table(table).startswith("**Small: what SafeLoRA projects at each τ.**\n\n| Task |")
    assert r"\label{tab:safelora_matrices}" in latex_table(table)
    assert '<figure class="table" id="table-safelora_matrices">' in html_table(table)


def test_the_page_shows_both_and_a_study_without_safelora_neither(study: Study) -> None:
    fill(study, {"misaligned": 8, "safelora": 1})
    text = page(study)
    assert 'id="table-safelora_matrices"' in text
    assert 'id="figure-safelora-cosines"' in text
    assert 'href="#arm-safelora"' in text
    without = tiny_study()
    fill(without, {"misaligned": 8, "kl": 1})
    text = page(without)
    assert "safelora-cosines" not in text
    assert 'href="#arm-safelora"' not in text


def test_no_projection_is_no_figure() -> None:
    assert not [name for name in artefacts(tiny_study()) if name.startswith("safelora")]
    with pytest.raises(InputError, match="no adapter has been projected"):
        draw_cosines(study_with_safelora(), {}, "small")
