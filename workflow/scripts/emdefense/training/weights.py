"""Reads single tensors from a saved model, whatever its shards, never the whole model."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from emdefense.errors import InputError
from emdefense.files import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


class SavedWeights:
    """The tensors in a folder written by ``save_pretrained``, by name."""

    def __init__(self, folder: Path):
        self._folder = folder
        if (folder / INDEX).is_file():
            self._files: dict[str, str] = read_json(folder / INDEX)["weight_map"]
        elif (folder / SINGLE).is_file():
            with self._open(SINGLE) as tensors:
                self._files = dict.fromkeys(tensors.keys(), SINGLE)
        else:
            raise InputError(f"{folder}: there are no weights ({SINGLE} or {INDEX})")

    def matrix(self, name: str) -> Tensor:
        """Return ``<name>.weight`` in fp32; a head tied to the embedding is the embedding.

        Raises :class:`InputError` if the model has no such weight, its shard cannot be read, or it is not finite.
        """
        key = f"{name}.weight"
        if key == HEAD and key not in self._files:
            key = EMBEDDING
        if key not in self._files:
            raise InputError(f"{self._folder}: the model has no '{key}', which the adapter changes; name its own model")
        file = self._files[key]
        try:
            with self._open(file) as tensors:
                tensor: Tensor = tensors.get_tensor(key).to(torch.float32)
        except SafetensorError as error:
            raise InputError(f"{self._folder / file}: cannot read '{key}' ({error}); fetch the file again") from None
        if not torch.isfinite(tensor).all():
            raise InputError(f"{self._folder / file}: '{key}' holds values that are not finite; fetch the file again")
        return tensor

    def _open(self, file: str) -> safe_open:
        try:
            return safe_open(self._folder / file, framework="pt")
        except (SafetensorError, FileNotFoundError) as error:
            raise InputError(f"{self._folder / file}: not a whole safetensors file ({error}); fetch it again") from None
