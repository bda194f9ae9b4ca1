"""LoRA adapters: wrapping a model, and saving as whole folders."""

import json
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.files import folder_written_whole
from emdefense.training.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS


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
