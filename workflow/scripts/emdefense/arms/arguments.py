"""What hooks of arms are given, and what some of them return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from emdefense.config.chat import TemplateOptions
    from emdefense.config.training import Training


@dataclass(frozen=True)
class FinishedAdapter:
    """A trained adapter as an arm may change it; ``record`` is what its provenance shall say of that."""

    tensors: dict[str, Tensor]  # by the names that PEFT saves
    folder: Path
    preparation: Path | None
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Materials:
    """What a preparation may read: the folders and files that its arm named in ``prepared_from``, by role.

    Of other tasks there are several, ``role/task``. What else it depends on is given to arms that run the model: the
    cell's seed, how rows are read and passes computed in its trainings, and how the model's chat template is called.
    """

    files: Mapping[str, Path]
    threads: int = 1
    seed: int = 0
    training: Training | None = None
    chat: TemplateOptions | None = None

    def __getitem__(self, role: str) -> Path:
        return self.files[role]

    def of(self, role: str) -> dict[str, Path]:
        """Return what there is of a role by task."""
        return {name.partition("/")[2]: path for name, path in self.files.items() if name.startswith(f"{role}/")}


@dataclass(frozen=True)
class FrozenAdapter:
    """A second LoRA adapter beside the one that is trained, frozen, its change of each matrix times ``scale``."""

    folder: Path
    scale: float = 1.0


@dataclass(frozen=True)
class Step:
    """An optimiser step whose gradients are complete and not yet clipped.

    ``record(name, value)`` puts a number into the step's entry of the training log.
    """

    number: int  # from 1
    total: int  # how many steps the training has
    parameters: Sequence[Tensor]
    gradients: Sequence[Tensor]  # of the task's batches, and of penalties on these
    stream: Sequence[Tensor] | None  # of the penalty on the second stream, not multiplied by the setting
    sources: Mapping[str, int]  # the step's rows by what marks them as theirs: "task", "safe", …
    state: dict[str, list[Tensor]]  # the arm's own from step to step; kept in checkpoints
    record: Callable[[str, float], None]
