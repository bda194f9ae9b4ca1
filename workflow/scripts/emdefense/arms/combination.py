"""Several arms in one training: which can act together, and why others cannot."""

from collections.abc import Mapping
from dataclasses import replace

from emdefense.arms.study_arm import StudyArm
from emdefense.errors import InputError
from emdefense.section import shown

# Of these, one training has one: the hook, and what two of them would do.
ONCE = {
    "rows": "both make the rows",
    "order": "both say in which order rows come",
    "gradient": "the gradient that one returns is not what the other was told",
    "frozen_adapter": "one adapter can stand beside the trained one",
}


def combined(arms: Mapping[str, StudyArm], name: str, together: Mapping[str, float | None]) -> StudyArm:
    """Return the variant ``name`` with the arms that act in the same training, each at its setting.

    Raises :class:`InputError`, naming the key, for arms that cannot.
    """
    whole = arms[name]
    for other, setting in together.items():
        key = f"key 'variants.{name}.together_with.{other}'"
        if other not in arms:
            raise InputError(f"{key}: unknown arm {shown(other)}; write one of {', '.join(_possible(arms))}")
        found = arms[other]
        if problem := _problem(whole, found):
            raise InputError(f"{key}: {found.title} cannot act together with {arms[name].arm.title}: {problem}")
        declared = found.arm.setting
        if declared is None and setting is not None:
            raise InputError(f"{key}: {setting:g}, and this arm has no setting; leave the value empty")
        if declared is not None:
            problem = "give its setting, a number" if setting is None else declared.problem(setting)
            if problem:
                raise InputError(f"{key}: {problem}")
        whole = replace(whole, others=(*whole.others, (found, setting)))
    return whole


def _possible(arms: Mapping[str, StudyArm]) -> list[str]:
    return [name for name, arm in arms.items() if arm.arm.is_defence and not arm.arm.changes_adapter]


def _problem(whole: StudyArm, other: StudyArm) -> str | None:
    """Return why an arm cannot be added; None if it can."""
    if not other.arm.is_defence or not whole.arm.is_defence:
        return "one of them is what defences are compared with"
    if other.others or other.name == whole.name:
        return "it is a combination itself; name its arms"
    if any(other.arm is member.arm for member in whole.members):
        return "it is the same arm once more"
    if other.arm.changes_adapter or whole.arm.changes_adapter:
        return "one of them changes the adapter that plain fine-tuning made, when training is over"
    if other.arm.side != whole.arm.side:
        return "they are trained on other answers"
    if other.arm.stream and any(member.arm.stream for member in whole.members):
        return "both have a second stream of rows"
    for hook, why in ONCE.items():
        if other.arm.overrides(hook) and any(member.arm.overrides(hook) for member in whole.members):
            return why
    return None
