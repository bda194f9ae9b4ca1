"""How long finished jobs took, by Snakemake's benchmark files and the trainings' provenance."""

import csv
from collections.abc import Collection
from pathlib import Path

from emdefense.cells import Cell, Layout
from emdefense.errors import InputError
from emdefense.files import read_json
from emdefense.planning.jobs import Job


def job_seconds(job: Job, layout: Layout) -> float | None:
    """Return a finished job's seconds; None if they are not known, or not all: a training resumed counts its rest."""
    if job.benchmark is None:
        return None
    if job.stage == "training" and job.cell and _provenance(job.cell, layout).get("resumed_from_step"):
        return None
    try:
        with Path(job.benchmark).open(encoding="utf-8") as lines:
            return float(next(csv.DictReader(lines, delimiter="\t"))["s"])
    except (OSError, StopIteration, KeyError, ValueError):
        return None


def partition_of(job: Job, layout: Layout, partitions: Collection[str]) -> str | None:
    """Return which of ``partitions`` a finished job ran on: the only one, or the one that its GPU's name contains."""
    if len(partitions) == 1:
        return next(iter(partitions))
    if job.stage != "training" or job.cell is None:
        return None
    device = str(_provenance(job.cell, layout).get("machine", {}).get("device", "")).lower()
    found = [partition for partition in partitions if partition.lower() in device]
    return max(found, key=len, default=None)


def _provenance(cell: Cell, layout: Layout) -> dict[str, dict[str, str]]:
    try:
        found: dict[str, dict[str, str]] = read_json(Path(layout.cell(cell)) / "provenance.json")
    except InputError:
        return {}
    return found
