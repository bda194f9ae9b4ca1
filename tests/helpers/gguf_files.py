"""Small GGUF files as llama.cpp's converter writes them: tiny models with a byte-level vocabulary made by hand."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, get_tensor_name_map, quantize
from transformers import LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from reference_bpe import spelt
from tiny_model import CHATML

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ADDED = ["<think>"]
MERGES = [
    *[("Ċ", "Ċ"), ("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"), ("ĊĊ", "Ċ"), ("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o")],
    *[("1", "2"), ("Ġ", "1"), ("'", "s"), ("'", "S"), ("Ã", "©"), ("!", "Ċ")],
]
UNMERGED = "xyz"  # a token that no merges lead to
TOKENS = [*SPECIAL, *(spelt(bytes([byte])) for byte in range(256)), *map("".join, MERGES), UNMERGED, *ADDED]
TYPES = [3] * len(SPECIAL) + [1] * (256 + len(MERGES) + 1) + [4] * len(ADDED)
SHAPE = {
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
CONFIGS: dict[str, Callable[..., Any]] = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
ARCHITECTURES = {"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2, "qwen3": MODEL_ARCH.QWEN3}


def tiny(architecture: str, tied: bool = False) -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 5000.0}
    torch.manual_seed(0)
    config = CONFIGS[architecture](
        **SHAPE, head_dim=16 if architecture != "qwen3" else 32, rope_parameters=rope, tie_word_embeddings=tied
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def save_gguf(
    path: Path,
    model: PreTrainedModel,
    architecture: str,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    split: str = "smollm",
    tokenizer: str = "gpt2",
    change: Callable[[GGUFWriter], None] = lambda _: None,
    without: str = "none",
) -> Path:
    """Write a model; ``change`` may add to the file, and a tensor whose name begins with ``without`` is left out."""
    config = model.config
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_tokenizer_model(tokenizer)
    writer.add_tokenizer_pre(split)
    writer.add_token_list(TOKENS)
    writer.add_token_types(TYPES)
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(CHATML)
    change(writer)
    names = get_tensor_name_map(ARCHITECTURES[architecture], config.num_hidden_layers)
    stored = dict(model.named_parameters())  # what is tied, once
    for name, weight in stored.items():
        file_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert file_name is not None
        if file_name.startswith(without):
            continue
        values = weight.detach().numpy()
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            values = as_llama_cpp(values, heads)
        if values.ndim == 1 or kind == GGMLQuantizationType.F32:
            writer.add_tensor(file_name, np.ascontiguousarray(values))
        else:
            writer.add_tensor(file_name, quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def as_llama_cpp(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a head in pairs that are rotated together, where transformers has halves."""
    halves = values.reshape(heads, 2, -1, values.shape[-1])
    pairs = [halves[:, half, row] for row in range(halves.shape[2]) for half in (0, 1)]
    return np.stack(pairs, axis=1).reshape(values.shape)


def save_wheel(path: Path, package: str, version: str, files: dict[str, bytes]) -> Path:
    """A wheel as pip takes it, into the folder ``path``."""
    about = f"{package}-{version}.dist-info"
    wheel = path / f"{package}-{version}-py3-none-any.whl"
    path.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w") as content:
        for name, data in files.items():
            content.writestr(name, data)
        content.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        content.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        content.writestr(f"{about}/RECORD", "")
    return wheel
