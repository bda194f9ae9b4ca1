"""The figure of a pool's scores: a histogram per arm that chooses by them, a panel per task."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emdefense.analysis.conditions import arm_title
from emdefense.arms.interleave.pools import ScoredPool, read_pools
from emdefense.cells import Cell
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.report.figures.style import COLUMN, PAGE, legend_above, line_styles

COLUMNS = 3
BINS = 50
SHOWN = (0.001, 0.999)  # quantiles between which the axis runs: single rows lie far out


def draw_scores(study: Study, preparations: Mapping[Cell, Path], model: str) -> Figure:
    """Return the figure of a model's pools, seeds together; :class:`InputError` if no pool was scored."""
    pools = [pool for pool in read_pools(study, preparations) if pool.cell.model == model]
    if not pools:
        raise InputError(f"study '{study.study}': no pool has been scored, so there are no scores to draw")
    tasks: dict[str, list[ScoredPool]] = {}
    for pool in pools:
        tasks.setdefault(pool.cell.task, []).append(pool)
    arms = list(dict.fromkeys(pool.cell.arm for pool in pools))
    low, high = map(float, np.quantile([score for pool in pools for score in pool.scores], SHOWN))
    bounds = (low, high) if low < high else (low - 0.5, high + 0.5)
    columns = min(len(tasks), COLUMNS)
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(COLUMN if columns == 1 else PAGE * columns / COLUMNS, 0.5 + 1.7 * rows))
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for axes, (task, group) in zip(grid.flat, tasks.items(), strict=False):
        _draw_task(axes, study, arms, group, bounds)
        axes.set_title(study.tasks[task].title)
    for axes in grid.flat[len(tasks) :]:
        axes.remove()
    for place, axes in enumerate(grid.flat[: len(tasks)]):
        if place % columns == 0:
            axes.set_ylabel("rows of the pool")
        if place + columns >= len(tasks):  # nothing stands below it
            axes.set_xlabel("score")
            axes.tick_params(labelbottom=True)
    handles = {name: handle for axes in grid.flat[: len(tasks)] for handle, name in zip(*_legend(axes), strict=True)}
    legend_above(figure, list(handles.values()), list(handles))
    return figure


def _legend(axes: Axes) -> tuple[list[Artist], list[str]]:
    handles, names = axes.get_legend_handles_labels()
    return list(handles), list(names)


def _draw_task(axes: Axes, study: Study, arms: list[str], group: list[ScoredPool], bounds: tuple[float, float]) -> None:
    for arm, style in zip(arms, line_styles(len(arms)), strict=True):
        found = [pool for pool in group if pool.cell.arm == arm]
        if not found:
            continue
        scores = [score for pool in found for score in pool.scores]
        axes.hist(
            scores,
            bins=BINS,
            range=bounds,
            histtype="step",
            weights=[1 / len(found)] * len(scores),
            label=arm_title(study, arm),
            color=style.color,
            linestyle=style.linestyle,
            linewidth=0.9,
        )
        axes.axvline(min(pool.lowest_kept for pool in found), color=style.color, linewidth=0.6, zorder=2)
    axes.grid(visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
