"""Loads a saved model and its tokenizer, from their folder alone, and names what is missing or broken in it."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from emdefense.errors import InputError


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return a model's tokenizer; :class:`InputError` names what the folder lacks."""
    for name, what in (("config.json", "model"), ("tokenizer_config.json", "tokenizer")):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: there is no {what} ({name}); name a folder written by save_pretrained")
    tokenizer: PreTrainedTokenizerBase
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a torn or foreign file makes of it: tokenizers raises bare exceptions
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{folder}: cannot load the tokenizer ({said}); fetch it again") from None
    if tokenizer.chat_template is None:
        raise InputError(
            f"{folder}: the tokenizer has no chat template; add chat_template.jinja, or use an instruction-tuned model"
        )
    return tokenizer


def load_model(folder: Path, precision: str, attention: str = "sdpa") -> PreTrainedModel:
    """Return the model in ``folder`` in ``precision`` (``bfloat16`` or ``float32``), on the CPU.

    Raises :class:`InputError` if a file is missing or torn, if a tensor is missing (transformers would draw it at
    random) or has another shape than the config says, and if a weight is not finite.
    """
    model: PreTrainedModel
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32,
            attn_implementation=attention,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{folder}: cannot load the model ({str(error).splitlines()[0]}); fetch it again") from None
    for name in sorted(found["missing_keys"]):
        raise InputError(f"{folder}: its files hold no '{name}'; fetch it again")
    for name, *_ in sorted(found["mismatched_keys"]):
        raise InputError(f"{folder}: '{name}' has another shape than config.json says; fetch it again")
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter.sum()):  # a pass without a copy, 2 s for 7B
            raise InputError(f"{folder}: '{name}' holds values that are not finite; fetch or make the model again")
    return model
