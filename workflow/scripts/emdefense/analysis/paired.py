"""Two arms on the same questions: the difference of their rates, its interval, and whether it could be chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from emdefense.analysis.intervals import Interval, draw_questions, percentile_interval

SWAPS = 10_000  # at most; with fewer ways to swap, each is looked at once
SWAP_SEED = 0
_ROUNDING = 1e-12

Counts = NDArray[np.int64]
Sums = NDArray[np.int64] | NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """How often each of two arms did something, of how many responses: an entry a question, none without responses.

    Sums of anything over ``trials`` compare the same way, such as log-probabilities over tokens.
    """

    successes: Sums
    trials: Counts
    other_successes: Sums
    other_trials: Counts

    @property
    def difference(self) -> float:
        """The first arm's share less the other's."""
        return float(self.successes.sum() / self.trials.sum() - self.other_successes.sum() / self.other_trials.sum())

    def interval(self, resamples: int) -> Interval:
        """Return the percentile bootstrap interval of the difference when whole questions are drawn for both at once.

        On clusters and pairs: Miller 2024, "Adding Error Bars to Evals"; on drawing whole clusters: Field and Welsh
        2007, "Bootstrapping clustered data". One question says nothing of another: it may be anything.
        """
        if len(self.trials) < 2:
            return -1.0, 1.0
        drawn = draw_questions(len(self.trials), resamples)
        mine = (drawn @ self.successes) / (drawn @ self.trials)
        return percentile_interval(mine - (drawn @ self.other_successes) / (drawn @ self.other_trials))

    def p_value(self) -> float:
        """Return the two-sided p-value of the permutation test that swaps the arms' responses to whole questions.

        If the arms do not differ, each question could as well have had its two sets of responses the other way round.
        The p-value is the share of all ways to swap whose difference is at least as large as the one found; with more
        than ``SWAPS`` ways, of so many random ones, the one found among them (Phipson and Smyth 2010, "Permutation
        p-values should never be zero").
        """
        swapped = _swaps(len(self.trials))
        successes = self.successes.sum() + swapped @ (self.other_successes - self.successes)
        trials = self.trials.sum() + swapped @ (self.other_trials - self.trials)
        other_successes = self.successes.sum() + self.other_successes.sum() - successes
        other_trials = self.trials.sum() + self.other_trials.sum() - trials
        differences = successes / trials - other_successes / other_trials
        return float(np.mean(np.abs(differences) >= abs(self.difference) - _ROUNDING))

    @property
    def is_exact(self) -> bool:
        """Whether the p-value is over all ways to swap."""
        return bool(2 ** len(self.trials) <= SWAPS)


def smallest_p(questions: int) -> float:
    """Return the smallest p-value that the test has for so many questions: nothing swapped, or everything."""
    return 2 / 2**questions if 2**questions <= SWAPS else 1 / SWAPS


@cache
def _swaps(questions: int) -> NDArray[np.float64]:
    """Return ways to swap, (ways, questions), 1 for a question that is swapped; the first swaps none."""
    if 2**questions <= SWAPS:
        return np.array(np.meshgrid(*[[0.0, 1.0]] * questions, indexing="ij")).reshape(questions, -1).T
    drawn = np.random.default_rng(SWAP_SEED).integers(0, 2, size=(SWAPS, questions)).astype(np.float64)
    drawn[0] = 0
    return drawn


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number by Holm's step-down method (1979), in their order."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
