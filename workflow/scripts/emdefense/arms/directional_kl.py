"""KL divergence of what changed along the direction of misalignment alone, future work that the paper names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from emdefense.arms.arguments import Materials
from emdefense.arms.directions import AlongDirections, RowsOptions
from emdefense.arms.kl import KL, divergence
from emdefense.arms.look import Look
from emdefense.arms.setting import Setting

if TYPE_CHECKING:
    from torch import Tensor

    from emdefense.training.directions import Directions
    from emdefense.training.features import Features
    from emdefense.training.fused_loss import HeadTerm
    from emdefense.training.token_batch import TokenBatch


class DirectionalKLOptions(RowsOptions):
    """L = CE + λ·KL(softmax(W h') ‖ p_θ0), h' = h_θ0 + eeᵀ(h_θ − h_θ0), e the direction of misalignment."""


class DirectionalKL(AlongDirections[DirectionalKLOptions]):
    """λ·mean over tokens of KL(softmax(W h') ‖ p_θ0), with h' = h_θ0 + e eᵀ(h_θ − h_θ0).

    h are final hidden states, W the output head; e, of norm 1, points from aligned to misaligned answers there. Of what
    training changes in h the penalty sees the component along e and nothing else, so what is learned orthogonally to e
    is free: its gradient with respect to h_θ is a multiple of e. It measures that component by what the head makes of
    it, which to second order is c²/2 · eᵀWᵀ(diag p − ppᵀ)We, c = eᵀ(h_θ − h_θ0), p = p_θ0: a change along e that no
    next token depends on costs nothing. λ = 0 is plain fine-tuning.
    """

    name = "directional_kl"
    title = "Directional KL"
    source = "Kaczér et al. 2025, arXiv 2508.06249, as future work"
    setting = Setting()
    options = DirectionalKLOptions
    look = Look("#332288", "h", (0, (4, 1, 1, 1)))
    preparation = "direction"

    def materials(self, options: DirectionalKLOptions) -> tuple[str, ...]:
        """Return what the direction is made from."""
        return options.read

    def prepare(self, materials: Materials, options: DirectionalKLOptions, out: Path) -> None:
        """Write the direction at the final hidden states, and how reliable it is."""
        from emdefense.arms.directions.contrast import rows_directions

        rows_directions(materials, options.of, options.rows, out)

    def head_states(
        self, options: DirectionalKLOptions, policy: Tensor, reference: Tensor, prepared: Directions
    ) -> Tensor:
        """Return h' [tokens, d], through which the gradient reaches the policy along e alone."""
        import torch

        from emdefense.training.activations import FINAL

        prepared.check_width(FINAL, policy.shape[-1])
        direction = prepared.vector(FINAL)
        with torch.autocast(policy.device.type, enabled=False):
            wide = torch.promote_types(policy.dtype, torch.float32)
            e = (direction / direction.norm()).to(policy.device, wide)
            before = reference.to(wide)
            return before + torch.outer((policy.to(wide) - before) @ e, e)

    def head_term(self, options: DirectionalKLOptions, batch: TokenBatch, reference: Features) -> HeadTerm:
        """Return the divergence from the reference at every token that is not padding, mean over them."""
        return divergence(KL(), batch, reference)
