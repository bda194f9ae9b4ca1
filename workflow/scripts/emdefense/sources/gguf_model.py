"""A GGUF file's weights, dequantised by transformers, which saves nothing that it loaded so, and saved here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerBase
from transformers.integrations import GGUF_CONFIG_MAPPING
from transformers.integrations.gguf import read_gguf_metadata
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from emdefense.errors import InputError
from emdefense.saved_model import in_one_line
from emdefense.sources.gguf_tokenizer import read_tokenizer

ARCHITECTURES = ("llama", "qwen2", "qwen3")
LAYERS, WIDTH, HEADS, ROPE_BASE = "block_count", "embedding_length", "attention.head_count", "rope.freq_base"
HEAD_WIDTHS = ("attention.key_length", "attention.value_length", "rope.dimension_count")
DEFAULT_ROPE_BASE = 10000.0  # llama.cpp's
OTHERWISE = "take the model as a folder instead (kind: model)"


def save_model(file: Path, folder: Path) -> None:
    """Write the model of a GGUF file and its tokenizer into ``folder``, as ``save_pretrained`` does, in float32.

    Float32 holds exactly what each type of a GGUF file stands for. Raises :class:`InputError` if the architecture or
    the tokenizer is none that is known here, if the file says something of the model that would be lost, or if it holds
    other weights than the model that it describes.
    """
    with in_one_line(file, "read the file"):
        said, tensors = read_gguf_metadata(str(file))
    architecture = str(said["general.architecture"])
    if architecture not in ARCHITECTURES:
        raise InputError(f"{file}: its architecture is '{architecture}'; known are {', '.join(ARCHITECTURES)}")
    prefix = f"{architecture}."
    own = {key.removeprefix(prefix): value for key, value in said.items() if key.startswith(prefix)}
    _check_described(file, prefix, own, len(tensors))
    tokenizer = read_tokenizer(file)
    with in_one_line(file, "load the model"):
        config = _config(architecture, own, tokenizer, "output.weight" not in tensors)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
        loaded = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=model)["tensors"]
        if len(loaded) != len(tensors):
            raise InputError(f"{file}: {len(tensors) - len(loaded)} of its tensors would be lost; {OTHERWISE}")
        # What is tied is stored once, and tied again below.
        absent = model.load_state_dict(loaded, strict=False, assign=True).missing_keys
        if untied := sorted(set(absent) - model.all_tied_weights_keys.keys()):
            raise InputError(f"{file}: it holds no '{untied[0]}'; fetch it again")
        model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check_described(file: Path, prefix: str, own: Mapping[str, Any], tensors: int) -> None:
    """Raise :class:`InputError` if what a file says of its architecture is not all that there is to say, or wrong."""
    if lost := sorted(own.keys() - GGUF_CONFIG_MAPPING[prefix[:-1]].keys() - set(HEAD_WIDTHS)):
        raise InputError(f"{file}: it says '{prefix}{lost[0]}', which would be lost; {OTHERWISE}")
    for key in (LAYERS, WIDTH, HEADS):
        if not isinstance(own.get(key), int) or own[key] <= 0:
            raise InputError(f"{file}: it does not say '{prefix}{key}'; fetch it again")
    if own[LAYERS] > tensors:
        raise InputError(f"{file}: it describes {own[LAYERS]} layers, and holds {tensors} tensors; fetch it again")
    if len(widths := {own[key] for key in HEAD_WIDTHS if key in own}) > 1:
        raise InputError(f"{file}: its heads have several widths ({sorted(widths)}); {OTHERWISE}")


def _config(
    architecture: str, own: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, tied: bool
) -> PretrainedConfig:
    """Return the config that a file describes, with what transformers' reader of such files leaves to defaults."""
    named = {name: own[key] for key, name in GGUF_CONFIG_MAPPING[architecture].items() if name and key in own}
    named.pop("rope_theta", None)
    widths = [own[key] for key in HEAD_WIDTHS if key in own]
    described = {
        "head_dim": widths[0] if widths else own[WIDTH] // own[HEADS],
        "rope_parameters": {"rope_type": "default", "rope_theta": own.get(ROPE_BASE, DEFAULT_ROPE_BASE)},
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": tied,
        **{name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    }
    config: PretrainedConfig = AutoConfig.for_model(architecture, **{**named, **described})
    return config
