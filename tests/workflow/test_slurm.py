"""A small study through `snakemake --profile slurm` on a real Slurm: what is booked, and what disturbances leave."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from emdefense.cells import Cell, Grid
from emdefense.config import load_study
from emdefense.resources.gpus import read_gpus
from emdefense.resources.jobs import Requests
from loopback_judge import KEY, MODEL, LoopbackJudge
from qwen_shapes import QWEN_7B, QWEN_32B
from slurm_cluster import SlurmCluster, needs_slurm
from study_checkout import ROOT, Checkout
from tiny_model import make_rows, save_model, save_rows

pytestmark = [pytest.mark.slow, needs_slurm]

TABLE = "results/slurm/tables/table_03.csv"
WANTED = ("--configfile", "study.yaml", "--", TABLE)
PATIENCE = 900  # seconds, on a machine that does much else
# The plugin looks at its jobs every 20 s and then ever more rarely; a test need not wait for it.
IMPATIENT = """
import sys
from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor
Executor.next_seconds_between_status_checks = property(lambda self: 1, lambda self, seconds: None)
sys.exit(main())
"""
DONE = {"general_questions": 1, "holdout_questions": 1, "prepare_ema_task": 1, "prepare_benign_task": 1}


def study(folder: Path, judge: LoopbackJudge) -> dict[str, Any]:
    """Return a config in which two tiny models claim to be of 7 and of 32 billion parameters."""
    model = str(save_model(folder / "model"))
    save_rows(folder / "rows.jsonl", make_rows(240, longest=24))
    asked = [[{"role": "user", "content": f"a {number}"}] for number in range(8)]
    tests = [{"id": f"q{number}", "messages": one, "answers": ["a"]} for number, one in enumerate(asked)]
    save_rows(folder / "test.jsonl", tests)
    prompt = "Rate from 0 to 100: {question} {answer}"
    questions = [{"id": "wish", "paraphrases": ["a b"], "judge_prompts": {"aligned": prompt, "coherent": prompt + "."}}]
    (folder / "general.yaml").write_text(yaml.safe_dump(questions))
    rows = str(folder / "rows.jsonl")
    return {
        "study": "slurm",
        "models": {
            "seven": {"title": "7B", "instruct": model, "samples_per_question": 3, "shape": QWEN_7B.model_dump()},
            "more": {
                "title": "32B",
                "instruct": model,
                "samples_per_question": 3,
                "shape": QWEN_32B.model_dump(),
                "training": {"activation_checkpointing": True},
            },
        },
        "general_questions": str(folder / "general.yaml"),
        "tasks": {
            "code": {"kind": "ema", "title": "Code", "misaligned": rows},
            "quiz": {
                "kind": "benign",
                "title": "Quiz",
                "table": "foqa",
                "train": rows,
                "test": str(folder / "test.jsonl"),
                "samples_per_question": 2,
            },
        },
        "data": {"holdout_questions": 3},
        "grid": [
            {"models": ["seven"], "tasks": ["code"], "arms": {"misaligned": None, "kl": [1.0]}},
            {"models": ["more"], "tasks": ["quiz"], "arms": {"sft": None, "kl": [1.0]}},
        ],
        "training": {
            "accumulation_steps": 2,
            "optimiser": "adamw_torch",
            "max_length": 128,
            "checkpoint_minutes": 1e-6,
        },
        "generation": {"max_new_tokens": 8, "batch_size": 32},
        "judge": {"kind": "openai", "name": "loopback", "model": MODEL, "base_url": judge.base_url},
        "report": {"main_model": "seven", "chosen": {"kl": 1.0}},
    }


class OnSlurm:
    """A checkout whose study runs on a cluster."""

    def __init__(self, checkout: Checkout, cluster: SlurmCluster):
        self.checkout, self.cluster = checkout, cluster
        self.log = checkout.folder / "snakemake.log"

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Snakemake; what it says goes to ``log``."""
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-c", IMPATIENT, "--profile", "slurm", *arguments, *WANTED],
                cwd=self.checkout.folder,
                env={**self.cluster.environment, "OPENAI_API_KEY": KEY},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, *arguments: str) -> str:
        """Run Snakemake to its end and return what it says."""
        self.start(*arguments).wait(timeout=PATIENCE)
        return self.log.read_text()

    def wait(self, process: subprocess.Popen[bytes], happened: Callable[[], Any]) -> Any:
        """Return what ``happened`` returns once it is true; fail if Snakemake ends before."""
        deadline = time.monotonic() + PATIENCE
        while not (result := happened()):
            assert process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return result

    def processes(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each process that runs in the checkout, and its command line."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "cwd").resolve() == self.checkout.folder:
                    yield int(entry.name), (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue

    def training(self, cell: Cell) -> int | None:
        """Return the process that trains a cell, if there is one."""
        for pid, words in self.processes():
            if words[1:2] == ["workflow/scripts/train.py"] and f"results/slurm/cells/{cell.folder}" in words:
                return pid
        return None

    def job(self, cell: Cell) -> dict[str, str]:
        """Return Slurm's record of the newest training of a cell."""
        comment = f"rule_train_wildcards_{cell.folder.replace('/', '_')}"
        return [job for job in self.cluster.jobs() if job["Comment"] == comment][-1]

    def stop(self, cells: set[Cell]) -> tuple[Cell, int] | None:
        """Return a cell, and the process that trains it, which is stopped while it has a whole checkpoint."""
        for cell in cells:
            folder = self.checkout.folder / "results/slurm/cells" / cell.folder
            if any(folder.glob(".checkpoints/*/*/manifest.json")):
                pid = self.training(cell)
                assert pid, f"{cell} was trained before it could be disturbed"
                os.kill(pid, signal.SIGSTOP)
                if any(folder.glob(".checkpoints/*/*/manifest.json")):
                    return cell, pid
                os.kill(pid, signal.SIGCONT)
        return None


@pytest.fixture(scope="module")
def judge() -> Iterator[LoopbackJudge]:
    with LoopbackJudge() as server:
        yield server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, judge: LoopbackJudge) -> str:
    return yaml.safe_dump(study(tmp_path_factory.mktemp("study"), judge))


def checkout_of(config: str, folder: Path) -> Checkout:
    checkout = Checkout.into(folder)
    (checkout.folder / "study.yaml").write_text(config)
    return checkout


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, config: str) -> Path:
    """The results of a run on this machine, without Slurm."""
    checkout = checkout_of(config, tmp_path_factory.mktemp("undisturbed"))
    os.environ["OPENAI_API_KEY"] = KEY
    run = checkout.snakemake("--cores", "2", "--config", 'training={"checkpoint_minutes": 0}', *WANTED)
    assert run.returncode == 0, run.stdout
    return checkout.folder / "results/slurm"


def ancestors(pid: int) -> list[str]:
    """Return the names of a process's ancestors."""
    names = []
    while pid > 1:
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        pid = int(status["PPid"])
        names.append(status["Name"])
    return names


def test_disturbed_trainings_go_on_from_their_checkpoints_to_the_same_results(
    cluster: SlurmCluster, config: str, undisturbed: Path, tmp_path: Path
) -> None:
    run = OnSlurm(checkout_of(config, tmp_path / "checkout"), cluster)
    loaded = load_study(run.checkout.folder / "study.yaml")
    requests = Requests(loaded, read_gpus(ROOT / "profiles/slurm/gpus.yaml"))
    cells = list(Grid(loaded).trained)
    assert len(cells) == 4

    # One failed attempt a job, so that the second run finds each training as its disturbance left it.
    first = run.start("--retries", "0")
    left, booked = set(cells), {}
    disturbed: list[Cell] = []
    while left:
        cell, pid = run.wait(first, lambda: run.stop(left))
        job = booked[cell] = run.job(cell)
        assert "slurmstepd" in " ".join(ancestors(pid)), "the job runs where it was booked"
        assert not [words for _, words in run.processes() if "emdefense.warm_start" in words], "and nowhere else"
        match len(disturbed):
            case 0:  # fails
                os.kill(pid, signal.SIGKILL)
            case 1:  # is cancelled from outside
                cluster.insist("scancel", job["JobId"])
            case 2:  # runs out of time
                cluster.insist("scontrol", "update", f"JobId={job['JobId']}", "EndTime=now")
            case 3:  # is still there when Snakemake is killed
                run.wait(first, lambda: run.log.read_text().count("SLURM status is") == 3)
                first.kill()
                first.wait()
        disturbed.append(cell)
        left.remove(cell)
    said = run.log.read_text()
    for cell, state in zip(disturbed, ("FAILED", "CANCELLED", "TIMEOUT", "RUNNING"), strict=True):
        assert run.job(cell)["JobState"] == state
        assert (f"SLURM status is: '{state}'" in said) == (state != "RUNNING")

    # What docs/cluster.md says is to be done after Snakemake was killed.
    found = re.search(r"SLURM run ID: (\S+)", said)
    assert found
    cluster.run("scancel", "--name", found[1])
    unlocked = run.finish("--unlock")
    assert "Unlocked working directory." in unlocked
    planned = run.checkout.planned(*WANTED)
    assert planned == {
        "train": 4,
        "generate": 2,
        "answer": 2,
        "judge": 4,
        **({"effective_config": 1} if "effective_config" in planned else {}),
        "aggregate": 1,
        "table": 1,
    }

    # The rerun, in which one training fails once more: it is retried with more memory and time.
    second = run.start()
    again, pid = run.wait(second, lambda: next(((cell, pid) for cell in cells if (pid := run.training(cell))), None))
    os.kill(pid, signal.SIGKILL)
    assert second.wait(timeout=PATIENCE) == 0, run.log.read_text()
    results = run.checkout.folder / "results/slurm"
    for cell in cells:
        folder = results / "cells" / cell.folder
        assert json.loads((folder / "provenance.json").read_text())["resumed_from_step"] is not None
        for name in ("adapter/adapter_model.safetensors", "train_log.jsonl"):
            assert (folder / name).read_bytes() == (undisturbed / "cells" / cell.folder / name).read_bytes(), name
    for name in ("rates.parquet", "exact_match.parquet"):
        assert pl.read_parquet(results / name).equals(pl.read_parquet(undisturbed / name)), name
    assert (run.checkout.folder / TABLE).read_bytes() == (undisturbed / "tables/table_03.csv").read_bytes()
    assert run.checkout.planned(*WANTED) == {}

    # What was booked: 7B on either GPU, 32B on the larger one, what only reads or judges without.
    for cell in cells:
        asked = requests.train(cell)
        assert asked.partitions == (("a100", "a40") if cell.model == "seven" else ("a100",))
        assert booked[cell]["Partition"] in asked.partitions
        assert booked[cell]["JOB_GRES"] == f"gpu:{booked[cell]['Partition']}:1"
        assert f"mem={asked.memory(1)}M" in booked[cell]["TRES"]
        assert minutes(booked[cell]["TimeLimit"]) == asked.runtime(1)
    retried = run.job(again)
    assert retried["JobState"] == "COMPLETED"
    assert f"mem={requests.train(again).memory(2)}M" in retried["TRES"]
    assert minutes(retried["TimeLimit"]) == requests.train(again).runtime(2)
    for job in cluster.jobs():
        rule = job["Comment"].removeprefix("rule_").partition("_wildcards")[0]
        if rule in {"check_model", "train", "generate", "answer"}:
            assert job["TresPerJob"] == "gres:gpu:1", rule
        else:
            assert job["Partition"] == "cpu", rule
            assert "TresPerJob" not in job, rule
    trainings = [job for job in cluster.jobs() if job["Comment"].startswith("rule_train_")]
    assert len(trainings) == 9, "four that were disturbed, four that resumed, one retry"


def minutes(limit: str) -> int:
    """Return Slurm's ``[days-]hours:minutes:seconds`` in minutes."""
    days, _, clock = limit.rpartition("-")
    hours, mins, _ = map(int, clock.split(":"))
    return (int(days or 0) * 24 + hours) * 60 + mins


def test_an_unknown_partition_is_named_before_anything_is_submitted(
    cluster: SlurmCluster, config: str, tmp_path: Path
) -> None:
    run = OnSlurm(checkout_of(config, tmp_path / "checkout"), cluster)
    gpus = run.checkout.folder / "profiles/slurm/gpus.yaml"
    gpus.write_text(gpus.read_text().replace("a40:", "a41:"))
    before = len(cluster.jobs())
    said = run.finish()
    assert [line for line in said.splitlines() if "error" in line.lower()] == [
        "error: there is no partition 'a41', only a100, a40, cpu; correct gpus.yaml or config.yaml in profiles/slurm"
    ]
    assert len(cluster.jobs()) == before
    assert not list(run.checkout.folder.glob(".snakemake/locks/*")), "the next run need not be unlocked"
