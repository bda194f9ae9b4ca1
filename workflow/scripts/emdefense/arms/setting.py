"""The number that a grid sweeps of an arm, and how it is written."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

NO_SETTING = "none"


@dataclass(frozen=True)
class Setting:
    """The number that a grid sweeps: what it is called, and between which bounds it lies."""

    name: str = "coefficient"  # in specs
    symbol: str = "λ"
    low: float = 0.0
    high: float = inf
    above_low: bool = False  # whether the lower bound is left out
    why: str = ""  # the bounds are what they are
    whole: bool = False  # whether it is a whole number

    def problem(self, value: float) -> str | None:
        """Return what is wrong with a value; None if it lies within the bounds."""
        if self.whole and value != int(value):
            return f"{self.symbol} = {format_setting(value)} is no whole number; write one"
        if self.low < value <= self.high or (value == self.low and not self.above_low and str(value)[0] != "-"):
            return None
        shown, percentage = format_setting(value) if value else f"{value:g}", self.symbol == "%"
        if str(value)[0] == "-" and self.low >= 0:
            what = "the percentage" if percentage else self.symbol
            return f"{what} = {shown} is negative; write {self.low:g} or more"
        bounds = f"{'(' if self.above_low else '['}{self.low:g}, {self.high:g}]"
        said = (
            f"{shown} is not a percentage in {bounds}"
            if percentage
            else f"{self.symbol} = {shown} lies outside {bounds}"
        )
        return "; ".join(filter(None, (said, self.why)))

    def titled(self, setting: str) -> str:
        """Return a value as a reader sees it: ``λ = 0.1``, ``5 %``."""
        return f"{setting} %" if self.symbol == "%" else f"{self.symbol} = {setting}"


def format_setting(setting: float | None) -> str:
    """Return a setting as it stands in paths and tables: ``0.1``, ``5``, or ``none``; two that differ, differently."""
    if setting is None:
        return NO_SETTING
    setting = float(setting) + 0.0  # −0 is 0
    short = f"{setting:g}"
    return short if float(short) == setting else repr(setting).removesuffix(".0")


def in_order(settings: Iterable[str]) -> list[str]:
    """Return settings as paths have them, each once: without a number first, then by their numbers."""
    return sorted(set(settings), key=lambda setting: 0.0 if setting == NO_SETTING else float(setting))
