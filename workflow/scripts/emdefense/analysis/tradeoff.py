"""What a defence takes of EMA against what it leaves of the narrow task, both relative to the misaligned arm."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from emdefense.analysis.conditions import Condition
from emdefense.analysis.intervals import Interval, percentile_interval
from emdefense.analysis.resampling import ResampledRates
from emdefense.analysis.summary import Summary
from emdefense.arms import MISALIGNED
from emdefense.metrics import GENERAL_MISALIGNED, IN_DOMAIN_MISALIGNED


@dataclass(frozen=True)
class Effect:
    """EMA reduction and in-domain retention in per cent: 100 and 100 is the ideal, 0 and 100 the misaligned arm."""

    reduction: float
    retention: float


@dataclass(frozen=True)
class EffectIntervals:
    """Their 95 % intervals over questions; None where a resample leaves the misaligned arm nothing to divide by."""

    reduction: Interval | None
    retention: Interval | None


def effect(summary: Summary, model: str, tasks: Sequence[str], arm: str, setting: str) -> Effect | None:
    """Return an arm's effect, the mean over ``tasks`` of its rates as shares of the misaligned arm's.

    None if there is no task, or if a rate is missing in any of them. Shares are not capped.
    """
    here = [Condition(model, task, arm, setting) for task in tasks]
    means = []
    for quantity in (GENERAL_MISALIGNED, IN_DOMAIN_MISALIGNED):
        found = [summary.relative_to_misaligned(condition, quantity) for condition in here]
        shares = [share for share in found if share is not None]
        if not shares or len(shares) < len(found):
            return None
        means.append(100 * fmean(shares))
    return Effect(100 - means[0], means[1])


def effect_intervals(
    rates: ResampledRates, model: str, tasks: Sequence[str], arm: str, setting: str
) -> EffectIntervals:
    """Return the percentile bootstrap intervals of :func:`effect` when whole questions are drawn again."""
    remaining = _interval(rates, model, tasks, arm, setting, GENERAL_MISALIGNED)
    return EffectIntervals(
        reduction=None if remaining is None else (100 - remaining[1], 100 - remaining[0]),
        retention=_interval(rates, model, tasks, arm, setting, IN_DOMAIN_MISALIGNED),
    )


def _interval(
    rates: ResampledRates, model: str, tasks: Sequence[str], arm: str, setting: str, quantity: str
) -> Interval | None:
    """Return the interval (%) of the mean over tasks of a rate as a share of the misaligned arm's."""
    shares = []
    for task in tasks:
        mine = rates(Condition(model, task, arm, setting), quantity)
        reference = rates(Condition(model, task, MISALIGNED), quantity)
        if mine is None or reference is None or not reference.all():
            return None
        shares.append(100 * mine / reference)
    return percentile_interval(np.mean(shares, axis=0)) if shares else None
