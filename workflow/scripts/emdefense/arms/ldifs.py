"""Distance in feature space from the model before fine-tuning, Eq. 5 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from emdefense.arms.base import Arm, Options
from emdefense.arms.look import Look, Sweep, SweepFigure
from emdefense.arms.setting import Setting
from emdefense.errors import InputError
from emdefense.metrics import GENERAL_MISALIGNED, IN_DOMAIN_MISALIGNED
from emdefense.section import PositiveInt

if TYPE_CHECKING:
    from torch import Tensor

    from emdefense.training.features import Features
    from emdefense.training.token_batch import Reduction, TokenBatch

MUKHOTI_EPSILON = 1e-10  # added to the norm, as in their code


class LDIFS(Options):
    """L = CE + λ·‖x_θ − x_θ0‖², Eq. 5 of the paper."""

    reads: ClassVar[tuple[str, ...]] = ("every",)

    every: PositiveInt = Field(5, description="features after every k-th block")
    normalisation: Literal["unit_token", "mean_square", "raw_sum", "mukhoti"] = Field(
        "unit_token", description="how features and distances are scaled, see defences.md"
    )
    detached: bool = Field(False, description="no gradient, as in public code of the paper's lineage")


class FeatureDistance(Arm[LDIFS]):
    """‖x_θ − x_θ0‖² of the residual stream x after every k-th block, at all non-padding tokens.

    ``unit_token``: features scaled to norm 1 per token and block; summed over blocks, mean over tokens.
    ``mean_square``: mean over blocks, dimensions and tokens. ``raw_sum``: the sum over blocks, dimensions and the
    tokens of a sequence, as Eq. 5 is written; mean over sequences. ``mukhoti``: each dimension scaled to norm 1 over
    the tokens of its sequence; mean over dimensions, tokens of a sequence, blocks and sequences
    (github.com/omegafragger/ldifs_code, loss/ldifs.py, whose features are [images, positions, dimensions]).
    """

    name = "ldifs"
    title = "LDIFS"
    source = "Kaczér et al. 2025, arXiv 2508.06249, Eq. 5; Mukhoti et al. 2023, arXiv 2308.13320"
    setting = Setting()
    options = LDIFS
    look = Look("#D55E00", "s", (0, (5, 1.5)))
    sweep = Sweep(
        table=9,
        axis="LDIFS coefficient λ",
        figures=(
            SweepFigure("4", (GENERAL_MISALIGNED, IN_DOMAIN_MISALIGNED), "LDIFS: misaligned responses against λ"),
        ),
    )

    def residual_blocks(self, options: LDIFS, blocks: int) -> tuple[int, ...]:
        """Return k, 2k, … up to and including the last block, read before the final norm."""
        every = options.every
        if not blocks:
            raise InputError("key 'arms.ldifs': this model's blocks cannot be told apart; leave ldifs out for it")
        if every > blocks:
            raise InputError(
                f"key 'arms.ldifs.every': {every}, but the model has {blocks} blocks; write {blocks} or less"
            )
        return tuple(range(every, blocks + 1, every))

    def feature_term(self, options: LDIFS, batch: TokenBatch, policy: Features, reference: Features) -> Tensor:
        """Return this batch's share of the distance, in fp32 or better; without gradient if ``detached``."""
        import torch

        pairs = [(x, reference.residual[block]) for block, x in policy.residual.items()]
        distances = torch.stack([_distances(options, *pair, batch.lengths) for pair in pairs]).sum(0)
        if options.normalisation in {"mean_square", "mukhoti"}:
            distances = distances / len(pairs)
        reduction: Reduction = "sequence_sum" if options.normalisation in {"raw_sum", "mukhoti"} else "token_mean"
        value = batch.weights("all", reduction).to(distances.dtype) @ distances
        return value.detach() if options.detached else value


def _distances(options: LDIFS, policy: Tensor, reference: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return each token's squared distance at one block, [tokens]."""
    import torch

    dtype = torch.promote_types(policy.dtype, torch.float32)
    policy, reference = policy.to(dtype), reference.to(dtype)
    match options.normalisation:
        case "unit_token":
            unit = torch.nn.functional.normalize
            return (unit(policy, dim=-1) - unit(reference, dim=-1)).square().sum(-1)
        case "mean_square":
            return (policy - reference).square().mean(-1)
        case "raw_sum":
            return (policy - reference).square().sum(-1)
        case "mukhoti":
            both = zip(*(torch.split(x, list(lengths)) for x in (policy, reference)), strict=True)
            scaled = ((_unit_over_tokens(x), _unit_over_tokens(y)) for x, y in both)
            return torch.cat([(x - y).square().mean(-1) / len(x) for x, y in scaled])


def _unit_over_tokens(sequence: Tensor) -> Tensor:
    """Scale each dimension of a sequence's features [tokens, d] to norm 1 over its tokens."""
    import torch

    norms: Tensor = torch.linalg.vector_norm(sequence, dim=0, keepdim=True)
    return sequence / (norms + MUKHOTI_EPSILON)
