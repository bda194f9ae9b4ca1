"""Figures 2a, 2b and 3-5: rates against a defence's setting, a line a task, a column an arm."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emdefense.analysis.conditions import Condition, arm_title, arms_like, ema_tasks, settings
from emdefense.analysis.summary import (
    GENERAL_INCOHERENT,
    GENERAL_MISALIGNED,
    IN_DOMAIN_MISALIGNED,
    Estimate,
    Summary,
)
from emdefense.cells import NO_SETTING
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.report.style import COLUMN, PAGE, LineStyle, legend_above, line_styles, save, say_empty, styled


@dataclass(frozen=True)
class Panel:
    """One pair of axes: the quantity, and what its vertical axis says."""

    quantity: str
    label: str


@dataclass(frozen=True)
class Drawing:
    """A figure: the defence whose settings stand along the horizontal axis, and its panels from top to bottom."""

    arm: str
    axis: str
    panels: tuple[Panel, ...]
    caption: str


GENERAL_PANEL = Panel(GENERAL_MISALIGNED, "general misaligned (%)")
BOTH_PANELS = (GENERAL_PANEL, Panel(IN_DOMAIN_MISALIGNED, "in-domain misaligned (%)"))
DRAWINGS = {
    "2a": Drawing(
        "interleave",
        "interleaved safe data (%)",
        (GENERAL_PANEL,),
        "Emergent misalignment against interleaved safe data",
    ),
    "2b": Drawing(
        "interleave",
        "interleaved safe data (%)",
        (Panel(GENERAL_INCOHERENT, "general incoherent (%)"),),
        "Incoherence against interleaved safe data",
    ),
    "3": Drawing("kl", "KL coefficient λ", BOTH_PANELS, "KL regularisation: misaligned responses against λ"),
    "4": Drawing("ldifs", "LDIFS coefficient λ", BOTH_PANELS, "LDIFS: misaligned responses against λ"),
    "5": Drawing("safelora", "SafeLoRA threshold τ", BOTH_PANELS, "SafeLoRA: misaligned responses against τ"),
}
NAMES = tuple(DRAWINGS)


def write_figure(name: str, study: Study, summary: Summary, folder: Path) -> None:
    """Write ``figure_<name>`` as PDF, SVG and PNG; :class:`InputError` if there is no such figure."""
    if name not in DRAWINGS:
        raise InputError(f"--name {name}: there is no such figure; write one of {', '.join(DRAWINGS)}")
    with styled():
        save(draw(DRAWINGS[name], study, summary), folder / f"figure_{name}")


def draw(drawing: Drawing, study: Study, summary: Summary) -> Figure:
    """Return the figure: a column for the arm and for each variant of it that the grid has.

    Settings are evenly spaced, 0 stands for the misaligned arm, and lines break where a setting was not measured.
    """
    model, tasks = study.report.main_model, ema_tasks(study)
    arms = [arm for arm in arms_like(study, drawing.arm) if arm == drawing.arm or settings(study, model, arm)]
    found = sorted({setting for arm in arms for setting in settings(study, model, arm)}, key=float)
    width = min(PAGE, COLUMN + (len(arms) - 1) * PAGE / 4)
    figure = Figure(figsize=(width, 0.55 + 1.75 * len(drawing.panels)))
    grid = figure.subplots(len(drawing.panels), len(arms), sharex=True, sharey="row", squeeze=False)
    for panels, arm in zip(grid.T, arms, strict=True):
        rows = [("misaligned", NO_SETTING), *((arm, setting) for setting in found)]
        for axes, panel in zip(panels, drawing.panels, strict=True):
            for task, style in zip(tasks, line_styles(len(tasks)), strict=True):
                estimates = [summary.estimate(Condition(model, task, *row), panel.quantity) for row in rows]
                _draw_line(axes, estimates, style, study.tasks[task].title)
            axes.set_ylim(bottom=0)
            axes.margins(x=0.04)
        panels[-1].set_xticks(range(len(rows)), ["0", *found])
        if len(arms) > 1:
            panels[0].set_title(arm_title(arm))
    for axes, panel in zip(grid[:, 0], drawing.panels, strict=True):
        axes.set_ylabel(panel.label)
    axis = f"{drawing.axis}; 0: misaligned arm"
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


def _draw_line(axes: Axes, estimates: Sequence[Estimate | None], style: LineStyle, title: str) -> None:
    """Draw one task: a marked line through the settings next to each other that were measured, a band of intervals."""
    if not any(estimates):
        return
    places = np.arange(len(estimates))
    values = np.array([nan if estimate is None else estimate.value for estimate in estimates])
    bounds = np.array([(nan, nan) if e is None or e.cluster is None else e.cluster for e in estimates])
    axes.plot(places, values, label=title, **style.marked(4))
    axes.fill_between(places, *bounds.T, color=style.color, alpha=0.13, linewidth=0)
    # A band needs two neighbours; what stands alone gets a bar.
    gaps = np.isnan(np.pad(bounds[:, 0], 1, constant_values=nan))
    alone = gaps[:-2] & ~gaps[1:-1] & gaps[2:]
    axes.vlines(places[alone], *bounds[alone].T, color=style.color, linewidth=0.8)
