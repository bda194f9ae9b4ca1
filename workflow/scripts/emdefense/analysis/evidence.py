"""What counts by question say of a quantity that is made of several rates: an estimate, and how far it may be off.

Two errors are worked out, and whatever is said has to hold by both:

- over groups of questions: the linearised quantity differs from group to group, with Student's t for as many groups as
  there are ("infinitesimal jackknife", Efron 1982, chapter 6; a bootstrap over few questions is too narrow);
- of the responses alone, with one more response of either kind added to each rate (Agresti and Caffo 2000, "Simple and
  effective confidence intervals for proportions"): rates that are 0 or 100 % in every question are known no better than
  their number of responses allows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite, sqrt

import numpy as np
from numpy.typing import NDArray

from emdefense.analysis.intervals import Interval

Numbers = NDArray[np.float64]
Quantity = Callable[[Numbers], float]
"""From rates (shares) to what is asked."""
_STEP = 1e-6  # of the numerical derivative


@dataclass(frozen=True)
class Stratum:
    """How often each of some rates' outcomes was seen, of how many responses: (questions, rates).

    ``groups`` numbers the group of each question. Groups are drawn for all rates at once.
    """

    successes: Numbers
    trials: Numbers
    groups: NDArray[np.int64]


@dataclass(frozen=True)
class Error:
    """A centre, a standard error, and the degrees of freedom of its Student's t; infinite where it is normal."""

    centre: float
    standard: float
    freedom: float

    def half_width(self, confidence: float) -> float:
        """Return half of the two-sided interval's width."""
        from scipy.special import stdtrit  # not imported by every table and figure

        return float(stdtrit(min(self.freedom, 1e9), (1 + confidence) / 2)) * self.standard

    def p(self, distance: float) -> float:
        """Return the one-sided p-value of a centre that lies ``distance`` beyond a bound."""
        from scipy.special import stdtr

        if self.standard == 0:
            return 0.0 if distance > 0 else 1.0
        return float(stdtr(min(self.freedom, 1e9), -distance / self.standard))


@dataclass(frozen=True)
class Evidence:
    """An estimate with both of its errors.

    ``groups`` is how many groups of questions it is from, at the fewest. ``sampling`` is the part of the squared error
    over groups that more responses to the same questions would lower; None if questions have one response.
    """

    value: float
    over_groups: Error
    of_responses: Error
    groups: int
    sampling: float | None = None

    @property
    def errors(self) -> tuple[Error, Error]:
        """Both errors."""
        return self.over_groups, self.of_responses

    @property
    def is_known(self) -> bool:
        """Whether it is a number at all: a share of nothing is none."""
        return isfinite(self.value) and all(isfinite(e.centre) and isfinite(e.standard) for e in self.errors)

    def interval(self, confidence: float) -> Interval:
        """Return the interval that holds those of both errors."""
        if not self.is_known:
            return -inf, inf
        widths = [error.half_width(confidence) for error in self.errors]
        return (
            min(error.centre - width for error, width in zip(self.errors, widths, strict=True)),
            max(error.centre + width for error, width in zip(self.errors, widths, strict=True)),
        )

    def p_above(self, bound: float) -> float:
        """Return the one-sided p-value against the quantity being ``bound`` or less, the larger of both errors'."""
        return max(error.p(error.centre - bound) for error in self.errors) if self.is_known else 1.0

    def p_below(self, bound: float) -> float:
        """Return the one-sided p-value against the quantity being ``bound`` or more."""
        return max(error.p(bound - error.centre) for error in self.errors) if self.is_known else 1.0


def evidence(strata: Sequence[Stratum], quantity: Quantity, smooth: Quantity | None = None) -> Evidence:
    """Return what independent strata say of a quantity of all their rates, one stratum's after the other's.

    ``smooth`` is the quantity to differentiate where it has a kink. With one group of questions in a stratum, nothing
    is known of others.
    """
    smooth = smooth or quantity
    with np.errstate(divide="ignore", invalid="ignore"):
        trials = np.concatenate([stratum.trials.sum(axis=0) for stratum in strata])
        successes = np.concatenate([stratum.successes.sum(axis=0) for stratum in strata])
        rates, padded = successes / trials, (successes + 1) / (trials + 2)
        slope = slopes(smooth, rates)
        variance, squares, sampling, groups, first = 0.0, 0.0, 0.0, [], 0
        for stratum in strata:
            here = slice(first, first + stratum.trials.shape[1])
            first = here.stop
            off = (stratum.successes - stratum.trials * rates[here]) @ (slope[here] / trials[here])
            number = int(stratum.groups.max()) + 1
            of_group = np.bincount(stratum.groups, off, number)
            mine = inf if number < 2 else float(of_group @ of_group) * number / (number - 1)
            variance += mine
            squares += mine**2 / max(number - 1, 1)
            within = stratum.successes * (1 - stratum.successes / stratum.trials) / (1 - 1 / stratum.trials)
            sampling += float(np.sum(within * (slope[here] / trials[here]) ** 2))
            groups.append(number)
        freedom = variance**2 / squares if 0 < variance < inf and squares > 0 else float(min(groups) - 1)
        of_padded = slopes(smooth, padded)
        of_responses = float(np.sum(of_padded**2 * padded * (1 - padded) / (trials + 2)))
        value = float(quantity(rates))
        return Evidence(
            value,
            Error(value, sqrt(variance) if variance >= 0 else inf, freedom),
            Error(float(quantity(padded)), sqrt(of_responses) if of_responses >= 0 else inf, inf),
            min(groups),
            sampling if isfinite(sampling) else None,
        )


def slopes(quantity: Quantity, rates: Numbers) -> Numbers:
    """Return the quantity's derivative by each rate."""
    steps = np.eye(len(rates)) * _STEP
    return np.array([(quantity(rates + step) - quantity(rates - step)) / (2 * _STEP) for step in steps])
