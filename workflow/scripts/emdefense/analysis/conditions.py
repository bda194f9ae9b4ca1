"""Which conditions a table, figure or claim is about: cells without their seeds."""

from typing import Literal, NamedTuple

from emdefense.cells import NO_SETTING, Grid, format_setting
from emdefense.config import Study
from emdefense.config.study import PLAIN_ARMS
from emdefense.config.training import DEFENCES

Role = Literal["main", "second"]
ARM_TITLES = {
    "untrained": "Untrained",
    "aligned": "Aligned",
    "misaligned": "Misaligned",
    "sft": "SFT",
    "kl": "KL",
    "ldifs": "LDIFS",
    "safelora": "SafeLoRA",
    "interleave": "Interleaving",
}
SETTING_SYMBOLS = {"kl": "λ", "ldifs": "λ", "safelora": "τ", "interleave": "%"}


class Condition(NamedTuple):
    """A cell without its seed."""

    model: str
    task: str
    arm: str
    setting: str = NO_SETTING


def ema_tasks(study: Study) -> list[str]:
    """Return the study's EMA tasks, in the order of the config."""
    return [name for name, task in study.tasks.items() if task.kind == "ema"]


def model_in_role(study: Study, role: Role) -> str | None:
    """Return the model that fills the main tables, or the second one's (the paper's 7B and 32B)."""
    return study.report.main_model if role == "main" else study.report.second_model


def chosen_setting(study: Study, arm: str) -> str | None:
    """Return a defence's setting in Tables 1, 3 and 4, ``none`` for arms without one, None if none was chosen.

    A variant for which none was chosen has the setting of the defence that it varies.
    """
    if arm in PLAIN_ARMS:
        return NO_SETTING
    chosen = study.report.chosen
    setting = chosen.get(arm, chosen.get(study.variants[arm].of) if arm in study.variants else None)
    return None if setting is None else format_setting(setting)


def chosen_condition(study: Study, role: Role, task: str, arm: str) -> Condition | None:
    """Return an arm's condition at its chosen setting; None if the study has no such model or setting."""
    model, setting = model_in_role(study, role), chosen_setting(study, arm)
    return None if model is None or setting is None else Condition(model, task, arm, setting)


def conditions(study: Study) -> list[Condition]:
    """Return every condition of the study's grid, each once, in the order of the config."""
    return list(dict.fromkeys(Condition(c.model, c.task, c.arm, c.setting) for c in Grid(study).cells))


def settings(study: Study, model: str, arm: str) -> list[str]:
    """Return the settings that the grid has for an arm on the EMA tasks, weakest first."""
    tasks = set(ema_tasks(study))
    found = {c.setting for c in conditions(study) if c.model == model and c.arm == arm and c.task in tasks}
    return sorted(found, key=float)


def benign_settings(study: Study, arm: str, settings_in_grid: list[str]) -> list[str]:
    """Return an arm's settings in Tables 5 and 6: those chosen, or all that the grid has."""
    chosen = study.report.chosen_benign.get(arm)
    return settings_in_grid if chosen is None else [format_setting(value) for value in chosen]


def ema_arms(study: Study, model: str) -> list[str]:
    """Return the grid's arms for a model on the EMA tasks: plain ones, then each defence and its variants."""
    tasks = set(ema_tasks(study))
    found = {c.arm for c in conditions(study) if c.model == model and c.task in tasks}
    return [name for arm in ARM_TITLES for name in arms_like(study, arm) if name in found]


def chosen_arms(study: Study, model: str) -> list[tuple[str, str]]:
    """Return the model's arms on the EMA tasks, each with its chosen setting, as far as the grid has that."""
    tasks = set(ema_tasks(study))
    pairs = [(arm, chosen_setting(study, arm)) for arm in ema_arms(study, model)]
    in_grid = {(c.arm, c.setting) for c in conditions(study) if c.model == model and c.task in tasks}
    return [(arm, setting) for arm, setting in pairs if setting is not None and (arm, setting) in in_grid]


def arms_like(study: Study, arm: str) -> list[str]:
    """Return an arm and the study's variants of it, in the order of the config."""
    return [arm, *(name for name, variant in study.variants.items() if variant.of == arm)]


def defences(study: Study) -> list[str]:
    """Return every defence, each followed by the study's variants of it."""
    return [name for arm in DEFENCES for name in arms_like(study, arm)]


def summed_up(study: Study) -> list[str]:
    """Return the defences of Tables 1, 3 and 4; a variant only if a setting was chosen for it."""
    return [arm for arm in defences(study) if arm in DEFENCES or arm in study.report.chosen]


def arm_title(arm: str) -> str:
    """Return an arm as a reader sees it; a variant by the name that its study gives it."""
    return ARM_TITLES.get(arm, arm)


def setting_title(arm: str, setting: str) -> str:
    """Return a setting as a reader sees it: ``λ = 0.1``, ``5 %``, or nothing for arms without one."""
    if setting == NO_SETTING:
        return ""
    symbol = SETTING_SYMBOLS.get(arm, "λ")  # a variant is of a penalty
    return f"{setting} %" if symbol == "%" else f"{symbol} = {setting}"


def titled(arm: str, setting: str) -> str:
    """Return an arm and its setting as a reader sees them: ``KL, λ = 0.1``, or ``Misaligned``."""
    return ", ".join(filter(None, (arm_title(arm), setting_title(arm, setting))))
