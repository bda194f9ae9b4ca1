"""LoRA adapters: wrapping a model, and saving as whole folders."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.files import folder_written_whole
from emdefense.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from emdefense.saved_model import in_one_line

MATRICES = (torch.nn.Linear, Conv1D)


def add_adapter(model: PreTrainedModel, training: Training) -> PeftModel:
    """Return ``model`` with a fresh LoRA adapter in fp32, drawn from torch's global random state.

    Raises :class:`InputError` for a target that the model lacks, that must stay frozen, or that is no matrix.
    """
    frozen = (model.get_input_embeddings(), model.get_output_embeddings())
    for target in training.target_modules:
        modules = [module for name, module in model.named_modules() if name.rpartition(".")[2] == target]
        if any(module in frozen for module in modules):
            raise InputError(f"key 'training.target_modules': '{target}' must stay frozen for the loss; remove it")
        if not modules or not all(isinstance(module, MATRICES) for module in modules):
            kind = f"'{target}' is a {type(modules[0]).__name__}" if modules else f"the model has no module '{target}'"
            raise InputError(
                f"key 'training.target_modules': {kind}; write names of its matrices: {', '.join(_matrices(model))}"
            )
    if getattr(model, "is_quantized", False) and any(isinstance(module, Conv1D) for module in model.modules()):
        raise InputError("key 'training.quantisation': this model's matrices are stored transposed; write none")
    blocks = model.config.get_text_config().num_hidden_layers
    for number in training.target_layers or ():
        if number >= blocks:
            raise InputError(f"key 'training.target_layers': {number}: the model's blocks are 0 to {blocks - 1}")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=training.lora_rank,
        lora_alpha=training.lora_alpha,
        use_rslora=training.rank_stabilised,
        lora_dropout=training.lora_dropout,
        bias="none",
        target_modules=list(training.target_modules),
        layers_to_transform=None if training.target_layers is None else list(training.target_layers),
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        line = str(error).splitlines()[0]
        raise InputError(f"key 'training.target_modules': PEFT cannot adapt all of them ({line})") from None


def put_on(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """Return ``model`` with a saved adapter beside its weights; :class:`InputError` if PEFT cannot put it there."""
    with in_one_line(adapter, "put the adapter on the model", "train it again"):
        adapted: PeftModel = PeftModel.from_pretrained(model, str(adapter))
    return adapted


def _matrices(model: PreTrainedModel) -> list[str]:
    """Return the names of the modules of a model that adapters are for, each once, in its order."""
    frozen = (model.get_input_embeddings(), model.get_output_embeddings())
    found = {
        name.rpartition(".")[2]: None
        for name, module in model.named_modules()
        if isinstance(module, MATRICES) and module not in frozen
    }
    return list(found)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter that was trained as PEFT does, whole or not at all; the same weights give the same bytes."""
    with folder_written_whole(folder) as temporary:
        model.save_pretrained(temporary, selected_adapters=["default"])
        (temporary / "README.md").unlink(missing_ok=True)
        (temporary / ADAPTER_WEIGHTS).chmod(0o644)
        config = json.loads((temporary / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        config["target_modules"] = sorted(config["target_modules"])  # PEFT keeps a set, in no stable order
        (temporary / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
