"""Whether SafeLoRA can tell the direction of alignment from the model and the one before it."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from emdefense.arms.safelora.projection import TRANSPOSED
from emdefense.errors import InputError
from emdefense.model_checks.subject import Subject
from emdefense.model_files import check_config
from emdefense.provenance import model_identity
from emdefense.weight_files import weight_shapes


def check_base(subject: Subject, model: PreTrainedModel) -> Mapping[str, Any]:
    """Compare the matrices of both models that adapters change, by their files' headers; return how many there are.

    Raises :class:`InputError`, as projecting would, if a file of the model before alignment is broken, if it is another
    model, or the same.
    """
    base, training = subject.base, subject.spec.training
    if base is None or training is None:
        return {}
    if any(isinstance(module, Conv1D) for module in model.modules()):
        raise InputError(f"{subject.folder}: {TRANSPOSED}")
    check_config(base)
    before, after = weight_shapes(base), weight_shapes(subject.folder)
    names = [name for name in after if name.removesuffix(".weight").rpartition(".")[2] in training.target_modules]
    names = [name for name in names if name.endswith(".weight")]
    for name in names:
        if before.get(name) != after[name]:
            there = f"is {before[name]}" if name in before else "is not there"
            raise InputError(
                f"{base}: '{name}' {there}, and {after[name]} in {subject.folder}; name the model that this one was "
                "aligned from"
            )
    if model_identity(base)["weights_digest"] == model_identity(subject.folder)["weights_digest"]:
        raise InputError(
            f"{base} and {subject.folder} have the same weights: SafeLoRA needs a model before and one after alignment"
        )
    return {"matrices": len(names)}
