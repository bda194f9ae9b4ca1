"""An arm as a study has it: under a name, with options, alone or combined with others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from emdefense.arms.base import Arm, Options
from emdefense.arms.hooks import call, wrong_result
from emdefense.arms.setting import NO_SETTING


@dataclass(frozen=True)
class Part:
    """An arm with its options at a setting: a training has one, or those of a combination."""

    arm: Arm[Any]
    options: Any
    setting: float | None = None


@dataclass(frozen=True)
class StudyArm:
    """An arm under the name that a study's grid gives it, with its options: the arm itself, or a variant of it.

    A combination has ``others`` beside it, each at a setting of its own.
    """

    name: str
    arm: Arm[Any]
    options: Options
    of: str | None = None  # the arm that a variant is of
    others: tuple[tuple[StudyArm, float | None], ...] = ()
    called: str | None = None  # what a variant's study calls it before readers

    @property
    def title(self) -> str:
        """What a reader sees: a variant's is the title that its study gives it, or else its name."""
        return self.arm.title if self.of is None else self.called or self.name

    def setting_title(self, setting: str) -> str:
        """Return a setting as a reader sees it: ``λ = 0.1``, ``5 %``, or nothing for arms without one."""
        return "" if setting == NO_SETTING or self.arm.setting is None else self.arm.setting.titled(setting)

    def titled(self, setting: str) -> str:
        """Return the arm and a setting as a reader sees them: ``KL, λ = 0.1``, or ``Misaligned``."""
        return ", ".join(filter(None, (self.title, self.setting_title(setting))))

    @property
    def members(self) -> tuple[StudyArm, ...]:
        """Itself, and the arms that it is combined with."""
        return (self, *(other for other, _ in self.others))

    def parts(self, setting: float | None) -> tuple[Part, ...]:
        """Return what acts in a training at a setting of the grid."""
        own = Part(self.arm, self.options, setting)
        return (own, *(Part(other.arm, other.options, at) for other, at in self.others))

    @property
    def changes_rows(self) -> bool:
        """Whether it, or an arm that it is combined with, makes the rows."""
        return any(member.arm.overrides("rows") for member in self.members)

    @property
    def is_only_penalty(self) -> bool:
        """Whether all that a training must know of it is one penalty on the task's batches."""
        return self.arm.has_penalty and not self.arm.acts_in_training and not self.others

    @property
    def acts_in_training(self) -> bool:
        """Whether a training must know more of it than its rows and one penalty."""
        if self.is_only_penalty:
            return False
        return any(member.arm.acts_in_training or member.arm.has_penalty for member in self.members)

    def training_system(self, task: str) -> str | None:
        """Return the system prompt under which it, or an arm that it is combined with, trains a task; or None."""
        for member in self.members:
            found = call(member.arm, "training_system", member.options, task)
            if found is None:
                continue
            if not isinstance(found, str) or not found.strip():
                raise wrong_result(
                    member.arm, "training_system", f"it returned {found!r}, and a text or None is needed"
                )
            return found
        return None

    @property
    def needs(self) -> tuple[str, ...]:
        """What a table says that it needs beside the task's rows and the model."""
        found = [need for member in self.members for need in member.arm.needs(member.options)]
        return tuple(dict.fromkeys(found))
