"""The jobs that Snakemake plans, with what their rules declare."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

PRINT_JOBS = """
import json, sys
from snakemake.cli import main
from snakemake.jobs import GroupJob, Job

def log_info(job, *_, **__):
    declared = [list(job.output), list(job.log), job.benchmark and str(job.benchmark), list(job.wildcards)]
    print("JOB", json.dumps([job.rule.name, *declared]))

Job.log_info = log_info
main()
"""


class Planned(NamedTuple):
    """A job: its rule, outputs, log and benchmark, and its wildcards as the Slurm plugin writes them."""

    rule: str
    outputs: frozenset[str]
    log: str
    benchmark: str | None
    wildcards: str


def planned_jobs(folder: Path, *arguments: str) -> set[Planned]:
    """Return the jobs of a dry run in a checkout, without those that only collect others."""
    command = [sys.executable, "-c", PRINT_JOBS, "--dry-run", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.removeprefix("JOB ") for line in done.stdout.splitlines() if line.startswith("JOB ")]
    return {_planned(*json.loads(line)) for line in lines if not line.startswith('["all"')}


def _planned(rule: str, outputs: list[str], log: list[str], benchmark: str | None, wildcards: list[Any]) -> Planned:
    return Planned(rule, frozenset(outputs), log[0], benchmark, "_".join(map(str, wildcards)).replace("/", "_"))
