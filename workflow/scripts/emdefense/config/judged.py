"""What a study without a judge cannot have: whatever reads what one says."""

from typing import TYPE_CHECKING

from emdefense.arms.hooks import call
from emdefense.config.chosen import AUTO
from emdefense.errors import InputError

if TYPE_CHECKING:
    from emdefense.config.study import Study


def check_judged(study: "Study") -> None:
    """Raise :class:`InputError` if there is no judge, and another key asks for one."""
    if study.judge is not None:
        return
    if study.second_judges:
        raise InputError("key 'second_judges': there is no judge that they could agree with; name the first as 'judge'")
    for arm, setting in study.report.chosen.items():
        if setting == AUTO:
            raise InputError(f"key 'report.chosen.{arm}': {AUTO} chooses by what a judge says; write a setting")
    for number, block in enumerate(study.grid):
        for name in block.arms:
            for member in study.every_arm[name].members:
                if "elicited" in call(member.arm, "materials", member.options):
                    raise InputError(
                        f"key 'grid.{number}.arms.{name}': {member.arm.title} reads answers that a judge found to have "
                        "the trait; name a judge, or use rows as their source (options)"
                    )
