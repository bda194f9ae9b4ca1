"""What the model computes on a batch with its adapter on (the policy, θ) and off (the reference, θ0)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel

from emdefense.errors import InputError
from emdefense.training.batches import token_mask
from emdefense.training.fused_loss import OutputHead
from emdefense.training.output_head import find_heads


@dataclass(frozen=True)
class Features:
    """Hidden states of a batch's non-padding tokens, in reading order."""

    final: Tensor  # [tokens, d], the backbone's last hidden states: what the output head takes
    residual: dict[int, Tensor]  # {k: [tokens, d]}, the residual stream after block k (1-based), before any norm


class FeatureReader:
    """Runs the backbone of a PEFT model, without its head, and collects :class:`Features`."""

    def __init__(self, model: PeftModel):
        """Find backbone, blocks and head; :class:`InputError` if the model is no decoder of such parts.

        The head is taken as it looks; :func:`~emdefense.training.head_check.settle_head` makes sure with a row of data.
        """
        self.base: PreTrainedModel = model.get_base_model()
        self._blocks, holders = _blocks(self.base)
        self._backbone, self.heads = find_heads(self.base, holders)
        self.head: OutputHead = self.heads[0]
        trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        outside = trained - {id(parameter) for parameter in self._backbone.parameters()}
        if outside:
            name = next(name for name, parameter in model.named_parameters() if id(parameter) in outside)
            raise InputError(f"key 'training.target_modules': '{name}' is part of the head, which must stay frozen")
        self._tuners = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]

    @property
    def blocks(self) -> int:
        """The number of transformer blocks; 0 if they are in no list of their own, so that none can be read."""
        return len(self._blocks)

    def policy(self, inputs: dict[str, Tensor], blocks: Sequence[int] = ()) -> Features:
        """Return features of a batch with the adapter on, and the residual stream after each of ``blocks``."""
        kept: dict[int, Tensor] = {}
        mask = token_mask(inputs)
        layout = {key: inputs[key] for key in ("attention_mask", "position_ids") if key in inputs}
        with self._kept(blocks, kept):
            output = self._backbone(input_ids=inputs["input_ids"], use_cache=False, **layout)
        if missing := [block for block in blocks if block not in kept]:
            raise InputError(f"{self.base.name_or_path}: its block {missing[0]} is not run, so no penalty can read it")
        return Features(output.last_hidden_state[mask], {block: kept[block][mask] for block in blocks})

    def reference(self, inputs: dict[str, Tensor], blocks: Sequence[int] = ()) -> Features:
        """Return the same features with the adapter off, without gradient; no random number is used up."""
        device = inputs["input_ids"].device
        with torch.no_grad(), self._adapter_off(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            return self.policy(inputs, blocks)

    @contextmanager
    def _kept(self, blocks: Sequence[int], kept: dict[int, Tensor]) -> Iterator[None]:
        """Keep the output of each block in ``blocks`` while the block below runs."""

        def keep(block: int) -> Any:
            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                kept[block] = output[0] if isinstance(output, tuple) else output

            return hook

        handles = [self._blocks[block - 1].register_forward_hook(keep(block)) for block in blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _adapter_off(self) -> Iterator[None]:
        # PEFT's disable_adapter() walks all modules and toggles requires_grad: 50 ms and more a call.
        for tuner in self._tuners:
            tuner._disable_adapters = True
        try:
            yield
        finally:
            for tuner in self._tuners:
                tuner._disable_adapters = False


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
