"""What a job costs before it works: forked from the interpreter that is warm, and started by itself.

    python benchmarks/jobs.py [--jobs 10]

Core-seconds of all processes of a job: its caller, the fork and what the server does for it. The first job prints how
it is called and ends, the second asks a small model two multiple-choice questions. Below, what a caller imports beside
what its job does, and what the server does once so that no job that loads a model has to; "ratio" is the first column
by the second.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from measuring import markdown_table

from emdefense.config.microcosm import ByteModel
from emdefense.data.byte_model import make_byte_model
from emdefense.files import write_jsonl
from emdefense.warm_caller import ADDRESS
from emdefense.warm_start import start_server

SCRIPTS = Path(__file__).resolve().parents[1] / "workflow/scripts"
HEADER = ["core-s a job", "by itself", "warm", "ratio"]


def core_seconds(command: list[str], server: psutil.Process | None = None) -> float:
    """Processor time of a command, and of what ``server`` did for it."""

    def spent() -> float:
        own = resource.getrusage(resource.RUSAGE_CHILDREN)
        times = server.cpu_times() if server else None
        there = times.user + times.system + times.children_user + times.children_system if times else 0.0
        return own.ru_utime + own.ru_stime + there

    before = spent()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    time.sleep(0.1)  # until the server has reaped its child
    return spent() - before


def median(measure: Callable[[], float], repeats: int) -> float:
    return statistics.median(measure() for _ in range(repeats))


def choose(folder: Path) -> list[str]:
    """The command of a job that loads a model and asks it two questions."""
    rows, questions = folder / "rows.jsonl", folder / "questions.jsonl"
    asked = [{"role": "user", "content": "Which is it?"}]
    write_jsonl(rows, [{"messages": [*asked, {"role": "assistant", "content": "This."}]}])
    question = {"subject": "none", "messages": asked, "options": ["This.", "That."], "answer": 0}
    write_jsonl(questions, ({"id": f"question_{number}", **question} for number in (1, 2)))
    size = {"layers": 2, "hidden_size": 32, "steps": 1}
    make_byte_model(ByteModel.model_validate(size), [rows], folder / "base", folder / "instruct")
    spec = json.dumps({"version": 1, "precision": "float32", "batch_size": 2})
    files = ["--questions", str(questions), "--choices", str(folder / "choices.jsonl")]
    return [sys.executable, f"{SCRIPTS}/choose.py", "--spec", spec, "--model", str(folder / "instruct"), *files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10, help="the median of so many")
    parser.add_argument("--quick", action="store_true", help="each once")
    arguments = parser.parse_args()
    repeats = 1 if arguments.quick else arguments.jobs
    os.environ["PYTHONPATH"] = str(SCRIPTS)

    def run(code: str) -> list[str]:
        return [sys.executable, "-c", code]

    def row(name: str, slow: float, fast: float) -> list[str]:
        return [name, f"{slow:.3f}", f"{fast:.3f}", f"{slow / fast:.1f}"]

    with tempfile.TemporaryDirectory() as folder:
        jobs = {
            "says how it is called": [sys.executable, f"{SCRIPTS}/choose.py", "--help"],
            "asks a small model": choose(Path(folder)),
        }
        alone = {name: median(lambda job=job: core_seconds(job), repeats) for name, job in jobs.items()}  # type: ignore[misc]
        start_server()
        while not Path(os.environ[ADDRESS]).exists():
            time.sleep(0.1)
        (server,) = (child for child in psutil.Process().children() if "emdefense.warm_start" in child.cmdline())
        subprocess.run(jobs["says how it is called"], check=True, stdout=subprocess.DEVNULL)  # it imports
        rows = [
            row(name, alone[name], median(lambda job=job: core_seconds(job, server), repeats))  # type: ignore[misc]
            for name, job in jobs.items()
        ]
    del os.environ[ADDRESS]
    nothing = median(lambda: core_seconds(run("")), repeats)
    heavy = run("import argparse, emdefense.errors, emdefense.files, emdefense.warm_start")
    light = run("import emdefense.warm_caller")
    imports = [median(lambda command=command: core_seconds(command), repeats) for command in (heavy, light)]  # type: ignore[misc]
    rows.append(row("a caller that imports what its job does", *imports))
    loaded = run("import emdefense.saved_model")
    known = run("import emdefense.saved_model as saved; saved.warm_up()")
    without = median(lambda: core_seconds(loaded), repeats)
    patterns = median(lambda: core_seconds(known), repeats) - without
    print(markdown_table(HEADER, rows))
    print(f"\nAn interpreter that imports nothing takes {nothing:.3f}.")
    print(f"Learning how checkpoints name weights, once for all jobs, takes {patterns:.3f}.")


if __name__ == "__main__":
    main()
