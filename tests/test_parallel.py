"""Two processes train what one trains; what one of them says or suffers reaches the other and the user."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import BatchSampler, SequentialSampler

from emdefense.config.checks import check_training
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.training.parallel import Processes, ShareOfBatches, run_in_processes
from emdefense.training.run import train_cell
from emdefense.training.spec import PenaltySpec, TrainSpec
from tiny_model import make_rows, save_model, save_rows

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
    training = Training(**{**fixed, "warmup_steps": 1, "diagnostics_every": 1, **settings, **changes, "devices": devices})
    return TrainSpec(version=1, seed=3, training=training, penalty=penalty)


def train_all(processes: Processes, devices: int, model: Path, rows: Path, folder: Path) -> None:
    """Train every cell by this process; several run side by side."""
    from emdefense.training import run

    for name in TRAININGS:
        run._train(processes, spec(name, devices), model, rows, folder / name, 1)


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
    assert one.keys() == two.keys()
    for key, weight in one.items():
        torch.testing.assert_close(two[key], weight, rtol=0, atol=5e-6, msg=key)
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


SCRIPT = Path(__file__).parents[1] / "workflow/scripts/train.py"


def start(cell: Path, inputs: tuple[Path, Path], of: TrainSpec, **options: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, str(SCRIPT), "--spec", of.model_dump_json(), "--model", str(inputs[0])]
    return subprocess.Popen([*command, "--rows", str(inputs[1]), "--cell", str(cell)], text=True, **options)


def children(pid: int) -> Iterator[int]:
    """Yield the ids of all processes below ``pid``, which Linux lists."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        yield from children(int(child))


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_checkpoint(cell: Path, process: "subprocess.Popen[str]", after: int = 0) -> int:
    deadline = time.monotonic() + 120
    while True:
        steps = [int(p.parent.name.rpartition("-")[2]) for p in cell.glob(".checkpoints/*/checkpoint-*/manifest.json")]
        if max(steps, default=0) > after:
            return max(steps)
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks processes up in /proc")
def test_no_process_outlives_another_and_both_resume(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    of = spec("kl", 2, epochs=100, accumulation_steps=2, checkpoint_minutes=1e-6, lora_dropout=0.1)
    first = start(tmp_path, inputs, of, stderr=subprocess.PIPE)
    seen = wait_for_checkpoint(tmp_path, first)
    workers = [pid for pid in children(first.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)  # one dies, and the whole training ends
    _, message = first.communicate(timeout=60)
    assert first.returncode == 1
    assert "terminated with signal SIGKILL" in message
    assert not any(map(running, workers))

    second = start(tmp_path, inputs, of, stderr=subprocess.DEVNULL)
    wait_for_checkpoint(tmp_path, second, seen)
    workers = list(children(second.pid))
    second.kill()  # the launcher dies, and its workers end
    deadline = time.monotonic() + 60
    while any(map(running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second.wait()
