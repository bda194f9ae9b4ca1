"""Measure time and memory, each in an interpreter of its own, and print Markdown tables."""

import multiprocessing
import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MIB = 2**20
ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "workflow/scripts"


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a module-level function returns in a fresh interpreter, whose memory nothing else has touched."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def core_seconds(command: Sequence[str]) -> tuple[float, str]:
    """Processor time of a process that has the scripts' package, and what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"error: {list(command[:3])} ended with status {process.returncode}")
    return usage.ru_utime + usage.ru_stime, printed.strip()


class Peak:
    """The most memory that a ``with`` block of ``peak_memory`` held beyond what was held before it, in bytes."""

    bytes = 0


@contextmanager
def peak_memory(device: str = "cpu") -> Iterator[Peak]:
    """Measure the block's peak extra memory: resident memory (Linux) on the CPU, allocated memory on CUDA.

    On the CPU memory that was freed but kept by the allocator is not counted again: call this in a child, once.
    """
    peak = Peak()
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # makes the resident memory the high-water mark
        before = _resident("VmRSS")
        yield peak
        peak.bytes = max(0, _resident("VmHWM") - before)
    else:
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device) - before


def _resident(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def median_seconds(function: Callable[[], object], repeats: int, device: str = "cpu", warm_up: bool = True) -> float:
    """Median wall time of ``repeats`` calls, after one that is not timed; on CUDA until a call's kernels have ended."""
    return _median(time.perf_counter, function, repeats, device, warm_up)


def median_core_seconds(function: Callable[[], object], repeats: int, warm_up: bool = True) -> float:
    """Median processor time of ``repeats`` calls, all threads together: on a busy machine, steadier than wall time."""
    return _median(time.process_time, function, repeats, "cpu", warm_up)


def _median(
    clock: Callable[[], float], function: Callable[[], object], repeats: int, device: str, warm_up: bool
) -> float:
    times = []
    for _ in range(repeats + warm_up):
        start = clock()
        function()
        if device != "cpu":
            import torch

            torch.cuda.synchronize(device)
        times.append(clock() - start)
    return statistics.median(times[warm_up:])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first column left and the others right aligned, padded so that it reads in a terminal too."""
    widths = [max(2, *(len(row[column]) for row in [header, *rows])) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        padded[0] = cells[0].ljust(widths[0])
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return "\n".join([line(header), f"| {' | '.join(rule)} |", *(line(row) for row in rows)])
