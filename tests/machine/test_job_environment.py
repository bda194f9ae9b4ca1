"""What jobs inherit from the workflow."""

import os
import platform
import resource
import subprocess
import sys

import pytest

from emdefense.job_environment import set_job_environment

PAGE = resource.getpagesize()
BLOCK_BYTES, BLOCKS, ROUNDS = 8 << 20, 6, 20
# Blocks of the size of a batch's logits come and go, as in a decoding loop; printed are the pages that were fetched.
CHURN = f"""
import resource
blocks = [bytes({BLOCK_BYTES}) for _ in range({BLOCKS})]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    blocks.clear()
    blocks = [bytearray(b"x") * {BLOCK_BYTES} for _ in range({BLOCKS})]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that is put back afterwards, without what the workflow would set."""
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "HF_"))})


def pages_fetched() -> int:
    done = subprocess.run([sys.executable, "-c", CHURN], env=os.environ, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have their own ways")
@pytest.mark.usefixtures("environment")
def test_jobs_keep_the_memory_that_they_free() -> None:
    each_round = BLOCKS * BLOCK_BYTES // PAGE
    assert pages_fetched() > ROUNDS / 2 * each_round
    set_job_environment()
    assert pages_fetched() < 3 * each_round


@pytest.mark.usefixtures("environment")
def test_what_the_user_has_set_is_kept_but_for_the_threads() -> None:
    os.environ.update(HF_HUB_OFFLINE="0", MALLOC_TRIM_THRESHOLD_="1", OMP_NUM_THREADS="8")
    set_job_environment()
    assert (os.environ["HF_HUB_OFFLINE"], os.environ["MALLOC_TRIM_THRESHOLD_"]) == ("0", "1")
    assert os.environ["OMP_NUM_THREADS"] == "1"
