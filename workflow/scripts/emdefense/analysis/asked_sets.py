"""Which further question sets a model is asked, and under which conditions of the grid."""

from collections.abc import Iterator, Sequence

from emdefense.analysis.conditions import Condition, chosen_arms, conditions, ema_arms, ema_tasks, settings
from emdefense.config import Study


def file_sets(study: Study, model: str) -> list[str]:
    """Return the further sets of files that a model is asked."""
    return [name for name in _asked(study, model) if study.question_sets[name].of is None]


def conditional_sets(study: Study, model: str) -> dict[str, list[str]]:
    """Return, for each plain set, the conditional ones of it that a model is asked."""
    found: dict[str, list[str]] = {}
    for name in _asked(study, model):
        if plain := study.question_sets[name].of:
            found.setdefault(plain, []).append(name)
    return found


def conditions_asked(study: Study, model: str, sets: Sequence[str], *, chosen: bool = False) -> Iterator[Condition]:
    """Yield, task by task, a model's conditions that are asked any of the sets; at ``chosen`` settings only, or all."""
    arms = ema_arms(study, model)
    rows = [(arm, setting) for arm in arms for setting in settings(study, model, arm)]
    rows = chosen_arms(study, model) if chosen else rows
    in_grid = set(conditions(study))
    for task in ema_tasks(study, model):
        for arm, setting in rows:
            condition = Condition(model, task, arm, setting)
            if condition in in_grid and any(is_asked(study, condition, name) for name in sets):
                yield condition


def is_asked(study: Study, condition: Condition, name: str) -> bool:
    """Whether the cells of a condition are asked a further set."""
    return study.question_sets[name].is_asked(study, *condition)


def _asked(study: Study, model: str) -> list[str]:
    here = [condition for condition in conditions(study) if condition.model == model]
    ema = [condition for condition in here if condition.task in study.ema_tasks]
    return [name for name in study.question_sets if any(is_asked(study, one, name) for one in ema)]
