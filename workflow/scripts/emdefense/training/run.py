"""Train one cell: from a spec, a model and rows to an adapter, its log and its provenance."""

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback, set_seed
from trl.trainer.sft_config import SFTConfig

from emdefense import provenance
from emdefense.chat.chat import Chat, load_chat
from emdefense.config.checks import check_training
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.files import file_digest, write_json, write_jsonl
from emdefense.saved_model import load_to_train
from emdefense.training import checkpoints
from emdefense.training.acting import Acting, prepared_identity
from emdefense.training.acting_arm import ActingArm, acting_arm
from emdefense.training.adapters import add_adapter, save_adapter
from emdefense.training.attention import check_attention_installed, check_rows_stay_apart, check_sees_no_later_tokens
from emdefense.training.batches import Collator
from emdefense.training.data import TrainingRows, load_rows
from emdefense.training.features import FeatureReader
from emdefense.training.head_check import settle_head
from emdefense.training.loss import DefenceLoss
from emdefense.training.packages import check_packages
from emdefense.training.progress import Progress
from emdefense.training.reference import Reference
from emdefense.training.reference_features import cached_reference
from emdefense.training.spec import TrainSpec
from emdefense.training.telemetry import TIMED, logged
from emdefense.training.tracking import PROJECT, tracked
from emdefense.training.trainer import DefenceTrainer

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "tokenizers")


def train_cell(
    spec: TrainSpec,
    model_folder: Path,
    rows_file: Path,
    cell: Path,
    threads: int = 1,
    features: Path | None = None,
    prepared: Mapping[str, Path] | None = None,
    stream_file: Path | None = None,
) -> None:
    """Train an adapter and write it, its logs and its provenance into ``cell``, each whole or not at all.

    ``prepared`` are the preparations of the spec's arms by their names, ``stream_file`` the rows of a second stream.

    On a CPU the adapter's bytes depend on the spec, the data, the model and ``threads`` alone. Interrupted, the same
    call resumes from the newest checkpoint and ends with the same bytes.
    """
    check_training(spec.training)
    check_installed(spec.training)
    started = datetime.now(UTC)
    torch.set_num_threads(threads)
    chat = load_chat(model_folder, spec.chat)
    folders = dict(prepared or {})
    arms = [acting_arm(arm.build(), folders.get(arm.name)) for arm in spec.arms]
    spans = any(arm.part.arm.reads_prefix for arm in arms)
    data = load_rows(rows_file, chat, spec.training, spans)
    if data.overlong:
        left_out = f"left out: {len(data.overlong)} of {data.read} rows, longer than training.max_length tokens"
        print(left_out, file=sys.stderr)
    reference = cached_reference(spec, model_folder, data.rows, features)
    stream = load_rows(stream_file, chat, spec.training, spans).rows if stream_file else []
    acting = Acting(arms, stream, spec.seed)
    identity = {
        "spec": spec.model_dump(mode="json", exclude=None if spec.arms else {"arms"}),
        "threads": threads,
        "data": {"file": str(rows_file), "sha256": file_digest(rows_file)},
        "model": provenance.model_identity(model_folder),
        "chat_template": chat.identity(),
        **_read_by_arms(arms, folders, stream_file),
    }
    folder = checkpoints.folder_of(cell, identity)
    model = load_to_train(model_folder, spec.training)
    set_seed(spec.seed)
    adapted = add_adapter(model, spec.training)
    acting.attach(adapted)
    trainer = build_trainer(spec, adapted, chat, data, folder, reference, acting)
    resume_from = None
    if spec.training.checkpoint_minutes:
        resume_from = checkpoints.resume_point(folder, identity)
        if resume_from:
            acting.resume(resume_from, trainer.args.device)
    loaded = time.monotonic()
    with tracked(spec.training.report_to):
        _train(trainer, folder, resume_from)
    trained = time.monotonic()
    save_adapter(trainer.model, cell / "adapter")
    steps = [entry for entry in trainer.state.log_history if "ce" in entry]
    write_jsonl(cell / "train_log.jsonl", map(logged, steps))
    write_jsonl(cell / "train_timing.jsonl", ({key: step[key] for key in TIMED} for step in steps))
    packages = PACKAGES if spec.training.quantisation == "none" else (*PACKAGES, "bitsandbytes")
    made = provenance.made_by(started, packages, __name__, device=_device_name())
    record = {
        **identity,
        "rows": data.summary(),
        "steps": trainer.state.global_step,
        "resumed_from_step": checkpoints.step_of(resume_from) if resume_from else None,
        **made,
        "seconds": {"training": round(trained - loaded, 2), **made["seconds"]},
    }
    write_json(cell / "provenance.json", record)
    checkpoints.discard(folder)


def _read_by_arms(
    arms: Sequence[ActingArm], prepared: Mapping[str, Path], stream_file: Path | None
) -> dict[str, dict[str, str]]:
    """Return digests of what a training's arms read besides its rows, by what it is; nothing for most."""
    options = [arm.part.options for arm in arms]
    named = sorted({path for one in options for key in one.files if (path := getattr(one, key)) is not None})
    found = {"prepared": prepared_identity(prepared), "named": {path: file_digest(Path(path)) for path in named}}
    if stream_file:
        found["stream"] = {"file": str(stream_file), "sha256": file_digest(stream_file)}
    return {what: digests for what, digests in found.items() if digests}


def _train(trainer: DefenceTrainer, folder: Path, resume_from: Path | None) -> None:
    """Train to the end; an :class:`InputError` says which checkpoint in ``folder`` is kept."""
    try:
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        _check_finite(trainer.model)
    except InputError as error:
        kept = checkpoints.newest_whole(folder)
        raise InputError(f"{error} ({kept} is kept)" if kept else str(error)) from None


def build_trainer(
    spec: TrainSpec,
    model: PeftModel,
    chat: Chat,
    data: TrainingRows,
    folder: Path,
    reference: Reference | None = None,
    acting: Acting | None = None,
) -> DefenceTrainer:
    """Return the trainer of one cell; ``folder`` is where it would put checkpoints.

    Without a ``reference`` the model itself, its adapter off, is it.
    """
    arguments = training_arguments(spec.training, spec.seed, folder)
    acting = acting or Acting()
    callbacks: list[Any] = [Progress()]
    if spec.training.checkpoint_minutes:
        callbacks.append(checkpoints.TimedCheckpoints(spec.training.checkpoint_minutes, acting.save))
    penalty = spec.penalty.build() if spec.penalty else None
    reader = FeatureReader(model)
    of_stream = acting.of_stream.penalty if acting.of_stream else None
    trainer = DefenceTrainer(
        model,
        loss=DefenceLoss(
            reader, penalty, spec.penalty.coefficient if spec.penalty else 0.0, reference, acting.penalties
        ),
        diagnostics_every=spec.training.diagnostics_every,
        acting=acting,
        of_stream=DefenceLoss(reader, of_stream, 1.0) if of_stream else None,
        sources=data.sources,
        args=arguments,
        train_dataset=Dataset.from_list(data.rows),
        data_collator=Collator(chat.filler, spec.training.padding_free),
        processing_class=chat.tokenizer,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    with trainer.accelerator.autocast():  # by now the model is on its device
        settle_head(reader, data.rows, trainer.args.device)
        check_sees_no_later_tokens(reader, trainer.args.device)
    if spec.training.padding_free:
        check_rows_stay_apart(reader, trainer.args.device)
    reader.change(acting.changes(reader.blocks), trainer.telemetry.note)
    return trainer


def training_arguments(training: Training, seed: int, folder: Path) -> SFTConfig:
    """Return Table 7 as TRL takes it; what it leaves open (Adam's betas, clipping at norm 1) is the library's."""
    arguments = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulation_steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule if training.schedule != "constant" else "constant_with_warmup",
        warmup_steps=training.warmup_steps,
        optim=training.optimiser,
        weight_decay=training.weight_decay,
        bf16=training.precision == "bfloat16",
        activation_checkpointing=training.activation_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        max_length=None,  # rows are already tokenised, and none is truncated
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        seed=seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # TimedCheckpoints asks for them, and removes them
        report_to=training.report_to,
        run_name=str(folder.parents[1]),  # the cell
        project=PROJECT,
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # the first that is visible, not each of them in a thread
    return arguments


def check_installed(training: Training) -> None:
    """Raise :class:`InputError` if the training needs a package that is not there."""
    check_packages(training)
    check_attention_installed(training)


def _check_finite(model: PeftModel) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise InputError(f"after training, {name} is not finite; lower training.learning_rate or λ")


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
