"""Figures 2a, 2b and 3-5: rates against a defence's setting, a line per task, a column per arm."""

from collections.abc import Sequence
from math import nan

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emdefense.analysis.conditions import Condition, arm_title, arms_like, ema_tasks, settings, titled
from emdefense.analysis.summary import Estimate, Summary
from emdefense.arms import MISALIGNED, NO_SETTING, in_order
from emdefense.config import Study
from emdefense.metrics import METRICS
from emdefense.report.figures.alive import Place, Point, enliven, percent
from emdefense.report.figures.style import COLUMN, PAGE, LineStyle, legend_above, line_styles, say_empty


def draw_sweep(study: Study, summary: Summary, arm: str, axis: str, metrics: Sequence[str]) -> Figure:
    """Return the figure of metrics, from top to bottom, against the main model's settings of an arm, along ``axis``.

    It has a column for the arm and for each variant of it with two settings or more: one by itself shows no course.

    Settings are evenly spaced, 0 stands for the misaligned arm, and lines break where a setting was not measured.
    """
    model, tasks = study.report.main_model, ema_tasks(study)
    arms = [one for one in arms_like(study, arm) if one == arm or len(settings(study, model, one)) > 1]
    found = in_order(setting for one in arms for setting in settings(study, model, one))
    width = min(PAGE, COLUMN + (len(arms) - 1) * PAGE / 4)
    figure = Figure(figsize=(width, 0.55 + 1.75 * len(metrics)))
    grid = figure.subplots(len(metrics), len(arms), sharex=True, sharey="row", squeeze=False)
    for panels, one in zip(grid.T, arms, strict=True):
        rows = [(MISALIGNED, NO_SETTING), *((one, setting) for setting in found)]
        for axes, metric in zip(panels, metrics, strict=True):
            for task, style in zip(tasks, line_styles(len(tasks)), strict=True):
                estimates = [summary.estimate(Condition(model, task, *row), metric) for row in rows]
                points = [
                    _point(study, Condition(model, task, *row), metric, estimate)
                    for row, estimate in zip(rows, estimates, strict=True)
                    if estimate is not None
                ]
                _draw_line(axes, estimates, style, study.tasks[task].title, points)
            axes.set_ylim(bottom=0)
            axes.margins(x=0.04)
        panels[-1].set_xticks(range(len(rows)), ["0", *found])
        if len(arms) > 1:
            panels[0].set_title(arm_title(study, one))
    for axes, metric in zip(grid[:, 0], metrics, strict=True):
        axes.set_ylabel(f"{METRICS[metric].title} (%)")
    axis = f"{axis}; 0: misaligned arm"
    if len(arms) == 1:
        grid[-1, 0].set_xlabel(axis)
    else:
        figure.supxlabel(axis, fontsize="medium")
    lines = {line.get_label(): line for axes in grid[0] for line in axes.lines}
    if lines:
        legend_above(figure, list(lines.values()), [str(name) for name in lines])
    else:
        say_empty(grid[0, 0])
    return figure


def _point(study: Study, at: Condition, metric: str, found: Estimate) -> Point:
    of = "" if found.trials is None else f", {found.successes} of {found.trials}"
    what = f"{METRICS[metric].title} {percent(found.value, found.cluster)}{of}"
    says = (titled(study, at.arm, at.setting), study.tasks[at.task].title, what)
    return Point(says, Place(at.model, study.seeds[0], (f"{at.arm}/{at.setting}",), at.task))


def _draw_line(
    axes: Axes, estimates: Sequence[Estimate | None], style: LineStyle, title: str, points: Sequence[Point]
) -> None:
    """Draw one task: a marked line through the settings next to each other that were measured, a band of intervals."""
    if not any(estimates):
        return
    places = np.arange(len(estimates))
    values = np.array([nan if estimate is None else estimate.value for estimate in estimates])
    bounds = np.array([(nan, nan) if e is None or e.cluster is None else e.cluster for e in estimates])
    (line,) = axes.plot(places, values, label=title, **style.marked(4))
    enliven(line, title, *points)
    enliven(axes.fill_between(places, *bounds.T, color=style.color, alpha=0.13, linewidth=0), title)
    # A band needs two neighbours; what stands alone gets a bar.
    gaps = np.isnan(np.pad(bounds[:, 0], 1, constant_values=nan))
    alone = gaps[:-2] & ~gaps[1:-1] & gaps[2:]
    enliven(axes.vlines(places[alone], *bounds[alone].T, color=style.color, linewidth=0.8), title)
