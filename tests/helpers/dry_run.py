"""What Snakemake plans to make."""

import json
import subprocess
import sys
from pathlib import Path

PRINT_OUTPUTS = """
import json, sys
from snakemake.cli import main
from snakemake.jobs import Job

def log_info(job, *_, **__):
    print("OUTPUTS", json.dumps(list(job.output)))

Job.log_info = log_info
main()
"""


def planned_outputs(folder: Path, *arguments: str) -> list[str]:
    """Return the outputs of the jobs of a dry run in a checkout."""
    command = [sys.executable, "-c", PRINT_OUTPUTS, "--dry-run", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.removeprefix("OUTPUTS ") for line in done.stdout.splitlines() if line.startswith("OUTPUTS ")]
    return [output for line in lines for output in json.loads(line)]
