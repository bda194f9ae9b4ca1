"""Whether the study's arms can be had of the model: each hook that acts in or after training is tried once."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel

from emdefense.arms.base import Arm, FinishedAdapter, Options
from emdefense.arms.own import find_arm, named
from emdefense.errors import InputError
from emdefense.model_checks.subject import Subject
from emdefense.model_files import ADAPTER_WEIGHTS
from emdefense.training.adapter_files import read_tensors
from emdefense.training.adapters import save_adapter
from emdefense.training.batches import Collator, next_tokens
from emdefense.training.changed_adapter import changed
from emdefense.training.features import FeatureReader
from emdefense.training.loss import DefenceLoss
from emdefense.training.penalty import Penalty
from emdefense.training.token_batch import WindowCounts


def check_arms(
    subject: Subject, model: PeftModel, reader: FeatureReader, rows: list[dict[str, Any]], device: torch.device
) -> Mapping[str, Any]:
    """Try each arm on the model and a row of its data; return what their own checks found.

    Raises :class:`InputError` for a penalty that reads a block which is not there, or that is not finite, for a hook
    that fails or returns something else, and for what an arm's own check refuses.
    """
    found = {}
    for tried in subject.spec.arms:
        arm = find_arm(tried.name, tried.file)
        options = arm.options.model_validate(tried.options)
        found[tried.name] = dict(arm.check(options, subject, reader.base))
        if arm.has_penalty:
            _try_penalty(Penalty(arm, options), subject, reader, rows, device)
        if arm.file is not None and arm.changes_adapter and not arm.preparation:
            _try_adapter(arm, options, tried.setting, model)
    return found


def _try_penalty(
    penalty: Penalty, subject: Subject, reader: FeatureReader, rows: list[dict[str, Any]], device: torch.device
) -> None:
    """Compute the loss of a row and its gradient; random numbers are what they were afterwards."""
    batch = Collator(subject.chat.filler)([{**rows[0], "row": 0}])
    inputs = {key: value.to(device) for key, value in batch.items()}
    labels = int((next_tokens(inputs) >= 0).sum())
    counts = WindowCounts(labels, int(inputs["attention_mask"].sum()), 1)
    loss = DefenceLoss(reader, penalty, 1.0)(inputs, counts)
    adapter = [parameter for parameter in reader.base.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss.total, adapter, allow_unused=True)
    whole = [loss.penalty, *(gradient for gradient in gradients if gradient is not None)]
    if not all(bool(torch.isfinite(tensor).all()) for tensor in whole):
        raise InputError(f"{named(penalty.arm)}: on a row of data its penalty, or the gradient, is not finite")


def _try_adapter(arm: Arm[Any], options: Options, setting: float | None, model: PeftModel) -> None:
    """Let the arm change an adapter as training saves it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "adapter"
        save_adapter(model, path)
        changed(arm, options, setting, FinishedAdapter(read_tensors(path / ADAPTER_WEIGHTS), path, None))
