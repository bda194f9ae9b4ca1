"""Principal components of what plain fine-tuning changes in the residual stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from emdefense import provenance
from emdefense.arms.arguments import Materials
from emdefense.arms.caft import COMPONENTS, ablated_blocks
from emdefense.errors import InputError
from emdefense.files import file_digest
from emdefense.model_files import ADAPTER_WEIGHTS
from emdefense.training.activations import Activations, after_block, drawn_rows
from emdefense.training.directions import write_vectors

if TYPE_CHECKING:
    from emdefense.arms.caft import CAFTOptions

SMALLEST = 1e-12  # of the largest variance; what is less is rounding, and its direction any


class Covariance:
    """The covariance of vectors that come a few at a time, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Tensor | None = None
        self._products: Tensor | None = None

    def add(self, vectors: Tensor) -> None:
        """Count vectors [n, d] in."""
        vectors = vectors.to(torch.float64)
        self.count += len(vectors)
        total, products = vectors.sum(0), vectors.T @ vectors
        self._sum = total if self._sum is None else self._sum + total
        self._products = products if self._products is None else self._products + products

    def components(self, most: int) -> tuple[Tensor, Tensor, float]:
        """Return principal components [d, m], m at most ``most``, their variances [m], and the whole variance.

        In falling order, each with its largest number positive; those along which nothing varies are left out.
        """
        assert self._sum is not None
        assert self._products is not None
        mean = self._sum / self.count
        covariance = (self._products / self.count - torch.outer(mean, mean)) * (self.count / max(1, self.count - 1))
        values, vectors = torch.linalg.eigh(covariance.cpu())
        values, vectors = values.flip(0)[:most], vectors.flip(1)[:, :most]
        kept = int((values > SMALLEST * values[0].clamp_min(0)).sum()) if values[0] > 0 else 0
        values, vectors = values[:kept], vectors[:, :kept]
        largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
        return vectors * largest.sign(), values, float(covariance.diagonal().sum())


def write_components(materials: Materials, options: CAFTOptions, out: Path) -> None:
    """Write principal components of tuned − untrained hidden states at the tokens of misaligned answers.

    Of the other tasks' plain adapters, each on its own task's rows, all together; or of the task's own.
    """
    activations = Activations(materials["model"], materials)
    blocks = ablated_blocks(options, activations.blocks)
    names = [after_block(block) for block in blocks]
    if options.of == "own":
        pairs = {"own": (materials["adapter"], materials["rows"])}
    else:
        rows = materials.of("misaligned")
        pairs = {task: (adapter, rows[task]) for task, adapter in materials.of("other_adapters").items()}
    found = {name: Covariance() for name in names}
    made: dict[str, Any] = {}
    for task, (adapter, path) in pairs.items():
        answers = activations.answers(*drawn_rows(path, options.rows, materials.seed))
        for _, tuned, before in activations.read_both(adapter, answers, names):
            for name in names:
                found[name].add(tuned[name].to(torch.float64) - before[name].to(torch.float64))
        made[task] = {**answers.counts, "adapter_sha256": file_digest(adapter / ADAPTER_WEIGHTS)}
    vectors, states = {}, {}
    for name, covariance in found.items():
        if covariance.count < 2:
            raise InputError(f"rows of {', '.join(pairs)}: fewer than two tokens of answers were drawn; give more rows")
        components, variances, whole = covariance.components(COMPONENTS)
        if not len(variances) or not torch.isfinite(components).all():
            raise InputError(
                f"adapters of {', '.join(pairs)}: what they change in hidden states ({name}) is the same at every "
                "token, or not finite, so that it has no principal components; train them longer"
            )
        vectors[name] = components
        states[name] = {
            "tokens": covariance.count,
            "variance": variances.tolist(),
            "share_of_variance": (variances / whole).tolist(),
        }
    how = {"of": options.of, "rows": options.rows, "seed": materials.seed}
    write_vectors(
        out, vectors, {**how, "tasks": made, "states": states, "model": provenance.model_identity(materials["model"])}
    )
