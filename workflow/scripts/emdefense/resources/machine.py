"""What the machine has on which Snakemake runs jobs itself: cores, memory, and whether there is a GPU."""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from emdefense.resources.duration import BANDWIDTH_SHARE, COMPUTE_SHARE
from emdefense.resources.gpus import GIB, Gpu

GPU_FILES = ("nvidia[0-9]*", "kfd", "dxg")  # in /dev: of NVIDIA's driver, AMD's, and of Windows beneath Linux
LEFT_MB = 2000  # to the system, Snakemake and the jobs that need little
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Speed:
    """What one core computes and reads: 10¹² operations and GB in a second, as they come out in jobs."""

    tflops: float
    gb_per_s: float


# A model of 135 M parameters, in float32: 9 to 12 s for 1,000 tokens of training.
ASSUMED = Speed(tflops=0.06, gb_per_s=8.0)


@dataclass(frozen=True)
class Machine:
    """One machine; ``memory_mb`` is what jobs may take together."""

    cores: int
    memory_mb: int
    has_gpu: bool

    def jobs_at_once(self, mem_mb: int) -> int:
        """Return how many jobs of this size run at a time, a core each or more; one at least."""
        return max(1, min(self.cores, self.memory_mb // mem_mb))

    def threads(self, mem_mb: int) -> int:
        """Return the threads of each where they share all cores."""
        return max(1, self.cores // self.jobs_at_once(mem_mb))

    def as_gpu(self, threads: int, speed: Speed = ASSUMED) -> Gpu:
        """Return what a job with so many threads computes with, in the terms of a partition's GPU."""
        return Gpu(
            memory_gib=self.memory_mb * 10**6 / GIB,
            tflops=threads * speed.tflops / COMPUTE_SHARE,
            gb_per_s=threads * speed.gb_per_s / BANDWIDTH_SHARE,
        )


def this_machine(cores: int | None = None) -> Machine:
    """Return what is here, ``cores`` of its cores: all that this process may use if not said."""
    memory = psutil.virtual_memory().total
    if CGROUP_LIMIT.is_file() and (limit := CGROUP_LIMIT.read_text(encoding="utf-8").strip()).isdigit():
        memory = min(memory, int(limit))
    usable = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count() or 1
    return Machine(cores or usable, max(LEFT_MB, round(memory / 10**6) - LEFT_MB), has_gpu())


def has_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether torch would find a GPU: there is one, and it is not hidden. Nothing is imported for it."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return not hidden and any(True for pattern in GPU_FILES for _ in devices.glob(pattern))
