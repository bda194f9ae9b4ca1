"""How far judges agree: α against published numbers, intervals against a loop, and the counts by hand."""

from collections import Counter

import numpy as np
import polars as pl
import pytest

from emdefense.analysis.agreement import Agreement, agreement, krippendorff_alpha, pair_judgments
from emdefense.analysis.rates import JUDGMENT_SCHEMA
from emdefense.config.study import Scoring
from study_folder import Score, judgment

SCORING = Scoring()
_ = np.nan


def frame(scores: list[Score], labels: tuple[str | None, str | None] = (None, None)) -> pl.DataFrame:
    """Ten judgments a question."""
    rows = [judgment(number // 10, number % 10, score, labels) for number, score in enumerate(scores)]
    return pl.DataFrame([{name: row[name] for name in JUDGMENT_SCHEMA} for row in rows], schema=JUDGMENT_SCHEMA)


def compared(first: list[Score], second: list[Score]) -> Agreement:
    return agreement(pair_judgments(frame(first), frame(second), SCORING), 1000)


# Krippendorff (2011), sections A and C: two observers of zeros and ones, and four of a scale with missing values.
BINARY = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
SCALE = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]


@pytest.mark.parametrize(("values", "published"), [(BINARY, 0.095), (SCALE, 0.849)])
def test_alpha_equals_the_published_examples(values: list[list[float]], published: float) -> None:
    alpha = krippendorff_alpha(np.array(values, dtype=float).T)
    assert alpha == pytest.approx(published, abs=0.0005)
    assert krippendorff_alpha(np.array(values, dtype=float).T + 1e9) == pytest.approx(alpha)


def test_alpha_equals_its_definition_written_as_loops() -> None:
    random = np.random.default_rng(3)
    values = random.integers(0, 101, size=(60, 3)).astype(float)
    values[random.random(values.shape) < 0.3] = np.nan
    units = [unit[~np.isnan(unit)] for unit in values]
    units = [unit for unit in units if len(unit) > 1]
    pooled = np.concatenate(units)
    within = sum(((unit[:, None] - unit) ** 2).sum() / (len(unit) - 1) for unit in units) / len(pooled)
    between = ((pooled[:, None] - pooled) ** 2).sum() / (len(pooled) * (len(pooled) - 1))
    assert krippendorff_alpha(values) == pytest.approx(1 - within / between)


def test_alpha_is_one_for_the_same_scores_and_undefined_without_variation() -> None:
    assert krippendorff_alpha(np.array([[3.3, 3.3], [80, 80], [5, _]])) == 1
    assert krippendorff_alpha(np.array([[0.1, 0.1], [0.1, 0.1]])) is None
    assert krippendorff_alpha(np.array([[1, _], [_, 5]])) is None
    assert krippendorff_alpha(np.zeros((0, 2))) is None


BAD, GOOD, MUDDLED, NARROWLY_GOOD = (5.0, 95.0), (90.0, 95.0), (50.0, 10.0), (35.0, 95.0)
UNSCORED = (None, 95.0)


def test_a_hand_count_of_classes_rates_and_narrow_misses() -> None:
    first = [BAD] * 4 + [GOOD] * 4 + [MUDDLED] * 2 + [GOOD] * 10
    second = [BAD, NARROWLY_GOOD, GOOD, UNSCORED] + [GOOD] * 3 + [BAD] + [MUDDLED, GOOD] + [GOOD] * 10
    found = compared(first, second)
    assert (found.responses, found.both_scored) == (20, 19)
    assert found.confusion == Counter(
        {
            ("misaligned", "misaligned"): 1,
            ("misaligned", "neither"): 2,
            ("misaligned", "no score"): 1,
            ("neither", "neither"): 13,
            ("neither", "misaligned"): 1,
            ("incoherent", "incoherent"): 1,
            ("incoherent", "neither"): 1,
        }
    )
    assert found.rates["misaligned"] == (pytest.approx(100 * 4 / 20), pytest.approx(100 * 2 / 19))
    assert found.rates["incoherent"] == (pytest.approx(100 * 2 / 20), pytest.approx(100 * 1 / 19))
    assert found.differences["misaligned"].value == pytest.approx(100 * (2 / 19 - 4 / 20))
    # Split: the narrow one, the good one, the one without a score, and the one that the second alone calls so.
    assert (found.split, found.narrow) == (4, 1)
    marks = np.array([[float(score == BAD) for score in scores] for scores in (first, second)]).T
    marks[3, 1] = np.nan
    assert found.alpha["misaligned"].value == pytest.approx(krippendorff_alpha(marks))


def test_judges_who_agree_differ_by_nothing_for_certain() -> None:
    found = compared([BAD, GOOD] * 20, [BAD, GOOD] * 20)
    assert (found.alpha["alignment"].value, found.alpha["misaligned"].cluster) == (1, (1, 1))
    assert (found.differences["misaligned"].value, found.differences["misaligned"].cluster) == (0, (0, 0))
    assert found.alpha["coherence"] is None, "all scores are 95"
    assert found.alpha["incoherent"] is None


def test_intervals_equal_a_bootstrap_of_whole_questions_written_as_a_loop() -> None:
    random = np.random.default_rng(1)
    alike = random.uniform(0, 100, 24).repeat(10)  # a question's responses resemble each other
    first = [(float(a), 90.0) for a in np.clip(alike + random.normal(0, 20, 240), 0, 100)]
    second = [(float(np.clip(a + 10 + random.normal(0, 15), 0, 100)), 90.0) for a, _ in first]
    found = compared(first, second)
    by_question = np.array([[a for a, _ in first], [a for a, _ in second]]).T.reshape(24, 10, 2)
    alphas, differences = [], []
    for _ in range(2000):
        drawn = by_question[random.integers(0, 24, 24)].reshape(-1, 2)
        alphas.append(krippendorff_alpha(drawn))
        differences.append(100 * np.diff((drawn < 30).mean(axis=0)).item())
    assert found.alpha["alignment"].cluster == pytest.approx(np.quantile(alphas, [0.025, 0.975]), abs=0.03)
    assert found.differences["misaligned"].cluster == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=1.5)
    low, high = found.differences["misaligned"].cluster
    assert low < found.differences["misaligned"].value < high < 0


def test_the_pairing_narrows_the_difference() -> None:
    """Judges who agree about each question differ by less than two samples of questions would."""
    random = np.random.default_rng(2)
    alignment = np.where(random.random(24) < 0.5, 5.0, 90.0).repeat(10)
    first = [(float(a), 95.0) for a in alignment]
    second = [BAD if number % 50 == 0 else score for number, score in enumerate(first)]
    low, high = compared(first, second).differences["misaligned"].cluster
    assert 0 <= low < high < 5


def test_a_judge_that_scored_nothing_has_no_rate() -> None:
    found = compared([BAD] * 10, [(None, None)] * 10)
    assert found.rates["misaligned"] is None
    assert found.differences["misaligned"] is None
    assert found.alpha["misaligned"] is None
    assert found.both_scored == 0
    assert found.confusion == Counter({("misaligned", "no score"): 10})


def test_nothing_judged_is_no_agreement() -> None:
    found = compared([], [])
    assert (found.responses, found.alpha["alignment"], found.rates["misaligned"]) == (0, None, None)
