"""An arm's penalty as the trainer uses it: bound to its options, its hooks checked for what they return."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from emdefense.arms import STANDARD
from emdefense.arms.base import Arm, Options
from emdefense.arms.own import arms_in, named, problem_of
from emdefense.errors import InputError
from emdefense.section import first_problem
from emdefense.training.features import Features
from emdefense.training.fused_loss import Head, HeadTerm
from emdefense.training.token_batch import TokenBatch


@dataclass(frozen=True)
class Penalty:
    """A term added to the cross-entropy, λ·P(θ, θ0): the trainer multiplies by λ.

    Each method returns its batch's share of the step's value, normalised by ``batch.counts``.
    """

    arm: Arm[Any]
    options: Options

    def residual_blocks(self, blocks: int) -> tuple[int, ...]:
        """Return the blocks (1-based, of ``blocks``) after which the residual stream is needed."""
        found = self._called("residual_blocks", self.options, blocks)
        if not isinstance(found, tuple) or not all(isinstance(one, int) and 1 <= one <= blocks for one in found):
            raise self._wrong("residual_blocks", f"{found!r} is no tuple of numbers from 1 to {blocks}")
        return found

    def head_term(self, batch: TokenBatch, reference: Features) -> HeadTerm | None:
        """Return what is to be computed on the output head's distribution."""
        if self.arm.overrides("token_term"):
            return AutogradTerm(self, reference.final, batch.weights("all", "token_mean"))
        found: HeadTerm | None = self._called("head_term", self.options, batch, reference)
        return found

    def feature_term(self, batch: TokenBatch, policy: Features, reference: Features) -> Tensor | None:
        """Return a scalar computed from hidden states."""
        found = self._called("feature_term", self.options, batch, policy, reference)
        if found is not None and not (isinstance(found, Tensor) and found.dim() == 0):
            raise self._wrong("feature_term", f"it returned {_shape(found)}, and a scalar tensor is needed")
        return found

    def token_term(self, policy: Tensor, reference: Tensor) -> Tensor:
        """Return a value a token from log-probabilities."""
        found = self._called("token_term", self.options, policy, reference)
        if not isinstance(found, Tensor) or found.shape != policy.shape[:1]:
            raise self._wrong(
                "token_term", f"it returned {_shape(found)}, and [{len(policy)}] is needed, a value a token"
            )
        return found

    def _called(self, hook: str, *arguments: Any) -> Any:
        try:
            return getattr(self.arm, hook)(*arguments)
        except InputError:
            raise
        except Exception as error:
            if self.arm.file is None:
                raise
            raise problem_of(self.arm, hook, error) from error

    def _wrong(self, hook: str, problem: str) -> InputError:
        return InputError(f"{named(self.arm)}, hook {hook}: {problem}")


@dataclass(frozen=True)
class AutogradTerm:
    """A per-token function of both models' log-probabilities, differentiated by autograd, some tokens at a time."""

    penalty: Penalty
    reference: Tensor  # [tokens, d], the reference's final hidden states
    weights: Tensor

    def evaluate(self, rows: Tensor, log_probs: Tensor, head: Head) -> tuple[Tensor, Tensor]:
        """Return the function's values [rows], and their gradient with respect to the logits [rows, vocab]."""
        reference = torch.log_softmax(head(self.reference[rows]), dim=-1)
        with torch.enable_grad():
            # Log-probabilities are logits too: what autograd gives for these is the gradient for any.
            logits = log_probs.detach().clone().requires_grad_()
            values = self.penalty.token_term(torch.log_softmax(logits, dim=-1), reference)
            if not values.requires_grad:
                return values, torch.zeros_like(log_probs)
            (gradient,) = torch.autograd.grad(values.sum(), logits)
        return values.detach(), gradient


def build_penalty(name: str, options: dict[str, Any], file: str | Path | None = None) -> Penalty:
    """Return the penalty of the arm ``name``, which a study's own ``file`` may declare.

    Raises :class:`InputError` for an unknown name or option.
    """
    declared = {arm.name: arm for arm in (STANDARD.values() if file is None else arms_in(str(file)))}
    known = {one: arm for one, arm in declared.items() if arm.has_penalty}
    if name not in known:
        raise InputError(f"unknown penalty '{name}'; write one of {', '.join(sorted(known))}")
    try:
        return Penalty(known[name], known[name].options.model_validate(options))
    except ValidationError as error:
        raise InputError(first_problem(error, "arms", name)) from None


def _shape(value: object) -> str:
    return f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"{type(value).__name__}"
