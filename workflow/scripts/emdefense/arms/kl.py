"""KL divergence from the model before fine-tuning, Eq. 4 of the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from emdefense.arms.base import Arm, Options
from emdefense.arms.look import Look, Sweep, SweepFigure
from emdefense.arms.setting import Setting
from emdefense.metrics import GENERAL_MISALIGNED, IN_DOMAIN_MISALIGNED

if TYPE_CHECKING:
    from emdefense.training.features import Features
    from emdefense.training.fused_loss import HeadTerm
    from emdefense.training.token_batch import TokenBatch


class KL(Options):
    """L = CE + λ·KL, Eq. 4 of the paper."""

    reads: ClassVar[tuple[str, ...]] = ()

    tokens: Literal["all", "response"] = Field("all", description="over which non-padding tokens")
    reduction: Literal["token_mean", "sequence_sum"] = "token_mean"
    direction: Literal["policy_to_reference", "reference_to_policy"] = Field(
        "policy_to_reference", description="KL(p_θ ‖ p_θ0), or KL(p_θ0 ‖ p_θ)"
    )


class KLRegularisation(Arm[KL]):
    """KL(p_θ‖p_θ0) over all non-padding tokens of the batch, mean per token by default."""

    name = "kl"
    title = "KL"
    source = "Kaczér et al. 2025, arXiv 2508.06249, Eq. 4"
    setting = Setting()
    options = KL
    look = Look("#0072B2", "o")
    sweep = Sweep(
        table=8,
        axis="KL coefficient λ",
        figures=(
            SweepFigure(
                "3",
                (GENERAL_MISALIGNED, IN_DOMAIN_MISALIGNED),
                "KL regularisation: misaligned responses against λ",
            ),
        ),
    )

    def head_term(self, options: KL, batch: TokenBatch, reference: Features) -> HeadTerm:
        """Return the divergence with the weights that the options ask for."""
        return divergence(options, batch, reference)


def divergence(options: KL, batch: TokenBatch, reference: Features) -> HeadTerm:
    """Return the divergence from the model before fine-tuning, over the tokens of a batch."""
    from emdefense.training.divergence import Divergence

    weights = batch.weights(options.tokens, options.reduction)
    return Divergence(reference.final, weights, options.direction == "reference_to_policy")
