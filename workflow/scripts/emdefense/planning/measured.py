"""How long finished jobs took, by Snakemake's benchmark files and the records beside what they made."""

import csv
from collections.abc import Collection
from pathlib import Path
from typing import Any

from emdefense.errors import InputError
from emdefense.files import read_json
from emdefense.planning.job import Job


def job_seconds(job: Job) -> float | None:
    """Return a finished job's seconds, or None: they are not known, or not of all its work (resumed, copied)."""
    if job.benchmark is None or any(r.get("resumed_from_step") or r.get("copied_from") for r in _records(job)):
        return None
    try:
        with Path(job.benchmark).open(encoding="utf-8") as lines:
            return float(next(csv.DictReader(lines, delimiter="\t"))["s"])
    except (OSError, StopIteration, KeyError, ValueError):
        return None


def partition_of(job: Job, partitions: Collection[str]) -> str | None:
    """Return which of ``partitions`` a finished job ran on: the only one, or the one that its GPU's name contains."""
    if len(partitions) == 1:
        return next(iter(partitions))
    devices = {str(record.get("machine", {}).get("device", "")).lower() for record in _records(job)}
    found = [name for name in partitions if any(name.lower() in device for device in devices)]
    return max(found, key=len, default=None)


def _records(job: Job) -> list[dict[str, Any]]:
    """Return the records among a job's outputs."""
    found = []
    for output in job.outputs:
        if output.endswith("provenance.json"):
            try:
                found.append(read_json(Path(output)))
            except InputError:
                continue
    return found
