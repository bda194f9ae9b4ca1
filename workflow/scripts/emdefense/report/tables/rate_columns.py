"""A measured rate as columns of a table: ours, and beside it what the study's config asks for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from emdefense.analysis.intervals import Interval
from emdefense.analysis.printed import signed
from emdefense.analysis.summary import Estimate
from emdefense.config.study import TableColumn
from emdefense.report.tables.marks import printed
from emdefense.report.tables.table import DASH, Column, TableCell, interval_text, number

SECOND_HAND = "†"
BRACKETS: frozenset[TableColumn] = frozenset({"paper"})
TITLES: dict[TableColumn, str] = {
    "interval": "95 % interval",
    "count": "count",
    "paper": "paper",
    "difference": "diff.",
    "inside": "inside",
    "seeds": "sd",
}
LEGENDS: dict[TableColumn, str] = {
    "interval": "Interval: for questions like these, from a bootstrap over questions.",
    "difference": "Diff.: ours less the paper's, in percentage points.",
    "inside": "Inside: whether the paper's rate lies in our interval.",
    "seeds": "Sd: standard deviation of the seeds' rates.",
}
CSV_BOUNDS = tuple(f"{kind}_{end}" for kind in ("wilson", "cluster") for end in ("low", "high"))
CSV_BESIDE = ("count", "of", "paper_pct", "difference", "inside", "seeds", "seed_sd", "seed_t_low", "seed_t_high")


@dataclass(frozen=True)
class Quantity:
    """What is measured: its name in CSV columns, the heading that it shares with others, and its own."""

    name: str
    group: str
    title: str


@dataclass(frozen=True)
class Rate:
    """One rate (%), how it is set, and the paper's."""

    estimate: Estimate | None
    paper: float | None = None
    second_hand: bool = False  # whether the paper's is known from others only
    bold: bool = False
    italic: bool = False
    underline: bool = False

    @property
    def interval(self) -> Interval | None:
        """Its interval for questions like these."""
        return None if self.estimate is None else self.estimate.cluster

    @property
    def difference(self) -> float | None:
        """Ours less the paper's in percentage points, both as printed."""
        if self.estimate is None or self.paper is None:
            return None
        return float(printed(self.estimate.value) - printed(self.paper))

    @property
    def inside(self) -> str:
        """Whether the paper's rate lies in our interval, both as printed; empty if one of them is missing."""
        if self.interval is None or self.paper is None:
            return ""
        low, high = (printed(bound) for bound in self.interval)
        return "yes" if low <= printed(self.paper) <= high else "no"


def kinds_shown(asked: Sequence[TableColumn], rates: Iterable[Rate]) -> tuple[TableColumn, ...]:
    """Return what stands beside the rates: what is asked for, each once, but for what no rate has."""
    found = list(rates)
    return tuple(kind for kind in dict.fromkeys(asked) if any(_text(rate, kind) for rate in found))


def columns(quantities: Sequence[Quantity], kinds: Sequence[TableColumn]) -> list[Column]:
    """Return the columns: one a quantity, or under each quantity's heading ours and what stands beside it."""
    if BRACKETS.issuperset(kinds):
        return [Column(quantity.title, quantity.group) for quantity in quantities]
    found = []
    for quantity in quantities:
        heading = f"{quantity.group.removesuffix(' (%)')} {quantity.title} (%)".strip()
        found += [Column(title, heading) for title in ("ours", *(TITLES[kind] for kind in kinds))]
    return found


def cells(rate: Rate, kinds: Sequence[TableColumn], footnote: str) -> list[TableCell]:
    """Return a rate's cells; a missing rate is a dash with the letter ``footnote``."""
    ours = TableCell(
        DASH if rate.estimate is None else number(rate.estimate.value),
        bold=rate.bold,
        italic=rate.italic,
        underline=rate.underline,
        hover=interval_text(rate.estimate),
        footnote=footnote if rate.estimate is None else "",
    )
    if BRACKETS.issuperset(kinds):
        return [replace(ours, paper=_text(rate, "paper") if "paper" in kinds else "")]
    return [ours, *(TableCell(_text(rate, kind)) for kind in kinds)]


def remarks(kinds: Sequence[TableColumn], counted: str, paper: str) -> list[str]:
    """Return what the columns mean: ``counted`` is what a count is of, ``paper`` what the paper's rate is of."""
    legends = {**LEGENDS, "count": f"Count: {counted}.", "paper": f"Paper: its rate for {paper}."}
    if tuple(kinds) == ("paper",):
        return [f"In brackets: the paper's rate for {paper}."]
    return [" ".join(legends[kind] for kind in kinds)] if kinds else []


def second_hand_remark(rates: Iterable[Rate]) -> list[str]:
    """Return what the mark of second-hand rates means, if one has it."""
    said = f"{SECOND_HAND} Second-hand: of the paper's later version (v3), read in a summary of it; not in the CSV."
    return [said] if any(rate.second_hand for rate in rates) else []


def seeds_remark(rates: Iterable[Rate]) -> list[str]:
    """Return that rates are of several seeds, if any is; some may have fewer, and the untrained model has one."""
    most = max((rate.estimate.seeds for rate in rates if rate.estimate is not None), default=1)
    return [f"Each rate is of all its seeds together, up to {most}; the CSV says how many."] if most > 1 else []


def csv_header(quantities: Sequence[Quantity], values: Sequence[str]) -> list[str]:
    """Return the CSV columns of some quantities: their ``values``, then what is known beside each."""
    fields = (CSV_BOUNDS, CSV_BESIDE)
    return [*values, *(f"{q.name}_{field}" for group in fields for q in quantities for field in group)]


def csv_row(rates: Sequence[Rate]) -> list[str]:
    """Return the fields of ``csv_header`` of as many rates."""
    values = [number(None if rate.estimate is None else rate.estimate.value) for rate in rates]
    further = [field for fields in (_bounds, _beside) for rate in rates for field in fields(rate)]
    return [*values, *further]


def _bounds(rate: Rate) -> list[str]:
    """Return the fields ``CSV_BOUNDS`` of a rate."""
    found = []
    for interval in (None, None) if rate.estimate is None else (rate.estimate.wilson, rate.estimate.cluster):
        found += ["", ""] if interval is None else [number(bound) for bound in interval]
    return found


def _beside(rate: Rate) -> list[str]:
    """Return the fields ``CSV_BESIDE`` of a rate."""
    ours = rate.estimate
    # A number alone could not say that it is second-hand.
    compared = ("", "", "") if rate.second_hand else (number(rate.paper), number(rate.difference), rate.inside)
    if ours is None:
        return ["", "", *compared, "", "", "", ""]
    counts = ("", "") if ours.successes is None else (str(ours.successes), str(ours.trials))
    spread = (ours.seed_sd, *(ours.seed_interval or (None, None)))
    return [*counts, *compared, str(ours.seeds), *map(number, spread)]


def _text(rate: Rate, kind: TableColumn) -> str:
    """Return what stands beside a rate, empty if there is nothing."""
    ours = rate.estimate
    if kind == "paper":
        return number(rate.paper) + (SECOND_HAND if rate.second_hand else "")
    if kind == "difference":
        return "" if rate.difference is None else signed(rate.difference)
    if kind == "inside":
        return rate.inside
    if kind == "interval":
        return "" if rate.interval is None else "[{}, {}]".format(*map(number, rate.interval))
    if kind == "count":
        return "" if ours is None or ours.successes is None else f"{ours.successes:,}/{ours.trials:,}"
    return "" if ours is None else number(ours.seed_sd)
