"""What a job uses, for Snakemake's benchmark files, where the server that forks jobs runs it.

Snakemake samples the processes below the shell that it started. There it finds a caller that waits; the job itself is a
child of the server.
"""

import os
from contextlib import suppress
from typing import Any

import psutil  # type: ignore[import-untyped]

from emdefense.warm_start import ADDRESS, job_file


class Caller(psutil.Process):  # type: ignore[misc]
    """A process whose children are also the jobs that the server runs for it or for its children."""

    def children(self, recursive: bool = False) -> list[psutil.Process]:
        """Return the children, jobs among them."""
        found: list[psutil.Process] = super().children(recursive=recursive)
        jobs: list[psutil.Process] = []
        for process in (self, *found):
            with suppress(OSError, ValueError, psutil.Error):  # it has none, or none any more
                job = psutil.Process(int(job_file(os.environ[ADDRESS], process.pid).read_text()))
                jobs += [job, *job.children(recursive=True)] if recursive else [job]
        return found + jobs


def follow_jobs(timer: type[Any]) -> type[Any]:
    """Return Snakemake's ``BenchmarkTimer`` so changed that it samples jobs, not only their callers."""

    class Timer(timer):  # type: ignore[misc]
        def __init__(self, pid: int, *arguments: Any):
            super().__init__(pid, *arguments)
            self.main = Caller(pid)

    return Timer
