"""The environment that every job of the workflow inherits."""

import os
import sys
from pathlib import Path

from emdefense.generation.environment import VARIABLE


def set_job_environment(vllm: Path | None = None) -> None:
    """Make jobs use the running interpreter, one thread each, keep freed memory, and never talk to a hub unasked.

    With one thread a result does not depend on the number of cores. What the user has set is kept, but for the threads.
    ``vllm`` is the folder of the environment in which vLLM samples.
    """
    if vllm is not None:
        os.environ[VARIABLE] = str(vllm.absolute())
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ["OMP_NUM_THREADS"] = "1"
    for name, value in {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "SOURCE_DATE_EPOCH": "0",
        # glibc gives freed tensors back to the kernel and asks for them again, page by page: a third of sampling's time
        # on a small model. Kept are blocks below 32 MiB, 256 MiB of them in all.
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    }.items():
        os.environ.setdefault(name, value)
