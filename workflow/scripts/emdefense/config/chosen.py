"""At which setting an arm stands for its defence in the report."""

from typing import TYPE_CHECKING

from emdefense.arms.setting import NO_SETTING, format_setting

if TYPE_CHECKING:
    from emdefense.config.study import Study

AUTO = "auto"


def chosen_setting(study: "Study", arm: str) -> str | None:
    """Return a defence's setting in Tables 1, 3 and 4, ``none`` for arms without one, None if none was chosen.

    A variant for which none was chosen has the setting of the defence that it varies. What the data are to choose
    (``auto``) is None until they have.
    """
    found, chosen = study.every_arm.get(arm), study.report.chosen
    if found is None:  # the paper has no such arm
        return None
    if found.arm.setting is None:
        return NO_SETTING
    setting = chosen.get(arm, chosen.get(found.of) if found.of else None)
    if setting == AUTO:
        return None
    if setting is None and found.arm.file is not None and found.of is None:  # where there is no choice
        only = {
            format_setting(value)
            for block in study.grid
            if arm in block.arms and any(study.tasks[task].kind == "ema" for task in block.tasks)
            for value in block.arms[arm] or (None,)
        }
        return only.pop() if len(only) == 1 else None
    return None if setting is None else format_setting(float(setting))


def may_be_chosen(study: "Study", arm: str, setting: str) -> bool:
    """Whether a setting is the chosen one of an arm, or may become it: of what the data choose, each."""
    found = study.every_arm[arm]
    named = study.report.chosen.get(arm, study.report.chosen.get(found.of) if found.of else None)
    return named == AUTO or setting == chosen_setting(study, arm)
