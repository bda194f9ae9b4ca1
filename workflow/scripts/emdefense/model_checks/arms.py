"""Whether the study's arms can be had of the model: each hook that acts in or after training is tried once."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file

from emdefense.arms.base import Arm, FinishedAdapter, Options
from emdefense.arms.hooks import call, named, wrong_result
from emdefense.arms.own import find_arm
from emdefense.errors import InputError
from emdefense.model_checks.subject import Subject
from emdefense.model_files import ADAPTER_WEIGHTS
from emdefense.training.adapter_files import B_SUFFIX, read_tensors
from emdefense.training.adapters import save_adapter
from emdefense.training.batches import Collator, next_tokens
from emdefense.training.changed_adapter import METADATA, changed
from emdefense.training.features import FeatureReader
from emdefense.training.loss import DefenceLoss
from emdefense.training.penalty import Penalty
from emdefense.training.preparation import prepare
from emdefense.training.token_batch import WindowCounts

STEP = 1e-3  # of an adapter's B after training, roughly


def check_arms(
    subject: Subject, model: PeftModel, reader: FeatureReader, rows: list[dict[str, Any]], device: torch.device
) -> Mapping[str, Any]:
    """Try each arm on the model and a row of its data; return what their own checks found.

    Raises :class:`InputError` for a penalty that reads a block which is not there, or that is not finite, for a hook
    that fails or returns something else, and for what an arm's own check refuses.
    """
    found = {}
    done: list[tuple[str, Options]] = []
    with torch.random.fork_rng():
        for tried in subject.spec.arms:
            arm = find_arm(tried.name, tried.file, tried.sha256)
            options = arm.options.model_validate(tried.options)
            if (tried.name, options) in done:
                continue
            done.append((tried.name, options))
            found[tried.name] = _checked(arm, options, subject, reader)
            if arm.has_penalty:
                _try_penalty(Penalty(arm, options), subject, reader, rows, device)
            if arm.file is not None and arm.changes_adapter:
                same = [one for one in subject.spec.arms if (one.name, one.options) == (tried.name, tried.options)]
                _try_adapter(arm, options, [one.setting for one in same], subject, model)
    return found


def _checked(arm: Arm[Any], options: Options, subject: Subject, reader: FeatureReader) -> Mapping[str, Any]:
    """Return what an arm's own check found, for the record."""
    found = call(arm, "check", options, subject, reader.base)
    try:
        json.dumps(dict(found), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise wrong_result(arm, "check", f"it returned no mapping that JSON holds: {error}") from None
    return dict(found)


def _try_penalty(
    penalty: Penalty, subject: Subject, reader: FeatureReader, rows: list[dict[str, Any]], device: torch.device
) -> None:
    """Compute the loss of a row and its gradient."""
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


def _try_adapter(
    arm: Arm[Any], options: Options, settings: Sequence[float | None], subject: Subject, model: PeftModel
) -> None:
    """Let the arm change an adapter as training saves it, with numbers in place of the zeros that it starts from."""
    with TemporaryDirectory() as folder:
        adapter = Path(folder) / "adapter"
        save_adapter(model, adapter)
        tensors = read_tensors(adapter / ADAPTER_WEIGHTS)
        for name, tensor in tensors.items():
            if name.endswith(B_SUFFIX):
                tensor.normal_(std=STEP)
        save_file(tensors, adapter / ADAPTER_WEIGHTS, METADATA)
        preparation = Path(folder) / "preparation" if arm.preparation else None
        if preparation:
            roles = {"adapter": adapter, "model": subject.folder, "base": subject.base, "rows": subject.row_files[0]}
            materials = {role: path for role, path in roles.items() if role in arm.prepared_from and path}
            prepare(arm, options, materials, preparation, torch.get_num_threads())
        for setting in settings:
            tensors = read_tensors(adapter / ADAPTER_WEIGHTS)
            changed(arm, options, setting, FinishedAdapter(tensors, adapter, preparation))
