"""How much likelier held-out answers became: a panel for each side, a row an arm, a mark a task."""

from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emdefense.analysis.conditions import titled
from emdefense.arms import UNTRAINED
from emdefense.config import Study
from emdefense.likelihood.read import SIDES
from emdefense.report.figures.style import PAGE, LineStyle, empty_figure, legend_above, line_styles
from emdefense.report.tables.likelihood import TITLES, likelihood_rows

ROW, AROUND = 0.24, 0.75  # inches: an arm, and what stands above and below the panels
SPREAD = 0.62  # of a row's height, over which the marks of tasks lie
SIZE = 3.4  # points

Row = dict[str, Any]


def draw_likelihood(study: Study, likelihood: pl.DataFrame, model: str) -> Figure:
    """Return a model's figure; ``likelihood`` has the columns of ``LIKELIHOOD_SCHEMA``."""
    found = [
        row
        for row in likelihood_rows(study, likelihood, model)
        if row["arm"] != UNTRAINED and row["untrained_difference"] is not None
    ]
    if not found:
        return empty_figure("No arm and the untrained model have read the same answers")
    order = list(study.every_arm)
    arms = sorted(
        dict.fromkeys((row["arm"], row["setting"], row["setting_value"] or 0.0) for row in found),
        key=lambda arm: (order.index(arm[0]), arm[2]),
    )
    places = {(arm, setting): place for place, (arm, setting, _) in enumerate(arms)}
    tasks = [task for task in study.tasks if any(row["task"] == task for row in found)]
    styles = dict(zip(tasks, line_styles(len(tasks)), strict=True))
    sides = [side for side in SIDES if any(row["side"] == side for row in found)]
    figure = Figure(figsize=(PAGE, AROUND + ROW * len(arms)))
    panels = figure.subplots(1, len(sides), sharex=True, sharey=True, squeeze=False)[0]
    for axes, side in zip(panels, sides, strict=True):
        _draw_panel(axes, [row for row in found if row["side"] == side], places, styles)
        axes.set_title(TITLES[side])
    panels[0].set_yticks(range(len(arms)), [titled(study, arm, setting) for arm, setting, _ in arms])
    panels[0].set_ylim(len(arms) - 0.45, -0.55)
    panels[len(panels) // 2].set_xlabel("nats a token, less the untrained model")
    if len(tasks) > 1:
        marks = [Line2D([], [], **_mark(styles[task])) for task in tasks]
        legend_above(figure, marks, [study.tasks[task].title for task in tasks])
    return figure


def _draw_panel(axes: Axes, rows: list[Row], places: dict[tuple[str, str], int], styles: dict[str, LineStyle]) -> None:
    axes.axvline(0, color="0.35", linewidth=0.8, zorder=1)
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    for place in range(0, len(set(places.values())), 2):
        axes.axhspan(place - 0.5, place + 0.5, color="0.96", zorder=0, linewidth=0)
    tasks = list(styles)
    for row in rows:
        shift = 0.0 if len(tasks) == 1 else SPREAD * (tasks.index(row["task"]) / (len(tasks) - 1) - 0.5)
        height, style = places[row["arm"], row["setting"]] + shift, styles[row["task"]]
        if row["untrained_low"] is not None:
            ends = [row["untrained_low"], row["untrained_high"]]
            axes.plot(ends, [height] * 2, color=style.color, linewidth=1.0, solid_capstyle="butt", zorder=2)
        axes.plot(row["untrained_difference"], height, **_mark(style))


def _mark(style: LineStyle) -> dict[str, Any]:
    return {**style.marked(SIZE), "linestyle": ""}
