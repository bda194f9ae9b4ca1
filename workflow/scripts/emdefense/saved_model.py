"""Loads a saved model and its tokenizer, from their folder alone, and names what is missing or broken in it.

No code but transformers' own is ever run, whatever the folder asks for and whoever might agree to it.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from emdefense.errors import InputError
from emdefense.model_files import CONFIG, check_config, check_there, check_tokenizer_files
from emdefense.weight_files import weight_shapes

OWN_FILES_ALONE = {"local_files_only": True, "trust_remote_code": False}
# How many times as many weights as its files hold a model may have: what is tied is stored once.
MOST_TIED = 4


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return a model's tokenizer; :class:`InputError` names what the folder lacks."""
    transformers.utils.logging.set_verbosity_error()
    check_there(folder, CONFIG, "model")
    check_tokenizer_files(folder)
    load_config(folder)
    with in_one_line(folder, "load the tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **OWN_FILES_ALONE)
    if tokenizer.chat_template is None:
        raise InputError(
            f"{folder}: the tokenizer has no chat template; add chat_template.jinja, or use an instruction-tuned model"
        )
    return tokenizer


def load_config(folder: Path) -> PretrainedConfig:
    """Return a model's config as transformers reads it; :class:`InputError` names what is wrong with it."""
    kind = check_config(folder)["model_type"]
    if kind not in CONFIG_MAPPING:
        raise InputError(
            f"{folder / CONFIG}: transformers {transformers.__version__} knows no model of type '{kind}', and no code "
            "of the model's own is ever run; name another model"
        )
    with in_one_line(folder, "load the model"):
        return AutoConfig.from_pretrained(folder, **OWN_FILES_ALONE)


def load_model(folder: Path, precision: str, attention: str | None = None) -> PreTrainedModel:
    """Return the model in ``folder`` in ``precision`` (``bfloat16`` or ``float32``), on the CPU.

    ``attention`` is how it is computed (``training.attention``); None leaves it to transformers: sdpa where it can be.

    Raises :class:`InputError` if a file is missing or torn, if a tensor is missing (transformers would draw it at
    random), has another shape than the config says or no place in it, and if a weight is not finite.
    """
    transformers.utils.logging.set_verbosity_error()  # what it would say of missing tensors is said below, in one line
    config = load_config(folder)
    _check_size(folder, config)
    model: PreTrainedModel
    how = f" with training.attention: {attention}" if attention else ""
    with in_one_line(folder, f"load the model{how}"):
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32,
            attn_implementation=attention,
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
            use_safetensors=True,
            **OWN_FILES_ALONE,
        )
    for name in sorted(found["missing_keys"]):
        raise InputError(f"{folder}: its files hold no '{name}'; fetch it again")
    for name, *_ in sorted(found["mismatched_keys"]):
        raise InputError(f"{folder}: '{name}' has another shape than config.json says; fetch it again")
    known = {_numbers_apart(name) for name, _ in model.named_parameters()}
    for name in sorted(found["unexpected_keys"]):
        if _numbers_apart(name) in known:
            raise InputError(f"{folder}: config.json has no place for '{name}', which its files hold; fetch it again")
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter.sum()):  # a pass without a copy, 2 s for 7B
            raise InputError(f"{folder}: '{name}' holds values that are not finite; fetch or make the model again")
    return model


def _check_size(folder: Path, config: PretrainedConfig) -> None:
    """Raise :class:`InputError` if a config describes far more weights than there are, before memory is taken."""
    shapes = weight_shapes(folder)
    stored = sum(map(math.prod, shapes.values()))
    with in_one_line(folder, "load the model"):
        layers = config.get_text_config().num_hidden_layers
        described = None
        if isinstance(layers, int) and layers <= len(shapes):
            with torch.device("meta"):
                empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            described = sum(parameter.numel() for parameter in [*empty.parameters(), *empty.buffers()])
    if described is None or described > MOST_TIED * stored:
        raise InputError(
            f"{folder / CONFIG}: it describes a far larger model than the {stored} weights there are; fetch both again"
        )


@contextmanager
def in_one_line(folder: Path | str, what: str) -> Iterator[None]:
    """Turn whatever transformers and tokenizers raise for files that are not as they expect into one line.

    ``what`` is what was tried, as in "cannot load the model".
    """
    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{folder}: cannot {what} ({text[:300]}); fetch it again") from None


def _numbers_apart(name: str) -> str:
    return re.sub(r"\d+", "0", name)
