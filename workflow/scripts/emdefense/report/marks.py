"""The paper's marks on rates, each rule one function. Rates are percentages; rows are defences of one task."""

from collections.abc import Sequence
from typing import Literal

Direction = Literal["lower", "higher"]
PREVENTED_SHARE = 0.1
KEPT_SHARE = 0.9
DECIMALS = 2  # of the numbers as printed
_ROUNDING = 1e-9

LEGEND = (
    "Underlined: general misaligned rate at least 90 % below the misaligned arm's, or in-domain misaligned rate at "
    "least 90 % of the misaligned arm's. Italic: more incoherent than the misaligned arm. Bold: the task's best "
    "defence in the column, as printed."
)


def prevents_ema(general_misaligned: float, misaligned_arm: float) -> bool:
    """Whether EMA falls by at least 90 % against the misaligned arm (underlined); never where there is none."""
    return misaligned_arm > 0 and general_misaligned <= PREVENTED_SHARE * misaligned_arm + _ROUNDING


def keeps_task(in_domain_misaligned: float, misaligned_arm: float) -> bool:
    """Whether in-domain misalignment reaches at least 90 % of the misaligned arm's (underlined)."""
    return misaligned_arm > 0 and in_domain_misaligned >= KEPT_SHARE * misaligned_arm - _ROUNDING


def loses_coherence(incoherent: float, misaligned_arm: float) -> bool:
    """Whether a rate of incoherence lies above the misaligned arm's (italic)."""
    return incoherent > misaligned_arm


def best(rates: Sequence[float | None], direction: Direction) -> list[bool]:
    """Return which rates are the column's best (bold): equal as printed, equally bold; missing ones never."""
    printed = [None if rate is None else round(rate, DECIMALS) for rate in rates]
    present = [rate for rate in printed if rate is not None]
    if not present:
        return [False] * len(rates)
    winner = min(present) if direction == "lower" else max(present)
    return [rate == winner for rate in printed]
