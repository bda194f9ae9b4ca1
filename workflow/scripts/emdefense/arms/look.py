"""How an arm is drawn, and the paper's table and figures of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Look:
    """How an arm's line is drawn: a colour, a matplotlib marker and dashes, told apart in grey print too."""

    color: str
    marker: str
    dashes: Any = "-"
    mark: Mapping[str, Any] | None = None  # of what is compared with: matplotlib's keywords of its single mark


@dataclass(frozen=True)
class SweepFigure:
    """A figure of the paper: metrics against the arm's setting, from top to bottom."""

    name: str
    metrics: tuple[str, ...]
    caption: str


@dataclass(frozen=True)
class Sweep:
    """The paper's table and figures of an arm at all of its settings, and what the settings' axis says."""

    table: int
    axis: str
    figures: tuple[SweepFigure, ...] = ()
