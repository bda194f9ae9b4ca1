"""The league in pictures: every defence's numbers with their intervals, and what it prevents against what it leaves."""

from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emdefense.analysis.conditions import arm_title, ema_tasks
from emdefense.analysis.league import League, Row, league
from emdefense.analysis.question_counts import QuestionCounts
from emdefense.analysis.verdicts import Verdicts
from emdefense.arms import MISALIGNED
from emdefense.config import Study
from emdefense.report.figures.alive import Place, Point, enliven, percent
from emdefense.report.figures.labels import label_points
from emdefense.report.figures.style import PAGE, LineStyle, arm_styles, empty_figure
from emdefense.report.figures.tradeoff import REDUCTION, REFERENCES, RETENTION, why_empty
from emdefense.report.tables.league import rank_words, setting_words

LINE = 0.155  # inches a defence takes
TITLES = {
    "reduction": "EMA reduction (%)",
    "retention": "in domain (%)",
    "benign": "benign (%)",
    "incoherent": "incoherent (%)",
}
SAID = {
    "reduction": "EMA reduction",
    "retention": "in-domain retention",
    "benign": "benign",
    "incoherent": "incoherent",
}
AROUND, BELOW, SIDE = 0.55, 0.6, 3.3  # inches: around the upper panels, between, and the height of the lower one
SIZE, SMALLER = 4.6, 3.6  # points: width of marks, below and above


def draw_league(study: Study, questions: pl.DataFrame, benign_questions: pl.DataFrame, model: str) -> Figure:
    """Return the figure: above a panel a measure that share a row a defence, best first; below, two of them."""
    found = league(study, questions, benign_questions, model)
    if not found.rows:
        verdicts = Verdicts(study, QuestionCounts.of(questions, study.scoring.question_groups))
        return empty_figure(
            "No defence was measured on all tasks"
            if found.tasks
            else why_empty([verdicts.ema(model, task) for task in ema_tasks(study)])
        )
    rows = [*found.rows, *([] if found.plain is None else [found.plain])]
    measures = [name for name in TITLES if any(row.measure(name) for row in rows)]
    above = AROUND + LINE * len(rows)
    figure = Figure(figsize=(PAGE, above + BELOW + SIDE))
    outer = figure.add_gridspec(2, 1, height_ratios=[above, BELOW + SIDE])
    inner = outer[0].subgridspec(1, len(measures) + 1, width_ratios=[0.28, *[1] * len(measures)], wspace=0.08)
    first = figure.add_subplot(inner[0])
    panels = [figure.add_subplot(inner[n + 1], sharey=first) for n in range(len(measures))]
    styles = arm_styles(study)
    _draw_ranks(first, study, found, rows)
    for axes, name in zip(panels, measures, strict=True):
        _draw_measure(axes, study, name, rows, found, styles)
    scatter = figure.add_subplot(outer[1])
    _draw_scatter(scatter, study, found, styles)
    return figure


def _names(study: Study, rows: list[Row]) -> list[str]:
    return [", ".join(filter(None, (arm_title(study, row.arm), setting_words(study, row)))) for row in rows]


def _draw_ranks(axes: Axes, study: Study, found: League, rows: list[Row]) -> None:
    """Write each row's name and its rank."""
    axes.set_yticks(range(len(rows)), _names(study, rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_title("rank", fontsize=7)
    axes.tick_params(length=0, labelbottom=False)
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
    for n, rank in enumerate(found.ranking.ranks):
        axes.text(0.5, n, rank_words(rank), ha="center", va="center", fontsize=7)


def _point(study: Study, found: League, n: int, row: Row, *names: str) -> Point:
    """Return what a row's mark says of some of its measures, and where it leads."""
    rank = () if n >= len(found.rows) else (f"rank {rank_words(found.ranking.ranks[n])}",)
    measured = [(name, row.measure(name), row.interval(name)) for name in names]
    numbers = [
        f"{SAID[name]} {percent(100 * measure.value, ends and (100 * ends[0], 100 * ends[1]))}"
        for name, measure, ends in measured
        if measure is not None
    ]
    task = found.tasks[0] if len(found.tasks) == 1 else None
    arms = tuple(f"{row.arm}/{setting}" for setting in row.chosen)
    return Point((*_names(study, [row]), *rank, *numbers), Place(found.model, study.seeds[0], arms, task))


def _draw_measure(
    axes: Axes, study: Study, name: str, rows: list[Row], found: League, styles: dict[str, LineStyle]
) -> None:
    axes.set_title(TITLES[name], fontsize=7)
    axes.tick_params(labelleft=False, left=False)
    axes.grid(axis="x")
    for n, row in enumerate(rows):
        measure, ends = row.measure(name), row.interval(name)
        if measure is None:
            continue
        bar: dict[str, Any] = {"color": "0.45", "linewidth": 1.0, "zorder": 2, "solid_capstyle": "butt"}
        if ends is not None:
            enliven(axes.plot([100 * end for end in ends], [n, n], **bar)[0], arm_title(study, row.arm))
        (mark,) = axes.plot(100 * measure.value, n, **_mark(styles[row.arm], found, n, SMALLER))
        enliven(mark, arm_title(study, row.arm), _point(study, found, n, row, name))
    low, high = axes.get_xlim()
    if name == "incoherent":
        axes.set_xlim(left=0)
    else:
        axes.set_xlim(max(min(-4.0, low), -60), max(100.0, high))
        axes.set_xticks([0, 50, 100])
    if len(rows) > len(found.rows):
        axes.axhline(len(found.rows) - 0.5, color="0.75", linewidth=0.5)


def _mark(style: LineStyle, found: League, n: int, size: float) -> dict[str, Any]:
    """Return the keywords of a row's mark: filled on the front, with a black edge if surely."""
    if n >= len(found.rows):
        return {"linestyle": "", **REFERENCES[MISALIGNED], "clip_on": False, "zorder": 3, "markersize": size}
    marked = {**style.marked(size), "linestyle": "", "markeredgewidth": 0.9, "markeredgecolor": style.color}
    if not found.ranking.on_front[n]:
        marked["markerfacecolor"] = "white"
    if found.ranking.surely_on_front(n):
        marked["markeredgecolor"] = "black"
    return marked


def _draw_scatter(axes: Axes, study: Study, found: League, styles: dict[str, LineStyle]) -> None:
    points, bars = [], []
    bar: dict[str, Any] = {"color": "0.72", "linewidth": 0.7, "zorder": 1.5, "solid_capstyle": "butt"}
    for n, row in enumerate(found.rows):
        series = arm_title(study, row.arm)
        x, y = 100 * row.retention.value, 100 * row.reduction.value
        points.append((x, y))
        across, up = row.interval("retention"), row.interval("reduction")
        if across is not None:
            enliven(axes.plot([100 * end for end in across], [y, y], **bar)[0], series)
            bars.append((100 * across[0], y, 100 * across[1], y))
        if up is not None:
            enliven(axes.plot([x, x], [100 * end for end in up], **bar)[0], series)
            bars.append((x, 100 * up[0], x, 100 * up[1]))
        (mark,) = axes.plot(x, y, **_mark(styles[row.arm], found, n, SIZE))
        enliven(mark, series, _point(study, found, n, row, "reduction", "retention"))
    (mark,) = axes.plot(100, 0, **_mark(styles[MISALIGNED], found, len(found.rows), SIZE))
    of_plain = () if found.plain is None else (_point(study, found, len(found.rows), found.plain),)
    enliven(mark, arm_title(study, MISALIGNED), *of_plain)
    axes.plot(100, 100, "*", color="0.35", markersize=7, clip_on=False, zorder=2)
    names = [arm_title(study, row.arm) for row in found.rows]
    axes.grid(axis="x")
    low = min([0.0, *(y for _, y in points)]) - 6
    axes.set_xlim(min([100.0, *(x for x, _ in points)]) - 12, 108)  # room for labels at the left
    axes.set_ylim(max(low, -60), 108)
    axes.set_xlabel(RETENTION)
    axes.set_ylabel(REDUCTION)
    every = [*points, (100.0, 0.0), (100.0, 100.0)]
    names.append(arm_title(study, MISALIGNED))
    for name, drawn in label_points(axes, every, [*names, "ideal"], bars, fontsize=6.5):
        if name in names:
            enliven(drawn, name)
