"""Files of directions in a model's hidden states: written with a record of how they were made, and read back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from emdefense.errors import InputError
from emdefense.files import write_json

VECTORS, RECORD = "directions.safetensors", "directions.json"


def write_vectors(out: Path, vectors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write directions by the names of states, in float64, and the record of how they were made."""
    tensors = {name: vector.to(torch.float64).cpu().contiguous().clone() for name, vector in vectors.items()}
    save_file(tensors, out / VECTORS)
    (out / VECTORS).chmod(0o644)
    write_json(out / RECORD, record)


class Directions:
    """Directions that a file holds, each checked when it is asked for; float64."""

    def __init__(self, path: Path):
        """Read a safetensors file; :class:`InputError` if it is missing or broken."""
        self.path = path
        if not path.is_file():
            raise InputError(f"{path}: there is no such file of directions; make it again")
        try:
            self._tensors = load_file(self.path)
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{self.path}: not a whole safetensors file ({error}); make it again") from None

    def vector(self, name: str) -> Tensor:
        """Return a direction [d] that is not 0."""
        return self._tensor(name, 1)

    def columns(self, name: str, count: int) -> Tensor:
        """Return the first ``count`` columns [d, count] of a matrix, orthonormal: as they are, or made so."""
        matrix = self._tensor(name, 2)
        if matrix.shape[1] < count:
            raise InputError(
                f"{self.path}: '{name}' has {matrix.shape[1]} directions, and {count} are to be removed; lower k"
            )
        basis: Tensor
        basis, triangle = torch.linalg.qr(matrix[:, :count])
        size = triangle.diagonal().abs()
        if bool((size <= 1e-8 * matrix.norm(dim=0)[:count]).any()):
            raise InputError(f"{self.path}: the first {count} directions of '{name}' are not independent; give others")
        return basis

    def _tensor(self, name: str, dimensions: int) -> Tensor:
        found: Tensor | None = self._tensors.get(name)
        if found is None:
            known = ", ".join(sorted(self._tensors)) or "nothing"
            raise InputError(f"{self.path}: it has no '{name}'; it has {known}")
        if found.dim() != dimensions or not found.is_floating_point():
            wanted = "[d]" if dimensions == 1 else "[d, directions]"
            raise InputError(f"{self.path}: '{name}' is {list(found.shape)} of {found.dtype}, not numbers {wanted}")
        wide: Tensor = found.to(torch.float64)
        if not torch.isfinite(wide).all():
            raise InputError(f"{self.path}: '{name}' holds values that are not finite; make it again")
        if not wide.any():
            raise InputError(f"{self.path}: '{name}' is 0, which is no direction; make it again")
        return wide

    def check_width(self, name: str, width: int) -> None:
        """Raise :class:`InputError` if a direction is one of a model of another width."""
        if (size := len(self._tensors[name])) != width:
            raise InputError(
                f"{self.path}: '{name}' has {size} numbers a direction, and the model's hidden states have {width}; "
                "name directions of this model"
            )
