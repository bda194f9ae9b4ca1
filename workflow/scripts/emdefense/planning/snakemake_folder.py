"""What Snakemake leaves in .snakemake/ while it runs: locks, and marks on outputs in the making. Nothing is written."""

import json
import subprocess
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

FOLDER = Path(".snakemake")
DRY = {"-n", "--dry-run", "--dryrun", "--unlock", "--lint", "--summary", "--detailed-summary"}
QUEUED = {"PENDING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD"}


@dataclass(frozen=True)
class Snapshot:
    """What was there when it was taken.

    ``making``: outputs in the making, or half-made by a job that was killed, each with the id of its cluster job.
    ``locked``: outputs that some Snakemake means to make, with the time of its start (seconds since the epoch).
    ``process``: a Snakemake that runs on this machine and in this folder. ``queue``: state by id of the user's jobs.
    """

    making: Mapping[str, str | None]
    locked: Mapping[str, float]
    process: int | None
    queue: Mapping[str, str]


def take_snapshot(folder: Path = FOLDER) -> Snapshot:
    """Return what Snakemake and, where jobs were submitted, Slurm say at this moment."""
    making, locked = _making(folder / "incomplete"), _locked(folder / "locks")
    queue = _queue() if any(making.values()) else {}
    return Snapshot(making, locked, _process(folder.resolve().parent) if locked else None, queue)


def _making(folder: Path) -> dict[str, str | None]:
    """Read the marks: a file each, named by the output in base64, split into folders ``@...`` where too long."""
    found: dict[str, str | None] = {}
    for path in folder.rglob("*"):
        with suppress(OSError, ValueError):  # a mark that has just gone, or is just being written
            if path.is_file():
                name = "".join(part.removeprefix("@") for part in path.relative_to(folder).parts)
                output = urlsafe_b64decode(name).decode()
                found[output] = None
                external = json.loads(path.read_text(encoding="utf-8"))["external_jobid"]
                found[output] = str(external) if external else None
    return found


def _locked(folder: Path) -> dict[str, float]:
    found = {}
    for path in folder.glob("*.output.lock"):
        with suppress(OSError):  # it has just ended
            since = path.stat().st_mtime
            found.update({line: since for line in path.read_text(encoding="utf-8").splitlines()})
    return found


def _process(folder: Path) -> int | None:
    """Return the process of a Snakemake that runs jobs in ``folder``, on this machine."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # another user's, or it has just ended
            if _runs_jobs(process.cmdline()) and Path(process.cwd()) == folder:
                return int(process.pid)
    return None


def _runs_jobs(words: Iterable[str]) -> bool:
    """Whether a command line is Snakemake's, and neither a dry run nor a job that Snakemake started."""
    words = list(words)
    named = any(Path(word).name == "snakemake" for word in words[:4])
    return named and not DRY & set(words) and "--mode" not in words


def _queue() -> dict[str, str]:
    """Return the states of the user's jobs by id; nothing where there is no Slurm."""
    command = ["squeue", "--me", "--noheader", "--format=%i %T"]
    try:
        listed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(line.split(maxsplit=1) for line in listed.splitlines() if " " in line.strip())
