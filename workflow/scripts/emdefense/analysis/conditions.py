"""Which conditions a table, figure or claim is about: cells without their seeds."""

from typing import Literal, NamedTuple

from emdefense.arms import NO_SETTING, format_setting, in_order
from emdefense.cells import Grid
from emdefense.config import Study
from emdefense.config.chosen import AUTO
from emdefense.config.chosen import chosen_setting as chosen_setting
from emdefense.config.paper_model import Size, paper_model

Role = Literal["main", "second"]
IN_PAPER: dict[Size, Role] = {"7b": "main", "32b": "second"}


class Condition(NamedTuple):
    """A cell without its seed."""

    model: str
    task: str
    arm: str
    setting: str = NO_SETTING


def ema_tasks(study: Study, model: str | None = None) -> list[str]:
    """Return the study's EMA tasks, or those that the grid has for a model, in the order of the config."""
    tasks = study.ema_tasks
    if model is None:
        return tasks
    in_grid = {c.task for c in conditions(study) if c.model == model}
    return [task for task in tasks if task in in_grid]


def ema_models(study: Study) -> list[str]:
    """Return the models that the grid has on EMA tasks, in the order of the config."""
    tasks = set(ema_tasks(study))
    found = {c.model for c in conditions(study) if c.task in tasks}
    return [model for model in study.models if model in found]


def model_in_role(study: Study, role: Role) -> str | None:
    """Return the model that fills the main tables, or the second one's (the paper's 7B and 32B)."""
    return study.report.main_model if role == "main" else study.report.second_model


def role_in_paper(study: Study, model: str | None) -> Role | None:
    """Return the role that the paper's model has there for which one stands; None for a model of one's own."""
    size = None if model is None else paper_model(study, model)
    return None if size is None else IN_PAPER[size]


def model_of_claim(study: Study, role: Role) -> str | None:
    """Return the model that a claim about the paper's main or second model is about here.

    It is the one that stands for the paper's model; where none does, the one in its place, unless that stands for the
    other of the paper's models.
    """
    in_place = model_in_role(study, role)
    standing = [model for model in study.models if role_in_paper(study, model) == role]
    if standing:
        return in_place if in_place in standing else standing[0]
    return in_place if role_in_paper(study, in_place) is None else None


def automatic(study: Study) -> list[str]:
    """Return the defences whose settings are to be chosen by the data."""
    return [arm for arm, setting in study.report.chosen.items() if setting == AUTO]


def chosen_condition(study: Study, role: Role, task: str, arm: str) -> Condition | None:
    """Return an arm's condition at its chosen setting; None if the study has no such model, arm or setting."""
    model = model_in_role(study, role)
    setting = chosen_setting(study, arm) if arm in study.every_arm else None
    return None if model is None or setting is None else Condition(model, task, arm, setting)


def conditions(study: Study) -> list[Condition]:
    """Return every condition of the study's grid, each once, in the order of the config."""
    return list(dict.fromkeys(Condition(c.model, c.task, c.arm, c.setting) for c in Grid(study).cells))


def settings(study: Study, model: str, arm: str) -> list[str]:
    """Return the settings that the grid has for an arm on the EMA tasks, weakest first."""
    tasks = set(ema_tasks(study))
    found = {c.setting for c in conditions(study) if c.model == model and c.arm == arm and c.task in tasks}
    return in_order(found)


def benign_settings(study: Study, arm: str, settings_in_grid: list[str]) -> list[str]:
    """Return an arm's settings in Tables 5 and 6: those chosen, or all that the grid has."""
    chosen = study.report.chosen_benign.get(arm)
    return settings_in_grid if chosen is None else [format_setting(value) for value in chosen]


def ema_arms(study: Study, model: str) -> list[str]:
    """Return the grid's arms for a model on the EMA tasks: controls, then each defence and its variants."""
    tasks = set(ema_tasks(study))
    found = {c.arm for c in conditions(study) if c.model == model and c.task in tasks}
    return [name for name in study.every_arm if name in found]


def chosen_arms(study: Study, model: str) -> list[tuple[str, str]]:
    """Return the model's arms on the EMA tasks, each with its chosen setting, as far as the grid has that."""
    tasks = set(ema_tasks(study))
    pairs = [(arm, chosen_setting(study, arm)) for arm in ema_arms(study, model)]
    in_grid = {(c.arm, c.setting) for c in conditions(study) if c.model == model and c.task in tasks}
    return [(arm, setting) for arm, setting in pairs if setting is not None and (arm, setting) in in_grid]


def arms_like(study: Study, arm: str) -> list[str]:
    """Return an arm and the study's variants of it, in the order of the config."""
    return [name for name, found in study.every_arm.items() if arm in (name, found.of)]


def is_defence(study: Study, arm: str) -> bool:
    """Whether an arm is a defence or a variant of one, and not what defences are compared with."""
    return study.every_arm[arm].arm.is_defence


def defences(study: Study) -> list[str]:
    """Return every defence, each followed by the study's variants of it."""
    return [name for name in study.every_arm if is_defence(study, name)]


def headline_defences(study: Study) -> list[str]:
    """Return the defences of Tables 1, 3 and 4; a variant only if a setting was chosen for it."""
    return [arm for arm in defences(study) if study.every_arm[arm].of is None or arm in study.report.chosen]


def unchosen(study: Study, model: str) -> list[str]:
    """Return the defences that a model has on EMA tasks at several settings, of which the study chose none."""
    in_grid = ema_arms(study, model)
    return [arm for arm in headline_defences(study) if arm in in_grid and chosen_setting(study, arm) is None]


def arm_title(study: Study, arm: str) -> str:
    """Return an arm as a reader sees it; a variant by the name that its study gives it."""
    return study.every_arm[arm].title


def setting_title(study: Study, arm: str, setting: str) -> str:
    """Return a setting as a reader sees it: ``λ = 0.1``, ``5 %``, or nothing for arms without one."""
    return study.every_arm[arm].setting_title(setting)


def titled(study: Study, arm: str, setting: str) -> str:
    """Return an arm and its setting as a reader sees them: ``KL, λ = 0.1``, or ``Misaligned``."""
    return study.every_arm[arm].titled(setting)
