import numpy as np
import pytest
from scipy.stats import binomtest

from emdefense.analysis.intervals import cluster_interval, wilson_interval


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (0, 2400), (1, 240), (17, 30), (2399, 2400), (2400, 2400)])
def test_wilson_equals_scipy(successes: int, trials: int) -> None:
    expected = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
    low, high = wilson_interval(successes, trials)
    assert low == pytest.approx(expected.low, abs=1e-12)
    assert high == pytest.approx(expected.high, abs=1e-12)
    assert 0 <= low <= successes / trials <= high <= 1


def test_cluster_interval_equals_a_bootstrap_written_as_a_loop() -> None:
    random = np.random.default_rng(5)
    successes = random.integers(0, 40, size=24)
    trials = np.full(24, 100)
    shares = []
    for _ in range(20_000):
        drawn = random.integers(0, 24, size=24)
        shares.append(successes[drawn].sum() / trials[drawn].sum())
    low, high = cluster_interval(successes, trials, 20_000)
    assert low == pytest.approx(np.quantile(shares, 0.025), abs=0.003)
    assert high == pytest.approx(np.quantile(shares, 0.975), abs=0.003)


def test_cluster_interval_is_wide_where_questions_differ_and_narrow_where_they_agree() -> None:
    trials = np.full(30, 100)
    divided = cluster_interval(np.repeat([0, 100], 15), trials, 1000)
    agreed = cluster_interval(np.full(30, 50), trials, 1000)
    assert divided[0] < 0.35 < 0.65 < divided[1]
    assert agreed == (0.5, 0.5)


def test_cluster_interval_ignores_questions_without_scores_and_repeats_itself() -> None:
    successes, trials = np.array([3, 0, 7, 0]), np.array([10, 0, 10, 10])
    first = cluster_interval(successes, trials, 500)
    assert first == cluster_interval(successes, trials, 500)
    assert first == cluster_interval(np.array([3, 7, 0]), np.array([10, 10, 10]), 500)


def test_over_questions_like_these_the_clustered_interval_covers_and_wilsons_does_not() -> None:
    # Questions with their own rates, 0.25 in the mean of the population, 24 of them asked 100 times each
    random = np.random.default_rng(9)
    trials, runs = np.full(24, 100), 400
    covered = {"cluster": 0, "wilson": 0}
    for _ in range(runs):
        successes = random.binomial(100, random.beta(1, 3, size=24))
        intervals = {
            "cluster": cluster_interval(successes, trials, 400),
            "wilson": wilson_interval(int(successes.sum()), 2400),
        }
        for kind, (low, high) in intervals.items():
            covered[kind] += low <= 0.25 <= high
    # A percentile bootstrap of 24 clusters covers a little less than 95 %; 400 runs are good to about 1.2 points.
    assert 0.88 <= covered["cluster"] / runs <= 0.97
    assert covered["wilson"] / runs < 0.5
