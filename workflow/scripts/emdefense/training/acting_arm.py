"""An arm in one training: each hook called, and checked for what it returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from emdefense.arms.arguments import FrozenAdapter, Step
from emdefense.arms.base import Change
from emdefense.arms.hooks import call, named, wrong_result
from emdefense.arms.study_arm import Part
from emdefense.errors import InputError
from emdefense.training.penalty import Penalty


@dataclass(frozen=True)
class ActingArm:
    """An arm in one training: with its options, its setting, and what was prepared for it, read."""

    part: Part
    prepared: Any = None
    state: dict[str, list[Tensor]] = field(default_factory=dict)  # its own from step to step

    @property
    def name(self) -> str:
        """The arm's."""
        return self.part.arm.name

    def overrides(self, hook: str) -> bool:
        """Whether it acts at a hook."""
        return self.part.arm.overrides(hook)

    @property
    def penalty(self) -> Penalty | None:
        """Its penalty, if it has one."""
        return Penalty(self.part.arm, self.part.options, self.prepared) if self.part.arm.has_penalty else None

    @property
    def coefficient(self) -> float:
        """What its penalty is multiplied by."""
        return float(self.part.setting or 0.0)

    def changes(self, blocks: int) -> Mapping[int, Change]:
        """Return how the residual stream is changed after some blocks."""
        found = self._call("forward", self.part.setting, self.prepared, blocks)
        if not isinstance(found, Mapping) or not all(type(key) is int and callable(one) for key, one in found.items()):
            raise self._wrong("forward", f"it returned {type(found).__name__}, and functions by blocks are needed")
        if unknown := [block for block in found if not 1 <= block <= blocks]:
            raise self._wrong("forward", f"there is no block {unknown[0]}; the model has {blocks}")
        return {block: self._change(function) for block, function in found.items()}

    def _change(self, function: Change) -> Change:
        def checked(hidden: Tensor, record: Callable[[str, Tensor], None]) -> Tensor:
            version = hidden._version

            def noted(name: str, values: Tensor) -> None:
                record(f"{self.name}.{name}", values)

            found = call(self.part.arm, "forward", hidden, noted, function=function)
            if not isinstance(found, Tensor) or found.shape != hidden.shape:
                shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise self._wrong("forward", f"its function returned {shape}, and {list(hidden.shape)} is needed")
            if hidden._version != version:
                raise self._wrong("forward", "its function changes hidden states in place; return new ones")
            return found

        return checked

    def frozen_adapter(self) -> FrozenAdapter | None:
        """Return the adapter that is to be attached."""
        found = self._call("frozen_adapter", self.part.setting, self.prepared)
        if found is not None and not isinstance(found, FrozenAdapter):
            raise self._wrong("frozen_adapter", f"it returned {type(found).__name__}, and a FrozenAdapter is needed")
        return found

    def gradient(self, step: Step) -> list[Tensor]:
        """Return the gradients to go on with."""
        found = self._call("gradient", self.part.setting, step)
        shapes = (
            [one.shape if isinstance(one, Tensor) else None for one in found] if isinstance(found, Sequence) else []
        )
        if shapes != [one.shape for one in step.gradients]:
            raise self._wrong("gradient", "what it returned has not the shapes of step.gradients")
        return [one.detach() for one in found]

    def order(self, sources: Sequence[str], rows_per_step: int, seed: int) -> list[int]:
        """Return the places of an epoch's rows in the order of training."""
        found = list(self._call("order", sources, rows_per_step, seed))
        places = range(len(sources))
        if self.part.arm.repeats_rows:
            if len(found) != len(places) or not set(found) <= set(places):
                raise self._wrong("order", f"it does not name {len(sources)} of the {len(sources)} rows")
        elif sorted(found) != list(places):
            raise self._wrong("order", f"it is no order of {len(sources)} rows, each once")
        return found

    def stream_rows(self) -> int:
        """Return how many rows of the second stream a step has."""
        found = self._call("stream_rows")
        if type(found) is not int or found < 1:
            raise self._wrong("stream_rows", f"it returned {found!r}, and a whole number from 1 is needed")
        return found

    def stream_limit(self) -> int | None:
        """Return to how many rows the second stream is restricted."""
        found = self._call("stream_limit")
        if found is not None and (type(found) is not int or found < 1):
            raise self._wrong("stream_limit", f"it returned {found!r}, and a whole number from 1 is needed, or None")
        return found

    def _call(self, hook: str, *arguments: Any) -> Any:
        return call(self.part.arm, hook, self.part.options, *arguments)

    def _wrong(self, hook: str, problem: str) -> InputError:
        return wrong_result(self.part.arm, hook, problem)


def acting_arm(part: Part, preparation: Path | None = None) -> ActingArm:
    """Return an arm with its preparation read; :class:`InputError` if training needs one and there is none."""
    arm, options = part.arm, part.options
    if not arm.is_prepared(options) or arm.overrides("rows"):
        return ActingArm(part)
    if preparation is None:
        raise InputError(f"{named(arm)}: training needs its preparation; name it with --prepared {arm.name}=FOLDER")
    return ActingArm(part, call(arm, "load", options, preparation))
