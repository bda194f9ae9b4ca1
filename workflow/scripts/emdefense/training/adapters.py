"""Models and LoRA adapters: loading, wrapping, and saving as whole folders."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.training.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, folder_written_whole


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer saved with a model; :class:`InputError` if there is none."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: there is no model (config.json); name a folder written by save_pretrained")
    if not (folder / "tokenizer_config.json").is_file():
        raise InputError(f"{folder}: there is no tokenizer (tokenizer_config.json); save it with the model")
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer


def load_model(folder: Path, training: Training) -> PreTrainedModel:
    """Return the model in ``folder`` in the precision of training, on the CPU.

    Raises :class:`InputError` if a file is missing or torn, if a tensor is missing (transformers would draw it at
    random) or has another shape than the config says, and if a weight is not finite.
    """
    model: PreTrainedModel
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.bfloat16 if training.precision == "bfloat16" else torch.float32,
            attn_implementation=training.attention,
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


def add_adapter(model: PreTrainedModel, training: Training) -> PeftModel:
    """Return ``model`` with a fresh LoRA adapter in fp32, drawn from torch's global random state."""
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    for target in training.target_modules:
        if target not in names:
            raise InputError(f"key 'training.target_modules': the model has no module '{target}'; remove it")
        if target in {"lm_head", "embed_tokens"}:
            raise InputError(f"key 'training.target_modules': '{target}' must stay frozen for the loss; remove it")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=training.lora_rank,
        lora_alpha=training.lora_alpha,
        use_rslora=training.rank_stabilised,
        lora_dropout=training.lora_dropout,
        bias="none",
        target_modules=list(training.target_modules),
    )
    return get_peft_model(model, config)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter as PEFT does, whole or not at all; the same weights give the same bytes."""
    with folder_written_whole(folder) as temporary:
        model.save_pretrained(temporary)
        (temporary / "README.md").unlink(missing_ok=True)
        (temporary / ADAPTER_WEIGHTS).chmod(0o644)
        config = json.loads((temporary / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        config["target_modules"] = sorted(config["target_modules"])  # PEFT keeps a set, in no stable order
        (temporary / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
