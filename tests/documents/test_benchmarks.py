"""Each benchmark runs on a tiny setting and prints a whole table. No time is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_model import save_model

ROOT = Path(__file__).resolve().parents[2]


def table(script: str, *options: str) -> list[list[str]]:
    """The cells of the Markdown table that a benchmark prints, header first."""
    command = [sys.executable, f"benchmarks/{script}.py", "--quick", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    header, rule, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(set(cell) <= set("-:") for cell in rule)
    assert {len(row) for row in rows} == {len(header)}
    return [header, *rows]


def test_imports() -> None:
    header, *rows = table("imports")
    assert [row[0] for row in rows] == ["nothing", "judge", "aggregate", "everything", "Snakefile"]
    assert header[-1] == "torch"
    assert [row[-1] for row in rows] == ["no", "no", "no", "no", ""]
    assert all(float(cell) >= 0 for row in rows for cell in row[1:-1])


@pytest.mark.slow
def test_jobs() -> None:
    header, *rows = table("jobs")
    assert header == ["core-s a job", "by itself", "warm", "ratio"]
    assert [row[0] for row in rows] == [
        "says how it is called",
        "asks a small model",
        "a caller that imports what its job does",
    ]
    assert all(float(cell) > 0 for row in rows for cell in row[1:])


def test_dry_run() -> None:
    header, row = table("dry_run")
    assert header[:2] == ["seeds", "jobs"]
    assert row[0] == "1"
    assert int(row[1]) > 40
    assert all(float(cell) > 0 for cell in row[2:])


@pytest.mark.slow
def test_head_loss() -> None:
    _, *rows = table("head_loss")
    assert [row[0].split(": ")[1] for row in rows] == ["naive", "ours", "ours, rounded as on CUDA"]
    assert all(cell for row in rows[:2] for cell in row)


@pytest.mark.slow
def test_trainers(tmp_path: Path) -> None:
    _, *rows = table("trainers", "--model", str(save_model(tmp_path / "model")))
    assert [row[0] for row in rows] == ["TRL's SFTTrainer", "ours", "TRL's, KL from full logits", "ours, KL"]
    trl, ours, naive_kl, our_kl = (float(row[-1]) for row in rows)
    assert ours == pytest.approx(trl, rel=1e-4)
    assert our_kl == pytest.approx(naive_kl, rel=1e-4)


@pytest.mark.slow
def test_training_step(tmp_path: Path) -> None:
    header, *rows = table("training_step", "--json", str(tmp_path / "measured.json"))
    arms = ["SFT", "KL, full logits", "KL", "KL, cached", "LDIFS", "LDIFS, cached"]
    same = ["SafeLoRA (SFT, projected afterwards)", "interleave 5 % (SFT, 5 % more rows)"]
    labels = [*arms[:1], *same, *arms[1:]]
    assert [row[0] for row in rows] == labels + [f"{label}, recomputing" for label in labels]
    assert header[-1] == "tokens/s"  # the MFU of a CPU is not known
    record = json.loads((tmp_path / "measured.json").read_text())
    assert [entry["arm"] for entry in record["arms"]] == arms * 2
    tokens = record["rows"] * record["accumulation"] * record["length"]
    for entry in record["arms"]:
        assert entry["tokens_per_second"] == pytest.approx(tokens / entry["seconds"])


def test_safelora() -> None:
    header, *rows = table("safelora")
    assert [row[1] for row in rows] == ["64 × 48", "48 × 64"]
    assert header[2:5] == ["thin, s", "dense, s (5 × one τ)", "ratio"]
    assert all(float(cell) >= 0 for row in rows for cell in row[2:])


def test_diagnostics() -> None:
    _, *rows = table("diagnostics")
    assert [row[0] for row in rows] == ["SFT", "KL", "LDIFS"]
    assert all(float(cell) > 0 for row in rows for cell in row[1:4])


@pytest.mark.slow
def test_judge() -> None:
    header, *rows = table("judge")
    assert header[1:3] == ["reached", "of the allowed rate"]
    rates, memory = rows[:4], rows[4:]
    assert [row[0].split(", ")[0] for row in rates] == ["ours", "ours", "openai client", "openai client"]
    assert all(float(row[1].replace(",", "")) > 0 and row[2].endswith("%") for row in rates)
    assert [row[0].split(", ")[0] for row in memory] == ["ours", "responses and replies in lists"]
    assert all(float(row[4].replace(",", "")) > 0 for row in memory)


def test_report() -> None:
    header, *rows = table("report")
    assert header[:3] == ["step", "seconds", "peak MB"]
    # 4 tasks × 25 conditions × 40 judgments, and untrained ones: the general questions once, each task's own
    assert rows[0][0] == "aggregate, 4,100 judgments"
    assert [row[0] for row in rows[1:-1]] == [
        "table 03",
        "all of it, and what is left, by Snakemake",
        "Figure 3 again, by Snakemake",
    ]
    assert rows[-1][0] == "json.loads, line by line"
    assert all(float(row[2].replace(",", "")) > 0 for row in rows)


def test_pages() -> None:
    header, *rows = table("pages")
    assert header == ["what", "seconds", "core-s", "peak MB", "MB written, or opened"]
    assert rows[0][0] == "cells' pages, 4,100 responses"
    assert all(float(cell) > 0 for cell in rows[0][1:])
    assert [row[0] for row in rows[1:]] in (
        [],  # without a browser
        ["opening a cell's page", "the misaligned ones of its responses", "searching all of its texts"],
    )
