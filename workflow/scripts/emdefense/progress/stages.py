"""How far each stage of a run is: jobs that are done, that failed, that run, and the time that is left.

Times are seconds of any one clock, given by the caller.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass
class Running:
    """A job that was started, ``since`` when."""

    stage: str
    name: str
    since: float


@dataclass
class Stage:
    """One stage's jobs. ``busy`` seconds went into those that are done, in ``active`` seconds of the clock."""

    total: int
    done: int = 0
    failed: set[int] = field(default_factory=set)
    running: dict[int, Running] = field(default_factory=dict)
    busy: float = 0.0
    active: float = 0.0
    changed: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether every job is done."""
        return self.done >= self.total

    def at(self, now: float) -> None:
        """Count the time since the last change."""
        if self.running:
            self.active += now - self.changed
        self.changed = now

    def work(self, now: float) -> float | None:
        """Return the seconds of work of the jobs that are not done, failed ones left out; None before one is done."""
        waiting = max(0, self.total - self.done - len(self.failed) - len(self.running))
        if not waiting and not self.running:
            return 0.0
        if not self.done:
            return None
        mean = self.busy / self.done
        return waiting * mean + sum(max(0.0, mean - (now - job.since)) for job in self.running.values())

    def spent(self, now: float) -> float:
        """Return the seconds of work so far."""
        return self.busy + sum(now - job.since for job in self.running.values())


class Stages:
    """The stages of a run, in the order of ``names``; those without a job are left out."""

    def __init__(self, jobs: Mapping[str, int], names: Iterable[str]):
        self.stages = {name: Stage(jobs[name]) for name in names if jobs.get(name)}
        self._jobs: dict[int, Running] = {}
        self._began: float | None = None

    def start(self, job: int, stage: str, name: str, now: float) -> None:
        """Count a job as running; one that had failed is tried again."""
        here = self.stages.setdefault(stage, Stage(0))
        here.at(now)
        here.failed.discard(job)
        self._began = now if self._began is None else self._began
        self._jobs[job] = here.running[job] = Running(stage, name, now)
        here.total = max(here.total, here.done + len(here.failed) + len(here.running))

    def finish(self, job: int, now: float) -> None:
        """Count a job as done."""
        self._end(job, now, failed=False)

    def fail(self, job: int, now: float) -> Running | None:
        """Count a job as failed and return it; None if it does not run."""
        return self._end(job, now, failed=True)

    def stop(self, job: int, now: float) -> None:
        """Count a job as not begun, as it was interrupted."""
        if ended := self._end(job, now, failed=True):
            self.stages[ended.stage].failed.discard(job)

    def _end(self, job: int, now: float, *, failed: bool) -> Running | None:
        ended = self._jobs.pop(job, None)
        if ended is None:
            return None
        here = self.stages[ended.stage]
        here.at(now)
        del here.running[job]
        if failed:
            here.failed.add(job)
        else:
            here.done += 1
            here.busy += now - ended.since
        return ended

    def stage_left(self, name: str, now: float) -> float | None:
        """Return the seconds that a stage's jobs still take, as many at a time as until now; None if not known."""
        here = self.stages[name]
        work = here.work(now)
        active = here.active + (now - here.changed if here.running else 0.0)
        return work if not work or not active else work / max(1.0, here.spent(now) / active)

    def left(self, now: float) -> tuple[float, bool]:
        """Return the seconds that are left, and whether that is all: False while a stage to come has no job done."""
        if not self.elapsed(now):
            return 0.0, False
        work = [here.work(now) for here in self.stages.values()]
        at_a_time = max(1.0, sum(here.spent(now) for here in self.stages.values()) / self.elapsed(now))
        return sum(one or 0.0 for one in work) / at_a_time, None not in work

    def elapsed(self, now: float) -> float:
        """Return the seconds since the first job began."""
        return 0.0 if self._began is None else now - self._began

    @property
    def done(self) -> int:
        """How many jobs are done."""
        return sum(here.done for here in self.stages.values())

    @property
    def failed(self) -> int:
        """How many jobs failed and were not tried again."""
        return sum(len(here.failed) for here in self.stages.values())

    @property
    def total(self) -> int:
        """How many jobs there are."""
        return sum(here.total for here in self.stages.values())
