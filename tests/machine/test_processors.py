"""The kernels that the tests run with are those of the processor that was asked for."""

import pytest
import torch

from processors import PROCESSORS, can_stand_for

KERNELS = {"avx2": "AVX2", "baseline": "DEFAULT", "avx512": "AVX512"}


def test_torch_has_the_kernels_of_the_processor_that_was_asked_for(pytestconfig: pytest.Config) -> None:
    name = pytestconfig.getoption("processor")
    found = torch.backends.cpu.get_cpu_capability()
    assert KERNELS.keys() == PROCESSORS.keys() - {"native"}
    assert found == KERNELS.get(name, found)
    assert can_stand_for(name)
