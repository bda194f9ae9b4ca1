"""Where the error of a rate comes from: which questions were asked, the seed, the sampling, the judge.

A response's outcome is 0 or 1. Its mean over questions q, seeds s and the n samples of each has the random-effects
model y = μ + question_q + seed_s + (question × seed)_qs + sample, and the squared standard error

    σ²_question / Q + σ²_seed / S + σ²_question×seed / (Q S) + σ²_sample / (Q S n).

The components are estimated by the method of moments: mean squares of the two-way crossed layout are set equal to their
expectations (Searle, Casella and McCulloch 1992, "Variance Components", chapter 4), on the unweighted means of the
cells so that numbers of samples may differ. An estimate below 0 is set to 0. On why questions count as drawn: Miller
2024, "Adding Error Bars to Evals".
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]
_ROUNDING = 1e-12


@dataclass(frozen=True)
class JudgeVariance:
    """What another judge would say otherwise.

    ``judge``: of the whole rate, ``by_question``: of a question's rate besides, both variances between judges;
    ``by_response``: what disagreement on single responses adds to the variance of a question's rate. Without ``others``
    this is of one judge that was asked again, and the former two are not known.
    """

    judge: float
    by_question: float
    by_response: float
    set_to_0: tuple[str, ...] = ()
    others: bool = True


@dataclass(frozen=True)
class Variance:
    """The components of a rate's variance; shares, not per cent.

    ``question``, ``seed`` and ``interaction`` are variances between questions, between seeds, and of what is peculiar
    to a question under a seed; the latter two are None with one seed, and ``interaction`` is then part of ``question``.
    ``sampling`` is the mean variance of one question's rate under one seed, were it sampled again. ``set_to_0`` names
    the components whose estimate was below 0. ``judges`` is None with one judge: its share hides in all others. Where
    questions were drawn in groups, a question is a group of them.
    """

    questions: int
    seeds: int
    question: float
    seed: float | None
    interaction: float | None
    sampling: float
    judges: JudgeVariance | None = None
    set_to_0: tuple[str, ...] = ()

    def parts(self, questions: float = 1, seeds: float = 1, samples: float = 1) -> dict[str, float]:
        """Return what ``question``, ``seed``, ``sample`` and ``judge`` add to the rate's squared standard error.

        It is that of a design with so many times the questions, the seeds, or the samples of each question and seed.
        What is peculiar to a question under a seed counts as ``seed``.
        """
        judges = self.judges or JudgeVariance(0, 0, 0)
        q, s = self.questions * questions, self.seeds * seeds
        # One judge's questions and samples differ by what is the judge's, too.
        of_question = max(0.0, self.question - judges.by_question)
        of_sample = max(0.0, self.sampling - self.seeds * judges.by_response)
        return {
            "question": of_question / q,
            "seed": (self.seed or 0) / s + (self.interaction or 0) / (q * s),
            "sample": of_sample / (q * s * samples),
            "judge": judges.judge + judges.by_question / q + judges.by_response / (q * seeds * samples),
        }

    def squared_error(self, questions: float = 1, seeds: float = 1, samples: float = 1) -> float:
        """Return the squared standard error of the rate with so many times the questions, seeds, or samples."""
        return sum(self.parts(questions, seeds, samples).values())


def variance(successes: Counts, trials: Counts, groups: NDArray[np.int64] | None = None) -> Variance | None:
    """Return the components from counts, (questions, seeds); ``trials`` are 2 or more.

    Where ``groups`` says which question is in which, numbered from 0, what was drawn are groups: the rate of one is the
    mean of its questions', and is sampled as these are. None with fewer than two questions, or groups.
    """
    rates = successes / trials
    sampled = rates * (1 - rates) / (trials - 1)
    if groups is not None:
        shares = np.equal.outer(np.unique(groups), groups).astype(np.float64)
        shares /= shares.sum(axis=1, keepdims=True)
        rates, sampled = shares @ rates, shares**2 @ sampled
    questions, seeds = rates.shape
    if questions < 2:
        return None
    sampling = float(np.mean(sampled))
    of_question = rates.mean(axis=1)
    if seeds == 1:
        estimates = {"question": float(np.var(of_question, ddof=1)) - sampling}
    else:
        between_questions, between_seeds, rest = _mean_squares(rates)
        estimates = {
            "question": (between_questions - rest) / seeds,
            "seed": (between_seeds - rest) / questions,
            "interaction": rest - sampling,
        }
    kept, below = _not_below_0(estimates)
    return Variance(
        questions, seeds, kept["question"], kept.get("seed"), kept.get("interaction"), sampling, None, below
    )


def judge_variance(outcomes: list[Numbers]) -> JudgeVariance | None:
    """Return the variance between judges, from what each of them made of the same responses.

    ``outcomes`` has an array (responses, judges) of zeros and ones for each question. Judges and questions are crossed,
    responses within questions; the components follow from mean squares as above. None with fewer than two questions
    of at least two responses.
    """
    tables = [table for table in outcomes if len(table) > 1]
    if len(tables) < 2:
        return None
    rates = np.array([table.mean(axis=0) for table in tables])
    questions = len(rates)
    _, between_judges, rest = _mean_squares(rates)
    disagreement = []
    for table in tables:
        _, _, of_responses = _mean_squares(table)
        disagreement.append(of_responses / len(table))
    by_response = float(np.mean(disagreement))
    kept, below = _not_below_0({"judge": (between_judges - rest) / questions, "judge_question": rest - by_response})
    return JudgeVariance(kept["judge"], kept["judge_question"], by_response, below)


def asked_again(halves: list[Numbers]) -> JudgeVariance | None:
    """Return what one judge says otherwise when asked again, from the outcomes by each half of its answers.

    ``halves`` are as in :func:`judge_variance`. With all answers the variance is taken to be half of that with half.
    """
    found = judge_variance(halves)
    return None if found is None else JudgeVariance(0.0, 0.0, found.by_response / 2, others=False)


def _mean_squares(table: Numbers) -> tuple[float, float, float]:
    """Return the mean squares between rows, between columns, and of the rest, of a table with one value per cell."""
    rows, columns = table.shape
    mean, of_rows, of_columns = table.mean(), table.mean(axis=1), table.mean(axis=0)
    rest = table - of_rows[:, None] - of_columns[None, :] + mean
    return (
        float(columns * np.sum((of_rows - mean) ** 2) / (rows - 1)),
        float(rows * np.sum((of_columns - mean) ** 2) / (columns - 1)),
        float(np.sum(rest**2) / ((rows - 1) * (columns - 1))),
    )


def _not_below_0(estimates: dict[str, float]) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return the estimates, 0 where they are below it, and the names of these; rounding errors are 0."""
    return (
        {name: value if value > _ROUNDING else 0.0 for name, value in estimates.items()},
        tuple(name for name, value in estimates.items() if value < -_ROUNDING),
    )
