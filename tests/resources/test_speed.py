"""How fast a machine is: measured once, kept, and assumed where it cannot be measured."""

import json
from pathlib import Path

import pytest

from emdefense.arms import STANDARD
from emdefense.arms.study_arm import StudyArm
from emdefense.config.shape import ModelShape
from emdefense.config.study import Generation
from emdefense.config.training import Training
from emdefense.planning.gpu_hours import training_seconds
from emdefense.resources import speed
from emdefense.resources.duration import generation_seconds, loading_seconds
from emdefense.resources.machine import Machine
from emdefense.resources.speed import speed_here
from emdefense.training import speed as measuring
from emdefense.training.speed import measure_speed
from qwen_shapes import QWEN_7B

MACHINE = Machine(2, 10_000, has_gpu=False)
SHAPE = ModelShape(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=500,
)
TRAINING = Training(precision="float32", batch_size=4, max_length=64)


def test_ten_steps_are_taken_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = speed_here(MACHINE, SHAPE, TRAINING, tmp_path)
    assert found is not None
    assert 1e-5 < found.tflops < 10
    assert 1e-3 < found.gb_per_s < 1000
    assert "measuring how fast this machine is" in capsys.readouterr().err
    (kept,) = tmp_path.iterdir()
    assert json.loads(kept.read_text())["of"]["training"]["precision"] == "float32"
    with monkeypatch.context() as patched:
        patched.setattr(speed, "SCRIPT", tmp_path / "not there")
        assert speed_here(MACHINE, SHAPE, TRAINING, tmp_path) == found
        assert capsys.readouterr().err == ""
        other = TRAINING.model_copy(update={"lora_rank": 8})
        assert speed_here(MACHINE, SHAPE, other, tmp_path) is None, "another training is another measurement"
    assert "this machine's speed could not be measured" in capsys.readouterr().err
    kept.write_text('{"tflops": "torn')
    assert speed_here(MACHINE, SHAPE, TRAINING, tmp_path) is not None
    assert json.loads(kept.read_text())["tflops"] > 0


@pytest.mark.parametrize(
    ("machine", "shape"),
    [(Machine(2, 1, has_gpu=False), SHAPE), (Machine(2, 10**6, has_gpu=False), QWEN_7B)],
    ids=["no room", "minutes a step"],
)
def test_a_model_that_would_take_too_much_is_not_tried(tmp_path: Path, machine: Machine, shape: ModelShape) -> None:
    assert speed_here(machine, shape, TRAINING, tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_what_is_not_done_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are taken without activation checkpointing, so its second forward pass makes no core faster."""
    monkeypatch.setattr(measuring, "_seconds", lambda step: 0.5)
    checkpointed = TRAINING.model_copy(update={"activation_checkpointing": True})
    assert measure_speed(SHAPE, checkpointed) == measure_speed(SHAPE, TRAINING)


def test_the_arithmetic_with_it_gives_back_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row's training and a token's sampling, by the formulas that plan a study."""
    seconds = iter([0.5, 0.2])
    monkeypatch.setattr(measuring, "_seconds", lambda step: next(seconds))
    core = Machine(1, 10_000, has_gpu=False).as_gpu(1, measure_speed(SHAPE, TRAINING))
    arm = STANDARD["misaligned"]
    unpadded = TRAINING.model_copy(update={"padding_free": True})
    found = training_seconds(unpadded, StudyArm("misaligned", arm, arm.options()), SHAPE, core, 1, 64)
    assert found == pytest.approx(0.5)
    generation = Generation(max_new_tokens=1, precision="float32", engine="transformers", batch_size=1)
    assert generation_seconds(SHAPE, generation, 1, core) - loading_seconds(SHAPE) == pytest.approx(0.2)
