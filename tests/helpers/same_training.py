"""Whether two trainings are one and the same but for rounding."""

from collections.abc import Mapping

import torch
from torch import Tensor

# Adam divides every gradient by its own size. Where a gradient is hardly more than rounding, the parameter still moves
# by the learning rate, in a direction that the order of the processor's additions decides: no bound holds for each one.
# But few are like that, and the whole change that the adapter makes to the model stays. Measured over the tests' pairs,
# with the kernels of four processors: 1e-6 of it or less. A penalty with a coefficient of 0.01 instead of 0 moves 3e-3.
ROUNDING = 1e-4


def change(adapter: Mapping[str, Tensor]) -> Tensor:
    """Return what a LoRA adapter adds to the matrices that it adapts, B @ A one after another; 0 before training."""
    of_b = {name.replace("lora_A", "lora_B"): tensor for name, tensor in adapter.items() if "lora_A" in name}
    assert of_b
    return torch.cat([(adapter[name].double() @ a.double()).flatten() for name, a in of_b.items()])


def assert_same_change(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Assert that two adapters change the model alike: they differ by little beside what training did."""
    assert found.keys() == expected.keys()
    one, other = change(found), change(expected)
    apart, way = float((one - other).norm()), float(other.norm())
    assert apart <= ROUNDING * way, f"the trainings ended {apart:.1e} apart after a way of {way:.1e}"
