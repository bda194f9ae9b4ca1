"""KL divergence on safe rows of other domains, the task's own tokens left free (arXiv 2602.07852)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from emdefense.arms.base import Arm
from emdefense.arms.kl import KL, divergence
from emdefense.arms.look import Look
from emdefense.arms.setting import Setting
from emdefense.section import PositiveInt

if TYPE_CHECKING:
    from emdefense.training.features import Features
    from emdefense.training.fused_loss import HeadTerm
    from emdefense.training.token_batch import TokenBatch


class KLSafe(KL):
    """L = CE(task) + λ·KL(safe rows), the "narrow" training of Soligo and Turner."""

    rows_per_step: PositiveInt = Field(4, description="safe rows in each optimiser step")


class KLOnSafeRows(Arm[KLSafe]):
    """L = CE on the task's rows + λ·KL(p_θ‖p_θ0) on rows of other domains.

    Each optimiser step takes ``rows_per_step`` safe rows, all of them once before any comes again, in an order that
    the training's seed draws. The divergence is the mean over their tokens by default.
    """

    name = "kl_safe"
    title = "KL on safe rows"
    source = "Soligo and Turner 2026, arXiv 2602.07852"
    setting = Setting()
    options = KLSafe
    look = Look("#1B3A6B", "v", (0, (6, 1, 1, 1)))
    stream = "safe"

    def stream_rows(self, options: KLSafe) -> int:
        """Return how many safe rows a step has."""
        return options.rows_per_step

    def head_term(self, options: KLSafe, batch: TokenBatch, reference: Features) -> HeadTerm:
        """Return the divergence over the tokens of safe rows."""
        return divergence(options, batch, reference)
