"""What a job that failed said last."""

import os
from contextlib import suppress
from pathlib import Path

from emdefense.planning.job import Job

SLURM_LOGS = Path("logs/slurm")  # slurm-logdir in the profile
TAIL_BYTES = 1 << 16


def last_line(job: Job) -> str:
    """Return the last line of a job's log, and what Slurm said of the job's end, if it did; empty for neither."""
    lines = log_lines(Path(job.log))
    said = lines[-1] if lines else ""
    ended = _slurm(job)
    return f"{said} ({ended})" if said and ended else said or ended


def _slurm(job: Job) -> str:
    """Return why Slurm ended the newest run of a job: out of time, out of memory, cancelled."""
    began = Path(job.log).stat().st_mtime if Path(job.log).exists() else 0.0
    found: list[tuple[float, Path]] = []
    for path in (SLURM_LOGS / f"rule_{job.rule}" / job.slurm_name).glob("*.log"):
        with suppress(OSError):
            found.append((path.stat().st_mtime, path))
    newest = max(found, default=(0.0, Path()))
    if newest[0] < began:
        return ""
    reasons = [line for line in log_lines(newest[1]) if "slurmstepd" in line or "oom-kill" in line.lower()]
    return reasons[-1] if reasons else ""


def log_lines(path: Path) -> list[str]:
    """Return the last lines of a file that are not blank; a progress bar's last state counts as a line."""
    try:
        with path.open("rb") as content:
            content.seek(max(0, os.fstat(content.fileno()).st_size - TAIL_BYTES))
            text = content.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
