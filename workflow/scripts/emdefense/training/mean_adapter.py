"""The mean of several LoRA adapters' changes, as one adapter."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from emdefense.errors import InputError
from emdefense.files import read_json, write_json
from emdefense.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from emdefense.training.adapter_files import A_SUFFIX, B_SUFFIX, PREFIX, read_lora, read_settings
from emdefense.training.changed_adapter import METADATA


def write_mean_adapter(adapters: Sequence[Path], out: Path) -> None:
    """Write a plain LoRA adapter into ``out`` whose change of each matrix is the mean of those of ``adapters``.

    Σ_k s_k·B_k·A_k / K = B·A with A the rows of all A_k, and B the columns of all s_k·B_k / K: of the sum of their
    ranks, and with a scale of 1. Raises :class:`InputError` for adapters of different matrices, and as
    :func:`read_lora` does.
    """
    pairs = [read_lora(adapter) for adapter in adapters]
    settings = [read_settings(adapter) for adapter in adapters]
    for adapter, found in zip(adapters, pairs, strict=True):
        if odd := sorted(found.keys() ^ pairs[0].keys()):
            raise InputError(
                f"{adapter}: '{odd[0]}' is adapted there or in {adapters[0]}, and not in both; train alike"
            )
    tensors = {}
    for name in pairs[0]:
        shares = [(found[name], one.scale / len(pairs)) for found, one in zip(pairs, settings, strict=True)]
        tensors[PREFIX + name + A_SUFFIX] = torch.cat([a for (a, _), _ in shares], dim=0).contiguous()
        tensors[PREFIX + name + B_SUFFIX] = torch.cat([share * b for (_, b), share in shares], dim=1).contiguous()
    save_file(tensors, out / ADAPTER_WEIGHTS, METADATA)
    rank = sum(one.rank for one in settings)
    config = {**read_json(adapters[0] / ADAPTER_CONFIG), "r": rank, "lora_alpha": rank, "use_rslora": False}
    write_json(out / ADAPTER_CONFIG, config)
