"""Whether the study's arms can be had of the model: each hook that acts in or after training is tried once."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file

from emdefense.arms.arguments import FinishedAdapter, Step
from emdefense.arms.base import Arm, Options
from emdefense.arms.hooks import call, named, wrong_result
from emdefense.arms.study_arm import Part
from emdefense.chat.spans import with_spans
from emdefense.errors import InputError
from emdefense.model_checks.subject import Subject
from emdefense.model_files import ADAPTER_WEIGHTS
from emdefense.training.acting import Acting, check_stream_limit
from emdefense.training.acting_arm import acting_arm
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
            arm, options = tried.find()
            if (tried.name, options) in done:
                continue
            done.append((tried.name, options))
            found[tried.name] = _checked(arm, options, subject, reader)
            if tried.stream is not None:
                total = len(subject.places[tried.stream])
                check_stream_limit(arm, call(arm, "stream_limit", options), total, f"{tried.stream}: ")
            if arm.acts_in_training:
                _try_training(Part(arm, options, tried.setting), subject, model, reader, rows, device)
            elif arm.has_penalty:
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
    inputs, counts = _batch(subject, rows, device)
    loss = DefenceLoss(reader, penalty, 1.0)(inputs, counts)
    _check_finite(penalty.arm, reader, loss.total, [loss.penalty])


def _try_training(
    part: Part,
    subject: Subject,
    model: PeftModel,
    reader: FeatureReader,
    rows: list[dict[str, Any]],
    device: torch.device,
) -> None:
    """Compute the loss of a row and its gradient as the arm changes them; not where what it needs is made later."""
    with TemporaryDirectory() as folder:
        preparation = None
        if part.arm.is_prepared(part.options):
            roles = set(part.arm.materials(part.options))
            if part.arm.file is None or not roles <= {"adapter", "model", "base", "rows"}:
                return
            preparation = _tried_preparation(part.arm, part.options, subject, _saved(model, Path(folder)), Path(folder))
        arm = acting_arm(part, preparation)
    acting = Acting([arm])
    inputs, counts = _batch(subject, rows, device, part.arm.reads_prefix)
    undo = reader.change(acting.changes(reader.blocks))
    try:
        if arm.part.arm.stream and arm.penalty:
            arm.stream_rows()
            total = DefenceLoss(reader, arm.penalty, 1.0).penalty(inputs, counts)
        else:
            total = DefenceLoss(reader, more=acting.penalties)(inputs, counts).total
        gradients = _check_finite(part.arm, reader, total, [total])
    finally:
        undo()
    if arm.overrides("gradient"):
        trained = [parameter for parameter in reader.base.parameters() if parameter.requires_grad]
        stream = gradients if part.arm.stream else None
        step = Step(1, 1, trained, gradients, stream, {"task": 1}, {}, lambda name, value: None)
        _check_all_finite(part.arm, arm.gradient(step))


def _batch(
    subject: Subject, rows: list[dict[str, Any]], device: torch.device, spans: bool = False
) -> tuple[dict[str, torch.Tensor], WindowCounts]:
    if spans:
        rows = with_spans(subject.chat, rows[:1], [subject.rows[0].messages], [subject.rows[0].where])
    batch = Collator(subject.chat.filler)([{**rows[0], "row": 0}])
    inputs = {key: value.to(device) for key, value in batch.items()}
    labels = int((next_tokens(inputs) >= 0).sum())
    return inputs, WindowCounts(labels, int(inputs["attention_mask"].sum()), 1)


def _check_finite(
    arm: Arm[Any], reader: FeatureReader, total: torch.Tensor, values: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Return the gradient of a loss by the adapter, which must be finite, as must ``values``."""
    adapter = [parameter for parameter in reader.base.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(total, adapter, materialize_grads=True, allow_unused=True)
    _check_all_finite(arm, [*values, *gradients])
    return list(gradients)


def _check_all_finite(arm: Arm[Any], tensors: Sequence[torch.Tensor]) -> None:
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise InputError(f"{named(arm)}: on a row of data its penalty, or the gradient, is not finite")


def _try_adapter(
    arm: Arm[Any], options: Options, settings: Sequence[float | None], subject: Subject, model: PeftModel
) -> None:
    """Let the arm change an adapter."""
    with TemporaryDirectory() as folder:
        adapter = _saved(model, Path(folder))
        prepared = arm.is_prepared(options)
        preparation = _tried_preparation(arm, options, subject, adapter, Path(folder)) if prepared else None
        for setting in settings:
            tensors = read_tensors(adapter / ADAPTER_WEIGHTS)
            changed(arm, options, setting, FinishedAdapter(tensors, adapter, preparation))


def _saved(model: PeftModel, folder: Path) -> Path:
    """Return the folder of an adapter as training saves it, with numbers in place of the zeros that it starts from."""
    adapter = folder / "adapter"
    save_adapter(model, adapter)
    tensors = read_tensors(adapter / ADAPTER_WEIGHTS)
    for name, tensor in tensors.items():
        if name.endswith(B_SUFFIX):
            tensor.normal_(std=STEP)
    save_file(tensors, adapter / ADAPTER_WEIGHTS, METADATA)
    return adapter


def _tried_preparation(arm: Arm[Any], options: Options, subject: Subject, adapter: Path, folder: Path) -> Path:
    """Let the arm prepare what it needs from such an adapter; return the folder."""
    roles = {"adapter": adapter, "model": subject.folder, "base": subject.base, "rows": subject.row_files[0]}
    materials = {role: path for role, path in roles.items() if role in arm.materials(options) and path}
    prepare(arm, options, materials, folder / "preparation", torch.get_num_threads())
    return folder / "preparation"
