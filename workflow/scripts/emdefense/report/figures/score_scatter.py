"""The scores of responses, alignment against coherence, in the regions that make them misaligned or incoherent."""

from typing import Any

import numpy as np
import polars as pl
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure

from emdefense.analysis.conditions import chosen_arms, titled
from emdefense.cells import GENERAL
from emdefense.config import Study
from emdefense.config.study import Scoring
from emdefense.metrics import INCOHERENT, MISALIGNED
from emdefense.report.catalogue import SQUARE
from emdefense.report.figures.style import PAGE, SEQUENTIAL, UNMEASURED, empty_figure

COLUMNS = 4
# Without the lightest: white is where nobody answered.
COLOURS = ListedColormap(colormaps[SEQUENTIAL](np.linspace(0.15, 1, 256)))
SMALLEST_SHARE = 0.01  # per cent; what is rarer looks as rare


def draw_score_scatter(study: Study, scores: pl.DataFrame, questions: pl.DataFrame) -> Figure:
    """Return the figure: a panel per arm at its chosen setting.

    ``scores`` (columns of ``SCORES_SCHEMA``) has scores as whole points; the shares that are written down are those of
    the exact scores, from ``questions`` (columns of ``QUESTIONS_SCHEMA``).
    """
    model = study.report.main_model
    of_model = {"model": model, "question_set": GENERAL}
    arms = [arm for arm in chosen_arms(study, model) if not _of(scores, of_model, arm).is_empty()]
    if not arms:
        return empty_figure(UNMEASURED)
    columns = min(len(arms), COLUMNS)
    rows = -(-len(arms) // columns)
    figure = Figure(figsize=(max(PAGE * columns / COLUMNS, PAGE / 2), 0.25 + 1.95 * rows))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    scale = LogNorm(SMALLEST_SHARE, 100, clip=True)
    for place, (axes, arm) in enumerate(zip(grid.flat, arms, strict=False)):
        _draw_squares(axes, _of(scores, of_model, arm), scale)
        _draw_regions(axes, study.scoring)
        axes.set_title(titled(study, *arm), pad=19)
        axes.text(50, 103, _shares(_of(questions, of_model, arm)), ha="center", fontsize=6.5)
        axes.tick_params(labelbottom=place + columns >= len(arms))
    for axes in grid.flat[len(arms) :]:
        axes.remove()
    figure.supxlabel("alignment", fontsize="medium")
    figure.supylabel("coherence", fontsize="medium")
    colours = ScalarMappable(scale, COLOURS)
    shown = list(grid.flat[: len(arms)])
    figure.colorbar(colours, ax=shown, label="responses (%)", format="{x:g}", aspect=30, pad=0.01)
    return figure


def _of(frame: pl.DataFrame, of_model: dict[str, str], arm: tuple[str, str]) -> pl.DataFrame:
    return frame.filter(arm=arm[0], setting=arm[1], **of_model)


def _draw_squares(axes: Axes, scores: pl.DataFrame, scale: LogNorm) -> None:
    edges = np.arange(0, 100 + SQUARE, SQUARE)  # a score of 100 lies in the last square
    alignment, coherence, responses = scores.select("alignment", "coherence", "responses").to_numpy().T
    counts, _, _ = np.histogram2d(coherence, alignment, bins=(edges, edges), weights=responses)
    shares = np.ma.masked_equal(100 * counts / counts.sum(), 0)
    # Not interpolated, an image is a pixel per square in PDF and SVG too: sharp at any size, and small.
    axes.imshow(
        shares, norm=scale, cmap=COLOURS, interpolation="none", origin="lower", extent=(0, 100, 0, 100), zorder=1
    )
    axes.set(xticks=(0, 50, 100), yticks=(0, 50, 100))
    axes.spines[:].set_visible(True)
    axes.grid(visible=False)


def _draw_regions(axes: Axes, scoring: Scoring) -> None:
    low, high = scoring.misaligned_alignment_below, scoring.misaligned_coherence_above
    line: dict[str, Any] = {"color": "0.3", "linewidth": 0.7, "linestyle": (0, (3, 1.5))}
    axes.plot((low, low), (high, 100), **line)
    axes.axhline(scoring.incoherent_coherence_below, **line)
    if high != scoring.incoherent_coherence_below:
        axes.plot((0, low), (high, high), **line)


def _shares(questions: pl.DataFrame) -> str:
    counted = questions.select(pl.col("scored", MISALIGNED, INCOHERENT).sum()).row(0, named=True)
    misaligned, incoherent = (f"{100 * counted[name] / counted['scored']:.1f} %" for name in (MISALIGNED, INCOHERENT))
    return f"misaligned {misaligned}\nincoherent {incoherent}"
