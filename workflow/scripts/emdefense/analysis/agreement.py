"""How far two judges agree on the same responses: Krippendorff's α, differences of rates, and a confusion table."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emdefense.analysis.intervals import draw_questions, percentile_interval
from emdefense.analysis.rates import outcome_columns
from emdefense.analysis.summary import Estimate
from emdefense.config.study import Scoring
from emdefense.metrics import INCOHERENT, MISALIGNED, OUTCOMES

SCORES = ("alignment", "coherence")
NO_SCORE, NEITHER = "no score", "neither"
CLASSES = (*OUTCOMES, NEITHER, NO_SCORE)
SECOND = "_second"  # suffix of the second judge's columns
NARROW = 10.0  # points by which a threshold is narrowly missed

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """What two judges made of the same responses.

    ``alpha`` has an entry for each of ``SCORES`` and ``OUTCOMES``, None where all values are the same. ``rates`` holds,
    by outcome, both judges' rates (%), ``differences`` the second's less the first's (percentage points); None where a
    judge scored nothing. ``confusion`` counts responses by (class, second judge's class). ``split`` counts those that
    one judge alone calls misaligned; ``narrow`` those of them that the other would have, had its scores been up to
    ``NARROW`` points elsewhere.
    """

    responses: int
    both_scored: int
    alpha: dict[str, Estimate | None]
    rates: dict[str, tuple[float, float] | None]
    differences: dict[str, Estimate | None]
    confusion: Counter[tuple[str, str]]
    split: int
    narrow: int


def pair_judgments(first: pl.DataFrame, second: pl.DataFrame, scoring: Scoring) -> pl.DataFrame:
    """Return a row for each response that both judged: ``question_id``, and each judge's scores and outcomes.

    The columns are ``SCORES``, ``scored``, ``OUTCOMES``, ``class`` and ``narrow``, the second judge's with ``SECOND``.
    """
    marked = [
        judgments.with_columns(*outcome_columns(scoring))
        .with_columns(
            pl.when(~pl.col("scored"))
            .then(pl.lit(NO_SCORE))
            .when(pl.col(MISALIGNED))
            .then(pl.lit(MISALIGNED))
            .when(pl.col(INCOHERENT))
            .then(pl.lit(INCOHERENT))
            .otherwise(pl.lit(NEITHER))
            .alias("class"),
            (
                (pl.col("alignment") < scoring.misaligned_alignment_below + NARROW)
                & (pl.col("coherence") > scoring.misaligned_coherence_above - NARROW)
            )
            .fill_null(False)
            .alias("narrow"),
        )
        .select("id", "question_id", *SCORES, "scored", *OUTCOMES, "class", "narrow")
        for judgments in (first, second)
    ]
    return marked[0].join(marked[1].drop("question_id"), on="id", suffix=SECOND, maintain_order="left")


def agreement(pairs: pl.DataFrame, resamples: int) -> Agreement:
    """Return how far two judges agree on ``pairs``, as from :func:`pair_judgments`; intervals draw whole questions.

    A question is told from others by ``question_id``, so pairs of several tasks need ids that tell these apart.
    """
    _, questions = np.unique(pairs["question_id"].to_numpy(), return_inverse=True)
    drawn = draw_questions(int(questions.max()) + 1, resamples) if pairs.height else np.zeros((0, 0), np.int64)
    values = {name: _values(pairs, name) for name in (*SCORES, *OUTCOMES)}
    rates, differences = {}, {}
    for outcome in OUTCOMES:
        rates[outcome], differences[outcome] = _compare_rates(values[outcome], questions, drawn)
    misaligned, misaligned_second = pl.col(MISALIGNED), pl.col(f"{MISALIGNED}{SECOND}")
    split = pairs.filter(misaligned != misaligned_second)
    return Agreement(
        responses=pairs.height,
        both_scored=pairs.filter(pl.col("scored") & pl.col(f"scored{SECOND}")).height,
        alpha={name: _alpha_estimate(of_judges, questions, drawn) for name, of_judges in values.items()},
        rates=rates,
        differences=differences,
        confusion=Counter(pairs.select("class", f"class{SECOND}").iter_rows()),
        split=split.height,
        narrow=split.filter(pl.col("narrow") & pl.col(f"narrow{SECOND}")).height,
    )


def krippendorff_alpha(values: Numbers) -> float | None:
    """Return Krippendorff's α of (units, judges), NaN where a judge gave none; None if there is no variation.

    The metric is the interval one; for zeros and ones it is the same as the nominal one (Krippendorff 2011, "Computing
    Krippendorff's alpha-reliability").
    """
    found = float(_alpha(_alpha_sums(values).sum(axis=0)))
    return None if np.isnan(found) else found


def _values(pairs: pl.DataFrame, name: str) -> Numbers:
    """Return a column of both judges, (responses, 2); outcomes as zeros and ones, NaN where a judge gave no score."""
    columns = []
    for suffix in ("", SECOND):
        scored = pl.col(name + suffix).cast(pl.Float64)
        if name in OUTCOMES:
            scored = pl.when(pl.col(f"scored{suffix}")).then(scored)
        columns.append(pairs.select(scored).to_series().to_numpy())
    return np.stack(columns, axis=1)


def _alpha_sums(values: Numbers) -> Numbers:
    """Return for each unit what α needs, (units, 4): its pairable values' number, sum, sum of squares, disagreement."""
    present = ~np.isnan(values)
    present &= present.sum(axis=1, keepdims=True) > 1
    # Squares of large numbers would lose the digits that their differences need.
    middle = np.median(values[present]) if present.any() else 0.0
    shifted = np.where(present, values - middle, 0.0)
    number, total, squares = present.sum(axis=1), shifted.sum(axis=1), (shifted**2).sum(axis=1)
    disagreement = 2 * (number * squares - total**2) / np.maximum(number - 1, 1)
    return np.stack([number, total, squares, disagreement], axis=1)


def _alpha(sums: Numbers) -> Numbers:
    """Return 1 - observed / expected disagreement of (..., 4) added-up sums; NaN where nothing varies."""
    number, total, squares, disagreement = np.moveaxis(sums, -1, 0)
    expected = 2 * (number * squares - total**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, 1 - disagreement * (number - 1) / expected, np.nan)


def _alpha_estimate(values: Numbers, questions: NDArray[Any], drawn: NDArray[Any]) -> Estimate | None:
    sums = _by_question(_alpha_sums(values), questions, drawn.shape[1])
    value = float(_alpha(sums.sum(axis=0)))
    resampled = _alpha(drawn @ sums)
    # A draw without variation has no α.
    return None if np.isnan(value) else Estimate(value, cluster=percentile_interval(resampled[~np.isnan(resampled)]))


def _compare_rates(
    values: Numbers, questions: NDArray[Any], drawn: NDArray[Any]
) -> tuple[tuple[float, float] | None, Estimate | None]:
    """Return both judges' rates, each over the responses that it scored, and their difference over the same draws."""
    scored = ~np.isnan(values)
    sums = _by_question(np.concatenate([np.nan_to_num(values), scored], axis=1), questions, drawn.shape[1])

    def shares(totals: Numbers) -> Numbers:
        with np.errstate(invalid="ignore"):
            return 100 * totals[..., :2] / totals[..., 2:]

    first, second = (float(share) for share in shares(sums.sum(axis=0)))
    if np.isnan(first) or np.isnan(second):
        return None, None
    resampled = np.diff(shares(drawn @ sums), axis=-1)
    return (first, second), Estimate(second - first, cluster=percentile_interval(resampled[~np.isnan(resampled)]))


def _by_question(rows: Numbers, questions: NDArray[Any], number: int) -> Numbers:
    """Return the rows added up for each question, (questions, columns)."""
    added = np.zeros((number, rows.shape[1]))
    np.add.at(added, questions, rows)
    return added
