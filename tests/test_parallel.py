"""Two processes train what one trains; what one of them says or suffers reaches the other and the user."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.utils.data import BatchSampler, SequentialSampler

from complaining import complain
from emdefense.config.checks import check_training
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.training.checkpoints import step_of
from emdefense.training.parallel import Processes, ShareOfBatches, run_in_processes
from emdefense.training.run import train_cell, train_part
from emdefense.training.spec import PenaltySpec, TrainSpec
from same_training import assert_same_change
from tiny_model import make_rows, save_model, save_rows

pytestmark = [pytest.mark.numerical, pytest.mark.slow]

# 45 rows are 12 batches, the last with one row: three windows of four, or two of five and one of two.
ROWS = 45
TRAININGS: dict[str, tuple[dict[str, Any], PenaltySpec | None]] = {
    "sft": ({"accumulation_steps": 4, "epochs": 2}, None),
    "kl": ({"accumulation_steps": 10}, PenaltySpec(name="kl", coefficient=1.0)),
    "kl-sum": (
        {"accumulation_steps": 10, "padding_free": True},
        PenaltySpec(name="kl", coefficient=0.1, options={"tokens": "response", "reduction": "sequence_sum"}),
    ),
    "ldifs": ({"accumulation_steps": 4}, PenaltySpec(name="ldifs", coefficient=1.0, options={"every": 1})),
    "one-batch": ({"accumulation_steps": 2, "batch_size": 64}, PenaltySpec(name="kl", coefficient=1.0)),
}


def spec(name: str, devices: int, **changes: Any) -> TrainSpec:
    settings, penalty = TRAININGS[name]
    fixed = {"batch_size": 4, "precision": "float32", "optimiser": "adamw_torch", "learning_rate": 3e-3}
    fixed |= {"warmup_steps": 1, "diagnostics_every": 1, "devices": devices}
    return TrainSpec(version=1, seed=3, training=Training(**{**fixed, **settings, **changes}), penalty=penalty)


INTERRUPTED = spec("kl", 2, epochs=5, accumulation_steps=2, checkpoint_minutes=1e-6, lora_dropout=0.1)  # 30 steps


def train_all(processes: Processes, devices: int, model: Path, rows: Path, folder: Path) -> None:
    """Train every cell by this process; several run side by side."""
    for name in TRAININGS:
        train_part(processes, spec(name, devices), model, rows, folder / name)
    if devices == 2:
        train_part(processes, INTERRUPTED, model, rows, folder / "interrupted")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return save_model(folder / "model"), save_rows(folder / "rows.jsonl", make_rows(ROWS, longest=25))


@pytest.fixture(scope="module")
def trained(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """All trainings, by one process and by two; the processes are started once."""
    folders = {}
    for devices in (1, 2):
        folders[devices] = tmp_path_factory.mktemp(f"by{devices}")
        run_in_processes(devices, train_all, devices, *inputs, folders[devices])
    return folders


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_give_the_parameters_and_the_log_of_one(trained: dict[int, Path], name: str) -> None:
    one, two = (load_file(folder / name / "adapter/adapter_model.safetensors") for folder in trained.values())
    assert_same_change(two, one)
    logs = [
        [json.loads(line) for line in (folder / name / "train_log.jsonl").read_text().splitlines()]
        for folder in trained.values()
    ]
    assert len(logs[0]) == len(logs[1]) > 0
    for first, second in zip(*logs, strict=True):
        assert second == pytest.approx(first, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(("batches", "window", "count"), [(12, 4, 2), (11, 4, 2), (9, 6, 3), (1, 4, 4), (7, 3, 1)])
def test_batches_are_dealt_out_once_and_evenly(batches: int, window: int, count: int) -> None:
    def all_batches() -> BatchSampler:
        return BatchSampler(SequentialSampler(range(3 * batches - 1)), 3, drop_last=False)

    shares = [ShareOfBatches(all_batches(), window, Processes(rank, count)) for rank in range(count)]
    dealt = [list(share) for share in shares]
    assert {len(hand) for hand in dealt} == {len(share) for share in shares}
    own = window // count
    for start in range(0, len(dealt[0]), own):
        in_window = [batch for hand in dealt for batch in hand[start : start + own] if batch]
        expected = list(all_batches())[start * count : start * count + window]
        assert sorted(in_window) == expected
    assert sorted(chain(*chain(*dealt))) == list(range(3 * batches - 1))


def test_steps_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(InputError, match=r"accumulation_steps': 4 steps.*training\.devices = 3"):
        check_training(Training(devices=3))


def test_what_one_process_finds_wrong_is_said_once() -> None:
    with pytest.raises(InputError, match=r"^key 'x': wrong$"):
        run_in_processes(2, complain)


def below(pid: int) -> list[int]:
    """The ids of the worker processes below ``pid``, which Linux lists."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def start_and_wait(cell: Path, inputs: tuple[Path, Path], after: int) -> tuple[Any, list[int], int]:
    """Start the training, as the warm server does, in a fork; return it, its workers, and the step of a checkpoint."""

    def newest() -> int:
        return max((step_of(path.parent) for path in cell.glob(".checkpoints/*/*/manifest.json")), default=0)

    launcher = multiprocessing.get_context("fork").Process(target=train_cell, args=(INTERRUPTED, *inputs, cell))
    launcher.start()
    wait_until(lambda: newest() > after or not launcher.is_alive())
    workers = below(launcher.pid or 0)
    assert len(workers) == 2
    return launcher, workers, newest()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks processes up in /proc")
def test_no_process_outlives_another_and_all_resume(
    trained: dict[int, Path], inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    launcher, workers, seen = start_and_wait(tmp_path, inputs, 0)
    launcher.kill()  # the one that started them dies
    wait_until(lambda: not any(map(running, workers)))
    launcher, workers, seen = start_and_wait(tmp_path, inputs, seen)
    os.kill(workers[1], signal.SIGKILL)  # one of them dies
    launcher.join(60)
    assert launcher.exitcode == 1
    assert not any(map(running, workers))
    train_cell(INTERRUPTED, *inputs, tmp_path)
    resumed = json.loads((tmp_path / "provenance.json").read_text())["resumed_from_step"]
    assert seen <= resumed < 30
    for name in ("adapter/adapter_model.safetensors", "train_log.jsonl"):
        assert (tmp_path / name).read_bytes() == (trained[2] / "interrupted" / name).read_bytes()
