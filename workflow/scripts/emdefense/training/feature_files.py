"""Reference features on disk: memory-mapped files, written whole or not at all, and known by what they were made of.

A folder holds ``final.bin``, a ``block_<k>.bin`` for each block, and ``features.json``. Each binary file is the rows'
features end to end, [tokens, d] in the precision of training, without header.
"""

import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emdefense.arms.base import Options
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.files import folder_written_whole, read_json, write_json
from emdefense.provenance import model_identity
from emdefense.training.costs import feature_bytes
from emdefense.training.features import Features

HEADER = "features.json"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
OTHER = {  # what differs, by the key of the identity
    "model": "another model",
    "rows": "other rows, another tokenizer or another training.max_length",
    "read": "other blocks",
    "precision": "another training.precision",
    "attention": "another training.attention",
}

Identity = dict[str, Any]


@dataclass(frozen=True)
class FeatureFiles:
    """The features of every row, [tokens, d] each, and where each row's begin and end."""

    everything: Features
    spans: Mapping[int, tuple[int, int]]  # by the row's number

    def of(self, rows: Sequence[int], device: torch.device) -> Features:
        """Return the features of ``rows``, one after the other as in a batch."""
        spans = [self.spans[row] for row in rows]

        def taken(feature: Tensor) -> Tensor:
            return torch.cat([feature[start:end] for start, end in spans]).to(device)

        residual = {block: taken(feature) for block, feature in self.everything.residual.items()}
        return Features(taken(self.everything.final), residual)

    def put(self, rows: Sequence[int], features: Features) -> None:
        """Store the features of ``rows``; :class:`InputError` if the model computes them in another precision."""
        spans = [self.spans[row] for row in rows]
        lengths = [end - start for start, end in spans]
        pairs = [(self.everything.final, features.final)]
        pairs += [(stored, features.residual[block]) for block, stored in self.everything.residual.items()]
        for stored, feature in pairs:
            if stored.dtype != feature.dtype:
                raise InputError(
                    f"key 'training.reference': the model computes features in {feature.dtype}, not in {stored.dtype}; "
                    "write live"
                )
            for (start, end), part in zip(spans, torch.split(feature, lengths), strict=True):
                stored[start:end] = part


def identity_of(
    model_folder: Path, rows: Sequence[dict[str, Any]], training: Training, penalty: str, options: Options
) -> Identity:
    """Return what features depend on: the weights, the rows' tokens, what is read of them, and how it is computed."""
    digest = sha256()
    for row in rows:
        digest.update(f"{row['row']} {row['input_ids']}\n".encode())
    model = model_identity(model_folder)
    return {
        "model": {key: model[key] for key in ("config_sha256", "weights_digest")},
        "rows": digest.hexdigest(),
        "read": {"penalty": penalty, **options.what_is_read()},
        "precision": training.precision,
        "attention": training.attention,
    }


@contextmanager
def written_features(
    folder: Path, identity: Identity, rows: Sequence[dict[str, Any]], width: int, blocks: Sequence[int]
) -> Iterator[FeatureFiles]:
    """Yield files to put the features of ``rows`` into; they appear as ``folder`` if the block succeeds.

    Says on stderr how much disk they take; :class:`InputError` if there is less.
    """
    lengths = {row["row"]: len(row["input_ids"]) for row in rows}
    header = {"identity": identity, "width": width, "blocks": list(blocks), "lengths": list(lengths.items())}
    tokens = sum(lengths.values())
    needed = feature_bytes(tokens, width, len(blocks), identity["precision"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    line = (
        f"reference features: {tokens} tokens × {width} × {1 + len(blocks)} features take {needed / 1e9:.3f} GB; "
        f"{folder.parent} has {free / 1e9:.3f} GB"
    )
    if needed > free:
        raise InputError(f"{line}; free some, or write training.reference: live")
    print(line, file=sys.stderr, flush=True)
    with folder_written_whole(folder) as temporary:
        for name in _names(header):
            with (temporary / name).open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, feature_bytes(tokens, width, 0, identity["precision"]))
        yield _mapped(temporary, header, writable=True)
        for name in _names(header):
            with (temporary / name).open("rb") as file:
                os.fsync(file.fileno())
        write_json(temporary / HEADER, header)


def read_features(folder: Path, identity: Identity) -> FeatureFiles:
    """Return the features in ``folder``; :class:`InputError` if they are torn or not of this ``identity``."""
    header = read_json(folder / HEADER)
    if not isinstance(header, dict) or header.keys() != {"identity", "width", "blocks", "lengths"}:
        raise InputError(f"{folder / HEADER}: not what the rule reference_features writes; delete {folder}")
    for key, value in identity.items():
        if header["identity"].get(key) != value:
            raise InputError(f"{folder}: reference features of {OTHER[key]}; delete it, it will be made again")
    size = feature_bytes(sum(length for _, length in header["lengths"]), header["width"], 0, identity["precision"])
    for name in _names(header):
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise InputError(f"{path}: not whole, {size} bytes are expected; delete {folder}, it will be made again")
    return _mapped(folder, header, writable=False)


def _names(header: dict[str, Any]) -> list[str]:
    return ["final.bin", *(f"block_{block}.bin" for block in header["blocks"])]


def _mapped(folder: Path, header: dict[str, Any], *, writable: bool) -> FeatureFiles:
    starts = [0, *accumulate(length for _, length in header["lengths"])]
    shape = (starts[-1], header["width"])
    dtype = DTYPES[header["identity"]["precision"]]
    final, *residual = (
        torch.from_file(str(folder / name), shared=writable, size=math.prod(shape), dtype=dtype).view(shape)
        for name in _names(header)
    )
    spans = {row: span for (row, _), span in zip(header["lengths"], pairwise(starts), strict=True)}
    return FeatureFiles(Features(final, dict(zip(header["blocks"], residual, strict=True))), spans)
