"""95 % intervals: Wilson for these questions, a clustered bootstrap for questions like these, Student's t for seeds."""

from collections.abc import Sequence
from functools import cache
from math import sqrt
from statistics import NormalDist, fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
BOOTSTRAP_SEED = 0

Interval = tuple[float, float]
Counts = NDArray[np.int64]


def wilson_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Return Wilson's score interval of ``successes / trials``, in [0, 1]; ``trials`` is positive."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    centre = share + z**2 / (2 * trials)
    half_width = z * sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    # At 0 and at all successes a bound is 0 or 1 exactly; rounding must not push it past.
    low = 0.0 if successes == 0 else (centre - half_width) / scale
    high = 1.0 if successes == trials else (centre + half_width) / scale
    return low, high


def cluster_interval(successes: Counts, trials: Counts, resamples: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the percentile bootstrap interval of the pooled share when whole questions are drawn again, in [0, 1].

    ``successes`` and ``trials`` have one entry a question. One question drawn again and again is always itself, and
    says nothing of another: the interval is all of [0, 1].
    """
    asked = trials > 0
    successes, trials = successes[asked], trials[asked]
    if len(trials) < 2:
        return 0.0, 1.0
    drawn = draw_questions(len(trials), resamples)
    return percentile_interval((drawn @ successes) / (drawn @ trials), confidence)


def seed_interval(rates: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """Return Student's t interval of the mean of one rate a seed, for seeds like these; None for fewer than two."""
    if len(rates) < 2:
        return None
    from scipy.special import stdtrit  # not imported by every table and figure

    half_width = float(stdtrit(len(rates) - 1, (1 + confidence) / 2)) * stdev(rates) / sqrt(len(rates))
    return fmean(rates) - half_width, fmean(rates) + half_width


@cache
def draw_questions(questions: int, resamples: int, stream: int = 0) -> Counts:
    """Return how often each of ``questions`` is drawn in each resample, (resamples, questions).

    The seed is fixed, so cells with equally many questions see the same draws; those of another stream are independent.
    """
    generator = np.random.default_rng([BOOTSTRAP_SEED, stream] if stream else BOOTSTRAP_SEED)
    drawn = generator.multinomial(questions, np.full(questions, 1 / questions), size=resamples)
    drawn.setflags(write=False)  # it is kept for the next caller
    return drawn


def percentile_interval(values: NDArray[Any], confidence: float = CONFIDENCE) -> Interval:
    """Return the interval that holds the middle ``confidence`` of resampled values."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
