"""What the model computes on a batch with its adapter on (the policy, θ) and off (the reference, θ0)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from emdefense.errors import InputError
from emdefense.training.batches import token_mask


@dataclass(frozen=True)
class Features:
    """Hidden states of a batch's non-padding tokens, in reading order."""

    final: Tensor  # [tokens, d], after the final norm: what the output head multiplies
    residual: dict[int, Tensor]  # {k: [tokens, d]}, the residual stream after block k (1-based), before any norm


class FeatureReader:
    """Runs the backbone of a PEFT model, without its head, and collects :class:`Features`."""

    def __init__(self, model: PeftModel):
        base = model.get_base_model()
        head = base.get_output_embeddings()
        if getattr(head, "bias", None) is not None or not hasattr(base.base_model, "layers"):
            raise InputError(f"{base.name_or_path}: only decoders with 'layers' and a head without bias can be trained")
        self.head_weight: Tensor = head.weight
        self._backbone = base.base_model
        self._tuners = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]

    @property
    def blocks(self) -> int:
        """The number of transformer blocks."""
        return len(self._backbone.layers)

    def policy(self, inputs: dict[str, Tensor], blocks: Sequence[int] = ()) -> Features:
        """Return features of a batch with the adapter on, and the residual stream after each of ``blocks``."""
        kept: dict[int, Tensor] = {}
        mask = token_mask(inputs)
        layout = {key: inputs[key] for key in ("attention_mask", "position_ids") if key in inputs}
        with self._kept(blocks, kept):
            output = self._backbone(input_ids=inputs["input_ids"], use_cache=False, **layout)
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

        handles = [self._backbone.layers[block - 1].register_forward_hook(keep(block)) for block in blocks]
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
