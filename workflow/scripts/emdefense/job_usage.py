"""What a job uses, for Snakemake's benchmark files, where the server that forks jobs runs it.

Snakemake samples the processes below the shell that it started. There it finds a caller that waits; the job itself is a
child of the server.

Snakemake samples twice a second. To find a process's children, all processes of the machine are read; for proportional
and unshared memory the kernel walks over all pages of a process, 14 milliseconds for a fork of that server, while the
job may not touch its memory. So these are looked for more rarely.
"""

import os
import time
from contextlib import suppress
from typing import Any

import psutil  # type: ignore[import-untyped]

from emdefense.warm_caller import ADDRESS
from emdefense.warm_start import job_file

_WALK_SECONDS = 4.0


class Job(psutil.Process):  # type: ignore[misc]
    """A process whose proportional and unshared memory are read every few seconds."""

    _walked: Any = None
    _due = 0.0

    def memory_full_info(self) -> Any:
        """Return what the process has in memory, now, and of it alone, when that was last read."""
        if time.monotonic() >= self._due:
            self._walked = super().memory_full_info()
            self._due = time.monotonic() + _WALK_SECONDS
        return self._walked._replace(**self.memory_info()._asdict())


class Caller(psutil.Process):  # type: ignore[misc]
    """A process whose children are also the jobs that the server runs for it or for its children."""

    _known: list[psutil.Process]
    _due = 0.0

    def children(self, recursive: bool = False) -> list[psutil.Process]:
        """Return the children, jobs among them; once there is a job, those of some seconds ago."""
        if time.monotonic() < self._due:
            return self._known
        found: list[psutil.Process] = super().children(recursive=recursive)
        jobs: list[psutil.Process] = []
        for process in (self, *found):
            with suppress(OSError, ValueError, psutil.Error):  # it has none, or none any more
                job = Job(int(job_file(os.environ[ADDRESS], process.pid).read_text()))
                jobs += [job, *job.children(recursive=True)] if recursive else [job]
        self._known = found + jobs
        if jobs:
            self._due = time.monotonic() + _WALK_SECONDS
        return self._known


def follow_jobs(timer: type[Any]) -> type[Any]:
    """Return Snakemake's ``BenchmarkTimer`` so changed that it samples jobs, not only their callers."""

    class Timer(timer):  # type: ignore[misc]
        def __init__(self, pid: int, *arguments: Any):
            super().__init__(pid, *arguments)
            self.main = Caller(pid)

    return Timer
