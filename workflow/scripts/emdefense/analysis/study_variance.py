"""The variance components of every rate of a study."""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emdefense.analysis.agreement import SECOND
from emdefense.analysis.conditions import Condition
from emdefense.analysis.question_groups import groups_of
from emdefense.analysis.variance import Counts, Numbers, Variance, asked_again, judge_variance, variance
from emdefense.arms import UNTRAINED
from emdefense.cells import SHARED_TASK
from emdefense.config.study import QuestionGroups
from emdefense.metrics import JUDGED

KEY = (*Condition._fields, "question_set")
RateKey = tuple[Condition, str]
"""A condition, and a quantity such as ``general_misaligned``."""


def study_variances(
    questions: pl.DataFrame,
    pairs: pl.DataFrame | None = None,
    halves: pl.DataFrame | None = None,
    groups: QuestionGroups = None,
) -> dict[RateKey, Variance]:
    """Return the components of each rate, from ``questions`` (``QUESTIONS_SCHEMA``).

    Those between judges are from ``study_pairs``; or, as far as one judge alone tells them, from ``study_halves``. Only
    questions with at least two scored responses under every seed of a condition count; a rate with fewer than two of
    them is left out. ``groups`` is ``scoring.question_groups``, of which each then counts as one question.
    """
    between = judge_variance if pairs is not None else asked_again
    judgments = pairs if pairs is not None else halves
    judged = {} if judgments is None else _grouped(judgments)
    found = {}
    for key, rows in _grouped(questions).items():
        *condition, question_set = key
        place = key
        if condition[2] == UNTRAINED and key not in judged:
            place = (condition[0], SHARED_TASK, *key[2:])  # the general questions are answered once for all tasks
        for metric in JUDGED:
            if metric.question_set != question_set:
                continue
            of_rate = variance(*_table(rows, metric.outcome, groups))
            if of_rate is None:
                continue
            if place in judged:
                of_rate = replace(of_rate, judges=between(_outcomes(judged[place], metric.outcome, groups)))
            found[Condition(*condition), metric.name] = of_rate
    return found


def _grouped(frame: pl.DataFrame) -> dict[tuple[str, ...], pl.DataFrame]:
    groups = frame.group_by(*KEY, maintain_order=True)
    return {tuple(str(part) for part in key): rows for key, rows in groups}


def _table(rows: pl.DataFrame, outcome: str, groups: QuestionGroups) -> tuple[Counts, Counts, Counts]:
    """Return successes and trials of the questions that count, (questions, seeds), and the group of each."""
    ids, question = _numbered(rows["question_id"])
    seeds, seed = _numbered(rows["seed"])
    tables = []
    for column in (outcome, "scored"):
        table = np.zeros((ids, seeds), np.int64)
        table[question, seed] = rows[column].to_numpy()
        tables.append(table)
    enough = (tables[1] >= 2).all(axis=1)
    names = groups_of(np.unique(rows["question_id"].to_numpy())[enough].tolist(), groups)
    return tables[0][enough], tables[1][enough], _numbered(pl.Series(names, dtype=pl.String()))[1]


def _outcomes(pairs: pl.DataFrame, outcome: str, groups: QuestionGroups) -> list[Numbers]:
    """Return, for each question or group, what all judges made of the responses they scored: (responses, judges)."""
    of_judges = pairs.partition_by("judge", maintain_order=True)
    most = max(rows.height for rows in of_judges)
    complete = [rows for rows in of_judges if rows.height == most]  # these are of the same responses, in one order
    first = complete[0]
    scored = np.logical_and.reduce(
        [first["scored"].to_numpy(), *(rows[f"scored{SECOND}"].to_numpy() for rows in complete)]
    )
    table = np.stack(
        [first[outcome].to_numpy(), *(rows[f"{outcome}{SECOND}"].to_numpy() for rows in complete)], axis=1
    ).astype(np.float64)
    names = groups_of(first["question_id"].to_list(), groups)
    ids, question = _numbered(pl.Series(names, dtype=pl.String()))
    return [table[scored & (question == n)] for n in range(ids)]


def _numbered(values: pl.Series) -> tuple[int, NDArray[Any]]:
    """Return how many different values there are, and the place of each among them."""
    different, places = np.unique(values.to_numpy(), return_inverse=True)
    return len(different), places
