"""How figures look, and how they become the same bytes every time."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from emdefense.analysis.conditions import ema_arms
from emdefense.config import Study
from emdefense.files import written_whole
from emdefense.report.artefact import FORMATS as ALL_FORMATS
from emdefense.report.figures.alive import with_data
from emdefense.report.figures.nothing import NOTHING

COLUMN, PAGE = 3.35, 6.9  # inches: the width of one column of a two-column page, and of both
UNMEASURED = "not measured in this study"
RC_FILE = Path(__file__).parent / "matplotlibrc"
FORMATS = ALL_FORMATS["figure"]
CANVASES = {"pdf": FigureCanvasPdf, "svg": FigureCanvasSVG, "png": FigureCanvasAgg}
# Dates and versions would make every file differ from the last.
METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}


# How much wider or narrower a mark has to be to look as large as a disc.
LOOKS_AS_LARGE = {"^": 1.25, "v": 1.25, "D": 0.9, "X": 1.2, "P": 1.2, "p": 1.15, "h": 1.1}


class LineStyle(NamedTuple):
    """A line told apart by colour, marker and dashes, so that grey print keeps it apart as well."""

    color: str
    marker: str
    linestyle: Any

    def marked(self, size: float) -> dict[str, Any]:
        """Return the keywords with which ``Axes.plot`` draws the line, its marks ``size`` points wide."""
        return {
            "color": self.color,
            "linestyle": self.linestyle,
            "marker": self.marker,
            "markersize": size * LOOKS_AS_LARGE.get(self.marker, 1),
            "markeredgecolor": "white",
            "markeredgewidth": size / 10,
            "clip_on": False,
            "zorder": 3,
        }


# From white to black through ever darker colours: the same order in grey and to the colour-blind.
SEQUENTIAL = "magma_r"
# Okabe and Ito's palette, ordered so that neighbours differ in lightness too.
LINES = (
    LineStyle("#0072B2", "o", "-"),
    LineStyle("#D55E00", "s", (0, (5, 1.5))),
    LineStyle("#009E73", "^", (0, (1.2, 1.2))),
    LineStyle("#7B3F7D", "D", (0, (5, 1.5, 1.2, 1.5))),
    LineStyle("#B07D00", "v", (0, (3, 1))),
    LineStyle("#3B3B3B", "X", (0, (1, 2))),
    LineStyle("#56B4E9", "P", (0, (8, 2))),
    LineStyle("#CC79A7", "p", (0, (4, 1, 1, 1, 1, 1))),
    LineStyle("#8A8A8A", "h", (0, (2, 2))),
)


def line_styles(count: int) -> list[LineStyle]:
    """Return ``count`` styles, repeating after the ninth."""
    return list(islice(cycle(LINES), count))


def arm_styles(study: Study) -> dict[str, LineStyle]:
    """Return each arm's style; variants, and arms that declare no look, have those that no arm of the model needs."""
    declared = {
        name: LineStyle(arm.arm.look.color, arm.arm.look.marker, arm.arm.look.dashes)
        for name, arm in study.every_arm.items()
        if arm.arm.look and arm.of is None
    }
    needed = [declared[arm] for arm in ema_arms(study, study.report.main_model) if arm in declared]
    free = [style for style in LINES if style not in needed] or LINES
    others = [name for name in study.every_arm if name not in declared]
    return declared | dict(zip(others, cycle(free), strict=False))


def legend_above(figure: Figure, handles: Sequence[Artist], names: Sequence[str]) -> None:
    """Put a legend above the panels, in as few rows as the figure's width allows, filled evenly."""
    for rows in range(1, len(names) + 1):
        columns = -(-len(names) // rows)
        legend = figure.legend(handles, names, loc="outside upper center", ncols=columns, columnspacing=1.2)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def say_empty(axes: Axes, why: str = UNMEASURED) -> None:
    """Write into an empty panel why it is empty."""
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)


def empty_figure(why: str) -> Figure:
    """Return a figure that only says why it is empty."""
    figure = Figure(figsize=(COLUMN, COLUMN / 3))
    figure.set_gid(NOTHING)
    axes = figure.subplots()
    axes.set_axis_off()
    say_empty(axes, why)
    return figure


@contextmanager
def styled() -> Iterator[None]:
    """Draw with our style, whatever the user's own matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(matplotlib.rc_params_from_file(RC_FILE, use_default_template=False))
        yield


def save(figure: Figure, stem: Path, formats: Sequence[str] = FORMATS) -> None:
    """Write a figure as PDF, SVG and PNG, or some of them: ``stem`` with each suffix; fonts are embedded."""
    FigureCanvasAgg(figure)
    figure.set_dpi(matplotlib.rcParams["savefig.dpi"])
    if figure.get_constrained_layout():  # which savefig would do anew for each format
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    for kind in formats:
        content = io.BytesIO()
        figure.set_dpi(matplotlib.rcParams["savefig.dpi"])  # the last format may have set its own
        getattr(CANVASES[kind](figure), f"print_{kind}")(content, metadata=METADATA[kind])
        written = content.getvalue()
        if kind == "svg":
            written = with_data(written.decode()).encode()
        with written_whole(stem.with_name(f"{stem.name}.{kind}")) as temporary:
            temporary.write_bytes(written)
