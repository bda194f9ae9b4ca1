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
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil
from measuring import SCRIPTS, core_seconds, markdown_table

from emdefense.config.microcosm import ByteModel
from emdefense.data.byte_model import make_byte_model
from emdefense.files import write_jsonl
from emdefense.warm_caller import ADDRESS
from emdefense.warm_start import start_server

HEADER = ["core-s a job", "by itself", "warm", "ratio"]


def with_server(command: list[str], server: psutil.Process) -> float:
    """Processor time of a caller, and of what ``server`` did for it."""

    def spent() -> float:
        times = server.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)

    before = spent()
    of_caller, _ = core_seconds(command)
    time.sleep(0.1)  # until the server has reaped its child
    return of_caller + spent() - before


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

    def alone(command: list[str]) -> float:
        return statistics.median(core_seconds(command)[0] for _ in range(repeats))

    def importing(code: str) -> float:
        return alone([sys.executable, "-c", code])

    def row(name: str, slow: float, fast: float) -> list[str]:
        return [name, f"{slow:.3f}", f"{fast:.3f}", f"{slow / fast:.1f}"]

    with tempfile.TemporaryDirectory() as folder:
        jobs = {
            "says how it is called": [sys.executable, f"{SCRIPTS}/choose.py", "--help"],
            "asks a small model": choose(Path(folder)),
        }
        by_itself = {name: alone(job) for name, job in jobs.items()}
        start_server()
        while not Path(os.environ[ADDRESS]).exists():
            time.sleep(0.1)
        (server,) = (child for child in psutil.Process().children() if "emdefense.warm_start" in child.cmdline())
        core_seconds(jobs["says how it is called"])  # which waits until it has imported
        rows = [
            row(name, by_itself[name], statistics.median(with_server(job, server) for _ in range(repeats)))
            for name, job in jobs.items()
        ]
    del os.environ[ADDRESS]
    nothing = importing("")
    its_own = importing("import argparse, emdefense.errors, emdefense.files, emdefense.warm_start")
    rows.append(row("a caller that imports what its job does", its_own, importing("import emdefense.warm_caller")))
    loaded = "import emdefense.saved_model as saved; saved.transformers.Qwen2ForCausalLM"
    patterns = importing(f"{loaded}; saved.warm_up()") - importing(loaded)
    print(markdown_table(HEADER, rows))
    print(f"\nAn interpreter that imports nothing takes {nothing:.3f}.")
    print(f"Learning how checkpoints name weights, once for all jobs, takes {patterns:.3f}.")


if __name__ == "__main__":
    main()
