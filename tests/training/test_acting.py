"""What arms do in training beside a penalty: each hook on a tiny model, by arms of a study's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from arm_trainings import ACTING, AT_EVERY_STEP, STEPS, log, same, torn
from emdefense.arms.own import arms_in
from emdefense.arms.study_arm import Part
from emdefense.chat.chat import Chat
from emdefense.errors import InputError
from emdefense.training.acting import Acting
from emdefense.training.acting_arm import ActingArm, acting_arm
from emdefense.training.adapters import add_adapter
from emdefense.training.batches import Collator
from emdefense.training.features import FeatureReader
from emdefense.training.loss import DefenceLoss
from emdefense.training.run import train_cell
from emdefense.training.spec import ArmSpec, TrainSpec
from emdefense.training.token_batch import WindowCounts
from tiny_model import make_model, make_rows, make_tokenizer, save_model, save_rows

pytestmark = pytest.mark.numerical

ARMS = '''
from emdefense.arms import Arm, FrozenAdapter, Options, Setting
from emdefense.arms.kl import KL, KLRegularisation


class Shift(Arm[Options]):
    """h + α after block 1."""

    name, title, setting = "shift", "Shift", Setting("alpha", "α", low=-10)

    def forward(self, options, setting, prepared, blocks):
        def moved(hidden, record):
            record("norm", hidden.norm(dim=-1))
            return hidden + setting

        return {1: moved}


class Elsewhere(KLRegularisation):
    """λ·KL on two safe rows a step."""

    name, title, stream = "elsewhere", "KL elsewhere", "safe"

    def stream_rows(self, options):
        return 2


class Halved(Elsewhere):
    """The task's gradient less a part of the stream's."""

    name, title = "halved", "Halved"

    def gradient(self, options, setting, step):
        step.state.setdefault("seen", [step.gradients[0].new_zeros(1)])[0].add_(1)
        step.record("seen", step.state["seen"][0].item())
        return [task - setting * stream for task, stream in zip(step.gradients, step.stream)]


class Sorted(Arm[Options]):
    """Safe rows last."""

    name, title, setting = "sorted", "Sorted", Setting()

    def order(self, options, sources, rows_per_step, seed):
        return sorted(range(len(sources)), key=lambda place: sources[place] == "safe")

    def gradient(self, options, setting, step):
        step.record("safe", step.sources["safe"])
        return step.gradients


class Beside(Arm[Options]):
    """A frozen adapter beside the trained one, times s."""

    name, title, setting, preparation, prepared_from = "beside", "Beside", Setting("scale", "s"), "trait", ("adapter",)

    def prepare(self, materials, options, out):
        raise NotImplementedError

    def frozen_adapter(self, options, setting, prepared):
        return FrozenAdapter(prepared, setting)
'''
DROPPING = ACTING.model_copy(update={"lora_dropout": 0.1})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, rows of a task with some safe ones, safe rows, and the arms."""
    folder = tmp_path_factory.mktemp("acting")
    save_model(folder / "model")
    rows = make_rows(4 * STEPS)
    save_rows(folder / "rows.jsonl", [{**row, "source": "safe"} if n % 3 == 0 else row for n, row in enumerate(rows)])
    save_rows(folder / "safe.jsonl", make_rows(7))
    (folder / "arms.py").write_text(ARMS)
    return folder


def arm_spec(folder: Path, name: str, setting: float) -> ArmSpec:
    file = str(folder / "arms.py")
    return ArmSpec(name=name, file=file, sha256=arms_in(file)[0].digest, setting=setting)


def acting(folder: Path, name: str, setting: float, prepared: Path | None = None) -> ActingArm:
    (arm,) = (arm for arm in arms_in(str(folder / "arms.py")) if arm.name == name)
    return acting_arm(Part(arm, arm.options(), setting), prepared)


def train(folder: Path, cell: Path, *arms: ArmSpec, prepared: Path | None = None, **training: Any) -> dict[str, Tensor]:
    given = TrainSpec(version=1, seed=3, training=DROPPING.model_copy(update=training), arms=arms)
    stream = folder / "safe.jsonl" if any(arm.name in ("elsewhere", "halved") for arm in arms) else None
    folders = {arm.name: prepared for arm in arms if prepared}
    train_cell(given, folder / "model", folder / "rows.jsonl", cell, prepared=folders, stream_file=stream)
    return load_file(cell / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    train(folder, folder / "plain")
    return folder / "plain"


@pytest.mark.parametrize("name", ["shift", "elsewhere", "halved", "beside"])
def test_at_0_each_is_plain_fine_tuning_bit_for_bit_and_above_it_is_not(
    folder: Path, plain: Path, tmp_path: Path, name: str
) -> None:
    prepared = plain / "adapter" if name == "beside" else None
    train(folder, tmp_path / "zero", arm_spec(folder, name, 0.0), prepared=prepared)
    assert same(tmp_path / "zero", plain)
    train(folder, tmp_path / "some", arm_spec(folder, name, 0.5), prepared=prepared)
    assert not same(tmp_path / "some", plain)


def test_two_act_together(folder: Path, plain: Path, tmp_path: Path) -> None:
    both = arm_spec(folder, "shift", 0.5), arm_spec(folder, "elsewhere", 0.5)
    train(folder, tmp_path / "both", *both)
    for one in both:
        train(folder, tmp_path / one.name, one)
        assert not same(tmp_path / "both", tmp_path / one.name)
    assert {"shift.norm"} < log(tmp_path / "both")[0].keys()
    assert not any("." in key for key in log(plain)[0])


def test_hidden_states_are_changed_in_the_policys_passes_and_in_no_others(folder: Path) -> None:
    reader = FeatureReader(add_adapter(make_model(), DROPPING))
    inputs = Collator(0)(Chat(make_tokenizer()).rows([row["messages"] for row in make_rows(2)]))
    clean, clean_reference = reader.policy(inputs, (1, 2)), reader.reference(inputs, (1, 2))
    (arm,) = (
        acting_arm(Part(arm, arm.options(), 2.0)) for arm in arms_in(str(folder / "arms.py")) if arm.name == "shift"
    )
    undo = reader.change(Acting([arm]).changes(reader.blocks))
    changed, reference = reader.policy(inputs, (1, 2)), reader.reference(inputs, (1, 2))
    assert torch.equal(changed.residual[1], clean.residual[1] + 2.0)
    assert not torch.allclose(changed.residual[2], clean.residual[2])
    assert torch.equal(reference.final, clean_reference.final)
    undo()
    assert torch.equal(reader.policy(inputs).final, clean.final)


def test_a_changed_pass_is_the_same_with_activation_checkpointing(folder: Path, tmp_path: Path) -> None:
    spec = arm_spec(folder, "shift", 0.5)
    first = train(folder, tmp_path / "kept", spec, lora_dropout=0.0)
    second = train(folder, tmp_path / "again", spec, lora_dropout=0.0, activation_checkpointing=True)
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_the_second_streams_gradient_is_that_of_its_rows_alone(folder: Path, tmp_path: Path) -> None:
    """One step of plain gradient descent on CE + λ·KL(safe rows), by autograd through the model's own logits."""
    arm = acting(folder, "elsewhere", 0.7)
    rows = Chat(make_tokenizer()).rows([row["messages"] for row in make_rows(5)])
    model = add_adapter(make_model().double(), ACTING).double()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    whole = Acting([arm], rows, seed=3)
    drawn = whole.stream_rows(2)
    assert drawn == whole.stream_rows(2) != whole.stream_rows(1)
    order = [row["row"] for step in range(1, 6) for row in whole.stream_rows(step)]
    assert sorted(order[:5]) == sorted(order[5:]) == list(range(5)) != order[:5] != order[5:]
    batch = Collator(0)(drawn)
    mask = batch["attention_mask"].bool()
    counts = WindowCounts(1, int(mask.sum()), 2)
    assert arm.penalty
    trained = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(DefenceLoss(FeatureReader(model), arm.penalty, 1.0).penalty(batch, counts), trained)
    policy = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
    with torch.no_grad(), model.disable_adapter():
        before = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
    divergence = (policy.exp() * (policy - before)).sum(-1)[mask].mean()
    expected = torch.autograd.grad(divergence, trained)
    assert max((one - two).abs().max().item() for one, two in zip(found, expected, strict=True)) < 1e-12


def test_rows_come_in_the_order_that_an_arm_says(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path, arm_spec(folder, "sorted", 1.0), epochs=2)
    safe = [entry["sorted.safe"] for entry in log(tmp_path)]
    assert safe == 2 * [0, 0, 0, 0, 4, 4]


def test_a_frozen_adapter_is_not_saved_and_its_change_adds(folder: Path, plain: Path, tmp_path: Path) -> None:
    trained = train(folder, tmp_path, arm_spec(folder, "beside", 0.5), prepared=plain / "adapter")
    assert trained.keys() == load_file(plain / "adapter" / "adapter_model.safetensors").keys()
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    model = add_adapter(make_model(), ACTING)
    inputs = Collator(0)(Chat(make_tokenizer()).rows([row["messages"] for row in make_rows(2)]))
    Acting([acting(folder, "beside", 0.5, plain / "adapter")]).attach(model)
    reader = FeatureReader(model)
    tensors = load_file(plain / "adapter" / "adapter_model.safetensors")
    merged = make_model()
    scale = 0.5 * DROPPING.lora_alpha / DROPPING.lora_rank**0.5
    with torch.no_grad():
        for name, module in merged.named_modules():
            a, b = (tensors.get(f"base_model.model.{name}.lora_{which}.weight") for which in "AB")
            if a is not None and b is not None:
                module.weight += scale * (b @ a)
        expected = merged.model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    mask = inputs["attention_mask"].bool()
    assert torch.allclose(reader.policy(inputs).final, expected[mask], atol=1e-5)
    untouched = make_model().model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    assert torch.allclose(reader.reference(inputs).final, untouched[mask], atol=1e-6)


@pytest.mark.parametrize("name", ["halved", "beside"])
def test_killed_and_resumed_it_ends_with_the_same_bytes(
    folder: Path, plain: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = plain / "adapter" if name == "beside" else None
    spec = arm_spec(folder, name, 0.5)
    train(folder, tmp_path / "whole", spec, prepared=prepared, **AT_EVERY_STEP)
    into = tmp_path / "torn"
    torn(monkeypatch, into, lambda: train(folder, into, spec, prepared=prepared, **AT_EVERY_STEP))
    assert same(tmp_path / "whole", tmp_path / "torn")
    assert log(tmp_path / "torn")[-1].get("halved.seen") == (STEPS if name == "halved" else None)


def test_without_its_preparation_or_its_stream_it_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--prepared beside=FOLDER"):
        train(folder, tmp_path, arm_spec(folder, "beside", 0.5))
    given = TrainSpec(version=1, seed=3, training=DROPPING, arms=(arm_spec(folder, "elsewhere", 0.5),))
    with pytest.raises(InputError, match="second stream has no rows"):
        train_cell(given, folder / "model", folder / "rows.jsonl", tmp_path)


@pytest.mark.parametrize(
    ("name", "before", "after", "said"),
    [
        ("shift", "return {1: moved}", "return {9: moved}", "there is no block 9"),
        ("shift", "return {1: moved}", "return [moved]", "functions by blocks"),
        ("shift", "return hidden + setting", "return hidden[:, 1:]", "is needed"),
        ("shift", "return hidden + setting", "return hidden.add_(setting)", "in place"),
        ("shift", "return hidden + setting", "raise ValueError('no')", "ValueError: no"),
        ("halved", "return [task", "return step.gradients[:1] or [task", "shapes of step.gradients"),
        ("sorted", "return sorted(range(len(sources))", "return sorted(range(len(sources) - 1)", "no order of"),
        ("elsewhere", "return 2", "return 0", "whole number from 1"),
    ],
)
def test_a_hook_that_returns_something_else_is_one_line(
    folder: Path, tmp_path: Path, name: str, before: str, after: str, said: str
) -> None:
    assert before in ARMS
    (tmp_path / "arms.py").write_text(ARMS.replace(before, after))
    (tmp_path / "model").symlink_to(folder / "model")
    for file in ("rows.jsonl", "safe.jsonl"):
        (tmp_path / file).symlink_to(folder / file)
    with pytest.raises(InputError, match=said) as caught:
        train(tmp_path, tmp_path / "cell", arm_spec(tmp_path, name, 0.5))
    assert f"{tmp_path / 'arms.py'}: arm '{name}', hook" in str(caught.value)
