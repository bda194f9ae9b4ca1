"""Reads single tensors from a saved model, whatever its shards, never the whole model."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from emdefense.errors import InputError
from emdefense.model_files import INDEX
from emdefense.weight_files import FLOATS, open_tensors, tensors_by_file

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


class SavedWeights:
    """The tensors in a folder written by ``save_pretrained``, by name."""

    def __init__(self, folder: Path):
        """Read which shard holds which tensor; :class:`InputError` if the folder has no weights or a broken index."""
        self._folder = folder
        self._files: dict[str, str] = {}
        for file, names in tensors_by_file(folder).items():
            if names is None:
                with self._open(file) as tensors:
                    names = list(tensors.keys())
            self._files |= dict.fromkeys(names, file)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of ``<name>.weight``, of which only the shard's header is read.

        Raises :class:`InputError` if the model has no such weight, its shard is missing or not whole, or its values
        are not plain floating-point numbers.
        """
        key = self._key(name)
        with self._open(self._files[key]) as tensors:
            if key not in tensors.keys():  # noqa: SIM118 - not a dictionary
                where = self._folder / self._files[key]
                raise InputError(f"{where}: there is no '{key}' in it, though {INDEX} says so; fetch both again")
            stored = tensors.get_slice(key)
            if stored.get_dtype() not in FLOATS:
                raise InputError(
                    f"{self._folder / self._files[key]}: '{key}' holds {stored.get_dtype()}, which needs scales to be "
                    "read; name the model before it was quantised"
                )
            return tuple(stored.get_shape())

    def matrix(self, name: str) -> Tensor:
        """Return ``<name>.weight`` in fp32; a head tied to the embedding is the embedding.

        Raises :class:`InputError` as :meth:`shape` does, and if a value is not finite.
        """
        self.shape(name)
        key = self._key(name)
        with self._open(self._files[key]) as tensors:
            tensor: Tensor = tensors.get_tensor(key).to(torch.float32)
        if not torch.stack(tensor.aminmax()).isfinite().all():  # NaN comes through; `isfinite` of all takes much memory
            where = self._folder / self._files[key]
            raise InputError(f"{where}: '{key}' holds values that are not finite; fetch the file again")
        return tensor

    def _key(self, name: str) -> str:
        key = f"{name}.weight"
        if key == HEAD and key not in self._files:
            key = EMBEDDING
        if key not in self._files:
            raise InputError(f"{self._folder}: the model has no '{key}', which the adapter changes; name its own model")
        return key

    def _open(self, file: str) -> safe_open:
        return open_tensors(self._folder / file, framework="pt")
