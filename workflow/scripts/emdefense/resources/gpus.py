"""A site's GPUs: what stands in profiles/slurm/gpus.yaml."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from emdefense.errors import InputError
from emdefense.section import PositiveFloat, Section, first_problem
from emdefense.yaml_files import read_yaml

GIB = 2**30
CONTEXT_BYTES = GIB * 3 // 4  # CUDA's context and its libraries' workspaces
USABLE_SHARE = 0.95  # the rest is lost to fragmentation


class Gpu(Section):
    """One GPU of a partition."""

    memory_gib: PositiveFloat
    tflops: PositiveFloat
    gb_per_s: PositiveFloat
    max_hours: PositiveFloat | None = None

    @property
    def usable_bytes(self) -> int:
        """What is left for tensors."""
        return int((self.memory_gib * GIB - CONTEXT_BYTES) * USABLE_SHARE)


def read_gpus(path: Path) -> dict[str, Gpu]:
    """Return the GPUs by partition, in the file's order; :class:`InputError` names the key that is wrong."""
    content = read_yaml(path, "file; it names the partitions with GPUs")
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: expected partitions, for example 'a100: {{memory_gib: 79, ...}}'")
    gpus = {}
    for partition, values in content.items():
        try:
            gpus[str(partition)] = Gpu.model_validate(values)
        except ValidationError as error:
            raise InputError(f"{path}: {first_problem(error, str(partition))}") from None
    return gpus


def partitions_for(size: int, gpus: Mapping[str, Gpu]) -> tuple[str, ...]:
    """Return the partitions on whose GPUs ``size`` bytes fit."""
    return tuple(partition for partition, gpu in gpus.items() if size <= gpu.usable_bytes)
