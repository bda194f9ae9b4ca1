"""A training that was killed ends with the adapter of an undisturbed one."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.training import checkpoints
from emdefense.training.checkpoints import TimedCheckpoints, folder_of, mark_whole, newest_whole, resume_point
from emdefense.training.loss import BatchLoss, DefenceLoss
from emdefense.training.run import train_cell
from emdefense.training.spec import PenaltySpec, TrainSpec
from emdefense.warm_caller import ADDRESS
from tiny_model import make_rows, save_model, save_rows
from warm_parent import ENVIRONMENT, PARENT

pytestmark = [pytest.mark.numerical, pytest.mark.slow]

SCRIPT = Path(__file__).parents[2] / "workflow/scripts/train.py"
RESULTS = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "train_log.jsonl")
EVERY_STEP = 1e-6  # minutes
STEPS, KILLS = 50, 20


def spec(seed: int = 0) -> TrainSpec:
    training = Training(
        batch_size=4,
        accumulation_steps=2,
        precision="float32",
        optimiser="adamw_torch_fused",
        learning_rate=1e-3,
        lora_dropout=0.1,
        checkpoint_minutes=EVERY_STEP,
    )
    return TrainSpec(version=1, seed=seed, training=training, penalty=PenaltySpec(name="kl", coefficient=0.5))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", make_rows(8 * STEPS))


@pytest.fixture(scope="module")
def undisturbed(model: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cell = tmp_path_factory.mktemp("undisturbed")
    train_cell(spec(), model, rows, cell)
    return cell


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server that has imported the training stack, so that a start takes a second."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    address = Path(parent.stdout.readline().strip())
    while not address.exists():
        time.sleep(0.02)
    yield str(address)
    parent.communicate()


def start(cell: Path, model: Path, rows: Path, of: TrainSpec, server: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, str(SCRIPT), "--spec", of.model_dump_json(), "--model", str(model)]
    command += ["--rows", str(rows), "--cell", str(cell)]
    # The result may not depend on how many threads the environment offers.
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": "2", ADDRESS: server}
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def kill_in(cell: Path, process: "subprocess.Popen[bytes]", step: int, delay: float = 0) -> bool:
    """Kill the training ``delay`` seconds after it begins to save ``step``; return whether it was still saving."""
    deadline = time.monotonic() + 120
    while not any(checkpoints.step_of(path) >= step for path in cell.glob(".checkpoints/*/checkpoint-*")):
        assert process.poll() is None, "the training ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.1)  # the server finds out, and kills the job
    assert not (cell / "adapter").exists()
    return any(not (path / "manifest.json").exists() for path in cell.glob(".checkpoints/*/checkpoint-*"))


def record(cell: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((cell / "provenance.json").read_text())
    return content


def assert_same_results(cell: Path, other: Path) -> None:
    for name in RESULTS:
        assert (cell / name).read_bytes() == (other / name).read_bytes(), name


def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    model: Path, rows: Path, undisturbed: Path, server: str, tmp_path: Path
) -> None:
    draw = random.Random(7)
    steps = sorted(draw.sample(range(1, STEPS - 1), KILLS))
    torn = [
        kill_in(tmp_path, start(tmp_path, model, rows, spec(), server), step, draw.choice([0, draw.uniform(0, 0.1)]))
        for step in steps
    ]
    assert any(torn), "no kill fell into a save"
    assert start(tmp_path, model, rows, spec(), server).wait(timeout=120) == 0
    assert_same_results(tmp_path, undisturbed)
    assert steps[-1] - 1 <= record(tmp_path)["resumed_from_step"] < STEPS
    assert record(undisturbed)["resumed_from_step"] is None
    assert not (tmp_path / ".checkpoints").exists()


def test_checkpoints_of_other_settings_are_named_and_kept(
    model: Path, rows: Path, undisturbed: Path, server: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kill_in(tmp_path, start(tmp_path, model, rows, spec(), server), 4, 0.1)
    other = spec(seed=1)
    train_cell(other, model, rows, tmp_path)
    (warning,) = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert "differs in spec.seed (0, now 1); it is kept" in warning
    assert record(tmp_path)["resumed_from_step"] is None
    kept = Path(warning.split()[1])
    train_cell(spec(), model, rows, tmp_path)
    assert record(tmp_path)["resumed_from_step"] == checkpoints.step_of(kept)
    assert_same_results(tmp_path, undisturbed)
    assert not (tmp_path / ".checkpoints").exists()


def test_a_loss_that_is_not_finite_leaves_a_checkpoint_to_go_on_from(
    model: Path, rows: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy, calls = DefenceLoss.__call__, iter(range(10**6))

    def diverging(self: DefenceLoss, *arguments: Any) -> BatchLoss:
        loss = healthy(self, *arguments)
        return loss if next(calls) < 13 else replace(loss, total=loss.total * float("nan"))

    with monkeypatch.context() as patch:
        patch.setattr(DefenceLoss, "__call__", diverging)
        with pytest.raises(InputError, match=r"step 7: the loss is not finite.*/checkpoint-6 is kept") as caught:
            train_cell(spec(), model, rows, tmp_path)
    assert "\n" not in str(caught.value)
    train_cell(spec(), model, rows, tmp_path)
    assert record(tmp_path)["resumed_from_step"] == 6
    assert_same_results(tmp_path, undisturbed)


FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def checkpoint(folder: Path, step: int, *, whole: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in FILES:
        (path / name).write_text("content")
    if whole:
        mark_whole(path)
    return path


@pytest.mark.parametrize("torn", [*FILES, "manifest.json"])
@pytest.mark.parametrize("missing", [True, False])
def test_the_newest_whole_checkpoint_is_chosen_and_the_others_removed(tmp_path: Path, torn: str, missing: bool) -> None:
    identity = {"seed": 0}
    folder = folder_of(tmp_path, identity)
    assert resume_point(folder, identity) is None
    checkpoint(folder, 9)
    newest = checkpoint(folder, 10)
    broken = checkpoint(folder, 11) / torn
    assert newest_whole(folder) == broken.parent
    broken.write_text(broken.read_text()[:-3])
    if missing:
        broken.unlink()
    checkpoint(folder, 12, whole=False)
    assert resume_point(folder, identity) == newest
    assert list(folder.glob("checkpoint-*")) == [newest]


def test_the_checkpoint_before_goes_only_when_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, new = checkpoint(tmp_path, 5), checkpoint(tmp_path, 6, whole=False)

    def crash(_: Path) -> None:
        raise KeyboardInterrupt

    def save() -> None:
        arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        TimedCheckpoints(1).on_save(arguments, TrainerState(global_step=6), TrainerControl())

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "mark_whole", crash)
        with pytest.raises(KeyboardInterrupt):
            save()
    assert newest_whole(tmp_path) == before
    save()
    assert newest_whole(tmp_path) == new
    assert not before.exists()


def test_checkpoints_of_unknown_settings_are_kept_but_not_trusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = checkpoint(tmp_path / ".checkpoints/unknown", 9)
    assert resume_point(folder_of(tmp_path, {"seed": 0}), {"seed": 0}) is None
    assert f"{kept} is of a training that differs in settings that are not known" in capsys.readouterr().err
    assert kept.exists()
