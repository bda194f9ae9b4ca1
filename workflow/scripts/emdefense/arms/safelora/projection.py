"""Project an adapter's matrices onto the direction of alignment.

V = W_instruct − W_base, C = VVᵀ/‖V‖², and W = BA becomes CW where cos(W, CW) < τ. Neither C nor W is ever formed:
CW = B'A with B' = V(VᵀB)/‖V‖², so A stays, and with G = AAᵀ every inner product is a sum over r × r numbers. V is kept
in fp32, norms and Gram products in float64, for in fp32 they can be off by enough to flip a τ.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from emdefense import provenance
from emdefense.arms.arguments import FinishedAdapter
from emdefense.errors import InputError
from emdefense.files import file_digest, read_json, write_json, written_whole
from emdefense.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from emdefense.text_files import read_text
from emdefense.training.adapter_files import (
    B_SUFFIX,
    PREFIX,
    read_lora,
    read_settings,
    read_tensors,
)
from emdefense.training.weights import SavedWeights

PROJECTED, COSINES, RECORD = "projected.safetensors", "cosines.csv", "projection.json"
COLUMNS = ("matrix", "cosine", "norm_before", "norm_after", "norm_v")
TRANSPOSED = (
    "the model keeps its matrices as [in, out], as GPT-2 does, and these are not projected; leave safelora out for it"
)
METADATA = {"format": "pt"}
ROWS = 256  # of V, converted to float64 at a time


if TYPE_CHECKING:
    from emdefense.arms.safelora import SafeLoRA


@dataclass(frozen=True)
class Projection:
    """One projected matrix; Frobenius norms of BA and B'A without LoRA's scaling, which cancels in the cosine."""

    b: Tensor  # B' [out, r]
    cosine: float
    norm_before: float
    norm_after: float
    norm_v: float


def project_matrix(a: Tensor, b: Tensor, v: Tensor, normalisation: str) -> Projection:
    """Return the projection of BA, with A [r, in], B [out, r] and V [out, in].

    ``normalisation``: ``squared_norm`` divides by ‖V‖², the paper's equation; ``norm`` by ‖V‖, IBM's code. The cosine
    is the same. A matrix that is 0 has cosine 0. V must not be 0.
    """
    # In blocks of rows, for the conversion to float64 would take twice the memory of V.
    v_norm = torch.stack([torch.linalg.vector_norm(rows, dtype=torch.float64) for rows in torch.split(v, ROWS)]).norm()
    divisor = v_norm.square() if normalisation == "squared_norm" else v_norm
    projected = ((v @ (v.t() @ b.to(v.dtype))).to(torch.float64) / divisor).to(b.dtype)
    gram = a.to(torch.float64) @ a.to(torch.float64).t()
    before, after = b.to(torch.float64), projected.to(torch.float64)

    def inner(left: Tensor, right: Tensor) -> float:
        return float(((left.t() @ right) * gram).sum())

    norm_before, norm_after = inner(before, before) ** 0.5, inner(after, after) ** 0.5
    product = norm_before * norm_after
    cosine = inner(before, after) / product if product else 0.0
    return Projection(projected, cosine, norm_before, norm_after, float(v_norm))


def project_adapter(options: "SafeLoRA", adapter: Path, base: Path, instruct: Path, out: Path) -> None:
    """Project every matrix of an adapter, for all τ at once, and write B', the cosines and what they were made from.

    Holds one matrix of each model at a time, beside the adapter. Raises :class:`InputError` if the adapter does not
    fit the models, a file is broken, or the models are equal, so that there is no direction of alignment; what can be
    told from the files' headers before any matrix is read, and in no case is anything written.
    """
    pairs = read_lora(adapter)
    if (adapter / ADAPTER_CONFIG).exists() and read_settings(adapter).transposed:
        raise InputError(f"{adapter / ADAPTER_CONFIG}: key 'fan_in_fan_out': {TRANSPOSED}")
    models = SavedWeights(base), SavedWeights(instruct)
    for name, (a, b) in pairs.items():
        wanted, before, after = (b.shape[0], a.shape[1]), *(model.shape(name) for model in models)
        if not wanted == before == after:
            raise InputError(
                f"{adapter}: '{name}' is {wanted}, but {after} in {instruct} and {before} in {base}; name the models "
                "that belong to the adapter"
            )
    record = {
        "spec": options.model_dump(mode="json"),
        "adapter_sha256": file_digest(adapter / ADAPTER_WEIGHTS),
        "base": provenance.model_identity(base),
        "instruct": provenance.model_identity(instruct),
    }
    projections = {}
    for name, (a, b) in pairs.items():
        v = alignment(name, *models)
        if not v.any():
            raise InputError(
                f"{base} and {instruct} have the same '{name}': SafeLoRA needs a model before and one after alignment"
            )
        projections[name] = project_matrix(a, b, v, options.normalisation)
        del v  # or it would stay while the next one is read
    with written_whole(out / PROJECTED) as temporary:
        save_file({name: p.b.contiguous() for name, p in projections.items()}, temporary, metadata=METADATA)
    with written_whole(out / COSINES) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows((name, *(getattr(p, column) for column in COLUMNS[1:])) for name, p in projections.items())
    write_json(out / RECORD, record)


def alignment(name: str, base: SavedWeights, instruct: SavedWeights) -> Tensor:
    """Return V = W_instruct − W_base of a matrix, in fp32 [out, in]."""
    return instruct.matrix(name).sub_(base.matrix(name))


def threshold_adapter(tau: float, finished: FinishedAdapter) -> dict[str, Tensor]:
    """Return an adapter's tensors, those of the matrices with cosine < τ projected; the record says which."""
    folder, tensors = finished.preparation, dict(finished.tensors)
    assert folder is not None
    record = read_json(folder / RECORD)
    adapter = finished.folder
    if not isinstance(record, dict) or record.get("adapter_sha256") != file_digest(adapter / ADAPTER_WEIGHTS):
        raise InputError(f"{folder} was made from another adapter than {adapter}; project it again")
    cosines = _read_cosines(folder / COSINES)
    projected = read_tensors(folder / PROJECTED)
    selected = [name for name, cosine in cosines.items() if cosine < tau]
    for name in selected:
        if name not in projected or f"{PREFIX}{name}{B_SUFFIX}" not in tensors:
            raise InputError(f"{folder}: there is no projection of '{name}' in it; project the adapter again")
    for name in selected:
        tensors[f"{PREFIX}{name}{B_SUFFIX}"] = projected[name]
    finished.record.update(projection=record, matrices=len(cosines), projected=selected)
    return tensors


def _read_cosines(path: Path) -> dict[str, float]:
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; project the adapter first")
    try:
        return {row["matrix"]: float(row["cosine"]) for row in csv.DictReader(read_text(path).splitlines())}
    except (KeyError, TypeError, ValueError, csv.Error):
        raise InputError(
            f"{path}: not the table of cosines that projecting writes; project the adapter again"
        ) from None
