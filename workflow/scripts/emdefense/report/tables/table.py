"""A table as data: cells with marks and footnotes, which templates turn into Markdown, LaTeX, HTML and CSV."""

from dataclasses import dataclass, field
from string import ascii_lowercase

from emdefense.analysis.printed import DECIMALS, points
from emdefense.analysis.summary import Estimate
from emdefense.arms import NO_SETTING

DASH = "–"


@dataclass(frozen=True)
class TableCell:
    """One cell: its text, how it is set, and what stands beside it."""

    text: str
    bold: bool = False
    italic: bool = False
    underline: bool = False
    paper: str = ""  # the paper's value, in brackets
    hover: str = ""  # what a pointer that rests on the cell is told
    footnote: str = ""  # letters


@dataclass(frozen=True)
class Column:
    """A column's heading, the heading that it shares with its neighbours, and whether it holds numbers."""

    title: str
    group: str = ""
    numeric: bool = True


Block = tuple[tuple[TableCell, ...], ...]
"""Rows between two rules."""


@dataclass(frozen=True)
class Table:
    """A whole table; its ``name`` is that of its files, its ``number`` the paper's if the paper has it."""

    title: str
    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]
    csv_header: tuple[str, ...]
    csv_rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = ()
    footnotes: tuple[tuple[str, str], ...] = ()
    title_footnote: str = ""  # letters of the footnotes to the whole table
    name: str = ""
    number: int | None = None
    lead: tuple[str, ...] = ()  # sentences before it


@dataclass
class Footnotes:
    """Hands out letters for footnotes; the same text gets the same letter."""

    texts: list[str] = field(default_factory=list)

    def letter(self, text: str) -> str:
        """Return the letter of a footnote with that text."""
        if text not in self.texts:
            self.texts.append(text)
        return _letter(self.texts.index(text))

    def lettered(self) -> tuple[tuple[str, str], ...]:
        """Return (letter, text) of every footnote."""
        return tuple((_letter(place), text) for place, text in enumerate(self.texts))


def _letter(place: int) -> str:
    """Return a to z, then aa, ab and so on."""
    before, last = divmod(place, len(ascii_lowercase))
    return (_letter(before - 1) if before else "") + ascii_lowercase[last]


def csv_setting(setting: str) -> str:
    """Return a setting as a CSV has it: nothing for arms without one."""
    return "" if setting == NO_SETTING else setting


def number(value: float | None) -> str:
    """Return a rate as printed, empty if it is missing."""
    return "" if value is None else f"{value:.{DECIMALS}f}"


def percent(value: float | None) -> str:
    """Return a share to one decimal with its sign, a dash if it is missing."""
    return DASH if value is None else f"{points(value)} %"


def interval_text(estimate: Estimate | None) -> str:
    """Return the interval for questions like these as a reader sees it, empty if there is none."""
    if estimate is None or estimate.cluster is None:
        return ""
    low, high = estimate.cluster
    return f"95 % interval over questions: {number(low)} to {number(high)}"
