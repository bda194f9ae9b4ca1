"""What a drawing's marks say and where they lead, kept in its SVG for a page whose script answers to pointer and keys.

Matplotlib writes an artist's gid as the id of its group, and takes any text for one: quoted JSON here, which becomes
the attribute ``data-alive`` and a title, which browsers show without any script. PDF and PNG have nothing of it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import count
from typing import Any
from urllib.parse import quote, unquote

from matplotlib.artist import Artist

from emdefense.analysis.intervals import Interval
from emdefense.arms import MISALIGNED, NO_SETTING

PREFIX = "alive:"
GROUP = re.compile(rf'<g id="{PREFIX}([^"]*)">')
EMPTY = re.compile(rf'<g id="{PREFIX}[^"]*"/>')  # a line without marks in view
MARK = re.compile(r"(<use [^>]*?)/>")


@dataclass(frozen=True)
class Place:
    """Where a mark leads: to the page of a cell, or without a ``task`` to responses side by side.

    ``arms`` are ``arm/setting``, of which the cell has the first; ``reference`` is that beside which they are read.
    """

    model: str
    seed: int
    arms: tuple[str, ...]
    task: str | None = None
    reference: str = f"{MISALIGNED}/{NO_SETTING}"


@dataclass(frozen=True)
class Point:
    """A mark: what it says, line by line, and where it leads."""

    says: tuple[str, ...]
    at: Place


def enliven(artist: Artist, series: str, *points: Point) -> None:
    """Say that an artist belongs to what a reader switches on and off as ``series``; a line has its marks' ``points``.

    Points are those that are drawn, from left to right.
    """
    _keep(artist, {"series": series, "points": [asdict(point) for point in points]})


def enliven_image(artist: Artist, says: dict[str, Any]) -> None:
    """Say what the cells of the one image of some axes are; ``says`` is as figures.js reads it."""
    _keep(artist, {"grid": says})


def percent(value: float, interval: Interval | None = None) -> str:
    """Return a number as a reader sees it beside a mark: ``93.1 % (90.2 to 95.0)``."""
    ends = "" if interval is None else f" ({interval[0]:.1f} to {interval[1]:.1f})"
    return f"{value:.1f} %{ends}".replace("-", "−")


def with_data(svg: str) -> str:
    """Return an SVG that Matplotlib wrote, with what is kept in ids as attributes and titles."""
    svg = EMPTY.sub("", svg)
    numbers, parts, end = count(1), [], 0
    for group in GROUP.finditer(svg):
        following = svg.find('<g id="', group.end())  # what an artist draws has no ids of its own
        following = len(svg) if following < 0 else following
        kept = unquote(group[1])
        parts += [svg[end : group.start()], f'<g id="alive-{next(numbers)}" data-alive="{escape(kept)}">']
        parts.append(_titled(svg[group.end() : following], json.loads(kept).get("points", ())))
        end = following
    return "".join([*parts, svg[end:]])


def _titled(svg: str, points: Sequence[dict[str, Any]]) -> str:
    """Return the text after a group's start, its marks with titles."""
    left = iter(points)

    def titled(found: re.Match[str]) -> str:
        point = next(left)
        return f"{found[1]}><title>{escape(chr(10).join(point['says']))}</title></use>"

    return MARK.sub(titled, svg, count=len(points)) if points else svg


def _keep(artist: Artist, value: dict[str, Any]) -> None:
    artist.set_gid(PREFIX + quote(json.dumps(value, ensure_ascii=False, separators=(",", ":"))))
