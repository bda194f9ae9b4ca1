"""Checksums of Snakemake's: of each file once, not once for each output of the job that reads it."""

import os
from typing import Any


def remember_checksums(kind: type[Any]) -> None:
    """Have a class such as ``snakemake.io._IOFile`` compute the checksum of a file once while the file is the same.

    When a job has ended, Snakemake 9.27 computes those of all inputs anew for each output, and starts nothing
    meanwhile: for the curves of 678 trainings, drawn from as many logs, that is most of a minute.
    """
    compute = kind.checksum
    known: dict[tuple[Any, ...], Any] = {}

    async def checksum(file: Any, *arguments: Any, **options: Any) -> Any:
        try:
            state = os.stat(file)
        except OSError:  # it is elsewhere, or nowhere
            return await compute(file, *arguments, **options)
        key = (str(file), state.st_mtime_ns, state.st_size, arguments, tuple(sorted(options.items())))
        if key not in known:
            known[key] = await compute(file, *arguments, **options)
        return known[key]

    kind.checksum = checksum
