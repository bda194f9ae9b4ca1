"""Names beside points, placed so that none covers another name or a point."""

from collections.abc import Sequence
from math import cos, pi, sin
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

DISTANCES = (6, 10, 15, 21, 28, 36, 45, 56)  # points from the mark
DIRECTIONS = 16
MARK = 4.0  # points, half of what a mark takes
FAR = 12  # points from which a line leads to the mark


def label_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    bars: Sequence[tuple[float, float, float, float]] = (),
    **style: Any,
) -> list[tuple[str, Any]]:
    """Write each name beside its point, as near as there is room; return each with its text, and with a line to it.

    ``bars`` (x and y of both ends) are crossed only where there is no other place. The figure's layout has to be what
    it will be: nothing of this changes it. Where there is no room at all, a name goes where it covers least.
    """
    figure = axes.figure
    canvas = FigureCanvasAgg(figure)  # type: ignore[arg-type]
    canvas.draw()  # type: ignore[no-untyped-call]
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    scale = figure.dpi / 72
    at = axes.transData.transform(np.array(points, dtype=float).reshape(-1, 2))
    taken = [Bbox.from_extents(x - MARK * scale, y - MARK * scale, x + MARK * scale, y + MARK * scale) for x, y in at]
    crossed = [
        Bbox.from_extents(x0 - 1, y0 - 1, x1 + 1, y1 + 1)
        for (x0, y0), (x1, y1) in (axes.transData.transform([bar[:2], bar[2:]]) for bar in bars)
    ]
    inside = axes.get_window_extent(renderer)
    placed: list[tuple[str, Any]] = []
    # The most crowded choose first.
    near = [float(np.sort(np.hypot(*(at - here).T))[1:4].sum()) for here in at]
    for n in sorted(range(len(points)), key=lambda n: (near[n], n)):
        text = axes.annotate(
            names[n], points[n], (0, 0), textcoords="offset points", annotation_clip=False, zorder=5, **style
        )
        text.set_in_layout(False)
        box = text.get_window_extent(renderer)
        best: tuple[float, float, tuple[float, float], Bbox] | None = None
        for distance in DISTANCES:
            for turn in range(DIRECTIONS):
                angle = 2 * pi * turn / DIRECTIONS
                # From the mark to the nearest point of the text's box.
                x, y = distance * cos(angle), distance * sin(angle)
                left = x * scale - (box.width if cos(angle) < -0.4 else box.width / 2 if cos(angle) < 0.4 else 0)
                low = y * scale - box.height * (1 - sin(angle)) / 2
                there = Bbox.from_bounds(at[n][0] + left, at[n][1] + low, box.width, box.height)
                covered = 100 * sum(_overlap(there, other) for other in taken) + 1000 * _outside(there, inside)
                covered += sum(_overlap(there, other) for other in crossed)
                found = (covered, distance, (left / scale, low / scale), there)
                if best is None or found[:2] < best[:2]:
                    best = found
            if best is not None and best[0] == 0:
                break
        assert best is not None
        text.set_position(best[2])
        text.set_horizontalalignment("left")
        text.set_verticalalignment("bottom")
        taken.append(best[3])
        placed.append((names[n], text))
        if best[1] >= FAR:
            placed.append((names[n], _lead(axes, points[n], best[3])))
    return placed


def _lead(axes: Axes, point: tuple[float, float], box: Bbox) -> Any:
    """Draw and return a thin line from a point to the nearest point of its name."""
    here = axes.transData.transform(point)
    end = np.clip(here, (box.x0, box.y0), (box.x1, box.y1))
    x, y = zip(point, axes.transData.inverted().transform(end), strict=True)
    return axes.plot(x, y, color="0.6", linewidth=0.4, zorder=2, scalex=False, scaley=False)[0]


def _overlap(one: Bbox, other: Bbox) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return width * height if width > 0 and height > 0 else 0.0


def _outside(box: Bbox, inside: Bbox) -> float:
    return box.width * box.height - _overlap(box, inside)
