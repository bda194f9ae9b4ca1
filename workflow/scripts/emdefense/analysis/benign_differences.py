"""Benign tasks, arm by arm: what an arm answers right less plain fine-tuning, and less the untrained model."""

from collections.abc import Iterator

import polars as pl

from emdefense.analysis.conditions import Condition, benign_settings, conditions
from emdefense.analysis.differences import Difference, corrected, paired_difference
from emdefense.arms import NO_SETTING, PLAIN, UNTRAINED, in_order
from emdefense.config import Study
from emdefense.metrics import EXACT_MATCH

AGAINST = (PLAIN, UNTRAINED)


def benign_differences(study: Study, benign: pl.DataFrame) -> list[Difference]:
    """Return every arm at its settings on benign tasks less either, on the same questions, as far as both answered.

    ``benign`` is as in ``BENIGN_SCHEMA``. The p-values of a model's arms are corrected within a family: one of the two
    that they are compared with, all benign tasks, arms and settings.
    """
    pooled = benign.group_by(*Condition._fields, "question_id", maintain_order=True).agg(
        pl.col("answers", "correct").sum()
    )
    counts = {
        Condition(*(str(part) for part in key)): rows
        for key, rows in pooled.filter(pl.col("answers") > 0).group_by(*Condition._fields, maintain_order=True)
    }
    found: list[Difference] = []
    for against in AGAINST:
        differences = []
        for condition in asked(study):
            other = condition._replace(arm=against, setting=NO_SETTING)
            if condition.arm != against and condition in counts and other in counts:
                pair = (condition, counts[condition]), (other, counts[other])
                differences.append(paired_difference(*pair, EXACT_MATCH, ("correct", "answers"), study.scoring))
        found += corrected([one for one in differences if one is not None], lambda _: True)
    return found


def asked(study: Study) -> Iterator[Condition]:
    """Yield the conditions that the tables of benign tasks have, model by model and task by task."""
    there = [c for c in conditions(study) if study.tasks[c.task].kind == "benign"]
    for model in dict.fromkeys(c.model for c in there):
        for task in dict.fromkeys(c.task for c in there if c.model == model):
            here = [c for c in there if (c.model, c.task) == (model, task)]
            for arm in (name for name in study.every_arm if any(c.arm == name for c in here)):
                settings = in_order({c.setting for c in here if c.arm == arm})
                shown = benign_settings(study, arm, settings)
                yield from (Condition(model, task, arm, setting) for setting in shown if setting in settings)
