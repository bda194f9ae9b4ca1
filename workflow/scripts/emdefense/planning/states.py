"""Which state each job of a study is in, from what Snakemake means to do and from its files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from emdefense.planning.job import Job
from emdefense.planning.snakemake_folder import QUEUED, Snapshot

State = Literal["done", "running", "failed", "interrupted", "waiting"]
# The more it wants attention, the earlier; of several jobs behind one mark, the first of these counts.
STATES: tuple[State, ...] = ("failed", "interrupted", "running", "waiting", "done")

MEANING = """\
done         Snakemake has nothing to do: all outputs that anything needs are there, whole and as of today's settings
running      outputs are in the making, and a Snakemake runs on this machine in this folder, or squeue says RUNNING
failed       the job's last run began (its log is there) and left no whole outputs, and it does not run
interrupted  outputs are in the making, but neither is there such a Snakemake nor does squeue know the job: it was
             killed, or runs for a Snakemake on another machine
waiting      not begun, or in Slurm's queue, or about to be tried again by the Snakemake that runs, or to be made again
             because settings or inputs have changed
"""


def state_of(job: Job, now: Snapshot) -> State:
    """Return a job's state; ``MEANING`` says what each is."""
    marked = [output for output in job.outputs if output in now.making]
    if marked:
        external = now.making[marked[0]]
        if external is not None and external in now.queue:
            return "waiting" if now.queue[external] in QUEUED else "running"
        return "running" if _is_run(job, now) else "interrupted"
    if not job.needs_run:
        return "done"
    if all(Path(output).exists() for output in job.outputs):
        return "waiting"
    began = _changed(job.log)
    if began is None or (_is_run(job, now) and began < max(now.locked.get(output, 0) for output in job.outputs)):
        return "waiting"
    # Written when a job succeeds: its outputs were removed by hand later.
    ended = _changed(job.benchmark) if job.benchmark else None
    return "waiting" if ended is not None and ended >= began else "failed"


def worst(states: Iterable[State]) -> State:
    """Return the state that wants attention most."""
    return min(states, key=STATES.index)


def _is_run(job: Job, now: Snapshot) -> bool:
    """Whether a Snakemake is there that means to make the job's outputs."""
    return now.process is not None and any(output in now.locked for output in job.outputs)


def _changed(path: str) -> float | None:
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return None
