"""What the model computes on a batch with its adapter on (the policy, θ) and off (the reference, θ0)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel

from emdefense.arms.base import Change
from emdefense.errors import InputError
from emdefense.training.batches import token_mask
from emdefense.training.fused_loss import OutputHead
from emdefense.training.output_head import find_heads


@dataclass(frozen=True)
class Features:
    """Hidden states of a batch's non-padding tokens, in reading order."""

    final: Tensor  # [tokens, d], the backbone's last hidden states: what the output head takes
    residual: dict[int, Tensor]  # {k: [tokens, d]}, the residual stream after block k (1-based), before any norm
    captured: Mapping[str, Tensor] = field(default_factory=dict)  # [tokens, width], outputs of modules by their names


class FeatureReader:
    """Runs the backbone of a model, without its head, and collects :class:`Features`; without an adapter θ is θ0."""

    def __init__(self, model: PeftModel | PreTrainedModel):
        """Find backbone, blocks and head; :class:`InputError` if the model is no decoder of such parts.

        The head is taken as it looks; :func:`~emdefense.training.head_check.settle_head` makes sure with a row of data.
        """
        self.base: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
        self._blocks, holders = _blocks(self.base)
        self._backbone, self.heads = find_heads(self.base, holders)
        self.head: OutputHead = self.heads[0]
        trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        outside = trained - {id(parameter) for parameter in self._backbone.parameters()}
        if outside:
            name = next(name for name, parameter in model.named_parameters() if id(parameter) in outside)
            raise InputError(f"key 'training.target_modules': '{name}' is part of the head, which must stay frozen")
        self._tuners = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
        self._off = False  # whether the reference runs
        self._mask: Tensor | None = None  # which positions of the batch that runs are tokens

    @property
    def blocks(self) -> int:
        """The number of transformer blocks; 0 if they are in no list of their own, so that none can be read."""
        return len(self._blocks)

    def change(
        self, changes: Mapping[int, Sequence[Change]], record: Callable[[str, float], None] | None = None
    ) -> Callable[[], None]:
        """Change the residual stream after blocks (1-based) from now on: in the policy's passes, never the reference's.

        Returns what undoes it. ``record`` gets the means over non-padding tokens of what changes put into the log.
        Raises :class:`InputError` if there are no such blocks.
        """
        handles = []
        for block, functions in changes.items():
            if not 1 <= block <= self.blocks:
                raise InputError(f"{self.base.name_or_path}: there is no block {block}; it has {self.blocks}")
            # For good, not for a pass: activation checkpointing runs a block once more in the backward pass.
            handles.append(self._blocks[block - 1].register_forward_hook(self._changing(functions, record)))

        def undo() -> None:
            for handle in handles:
                handle.remove()

        return undo

    def policy(self, inputs: dict[str, Tensor], blocks: Sequence[int] = (), modules: Sequence[str] = ()) -> Features:
        """Return features of a batch with the adapter on, and the residual stream after each of ``blocks``.

        Also the outputs of all modules in blocks whose name, or its end, is one of ``modules``.
        """
        kept: dict[int, Tensor] = {}
        captured: dict[str, Tensor] = {}
        mask = token_mask(inputs)
        layout = {key: inputs[key] for key in ("attention_mask", "position_ids") if key in inputs}
        self._mask = mask
        try:
            with self._kept(blocks, kept), self._captured(modules, captured):
                output = self._backbone(input_ids=inputs["input_ids"], use_cache=False, **layout)
        finally:
            self._mask = None
        if missing := [block for block in blocks if block not in kept]:
            raise InputError(f"{self.base.name_or_path}: its block {missing[0]} is not run, so no penalty can read it")
        return Features(
            output.last_hidden_state[mask],
            {block: kept[block][mask] for block in blocks},
            {name: tensor[mask] for name, tensor in captured.items()},
        )

    def reference(self, inputs: dict[str, Tensor], blocks: Sequence[int] = (), modules: Sequence[str] = ()) -> Features:
        """Return the same features with the adapter off, without gradient; no random number is used up."""
        device = inputs["input_ids"].device
        with torch.no_grad(), self._adapter_off(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            return self.policy(inputs, blocks, modules)

    def _changing(self, functions: Sequence[Change], record: Callable[[str, float], None] | None) -> Any:
        def noted(name: str, values: Tensor) -> None:
            if record is not None and self._mask is not None:  # not when a block is run once more
                record(name, float(values.detach()[self._mask].mean()))

        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            if self._off:
                return None
            before = output[0] if isinstance(output, tuple) else output
            hidden = before
            for function in functions:
                hidden = function(hidden, noted)
            hidden = hidden.to(before.dtype)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    @contextmanager
    def _kept(self, blocks: Sequence[int], kept: dict[int, Tensor]) -> Iterator[None]:
        """Keep the output of each block in ``blocks`` while the block below runs."""
        with _hooked({block: self._blocks[block - 1] for block in blocks}, kept):
            yield

    @contextmanager
    def _captured(self, modules: Sequence[str], captured: dict[str, Tensor]) -> Iterator[None]:
        """Keep the outputs of modules of the blocks by their names while the block below runs."""
        found = {
            f"{number}.{name}": module
            for number, block in enumerate(self._blocks if modules else (), start=1)
            for name, module in block.named_modules()
            if any(name == wanted or name.endswith(f".{wanted}") for wanted in modules)
        }
        if modules and not found:
            raise InputError(f"{self.base.name_or_path}: its blocks have no module {' or '.join(modules)}")
        with _hooked(found, captured):
            yield

    @contextmanager
    def _adapter_off(self) -> Iterator[None]:
        # PEFT's disable_adapter() walks all modules and toggles requires_grad: 50 ms and more a call.
        self._off = True
        for tuner in self._tuners:
            tuner._disable_adapters = True
        try:
            yield
        finally:
            self._off = False
            for tuner in self._tuners:
                tuner._disable_adapters = False


@contextmanager
def _hooked(modules: Mapping[Any, torch.nn.Module], kept: dict[Any, Tensor]) -> Iterator[None]:
    """Keep the output of each module under its key while the block below runs."""

    def keep(key: Any) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            kept[key] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [module.register_forward_hook(keep(key)) for key, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def block_count(model: PreTrainedModel) -> int:
    """Return the number of transformer blocks; 0 if they are in no list of their own, so that none can be read."""
    return len(_blocks(model)[0])


def _blocks(model: PreTrainedModel) -> tuple[list[torch.nn.Module], list[torch.nn.Module]]:
    """Return the transformer blocks, none if they are in no list of their own; and the modules that hold them.

    Of these the outermost comes first; the model itself is none of them.
    """
    count = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            parts = name.split(".")
            return list(module), [model.get_submodule(".".join(parts[:end])) for end in range(1, len(parts))]
    return [], [model.base_model] if model.base_model is not model else []
