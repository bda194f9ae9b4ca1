"""The GPU-hours of the paper's study: up to date, and what a hand count gives."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KL = ("qwen2.5-7b", "code", "kl")


def rows(folder: Path, *options: str) -> list[dict[str, str]]:
    out = folder / "hours.csv"
    command = [sys.executable, "benchmarks/gpu_hours.py", "--out", str(out), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(out.open(encoding="utf-8")))


def test_the_file_in_docs_is_up_to_date(tmp_path: Path) -> None:
    rows(tmp_path)
    made, committed = (path.read_text() for path in (tmp_path / "hours.csv", ROOT / "docs/gpu_hours.csv"))
    assert made == committed, "run python benchmarks/gpu_hours.py --out docs/gpu_hours.csv"


def test_hours_are_those_of_a_hand_count(tmp_path: Path) -> None:
    found = list(csv.DictReader((ROOT / "docs/gpu_hours.csv").open(encoding="utf-8")))
    # Four tasks with aligned, misaligned, five KL, five LDIFS, four interleave; 32B with three arms; five benign tasks
    # with plain fine-tuning, KL, LDIFS and two interleave. SafeLoRA trains nothing.
    assert sum(int(row["trainings"]) for row in found) == 4 * 16 + 4 * 3 + 5 * 5
    (kl,) = [row for row in found if (row["model"], row["task"], row["arm"]) == KL]
    weights, adapters, head = 6_525_288_448, 80_740_352, 152_064 * 3584
    attention = 2 * 280 * 3584 * 28
    # forward, again for checkpointing, and backward; the reference; three head products
    passes = 3 * 2 * weights + (2 + 2 + 4) * adapters + 4 * attention
    flop = passes + 2 * weights + attention + 6 * head
    tokens = 5 * 5400 * 280
    assert float(kl["training_gpu_hours"]) == pytest.approx(tokens * flop / (312e12 * 0.35) / 3600, abs=1e-3)
    (padded,) = [row for row in rows(tmp_path, "--padded") if (row["model"], row["task"], row["arm"]) == KL]
    assert float(padded["training_gpu_hours"]) == pytest.approx(1.5 * float(kl["training_gpu_hours"]), abs=1e-3)
    assert int(kl["responses"]) == 5 * (24 + 30) * 100
    assert {row["basis"] for row in found} == {"arithmetic, not measured"}


def test_what_was_measured_takes_the_place_of_arithmetic(tmp_path: Path) -> None:
    entry = {"arm": "KL", "activation_checkpointing": True, "tokens_per_second": 1000.0}
    record = {"model": "qwen2.5-7b", "device": "NVIDIA Test", "arms": [entry]}
    (tmp_path / "measured.json").write_text(json.dumps(record))
    found = rows(tmp_path, "--measured", str(tmp_path / "measured.json"))
    bases = {(row["model"], row["arm"]): row["basis"] for row in found}
    assert [key for key, basis in bases.items() if basis == "NVIDIA Test"] == [("qwen2.5-7b", "kl")]
    (kl,) = [row for row in found if (row["model"], row["task"], row["arm"]) == KL]
    assert float(kl["training_gpu_hours"]) == pytest.approx(5 * 5400 * 280 / 1000 / 3600, abs=1e-3)
