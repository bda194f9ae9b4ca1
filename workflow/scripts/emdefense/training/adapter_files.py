"""An adapter's files, as PEFT lays them out; read without PEFT, which takes seconds to import."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from emdefense.errors import InputError
from emdefense.files import read_json
from emdefense.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from emdefense.weight_files import PICKLED, open_tensors

PREFIX, A_SUFFIX, B_SUFFIX = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
# Keys of PEFT's LoraConfig that change nothing about what saved matrices mean, or that are read below. Any other that
# is set asks for more than W + scale · BA.
PLAIN_KEYS = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "lora_dropout", "fan_in_fan_out", "init_lora_weights"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "bias", "ensure_weight_tying"),
    *("task_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode"),
    *("megatron_core", "qalora_group_size", "runtime_config"),
}
PLAIN_NUMBERS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
# The others change the model's own weights when an adapter is made.
PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal")


@dataclass(frozen=True)
class LoraSettings:
    """What an adapter's matrices mean: W + ``scale`` · BA, of rank ``rank``."""

    rank: int
    scale: float
    transposed: bool  # whether PEFT says that the model keeps some of its matrices as [in, out]
    targets: tuple[str, ...] | None = None  # names of all matrices that it changes; None where they are told otherwise


def check_adapter(adapter: Path, remedy: str) -> None:
    """Raise :class:`InputError`, which ends with what to do, if an adapter's folder lacks one of its two files."""
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (adapter / name).is_file():
            raise InputError(f"{adapter}: it has no {name}; {remedy}")


def read_settings(adapter: Path) -> LoraSettings:
    """Return the settings of a plain LoRA adapter.

    Raises :class:`InputError` if its config is missing, broken, no LoRA's, or asks for more than W + scale · BA.
    """
    path = adapter / ADAPTER_CONFIG
    if not adapter.is_dir():
        raise InputError(f"{adapter}: there is no such adapter folder")
    config = read_json(path)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise InputError(f"{path}: not the config of a LoRA adapter, as PEFT saves it; name one, or make it again")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise InputError(f"{path}: key 'r': {rank!r} is no rank, a whole number above 0; make the adapter again")
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not 0 < alpha < math.inf:
        raise InputError(f"{path}: key 'lora_alpha': {alpha!r} is no number above 0; make the adapter again")
    for key in ("use_rslora", "fan_in_fan_out"):
        if config.get(key) not in (None, True, False):
            raise InputError(f"{path}: key '{key}': {config[key]!r} is neither true nor false; make the adapter again")
    for key, value in sorted(config.items()):
        plain = key in PLAIN_KEYS and (key != "bias" or value == "none")
        plain = plain and (key != "init_lora_weights" or value in PLAIN_STARTS)
        if value and not plain:
            raise InputError(f"{path}: key '{key}' is set, and only plain LoRA adapters are read; merge it with PEFT")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return LoraSettings(rank, scale, bool(config.get("fan_in_fan_out")), _targets(config))


def _targets(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    targets = config.get("target_modules")
    fewer = any(config.get(key) for key in ("exclude_modules", "layers_to_transform", "layers_pattern"))
    if fewer or not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        return None
    return tuple(targets)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; :class:`InputError` if it is missing or broken."""
    with open_tensors(path):
        pass
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}); make it again") from None


def read_lora(adapter: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return {matrix: (A [r, in], B [out, r])} of a plain LoRA adapter, matrices named as in the model.

    Raises :class:`InputError` for tensors that are not part of a LoRA pair (DoRA, biases, modules saved whole), for a
    pair that is none or of another rank than the config says, and for values that are not finite numbers. Where there
    is no config, the matrices are read all the same; what their scale is, nobody can say.
    """
    settings = read_settings(adapter) if (adapter / ADAPTER_CONFIG).exists() else None
    weights = adapter / ADAPTER_WEIGHTS
    present = adapter.iterdir() if adapter.is_dir() else ()
    pickled = sorted(path.name for path in present if PICKLED.fullmatch(path.name) or path.suffix == ".bin")
    if pickled and not weights.exists():
        raise InputError(
            f"{adapter}: its weights are in {pickled[0]}, and only {ADAPTER_WEIGHTS} is read, which runs no code; save "
            "the adapter again with PEFT"
        )
    tensors = read_tensors(weights)
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
            if settings is not None and a.shape[0] != settings.rank:
                raise InputError(
                    f"{adapter}: '{name}' has rank {a.shape[0]}, and {ADAPTER_CONFIG} says {settings.rank}; make it "
                    "again"
                )
            if not {a.dtype, b.dtype} <= PLAIN_NUMBERS:
                raise InputError(f"{adapter}: '{name}' holds {a.dtype} and {b.dtype}, no plain numbers; make it again")
            if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
                raise InputError(f"{adapter}: '{name}' holds values that are not finite; train the adapter again")
            pairs[name] = (a, b)
    if tensors or not pairs:
        raise InputError(f"{adapter}: not a plain LoRA adapter ({next(iter(tensors), 'it is empty')})")
    return pairs
