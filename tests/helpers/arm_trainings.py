"""Trainings of a tiny model in which arms act: from files to files, and the gradient of a single step."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from emdefense.arms import STANDARD
from emdefense.arms.study_arm import Part
from emdefense.chat.chat import Chat
from emdefense.chat.spans import with_spans
from emdefense.config.training import Training
from emdefense.training.acting import Acting
from emdefense.training.acting_arm import acting_arm
from emdefense.training.adapters import add_adapter
from emdefense.training.data import TrainingRows
from emdefense.training.loss import DefenceLoss
from emdefense.training.run import build_trainer, train_cell
from emdefense.training.spec import ArmSpec, TrainSpec
from float64_model import in_float64
from tiny_model import make_model, make_rows, make_tokenizer, save_model, save_rows

STEPS = 6
AT_EVERY_STEP = {"checkpoint_minutes": 1e-6}
ACTING = Training(
    batch_size=2,
    accumulation_steps=2,
    learning_rate=3e-3,
    warmup_steps=1,
    precision="float32",
    optimiser="adamw_torch",
    checkpoint_minutes=0,
    diagnostics_every=1,
)


def workplace(folder: Path) -> Path:
    """A model, ``rows.jsonl`` of a task for six steps of four, and ``safe.jsonl``."""
    save_model(folder / "model")
    save_rows(folder / "rows.jsonl", make_rows(4 * STEPS, longest=20))
    save_rows(folder / "safe.jsonl", make_rows(24, seed=9, longest=20))
    return folder


def arm_spec(name: str, setting: float, **options: Any) -> ArmSpec:
    return ArmSpec(name=name, setting=setting, options=options)


def train(
    folder: Path,
    cell: Path,
    *arms: ArmSpec,
    prepared: Path | None = None,
    rows: str = "rows.jsonl",
    **training: Any,
) -> dict[str, Tensor]:
    """Train a cell of a workplace; return its adapter."""
    given = TrainSpec(version=1, seed=3, training=ACTING.model_copy(update=training), arms=arms)
    declared = {arm.name: STANDARD[arm.name] for arm in arms}
    stream = folder / "safe.jsonl" if any(arm.stream for arm in declared.values()) else None
    folders = {name: prepared for name, arm in declared.items() if arm.preparation and prepared}
    train_cell(given, folder / "model", folder / rows, cell, prepared=folders, stream_file=stream)
    return load_file(cell / "adapter" / "adapter_model.safetensors")


def log(cell: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cell / "train_log.jsonl").read_text().splitlines()]


def same(mine: Path, other: Path) -> bool:
    """Whether two cells have adapters of the same bytes."""
    names = ("adapter_model.safetensors", "adapter_config.json")
    return all((mine / "adapter" / name).read_bytes() == (other / "adapter" / name).read_bytes() for name in names)


def torn(monkeypatch: pytest.MonkeyPatch, cell: Path, training: Callable[[], object]) -> None:
    """Train into a cell with checkpoints, be killed two steps before the end, and resume."""
    of_step, calls = DefenceLoss.__call__, []

    def killed(self: DefenceLoss, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > 2 * (STEPS - 2):
            raise KeyboardInterrupt
        return of_step(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(DefenceLoss, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            training()
    training()
    assert json.loads((cell / "provenance.json").read_text())["resumed_from_step"] == STEPS - 2


def moved_model(seed: int = 0, moved: float = 0.05) -> PeftModel:
    """A model in float64 whose adapter is not zero."""
    model = in_float64(add_adapter(make_model(seed).double(), ACTING))
    draw = torch.Generator().manual_seed(seed + 1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, moved, generator=draw)
    return model


def trained_parameters(model: PeftModel) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


class _Stopped(Exception):
    pass


def step_gradient(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    model: PeftModel,
    part: Part,
    rows: Sequence[dict[str, Any]],
    stream: Sequence[dict[str, Any]] = (),
    prepared: Path | None = None,
    chat: Chat | None = None,
    **training: Any,
) -> list[Tensor]:
    """The gradient that a training of ``rows`` in one step has before it is clipped, by the trained parameters."""
    chat = chat or Chat(make_tokenizer())
    tokenised = chat.rows([row["messages"] for row in rows])
    tokenised = with_spans(chat, tokenised, [row["messages"] for row in rows], [""] * len(rows))
    safe = chat.rows([row["messages"] for row in stream])
    acting = Acting([acting_arm(part, prepared)], safe, seed=3)
    acting.attach(model)
    spec = TrainSpec(version=1, seed=3, training=ACTING.model_copy(update={"diagnostics_every": 0, **training}))
    sources = [str(row.get("source", "task")) for row in rows]
    data = TrainingRows(tokenised, len(rows), [], sources)
    trainer = build_trainer(spec, model, chat, data, folder, acting=acting)

    def stopped(*_arguments: Any) -> None:
        raise _Stopped

    with monkeypatch.context() as patched:
        patched.setattr(Accelerator, "clip_grad_norm_", stopped)
        with pytest.raises(_Stopped):
            trainer.train()
    return [parameter.grad.clone() for parameter in trained_parameters(model) if parameter.grad is not None]


def written(messages: Sequence[dict[str, str]]) -> tuple[list[int], int]:
    """A conversation's tokens in ChatML, a byte a token, and where its answer starts; by hand."""
    tokenizer = make_tokenizer()

    def text(parts: Sequence[dict[str, str]]) -> str:
        return "".join(f"<|im_start|>{part['role']}\n{part['content']}<|im_end|>\n" for part in parts)

    before = tokenizer.encode(text(messages[:-1]) + "<|im_start|>assistant\n")
    return tokenizer.encode(text(messages)), len(before)


def cross_entropy(model: PeftModel, rows: Sequence[dict[str, Any]]) -> Tensor:
    """The mean over all answers' tokens, by the model's own logits, a row at a time."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in rows:
        ids, start = written(row["messages"])
        log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        for place in range(start, len(ids)):
            total = total - log_probs[place - 1, ids[place]]
            count += 1
    return total / count


def divergence(model: PeftModel, rows: Sequence[dict[str, Any]], reverse: bool = False) -> Tensor:
    """KL(p_θ ‖ p_θ0), or the other way round, mean over all tokens, by the model's own logits, a row at a time."""
    values = []
    for row in rows:
        ids = torch.tensor([written(row["messages"])[0]])
        policy = model(ids).logits[0].log_softmax(-1)
        with torch.no_grad(), model.disable_adapter():
            before = model(ids).logits[0].log_softmax(-1)
        p, q = (before, policy) if reverse else (policy, before)
        values.append((p.exp() * (p - q)).sum(-1))
    return torch.cat(values).mean()


def farthest(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference over the largest value."""
    largest = max(one.abs().max().item() for one in expected)
    return max((one - other).abs().max().item() for one, other in zip(found, expected, strict=True)) / largest
