"""How figures look, and how they become the same bytes every time."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from emdefense.files import written_whole

RC_FILE = Path(__file__).parent / "matplotlibrc"
FORMATS = ("pdf", "svg", "png")
# Dates and versions would make every file differ from the last.
METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}


class LineStyle(NamedTuple):
    """A line told apart by colour, marker and dashes, so that grey print keeps it apart as well."""

    color: str
    marker: str
    linestyle: Any


# Okabe and Ito's palette, ordered so that neighbours differ in lightness too.
LINES = (
    LineStyle("#0072B2", "o", "-"),
    LineStyle("#D55E00", "s", (0, (5, 1.5))),
    LineStyle("#009E73", "^", (0, (1.2, 1.2))),
    LineStyle("#7B3F7D", "D", (0, (5, 1.5, 1.2, 1.5))),
    LineStyle("#B07D00", "v", (0, (3, 1))),
    LineStyle("#3B3B3B", "X", (0, (1, 2))),
    LineStyle("#56B4E9", "P", (0, (8, 2))),
)


def line_styles(count: int) -> list[LineStyle]:
    """Return ``count`` styles, repeating after the seventh."""
    return list(islice(cycle(LINES), count))


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
    for kind in formats:
        content = io.BytesIO()
        figure.savefig(content, format=kind, metadata=METADATA[kind])
        with written_whole(stem.with_name(f"{stem.name}.{kind}")) as temporary:
            temporary.write_bytes(content.getvalue())
