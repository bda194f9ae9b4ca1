"""The paper's marks on rates, each rule one function.

Rates are percentages; rows are defences of one task. Every rule is applied to the rates as printed, to two decimals, so
that a reader can check each mark with nothing but the table.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

from emdefense.analysis.printed import DECIMALS
from emdefense.metrics import GENERAL_MISALIGNED, IN_DOMAIN_MISALIGNED, INCOHERENT, JUDGED, Direction

Rules = Mapping[str, Callable[[float, float], bool]]
"""For a metric, whether a rate is marked beside the misaligned arm's."""
PREVENTED_SHARE = Decimal("0.1")
KEPT_SHARE = Decimal("0.9")

LEGEND = (
    "Underlined: general misaligned rate at least 90 % below the misaligned arm's, or in-domain misaligned rate at "
    "least 90 % of the misaligned arm's. Italic: more incoherent than the misaligned arm. Bold: the task's best "
    "defence in the column. All by the rates as printed."
)


def printed(rate: float) -> Decimal:
    """Return a rate as the tables print it."""
    return Decimal(f"{rate:.{DECIMALS}f}")


def prevents_ema(general_misaligned: float, misaligned_arm: float) -> bool:
    """Whether EMA falls by at least 90 % against the misaligned arm (underlined); never where there is none."""
    return printed(misaligned_arm) > 0 and printed(general_misaligned) <= PREVENTED_SHARE * printed(misaligned_arm)


def keeps_task(in_domain_misaligned: float, misaligned_arm: float) -> bool:
    """Whether in-domain misalignment reaches at least 90 % of the misaligned arm's (underlined)."""
    return printed(misaligned_arm) > 0 and printed(in_domain_misaligned) >= KEPT_SHARE * printed(misaligned_arm)


def loses_coherence(incoherent: float, misaligned_arm: float) -> bool:
    """Whether a rate of incoherence lies above the misaligned arm's (italic)."""
    return printed(incoherent) > printed(misaligned_arm)


def best(rates: Sequence[float | None], direction: Direction) -> list[bool]:
    """Return which rates are the column's best (bold): equal ones equally, missing ones never."""
    shown = [None if rate is None else printed(rate) for rate in rates]
    present = [rate for rate in shown if rate is not None]
    if not present:
        return [False] * len(rates)
    winner = min(present) if direction == "lower" else max(present)
    return [rate == winner for rate in shown]


STANDS_OUT: Rules = {GENERAL_MISALIGNED: prevents_ema, IN_DOMAIN_MISALIGNED: keeps_task}  # underlined
LOSES: Rules = {metric.name: loses_coherence for metric in JUDGED if metric.outcome == INCOHERENT}  # italic
