"""A rank-stabilised adapter of some matrices of a tiny Qwen2 with two layers and a width of 256, in PEFT's layout."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from emdefense.files import write_json


def save_adapter(folder: Path, rank: int = 8, size: float = 0.02) -> Path:
    """Write an adapter of every layer's q and down projections."""
    torch.manual_seed(rank)
    tensors = {}
    for layer in range(2):
        for module in ("self_attn.q_proj", "mlp.down_proj"):
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, 256) * size
            tensors[f"{name}.lora_B.weight"] = torch.randn(256, rank) * size
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 64, "use_rslora": True, "bias": "none"}
    write_json(folder / "adapter_config.json", {**config, "target_modules": ["q_proj", "down_proj"]})
    return folder
