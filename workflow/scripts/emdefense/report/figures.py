"""Figures 2a, 2b and 3-5: rates against a defence's setting, a line a task."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emdefense.analysis.conditions import Condition, ema_tasks, settings
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
from emdefense.report.style import LineStyle, line_styles, save, styled


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
    """Return the figure; settings are evenly spaced, and 0 stands for the misaligned arm."""
    model = study.report.main_model
    found = settings(study, model, drawing.arm)
    rows = [("misaligned", NO_SETTING), *((drawing.arm, setting) for setting in found)]
    labels = ["0", *found]
    tasks = ema_tasks(study)
    height = 0.55 + 1.75 * len(drawing.panels)
    figure = Figure(figsize=(3.35, height))
    panels = figure.subplots(len(drawing.panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(panels, drawing.panels, strict=True):
        for task, style in zip(tasks, line_styles(len(tasks)), strict=True):
            estimates = [summary.estimate(Condition(model, task, *row), panel.quantity) for row in rows]
            _draw_line(axes, estimates, style, study.tasks[task].title)
        axes.set_ylabel(panel.label)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.04)
    panels[-1].set_xticks(range(len(labels)), labels)
    panels[-1].set_xlabel(f"{drawing.axis}; 0: misaligned arm")
    handles, names = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside upper center", ncols=min(len(handles), 4), columnspacing=1.2)
    else:
        panels[0].text(0.5, 0.5, "not measured in this study", ha="center", transform=panels[0].transAxes)
    return figure


def _draw_line(axes: Axes, estimates: list[Estimate | None], style: LineStyle, title: str) -> None:
    """Draw one task: a marked line over the settings that were measured, and a band of its intervals."""
    measured = [(x, estimate) for x, estimate in enumerate(estimates) if estimate is not None]
    if not measured:
        return
    axes.plot(
        [x for x, _ in measured],
        [estimate.value for _, estimate in measured],
        label=title,
        color=style.color,
        marker=style.marker,
        linestyle=style.linestyle,
        markeredgecolor="white",
        markeredgewidth=0.4,
        clip_on=False,
        zorder=3,
    )
    bands = [(x, estimate.cluster) for x, estimate in measured if estimate.cluster is not None]
    axes.fill_between(
        [x for x, _ in bands],
        [low for _, (low, _) in bands],
        [high for _, (_, high) in bands],
        color=style.color,
        alpha=0.13,
        linewidth=0,
    )
