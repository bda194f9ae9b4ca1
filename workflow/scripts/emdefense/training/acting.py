"""What all arms of a training do together, beside plain fine-tuning."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from emdefense.arms.arguments import FrozenAdapter, Step
from emdefense.arms.base import Arm, Change
from emdefense.arms.hooks import named
from emdefense.errors import InputError
from emdefense.files import file_digest
from emdefense.training.acting_arm import ActingArm
from emdefense.training.adapter_files import check_adapter
from emdefense.training.penalty import Penalty

TRAINED, FROZEN = "default", "frozen"  # adapters' names in PEFT
STATE = "arms.safetensors"  # in a checkpoint


class Acting:
    """All arms of a training, beside plain fine-tuning; none for that."""

    def __init__(self, arms: Sequence[ActingArm] = (), stream: Sequence[dict[str, Any]] = (), seed: int = 0):
        """``stream`` are the tokenised rows of the second stream, drawn by ``seed``."""
        self.arms = list(arms)
        self._stream, self._seed = list(stream), seed

    @property
    def penalties(self) -> list[tuple[float, Penalty]]:
        """The penalties on the task's batches, each with its λ."""
        return [(arm.coefficient, arm.penalty) for arm in self.arms if arm.penalty and not arm.part.arm.stream]

    @property
    def of_stream(self) -> ActingArm | None:
        """The arm that has a second stream."""
        return next((arm for arm in self.arms if arm.part.arm.stream), None)

    @property
    def changes_gradient(self) -> bool:
        """Whether a step's gradients are anything else than the task's."""
        return any(arm.overrides("gradient") for arm in self.arms) or self.of_stream is not None

    def attach(self, model: PeftModel) -> None:
        """Attach the frozen adapters; no random number is used up."""
        for arm in self.arms:
            if arm.overrides("frozen_adapter") and (found := arm.frozen_adapter()) is not None:
                _attach(model, found, named(arm.part.arm))
        self.activate(model)

    @staticmethod
    def activate(model: PeftModel) -> None:
        """Let the frozen adapter, if there is one, act beside the one that is trained."""
        if FROZEN not in model.peft_config:
            return
        model.base_model.set_adapter([TRAINED, FROZEN])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(f".{TRAINED}." in name)

    def changes(self, blocks: int) -> dict[int, list[Change]]:
        """Return how the residual stream is changed after each block, in the order of the arms."""
        found: dict[int, list[Change]] = {}
        for arm in self.arms:
            if arm.overrides("forward"):
                for block, function in arm.changes(blocks).items():
                    found.setdefault(block, []).append(function)
        return found

    @property
    def orders_rows(self) -> bool:
        """Whether an arm says in which order an epoch's rows are trained on."""
        return any(arm.overrides("order") for arm in self.arms)

    def order(self, sources: Sequence[str], rows_per_step: int, seed: int) -> list[int]:
        """Return the order of an epoch's rows, where an arm has one."""
        return next(arm for arm in self.arms if arm.overrides("order")).order(sources, rows_per_step, seed)

    def stream_rows(self, step: int) -> list[dict[str, Any]]:
        """Return the second stream's rows of a step (from 1), which depend on it and the seed alone."""
        assert self.of_stream is not None
        rows = self._drawn_stream
        count, total = self.of_stream.stream_rows(), len(rows)
        places = range((step - 1) * count, step * count)
        rounds = {place // total for place in places}
        orders = {number: Random(f"{self._seed} stream {number}").sample(range(total), total) for number in rounds}
        return [rows[orders[place // total][place % total]] for place in places]

    @cached_property
    def _drawn_stream(self) -> list[dict[str, Any]]:
        """The rows that the second stream is restricted to; with one seed, fewer are among more."""
        assert self.of_stream is not None
        total, limit = len(self._stream), self.of_stream.stream_limit()
        if not total:
            raise InputError(f"{named(self.of_stream.part.arm)}: its second stream has no rows; name a file with some")
        check_stream_limit(self.of_stream.part.arm, limit, total)
        if limit is None:
            return self._stream
        drawn = Random(f"{self._seed} stream").sample(range(total), total)[:limit]
        return [self._stream[place] for place in sorted(drawn)]

    def gradients(self, step: Callable[[ActingArm, Sequence[Tensor]], Step], first: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients after every arm's hook; ``step`` gives what an arm gets for the gradients so far."""
        found = list(first)
        for arm in self.arms:
            if arm.overrides("gradient"):
                found = arm.gradient(step(arm, found))
        return found

    def save(self, folder: Path) -> None:
        """Write what arms keep from step to step into a checkpoint; nothing where they keep nothing."""
        tensors = {
            f"{arm.name}/{name}/{place}": tensor.detach().cpu().contiguous().clone()
            for arm in self.arms
            for name, kept in arm.state.items()
            for place, tensor in enumerate(kept)
        }
        if tensors:
            save_file(tensors, folder / STATE)

    def resume(self, folder: Path, device: torch.device) -> None:
        """Read what :meth:`save` wrote."""
        if not (folder / STATE).is_file():
            return
        by_key: dict[tuple[str, str], dict[int, Tensor]] = {}
        for key, tensor in load_file(folder / STATE).items():
            arm, name, place = key.split("/")
            by_key.setdefault((arm, name), {})[int(place)] = tensor.to(device)
        for one in self.arms:
            for (arm, name), kept in by_key.items():
                if arm == one.name:
                    one.state[name] = [kept[place] for place in sorted(kept)]


def check_stream_limit(arm: Arm[Any], limit: int | None, total: int, where: str = "") -> None:
    """Raise :class:`InputError` if a second stream has fewer rows than its arm restricts it to."""
    if limit is not None and limit > total:
        raise InputError(
            f"{where}{named(arm)}: its second stream is to be of {limit} rows, and there are {total}; ask for fewer, "
            "or give more"
        )


def sources_of(rows: Sequence[Mapping[str, Any]], marks: Sequence[str]) -> Counter[str]:
    """Return how many of a step's tokenised rows are of each source; ``marks`` by the rows' numbers."""
    return Counter(marks[number] for row in rows for number in row["row"].tolist())


def prepared_identity(folders: Mapping[str, Path]) -> dict[str, str]:
    """Return a digest of each preparation: of its files' names and bytes."""
    return {name: _digest(folder) for name, folder in folders.items()}


def _digest(folder: Path) -> str:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    parts = [(str(path.relative_to(folder)), file_digest(path)) for path in files]
    return sha256(json.dumps(parts).encode()).hexdigest()


def _attach(model: PeftModel, frozen: FrozenAdapter, whose: str) -> None:
    check_adapter(frozen.folder, f"prepare what {whose} needs again")
    with torch.random.fork_rng():  # PEFT draws numbers for the adapter before it reads it
        model.load_adapter(str(frozen.folder), FROZEN, is_trainable=False)
    for module in model.modules():
        if isinstance(getattr(module, "scaling", None), dict) and FROZEN in module.scaling:
            module.scaling[FROZEN] *= frozen.scale
            module.lora_dropout[FROZEN] = torch.nn.Identity()  # it is not trained, and would draw random numbers
