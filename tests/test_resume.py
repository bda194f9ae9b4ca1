"""A training that was killed ends with the adapter of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emdefense.config.training import Training
from emdefense.training.checkpoints import resume_point
from emdefense.training.run import train_cell
from emdefense.training.spec import PenaltySpec, TrainSpec
from tiny_model import make_rows, save_model, save_rows

SCRIPT = Path(__file__).parents[1] / "workflow/scripts/train.py"
ADAPTER = "adapter/adapter_model.safetensors"
EVERY_STEP = 1e-6  # minutes


def spec(seed: int = 0) -> TrainSpec:
    training = Training(
        batch_size=4,
        accumulation_steps=2,
        precision="float32",
        optimiser="adamw_torch",
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
    return save_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", make_rows(400))


@pytest.fixture(scope="module")
def undisturbed(model: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cell = tmp_path_factory.mktemp("undisturbed")
    train_cell(spec(), model, rows, cell)
    return cell


def start_and_kill(cell: Path, model: Path, rows: Path, of: TrainSpec, after_step: int) -> None:
    """Run the script and kill it once it has written a checkpoint of ``after_step`` or later."""
    command = [sys.executable, str(SCRIPT), "--spec", of.model_dump_json()]
    command += ["--model", str(model), "--rows", str(rows), "--cell", str(cell)]
    # The result may not depend on how many threads the environment offers.
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "2"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(
        int(path.parent.name.rpartition("-")[2]) >= after_step
        for path in (cell / ".checkpoints").glob("checkpoint-*/trainer_state.json")
    ):
        assert process.poll() is None, "the training ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cell / "adapter").exists()


def record(cell: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((cell / "provenance.json").read_text())
    return content


def test_killed_twice_and_resumed_gives_the_same_bytes(
    model: Path, rows: Path, undisturbed: Path, tmp_path: Path
) -> None:
    for after_step in (7, 23):
        start_and_kill(tmp_path, model, rows, spec(), after_step)
    train_cell(spec(), model, rows, tmp_path)
    assert (tmp_path / ADAPTER).read_bytes() == (undisturbed / ADAPTER).read_bytes()
    assert (tmp_path / "train_log.jsonl").read_bytes() == (undisturbed / "train_log.jsonl").read_bytes()
    resumed = record(tmp_path)["resumed_from_step"]
    assert isinstance(resumed, int)
    assert 23 <= resumed < 50
    assert record(undisturbed)["resumed_from_step"] is None
    assert not (tmp_path / ".checkpoints").exists()


def test_checkpoints_of_other_settings_are_discarded(
    model: Path, rows: Path, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start_and_kill(tmp_path, model, rows, spec(seed=1), 3)
    train_cell(spec(), model, rows, tmp_path)
    assert "checkpoints of other settings" in capfd.readouterr().err
    assert record(tmp_path)["resumed_from_step"] is None
    assert (tmp_path / ADAPTER).read_bytes() == (undisturbed / ADAPTER).read_bytes()


def checkpoint(folder: Path, step: int, state: str | None) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "adapter_model.safetensors").touch()
    if state is not None:
        (path / "trainer_state.json").write_text(state)
    return path


def test_the_newest_whole_checkpoint_is_chosen(tmp_path: Path) -> None:
    identity = {"seed": 0}
    assert resume_point(tmp_path / "c", identity) is None
    checkpoint(tmp_path / "c", 9, "{}")
    newest = checkpoint(tmp_path / "c", 10, "{}")
    checkpoint(tmp_path / "c", 11, '{"global_st')
    checkpoint(tmp_path / "c", 12, None)
    assert resume_point(tmp_path / "c", identity) == newest
    assert resume_point(tmp_path / "c", {"seed": 1}) is None
    assert not newest.exists()


def test_checkpoints_without_identity_are_not_trusted(tmp_path: Path) -> None:
    checkpoint(tmp_path / "c", 9, "{}")
    assert resume_point(tmp_path / "c", {"seed": 0}) is None
