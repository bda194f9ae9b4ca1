"""TReFT: keys and values of the template's tokens stay where they were (arXiv 2606.06667)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from emdefense.arms.base import Arm, Options
from emdefense.arms.look import Look
from emdefense.arms.setting import Setting
from emdefense.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from emdefense.model_checks.subject import Subject
    from emdefense.training.features import Features
    from emdefense.training.token_batch import TokenBatch

PROJECTIONS = ("k_proj", "v_proj")


class TReFT(Options):
    """L = CE + w·max(0, R − t), R the relative change of keys and values at the template's tokens."""

    where: Literal["prefix", "postfix"] = Field(
        "prefix", description="tokens before the first user's text, or between the last user's text and the answer"
    )
    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="t: how far a row's R may go unpenalised"
    )


class AnchoredTemplate(Arm[TReFT]):
    """R = mean over blocks of [mean over tokens of (‖K − K0‖ / ‖K0‖)² + the same for V], at the template's tokens.

    K and V are the outputs of a block's projections, before positions are turned into them. R is a row's; the penalty
    is the mean over rows of max(0, R − t).
    """

    name = "treft"
    title = "TReFT"
    source = "Zhao et al. 2026, arXiv 2606.06667"
    setting = Setting("weight", "w")
    options = TReFT
    look = Look("#C2307A", "p", (0, (1, 1)))
    reads_prefix = True

    def captured(self, options: TReFT) -> tuple[str, ...]:
        """Return the projections whose outputs are keys and values."""
        return PROJECTIONS

    def feature_term(self, options: TReFT, batch: TokenBatch, policy: Features, reference: Features) -> Tensor:
        """Return this batch's share of the penalty, in fp32 or better."""
        import torch

        chosen = batch.prefix if options.where == "prefix" else batch.postfix
        assert chosen is not None
        lengths = torch.tensor(batch.lengths, device=chosen.device)
        rows = torch.arange(len(lengths), device=chosen.device).repeat_interleave(lengths)[chosen]
        counts = torch.bincount(rows, minlength=len(lengths))
        if int(counts.min()) == 0:
            raise InputError(f"arm '{self.name}': a row has no tokens {_WORDS[options.where]}; leave it out")
        drift = torch.stack(
            [
                _relative(policy.captured[name][chosen], reference.captured[name][chosen])
                for name in policy.captured
                if name.endswith(PROJECTIONS)
            ]
        ).sum(0)
        blocks = len({name.partition(".")[0] for name in policy.captured})
        means = torch.zeros(len(lengths), dtype=drift.dtype, device=drift.device).index_add(0, rows, drift)
        means = means / (counts * blocks)
        return (means - options.threshold).clamp(min=0).sum() / batch.counts.sequences

    def check(self, options: TReFT, subject: Subject, model: PreTrainedModel) -> Mapping[str, Any]:
        """Find out whether the model has such projections, and its template such tokens."""
        names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        if missing := [name for name in PROJECTIONS if name not in names]:
            fused = sorted(name for name in names if name in ("qkv_proj", "c_attn", "query_key_value", "Wqkv"))
            instead = f" (its '{fused[0]}' gives both at once)" if fused else ""
            raise InputError(
                f"{subject.folder}: arm '{self.name}' reads the output of '{missing[0]}', and the model has no such "
                f"module{instead}; leave the arm out for this model"
            )
        return {"tokens": _fewest(options, subject)}


_WORDS = {"prefix": "before the user's text", "postfix": "between the user's text and the answer"}


def _fewest(options: TReFT, subject: Subject) -> int:
    """Return how many of the template's tokens a row has at least; :class:`InputError` if one has none.

    One row is looked at of each form that a template may write otherwise: of its roles and system prompts.
    """
    from emdefense.chat.spans import SPANS, with_spans

    forms = {
        tuple((message["role"], message["content"] * (message["role"] == "system")) for message in text.messages): text
        for text in reversed(subject.rows)
    }
    where, conversations = [text.where for text in forms.values()], [text.messages for text in forms.values()]
    counts: list[int] = []
    for row in with_spans(subject.chat, subject.chat.rows(conversations, where), conversations, where):
        prefix, postfix, answer = row[SPANS]
        counts.append(prefix if options.where == "prefix" else answer - postfix)
        if counts[-1] == 0:
            raise InputError(
                f"{where[row['row']]}: the chat template writes no token {_WORDS[options.where]}, so there is "
                "nothing for arm 'treft' to hold; leave it out for this model"
            )
    return min(counts)


def _relative(policy: Tensor, reference: Tensor) -> Tensor:
    """Return (‖x − y‖ / ‖y‖)² of each token, [tokens], differentiable where both are equal."""
    import torch

    dtype = torch.promote_types(policy.dtype, torch.float32)
    policy, reference = policy.to(dtype), reference.to(dtype)
    return (policy - reference).square().sum(-1) / reference.square().sum(-1).clamp_min(1e-24)
