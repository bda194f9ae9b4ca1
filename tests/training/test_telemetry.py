"""The training log: each number against its definition, and that measuring changes nothing."""

import json
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback

from emdefense.chat.chat import Chat
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.training.adapters import add_adapter
from emdefense.training.batches import Collator
from emdefense.training.data import TrainingRows
from emdefense.training.features import FeatureReader
from emdefense.training.loss import DefenceLoss
from emdefense.training.penalty import build_penalty
from emdefense.training.run import build_trainer, check_installed, train_cell
from emdefense.training.spec import PenaltySpec, TrainSpec
from emdefense.training.telemetry import Telemetry, peak_memory
from emdefense.training.token_batch import WindowCounts
from emdefense.training.trainer import DefenceTrainer
from tiny_model import make_model, make_rows, make_tokenizer, save_model, save_rows

FAST = Training(
    batch_size=4,
    accumulation_steps=2,
    learning_rate=3e-3,
    warmup_steps=1,
    lora_dropout=0.1,
    precision="float32",
    optimiser="adamw_torch",
    checkpoint_minutes=0,
)
PENALTIES = {
    "sft": None,
    "kl": PenaltySpec(name="kl", coefficient=0.7),
    "kl-sum": PenaltySpec(name="kl", coefficient=0.05, options={"reduction": "sequence_sum", "tokens": "response"}),
    "ldifs": PenaltySpec(name="ldifs", coefficient=0.3, options={"every": 1}),
}
MIXED = {"precision": "bfloat16", "activation_checkpointing": True}
ROUNDING = 1e-7  # the model computes its norms in fp32, forwards and backwards, whatever its weights are
DISSECTED = ("grad_norm_ce", "grad_norm_penalty", "kl")


def spec(penalty: PenaltySpec | None, **changes: Any) -> TrainSpec:
    return TrainSpec(version=1, seed=5, training=FAST.model_copy(update=changes), penalty=penalty)


def trainer_of(of: TrainSpec, folder: Path, rows: int = 60) -> DefenceTrainer:
    tokenizer = make_tokenizer()
    data = TrainingRows(Chat(tokenizer).rows([row["messages"] for row in make_rows(rows)]), rows, [])
    return build_trainer(of, add_adapter(make_model(), of.training), Chat(tokenizer), data, folder)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), attention_dropout=0.1)


def cell_of(of: TrainSpec, model: Path, folder: Path, rows: int = 44) -> Path:
    train_cell(of, model, save_rows(folder.with_suffix(".jsonl"), make_rows(rows)), folder)
    return folder


def log_of(cell: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cell / "train_log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "changes"),
    [("sft", {}), ("kl", {}), ("ldifs", {}), ("sft", MIXED), ("kl-sum", MIXED), ("ldifs", MIXED)],
    ids=["sft", "kl", "ldifs", "sft-mixed", "kl-sum-mixed", "ldifs-mixed"],
)
def test_measuring_changes_not_a_bit_of_the_adapter(
    model_folder: Path, tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    every = (0, 1, 4)
    cells = [
        cell_of(spec(PENALTIES[name], diagnostics_every=n, **changes), model_folder, tmp_path / str(n)) for n in every
    ]
    adapters = {(cell / "adapter/adapter_model.safetensors").read_bytes() for cell in cells}
    assert len(adapters) == 1
    never, always, fourth = map(log_of, cells)
    assert all(entry[key] is None for entry in never for key in DISSECTED)
    for entry, full in zip(fourth, always, strict=True):
        measured = entry["step"] in (1, 4, 6)  # the first, every fourth, the last
        assert [entry[key] for key in DISSECTED] == [full[key] if measured else None for key in DISSECTED]
        assert all(math.isfinite(full[key]) for key in DISSECTED)
        assert [entry[key] for key in entry if key not in DISSECTED] == [
            full[key] for key in full if key not in DISSECTED
        ]


class Moved:
    """A float64 model whose adapter has moved, and two batches of unequal length that make up a step."""

    def __init__(self) -> None:
        self.model = add_adapter(make_model().double(), Training(precision="float32"))
        generator = torch.Generator().manual_seed(1)
        for name, parameter in self.model.named_parameters():
            parameter.data = parameter.data.double()
            if "lora_B" in name:
                parameter.data.normal_(0, 0.05, generator=generator)
        tokenizer = make_tokenizer()
        rows = Chat(tokenizer).rows([row["messages"] for row in make_rows(6, longest=20)])
        collate = Collator(tokenizer.pad_token_id)
        self.batches = [collate(rows[:4]), collate(rows[4:])]
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        masks = [batch["attention_mask"] for batch in self.batches]
        self.counts = WindowCounts(
            labels=sum(int((batch["labels"] != -100).sum()) for batch in self.batches),
            tokens=sum(int(mask.sum()) for mask in masks),
            sequences=6,
        )

    def logits(self, batch: dict[str, Tensor], adapter: bool) -> Tensor:
        """Logits by PEFT's own forward and switch, [rows, longest, vocabulary]."""
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        if adapter:
            return self.model(**inputs).logits
        with torch.no_grad(), self.model.disable_adapter():
            return self.model(**inputs).logits

    def norm(self, value: Tensor) -> float:
        gradients = torch.autograd.grad(value, self.parameters, retain_graph=True, materialize_grads=True)
        return math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))

    def ce(self) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for batch in self.batches:
            logits, labels = self.logits(batch, True)[:, :-1], batch["labels"][:, 1:]
            total = total + torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return total / self.counts.labels

    def kl(self) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for batch in self.batches:
            policy, reference = (self.logits(batch, adapter).log_softmax(-1) for adapter in (True, False))
            per_token = (policy.exp() * (policy - reference)).sum(-1)
            total = total + per_token[batch["attention_mask"].bool()].sum()
        return total / self.counts.tokens

    def ldifs_after_block_2(self) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for batch in self.batches:
            inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
            policy = self.model(**inputs, output_hidden_states=True).hidden_states[2]
            with torch.no_grad(), self.model.disable_adapter():
                reference = self.model(**inputs, output_hidden_states=True).hidden_states[2]
            x, y = (torch.nn.functional.normalize(states, dim=-1) for states in (policy, reference))
            total = total + (x - y).square().sum(-1)[batch["attention_mask"].bool()].sum()
        return total / self.counts.tokens


def record(moved: Moved, name: str | None, coefficient: float, options: dict[str, Any]) -> dict[str, float]:
    """What the telemetry says of the step, and the norm of the gradient that the trainer would have."""
    penalty = build_penalty(name, options) if name else None
    loss = DefenceLoss(FeatureReader(moved.model), penalty, coefficient)
    telemetry = Telemetry(moved.parameters, every=1)
    telemetry.begin(3, 9, moved.counts.tokens)
    for batch in moved.batches:
        share = loss(batch, moved.counts, dissect=telemetry.dissects)
        telemetry.add(share.ce.item(), share.penalty.item(), share.parts)
        share.total.backward()
    grad_norm = math.sqrt(sum(float(p.grad.square().sum()) for p in moved.parameters))
    moved.model.zero_grad()
    return {"grad_norm": grad_norm, **telemetry.entry(grad_norm)}


def test_numbers_of_a_kl_step_equal_their_definitions() -> None:
    moved = Moved()
    entry = record(moved, "kl", 0.7, {})
    ce, kl = moved.ce(), moved.kl()
    expected = {
        "ce": ce.item(),
        "penalty": kl.item(),
        "kl": kl.item(),
        "grad_norm_ce": moved.norm(ce),
        "grad_norm_penalty": moved.norm(0.7 * kl),
        "grad_norm": moved.norm(ce + 0.7 * kl),
    }
    assert {key: entry[key] for key in expected} == pytest.approx(expected, rel=ROUNDING)
    assert entry["grad_norm_penalty"] > 0.01 * entry["grad_norm_ce"]


def test_the_kl_is_the_same_whatever_penalises() -> None:
    moved = Moved()
    kl = moved.kl().item()
    reverse = {"direction": "reference_to_policy", "tokens": "response", "reduction": "sequence_sum"}
    for name, options in ((None, {}), ("kl", reverse), ("ldifs", {"every": 1})):
        entry = record(moved, name, 0.5, options)
        assert entry["kl"] == pytest.approx(kl, rel=ROUNDING)
        assert entry["penalty"] != pytest.approx(kl, rel=0.01)


def test_gradients_of_a_penalty_on_hidden_states() -> None:
    moved = Moved()
    entry = record(moved, "ldifs", 20.0, {"every": 2})
    distance = moved.ldifs_after_block_2()
    assert entry["penalty"] == pytest.approx(distance.item(), rel=ROUNDING)
    assert entry["grad_norm_penalty"] == pytest.approx(moved.norm(20 * distance), rel=ROUNDING)
    assert entry["grad_norm_ce"] == pytest.approx(moved.norm(moved.ce()), rel=ROUNDING)


def test_plain_fine_tuning_has_no_penalty_to_differentiate() -> None:
    moved = Moved()
    entry = record(moved, None, 0.0, {})
    assert entry["grad_norm_ce"] == entry["grad_norm"] == pytest.approx(moved.norm(moved.ce()), rel=ROUNDING)
    assert entry["grad_norm_penalty"] == 0


def test_a_log_says_how_fast_and_how_large(model_folder: Path, tmp_path: Path) -> None:
    cell = cell_of(spec(None), model_folder, tmp_path / "cell", rows=20)
    timing = [json.loads(line) for line in (cell / "train_timing.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in timing] == [1, 2, 3]
    resident = peak_memory() / 2**20
    for entry in timing:
        assert entry["tokens_per_second"] > 0
        assert 50 < entry["memory_mib"] <= resident + 0.1


def test_tokens_per_second_are_those_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 10.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    telemetry = Telemetry([], every=0)
    telemetry.begin(1, 9, 700)
    assert telemetry.entry(1.0)["tokens_per_second"] == 1400


class Explode(TrainerCallback):  # type: ignore[misc]
    """Makes one gradient infinite after the backward pass of step 3, as an overflow there would."""

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == 2:
            parameter = next(p for p in model.parameters() if p.requires_grad)
            parameter.register_hook(lambda gradient: gradient * math.inf)


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path: Path) -> None:
    trainer = trainer_of(spec(None, checkpoint_minutes=1e-6), tmp_path / ".checkpoints")
    trainer.add_callback(Explode())
    with pytest.raises(InputError, match="step 3: the gradient is not finite"):
        trainer.train()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert (tmp_path / ".checkpoints/checkpoint-2/trainer_state.json").is_file()


WANDB = """
import json, pathlib, types
run, config = None, {}
def note(**entry):
    with open("tracked.jsonl", "a") as file: file.write(json.dumps(entry, default=str) + chr(10))
def init(**options):
    global run
    run = types.SimpleNamespace(_label=lambda **_: None, summary={})
    note(init=options)
class Config(dict):
    def update(self, *_, **__): pass
config = Config()
def log(entry): note(log=entry)
def finish(exit_code=None): note(finish=exit_code)
"""


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_tracker_gets_the_log_under_the_cells_name_and_is_closed(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, succeeds: bool
) -> None:
    for name, content in (
        ("wandb/__init__.py", WANDB),
        ("wandb/sdk/lib/config_util.py", "class ConfigError(Exception): 0"),
    ):
        (tmp_path / "packages" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "packages" / name).write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    if not succeeds:
        monkeypatch.setattr(math, "isfinite", lambda _: False)
    with nullcontext() if succeeds else pytest.raises(InputError, match="the gradient is not finite"):
        cell_of(spec(PENALTIES["kl"], report_to="wandb"), model_folder, tmp_path / "cell", rows=20)
    for name in [name for name in sys.modules if name.split(".")[0] == "wandb"]:
        del sys.modules[name]
    noted = [json.loads(line) for line in (tmp_path / "tracked.jsonl").read_text().splitlines()]
    assert noted[0]["init"] == {"project": "emdefense", "name": str(tmp_path / "cell")}
    assert noted[-1] == {"finish": 0 if succeeds else 1}
    steps = [entry["log"] for entry in noted if "train/ce" in entry.get("log", {})]
    assert [step["train/global_step"] for step in steps] == ([1, 2, 3] if succeeds else [])
    assert all({"train/penalty", "train/grad_norm", "train/tokens_per_second"} <= set(step) for step in steps)
    assert [("train/kl" in step) for step in steps] == ([True, False, True] if succeeds else [])


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("emdefense.training.packages.find_spec", lambda _: None)
    with pytest.raises(InputError, match=rf"'training.report_to': {name} .*pip install {name}"):
        check_installed(FAST.model_copy(update={"report_to": name}))
