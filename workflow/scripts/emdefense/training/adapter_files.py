"""An adapter's files, as PEFT lays them out; read without PEFT, which takes seconds to import."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from emdefense.errors import InputError

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX, A_SUFFIX, B_SUFFIX = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; :class:`InputError` if it is missing or broken."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}); make it again") from None


def read_lora(adapter: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return {matrix: (A [r, in], B [out, r])} of a plain LoRA adapter, matrices named as in the model.

    Raises :class:`InputError` for tensors that are not part of a LoRA pair (DoRA, biases, modules saved whole), for a
    pair that is none, and for values that are not finite.
    """
    tensors = read_tensors(adapter / ADAPTER_WEIGHTS)
    pairs = {}
    for key in sorted(tensors):
        if key.endswith(B_SUFFIX):
            name = key.removeprefix(PREFIX).removesuffix(B_SUFFIX)
            partner = key.removesuffix(B_SUFFIX) + A_SUFFIX
            if partner not in tensors:
                raise InputError(f"{adapter}: {key} has no {partner}; only plain LoRA adapters can be projected")
            a, b = tensors.pop(partner), tensors.pop(key)
            if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
                shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
                raise InputError(f"{adapter}: A and B of '{name}' are {shapes}, no pair of one rank; make it again")
            if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
                raise InputError(f"{adapter}: '{name}' holds values that are not finite; train the adapter again")
            pairs[name] = (a, b)
    if tensors or not pairs:
        raise InputError(f"{adapter}: not a plain LoRA adapter ({next(iter(tensors), 'it is empty')})")
    return pairs
