"""Settings that are chosen by the data (``report.chosen: {kl: auto}``): on one half of the questions, for the other.

The rule is the league's: the setting with the highest harmonic mean of EMA reduction and in-domain retention, of equal
ones the weaker. A setting that was best by chance on the questions it was chosen on is not flattered by others.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from emdefense.analysis.conditions import automatic, titled
from emdefense.analysis.league import best_setting
from emdefense.analysis.league.halves import halves
from emdefense.analysis.question_counts import QuestionCounts
from emdefense.analysis.rates import rates_of
from emdefense.analysis.summary import Summary
from emdefense.analysis.verdicts import Verdicts
from emdefense.cells import GENERAL
from emdefense.config import Study
from emdefense.config.study import AUTO, QuestionGroups


@dataclass(frozen=True)
class Choice:
    """A study with a setting in place of each ``auto``, and the counts at the questions that had no part in it.

    Where EMA did not appear, or a defence was not measured, none is chosen. ``said`` is for beside what is shown.
    """

    study: Study
    questions: pl.DataFrame
    said: str

    def summary(self, exact_match: pl.DataFrame) -> Summary:
        """Return the rates at those questions; benign tasks', on which nothing is chosen, are whole."""
        return Summary(rates_of(self.questions, self.study.scoring), exact_match, self.questions)


def choose(study: Study, questions: pl.DataFrame) -> Choice:
    """Choose on the first half of the main model's questions; ``questions`` is as in ``QUESTIONS_SCHEMA``."""
    is_first = _in_first_half(questions, study.scoring.question_groups)
    first, second = questions.filter(is_first), questions.filter(~is_first)
    model = study.report.main_model
    tasks = Verdicts(study, QuestionCounts.of(questions, study.scoring.question_groups)).readable(model)
    found = {arm: best_setting(study, first, model, arm, tasks) if tasks else None for arm in automatic(study)}
    chosen = {arm: setting for arm, setting in study.report.chosen.items() if setting != AUTO}
    chosen |= {arm: float(setting) for arm, setting in found.items() if setting is not None}
    report = study.report.model_copy(update={"chosen": chosen})
    return Choice(study.model_copy(update={"report": report}), second, _said(study, found))


def _in_first_half(questions: pl.DataFrame, groups: QuestionGroups) -> pl.Series:
    """Return whether each row is of a question of the first half of its set; those in domain are divided by task."""
    first = np.zeros(questions.height, dtype=bool)
    names, tasks = questions["question_set"].to_numpy(), questions["task"].to_numpy()
    ids = questions["question_id"].to_numpy()
    for name in np.unique(names):
        for task in [None] if name == GENERAL else np.unique(tasks[names == name]):
            here = (names == name) & (True if task is None else tasks == task)
            asked = sorted(set(ids[here]))
            chosen = [one for one, half in zip(asked, halves(asked, groups), strict=True) if half == 0]
            first |= here & np.isin(ids, chosen)
    return pl.Series(first)


def _said(study: Study, found: dict[str, str | None]) -> str:
    chosen = [titled(study, arm, setting) for arm, setting in found.items() if setting is not None]
    if not chosen:
        return "No setting could be chosen by the data: EMA is not known to have appeared, or nothing was measured."
    title = study.models[study.report.main_model].title
    return (
        f"Chosen by the data: {'; '.join(chosen)}, on one half of the questions of {title} (highest harmonic mean of "
        "EMA reduction and in-domain retention). What is shown is of the other half, for every arm."
    )
