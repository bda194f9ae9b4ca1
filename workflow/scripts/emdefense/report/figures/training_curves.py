"""Figures of how trainings went: of each cell, and of the main model's arms side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from emdefense.analysis.conditions import chosen_setting, ema_arms, ema_tasks, titled
from emdefense.arms import NO_SETTING
from emdefense.cells import Cell, Grid
from emdefense.config import Study
from emdefense.layout import Layout
from emdefense.report.figures.nothing import NOTHING
from emdefense.report.figures.style import (
    COLUMN,
    PAGE,
    LineStyle,
    arm_styles,
    legend_above,
    line_styles,
    save,
    say_empty,
    styled,
)
from emdefense.report.figures.training_log import LOG, Curve, TrainingLog, mean_curve

CE, KL = "cross-entropy (nats)", "KL to original\n(nats per token)"


def write_cell_curves(study: Study, formats: Sequence[str] = ("svg",)) -> None:
    """Write ``training.svg``, or other formats, beside the log of every trained cell."""
    with styled():
        for cell in Grid(study).trained:
            folder = Path(Layout(study).cell(cell))
            save(draw_cell(study, cell, TrainingLog(folder / LOG)), folder / "training", formats)


def draw_cell(study: Study, cell: Cell, log: TrainingLog) -> Figure:
    """Return one training's figure: CE, KL to the original model, penalty if it has one, and gradient norms.

    Thin lines are single steps, thick ones their running mean; marks are measurements of single steps.
    """
    penalty = log.curve("penalty")
    penalised = any(penalty.values)
    panels = 4 if penalised else 3
    height = 0.72 + 0.92 * panels
    figure = Figure(figsize=(COLUMN, height))
    figure.set_layout_engine("none")  # placed by hand: solving for it takes most of the time
    figure.text(0.02, 1 - 0.05 / height, _cell_title(study, cell), fontsize=8, va="top")
    places = {"left": 0.12, "right": 0.97, "top": 1 - 0.56 / height, "bottom": 0.36 / height, "hspace": 0.42}
    axes = figure.subplots(panels, 1, sharex=True, gridspec_kw=places)
    first, second, third = line_styles(3)
    _draw_steps(axes[0], log.curve("ce"), second, "Cross-entropy (nats per response token)")
    _draw_measured(axes[1], log.curve("kl"), first, "KL to the original model (nats per token)")
    if penalised:
        _draw_steps(axes[2], penalty, third, "Penalty, before λ")
    _draw_norms(axes[-1], log, penalised)
    axes[-1].set_xlabel("step")
    return figure


def _draw_norms(axes: Axes, log: TrainingLog, penalised: bool) -> None:
    _, second, third = line_styles(3)
    axes.set_yscale("log")
    whole = log.curve("grad_norm").positive()
    axes.plot(whole.steps, whole.values, color="0.55", linewidth=0.7, label="sum")
    if penalised:
        for name, label, style in (
            ("grad_norm_ce", "CE", second),
            ("grad_norm_penalty", "λ · penalty", third),
        ):
            curve = log.curve(name).positive()
            axes.plot(curve.steps, curve.values, label=label, **style.marked(3))
        tight: dict[str, Any] = {
            "columnspacing": 0.9,
            "handlelength": 1.9,
            "handletextpad": 0.4,
            "borderpad": 0,
            "borderaxespad": 0.2,
        }
        axes.legend(loc="lower right", bbox_to_anchor=(1.02, 1.0), ncols=3, fontsize=6.5, **tight)  # beside the title
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    if high < 10 * low:  # perhaps not one power of ten to label
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_minor_formatter("{x:g}")
    _name(axes, "Gradient norm" if penalised else "Gradient norm before clipping")


def _draw_steps(axes: Axes, curve: Curve, style: LineStyle, title: str) -> None:
    smooth = curve.smoothed()
    axes.plot(curve.steps, curve.values, color=style.color, linewidth=0.6, alpha=0.4)
    axes.plot(smooth.steps, smooth.values, color=style.color, linewidth=1.3)
    axes.set_ylim(bottom=0)
    _name(axes, title)


def _draw_measured(axes: Axes, curve: Curve, style: LineStyle, title: str) -> None:
    axes.plot(curve.steps, curve.values, **style.marked(3))
    if not curve.steps:
        say_empty(axes, "not measured (training.diagnostics_every: 0)")
    axes.set_ylim(bottom=0)
    _name(axes, title)


def _name(axes: Axes, title: str) -> None:
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=3))
    axes.set_title(title, loc="left", fontsize=7, pad=3)


def draw_training_curves(study: Study, training_logs: Mapping[Cell, Path]) -> Figure:
    """Return KL to the original model (above) and CE (below) over the steps: a column per task, a line per arm."""
    tasks = ema_tasks(study)
    figure = Figure(figsize=(COLUMN if len(tasks) == 1 else PAGE, 3.4))
    rows = figure.subplots(2, len(tasks), sharex="col", sharey="row", squeeze=False)
    lines = {task: _arms(study, training_logs, task) for task in tasks}
    styles = arm_styles(study)
    for column, task in enumerate(tasks):
        above, below = rows[:, column]
        for arm, logs in lines[task].items():
            kl = mean_curve([log.curve("kl").regular() for log in logs])
            ce = mean_curve([log.curve("ce") for log in logs]).smoothed()
            above.plot(
                kl.steps,
                kl.values,
                label=titled(study, arm, chosen_setting(study, arm) or NO_SETTING),
                **styles[arm].marked(3),
            )
            below.plot(ce.steps, ce.values, color=styles[arm].color, linestyle=styles[arm].linestyle)
        above.set_title(study.tasks[task].title)
        below.set_xlabel("step")
        below.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    for axes, label in zip(rows[:, 0], (KL, CE), strict=True):
        axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
    handles = {name: handle for axes in rows[0] for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    if handles:
        legend_above(figure, list(handles.values()), list(handles))
    else:
        figure.set_gid(NOTHING)
        say_empty(rows[0, 0])
    return figure


def _arms(study: Study, training_logs: Mapping[Cell, Path], task: str) -> dict[str, list[TrainingLog]]:
    """Return the logs, a seed each, of the arms that the main model has on a task, at their chosen settings."""
    model = study.report.main_model
    found: dict[str, list[TrainingLog]] = {arm: [] for arm in ema_arms(study, model)}
    for cell, path in training_logs.items():
        if (cell.model, cell.task, cell.setting) == (model, task, chosen_setting(study, cell.arm)):
            found.setdefault(cell.arm, []).append(TrainingLog(path))
    return {arm: logs for arm, logs in found.items() if logs}


def _cell_title(study: Study, cell: Cell) -> str:
    seed = f", seed {cell.seed}" if len(study.seeds) > 1 else ""
    model, task = study.models[cell.model].title, study.tasks[cell.task].title
    return f"{model}, {task}\n{titled(study, cell.arm, cell.setting)}{seed}"
