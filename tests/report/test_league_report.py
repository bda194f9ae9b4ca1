"""The league as readers see it: the table, its sentences, the figure, and its place on the page."""

from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from emdefense.analysis.league import league
from emdefense.analysis.rates import BENIGN_SCHEMA, EXACT_MATCH_SCHEMA
from emdefense.analysis.resampling import ResampledRates
from emdefense.analysis.summary import Summary
from emdefense.cells import Grid
from emdefense.config import Study
from emdefense.layout import Layout
from emdefense.report.catalogue import MOST_LINES, artefacts
from emdefense.report.figures.labels import label_points
from emdefense.report.figures.league import draw_league
from emdefense.report.figures.style import styled
from emdefense.report.figures.tradeoff import draw_tradeoff
from emdefense.report.measured import Measured
from emdefense.report.tables.league import interval_words, league_table, rank_words
from emdefense.report.tables.rendering import html_table, latex_table, markdown_table
from emdefense.resources.relative import training_cost
from league_frames import drawn_frames, league_study
from study_folder import SURE_OF_NONE, fill, page, tiny_study

CONTROLS = {"untrained": [(0.01, 0.02)], "misaligned": [(0.4, 0.85)], "sft": [(0.4, 0.85)]}
APART: dict[str, Any] = {"kl": [(0.03, 0.83)], "defence-2": [(0.2, 0.5)], "defence-3": [(0.2, 0.5)]}


def drawn(study: Study, rates: dict[str, Any], **more: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    return drawn_frames(study, {**CONTROLS, **rates}, np.random.default_rng(1), **more)


def column(table: Any, name: str) -> list[str]:
    return [row[table.csv_header.index(name)] for row in table.csv_rows]


def test_the_table_has_each_defence_with_its_numbers_and_the_front_in_a_sentence() -> None:
    study = league_study(3, settings=(1.0,), seeds=2)
    frames = drawn(study, APART)
    table, found = league_table(study, *frames, "small"), league(study, *frames, "small")
    assert column(table, "arm") == [row.arm for row in found.rows] == ["kl", *column(table, "arm")[1:]]
    assert column(table, "rank_best") == ["1", "2", "2"]
    assert column(table, "rank_worst") == ["1", "3", "3"]
    assert column(table, "surely_better_than")[0].split("; ") == column(table, "arm")[1:]
    for row, value, low, high in zip(
        found.rows, *(column(table, f"ema_reduction_{end}") for end in ("pct", "low", "high")), strict=True
    ):
        assert float(value) == pytest.approx(100 * row.reduction.value, rel=1e-5)
        assert (float(low), float(high)) == pytest.approx(
            [100 * end for end in row.interval("reduction") or ()], rel=1e-4
        )
    first = table.blocks[0][0]
    assert [cell.text for cell in first[:2]] == ["1", "KL, λ = 1"]
    assert (first[1].bold, first[1].underline) == (True, found.ranking.surely_on_front(0))
    assert table.blocks[1][0][2].text == "0.0"
    assert table.blocks[1][0][6].text == "1.0×", "the misaligned arm is plain fine-tuning"
    cost = training_cost(Grid(study), "small", "kl", 1.0)
    assert cost is not None
    assert cost > 1
    assert (first[6].text, column(table, "training_cost")[0]) == (f"{cost:.1f}×", f"{cost:.6g}")
    said = " ".join(table.lead)
    assert "Pareto front" in said
    assert "KL is first" in said
    assert "chance does not settle 1 of 3 comparisons" in said
    assert any("the 2 seeds" in remark for remark in table.remarks)
    assert not any(remark.startswith("Settings:") for remark in table.remarks), "with one setting there is no choice"
    for text in (markdown_table(table), html_table(table), latex_table(table)):
        assert "KL is first" in text


def test_where_chance_settles_nothing_nobody_is_first() -> None:
    study = league_study(3, settings=(1.0,))
    table = league_table(study, *drawn(study, {name: [(0.2, 0.5)] for name in APART}), "small")
    assert {row[0].text for row in table.blocks[0]} == {"1–3"}
    assert "No defence is better than another by more than chance: all 3 may be first or last." in table.lead
    assert "is first" not in " ".join(table.lead)
    assert any("of one seed, what another would change is not known" in remark for remark in table.remarks)


def test_halves_that_disagree_are_named() -> None:
    study = league_study(1, settings=(0.1, 1.0, 3.0))
    rates = {"kl": [(0.2, 0.6), (0.21, 0.6), (0.2, 0.6)]}
    for seed in range(20):
        frames = drawn_frames(study, {**CONTROLS, **rates}, np.random.default_rng(seed))
        table = league_table(study, *frames, "small")
        (settings,) = zip(column(table, "settings_first_half"), column(table, "settings_second_half"), strict=True)
        if settings[0] != settings[1]:
            weaker, stronger = sorted(settings, key=float)
            assert table.blocks[0][0][1].text == f"KL, λ = {weaker} and λ = {stronger}"
            assert any("The halves choose different settings" in text for _, text in table.footnotes)
            assert any(remark.startswith("Settings:") for remark in table.remarks)
            return
    pytest.fail("no halves that disagree were drawn")


def test_what_is_missing_is_said() -> None:
    study = league_study(2, seeds=2, settings=(1.0,))
    questions, benign = drawn(study, APART)
    lost = (pl.col("arm") == "kl") & (pl.col("seed") == 1) & (pl.col("task") == "task0")
    gone = (pl.col("arm") == "defence-2") & (pl.col("task") == "task0")
    table = league_table(study, questions.filter(~lost & ~gone), benign.filter(pl.col("arm") == "sft"), "small")
    assert column(table, "arm") == ["kl"]
    assert column(table, "benign_pct") == [""]
    assert any("Of 4 trainings 3 are judged." in text for _, text in table.footnotes)
    assert "Without defence-2: no setting was measured on all of these tasks." in table.remarks
    assert len(table.lead) == 1, "of one defence there is nothing to rank"
    nobody = questions.filter(~pl.col("arm").is_in(["kl", "defence-2"]))
    assert league_table(study, nobody, benign, "small").lead == (
        "No defence was measured on all tasks in which EMA appeared, so there is no league.",
    )


def test_without_ema_there_is_a_sentence_and_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = tiny_study(report=SURE_OF_NONE)
    fill(study, {"misaligned": 0}, in_domain={"misaligned": 8})
    shown = page(study)
    assert "emergent misalignment did not appear" in shown
    assert 'id="standings"' not in shown
    assert "No league: EMA did not appear" in Path("results/tiny/tables/league.md").read_text()
    assert (
        league_table(
            study, pl.read_parquet("results/tiny/questions.parquet"), pl.DataFrame(schema=BENIGN_SCHEMA), "small"
        ).blocks
        == ()
    )


def test_the_league_follows_what_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = tiny_study()
    fill(study, {"misaligned": 8, "kl": 1, "interleave": 2}, questions=12)
    shown = page(study)
    texts = ('<ul class="verdicts">', 'id="standings"', "On the Pareto front", 'id="table-league"')
    figures = ('id="figure-league-chart"', 'id="figure-tradeoff"')
    places = [shown.index(text) for text in (*texts, *figures, "<details", 'id="table-1"')]
    assert places == sorted(places)
    assert shown.index('href="#verdicts"') < shown.index('href="#standings"')


def test_it_is_made_from_the_models_own_files() -> None:
    study = league_study(2)
    layout, grid = Layout(study), Grid(study)
    needed = artefacts(study)["league"].inputs(grid, layout)
    assert "results/tiny/questions.parquet" in needed
    assert {layout.answers(cell) for cell in grid.benign} <= set(needed)


def test_benign_answers_are_read_by_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = tiny_study()
    fill(study, {"misaligned": 8}, skip=[], benign=8)
    found = Measured(study).benign_questions
    of_kl = found.filter(arm="kl", setting="1")
    assert of_kl.height == 8
    assert (of_kl["correct"].sum(), of_kl["answers"].sum()) == (6, 8)
    assert dict(found.schema) == BENIGN_SCHEMA


def draw(study: Study, frames: tuple[pl.DataFrame, pl.DataFrame]) -> Figure:
    with styled():
        return draw_league(study, *frames, "small")


def many(number: int = 16) -> tuple[Study, tuple[pl.DataFrame, pl.DataFrame]]:
    study = league_study(number, settings=(1.0,))
    generator = np.random.default_rng(3)
    names = [name for name in study.every_arm if name == "kl" or name.startswith("defence")]
    return study, drawn(study, {name: [tuple(generator.uniform((0.02, 0.1), (0.4, 0.85)))] for name in names})


def test_the_figure_shows_each_number_in_the_tables_order() -> None:
    study, frames = many()
    figure, found = draw(study, frames), league(study, *frames, "small")
    ranks, *panels, scatter = figure.axes
    assert [text.get_text() for text in ranks.texts] == [rank_words(rank) for rank in found.ranking.ranks]
    assert len(ranks.get_yticklabels()) == 17
    for axes, name in zip(panels, ("reduction", "retention", "benign", "incoherent"), strict=True):
        marks = {line.get_ydata()[0]: line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1}
        bars = {line.get_ydata()[0]: line.get_xdata() for line in axes.lines if line.get_color() == "0.45"}
        for n, row in enumerate(found.rows):
            measure = getattr(row, name)
            assert marks[n] == pytest.approx(100 * measure.value)
            assert list(bars[n]) == pytest.approx([100 * end for end in row.interval(name) or ()])
    points = {tuple(line.get_xydata()[0].round(6)) for line in scatter.lines if len(line.get_xdata()) == 1}
    assert {(round(100 * r.retention.value, 6), round(100 * r.reduction.value, 6)) for r in found.rows} <= points


def test_no_name_covers_another_or_a_mark_and_none_leaves_the_panel() -> None:
    study, frames = many(20)
    figure = draw(study, frames)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    scatter = figure.axes[-1]
    boxes = [text.get_window_extent() for text in scatter.texts]
    assert len(boxes) == 22
    inside = scatter.get_window_extent().padded(1)
    assert all(inside.containsx(b.x0) and inside.containsx(b.x1) and inside.containsy(b.y0) for b in boxes)
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.padded(-0.5).overlaps(b.padded(-0.5))]
    marks = [scatter.transData.transform(line.get_xydata()[0]) for line in scatter.lines if len(line.get_xdata()) == 1]
    assert not [(box, mark) for box in boxes for mark in marks if box.contains(*mark)]


def test_names_of_points_at_one_place_do_not_cover_each_other() -> None:
    with styled():
        figure = Figure(figsize=(4, 3))
        axes = figure.subplots()
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        texts = label_points(axes, [(0.5, 0.5)] * 8, [f"name {n}" for n in range(8)], fontsize=6)
        boxes = [text.get_window_extent() for _, text in texts if isinstance(text, Text)]
    assert len(boxes) == 8
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.padded(-0.5).overlaps(b.padded(-0.5))]


def test_a_figure_without_ema_says_so() -> None:
    study = league_study(1, report={"main_model": "small", "emergent_pct": 10, "chosen": {"kl": 1.0}})
    calm = drawn(study, {"misaligned": [(0.01, 0.8)], "kl": [(0.01, 0.8)]})
    assert "EMA did not appear" in draw(study, calm).axes[0].texts[0].get_text()


def test_intervals_are_rounded_outwards() -> None:
    study, frames = many()
    for row, name in product(league(study, *frames, "small").rows, ("retention", "incoherent")):
        low, high = (100 * end for end in row.interval(name) or (0, 0))
        shown = [int(end) for end in interval_words(row, name).strip("()").split("–")]
        assert shown[0] <= low + 1e-9 < shown[0] + 1
        assert shown[1] - 1 < high - 1e-9 <= shown[1]


def summary_of_counts(questions: pl.DataFrame) -> Summary:
    """The rates of counts by question, without intervals."""
    key = ("model", "task", "arm", "setting", "seed", "question_set")
    counted = questions.group_by(*key, maintain_order=True).agg(
        pl.col("responses", "scored", "misaligned", "incoherent", "cut").sum()
    )
    outcomes = ("misaligned", "incoherent")
    shares = [(100 * pl.col(name) / pl.col("scored")).alias(f"{name}_pct") for name in outcomes]
    bounds = [pl.lit(None, pl.Float64).alias(f"{name}_pooled_{end}") for name in outcomes for end in ("low", "high")]
    return Summary(counted.with_columns(*shares, *bounds), pl.DataFrame(schema=EXACT_MATCH_SCHEMA), questions)


def test_the_trade_off_of_many_defences_has_a_panel_each() -> None:
    for number in (MOST_LINES, MOST_LINES + 1):
        study = league_study(number)
        questions, _ = drawn(study, {})
        with styled():
            figure = draw_tradeoff(study, summary_of_counts(questions), ResampledRates(questions, 50))
        panels = [axes for axes in figure.axes if axes.get_visible()]
        if number <= MOST_LINES:
            assert [axes.get_title() for axes in panels] == ["Mean over 2 tasks", "Task 0", "Task 1"]
            continue
        assert len(panels) == number
        assert panels[0].get_title() == "KL, λ = 1"
        for axes in panels:
            grey = [line for line in axes.lines if line.get_color() == "0.85"]
            assert len(grey) == number - 1
