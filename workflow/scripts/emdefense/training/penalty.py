"""An arm's penalty as the trainer uses it: bound to its options, its hooks checked for what they return."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emdefense.arms.base import Arm, Options
from emdefense.arms.hooks import call, named, wrong_result
from emdefense.arms.own import DeclaredArm
from emdefense.errors import InputError
from emdefense.training.features import Features
from emdefense.training.fused_loss import Head, HeadTerm
from emdefense.training.token_batch import TokenBatch

NO_GRADIENT = "no gradient reaches the model through what it returned, so the defence would be none"


@dataclass(frozen=True)
class Penalty:
    """A term added to the cross-entropy, λ·P(θ, θ0): the trainer multiplies by λ.

    Each method returns its batch's share of the step's value, normalised by ``batch.counts``.
    """

    arm: Arm[Any]
    options: Options
    prepared: Any = None

    @property
    def moves_states(self) -> bool:
        """Whether its head term is of other hidden states than the policy's own."""
        return self.arm.overrides("head_states")

    def captured(self) -> tuple[str, ...]:
        """Return the names of the modules whose outputs it reads."""
        found = call(self.arm, "captured", self.options)
        if not isinstance(found, tuple) or not all(isinstance(one, str) and one for one in found):
            raise wrong_result(self.arm, "captured", f"{found!r} is no tuple of names of modules")
        return found

    def head_states(self, policy: Tensor, reference: Tensor) -> Tensor:
        """Return the hidden states [tokens, d] of whose distribution the head term is."""
        found = call(self.arm, "head_states", self.options, policy, reference, self.prepared)
        if not isinstance(found, Tensor) or found.shape != policy.shape:
            problem = f"it returned {_shape(found)}, and {list(policy.shape)} is needed"
            raise wrong_result(self.arm, "head_states", problem)
        return found.to(policy.dtype)

    def residual_blocks(self, blocks: int) -> tuple[int, ...]:
        """Return the blocks (1-based, of ``blocks``) after which the residual stream is needed."""
        found = call(self.arm, "residual_blocks", self.options, blocks)
        if not isinstance(found, tuple) or not all(type(one) is int and 1 <= one <= blocks for one in found):
            raise wrong_result(self.arm, "residual_blocks", f"{found!r} is no tuple of numbers from 1 to {blocks}")
        return found

    def head_term(self, batch: TokenBatch, reference: Features) -> HeadTerm | None:
        """Return what is to be computed on the output head's distribution."""
        if self.arm.overrides("token_term"):
            return AutogradTerm(self, reference.final, batch.weights("all", "token_mean"))
        found: HeadTerm | None = call(self.arm, "head_term", self.options, batch, reference)
        if self.arm.file is None or found is None:
            return found
        weights = getattr(found, "weights", None)
        whole = isinstance(weights, Tensor) and weights.shape == batch.targets.shape
        if not whole or not callable(getattr(found, "evaluate", None)):
            problem = f"it returned {_shape(found)}, and weights [{len(batch.targets)}] and evaluate are needed"
            raise wrong_result(self.arm, "head_term", problem)
        return OwnTerm(self.arm, found)

    def feature_term(self, batch: TokenBatch, policy: Features, reference: Features) -> Tensor | None:
        """Return a scalar computed from hidden states."""
        given = [
            x
            for features in (policy, reference)
            for x in (features.final, *features.residual.values(), *features.captured.values())
        ]
        versions = [tensor._version for tensor in given]
        found = call(self.arm, "feature_term", self.options, batch, policy, reference)
        problem = None
        if [tensor._version for tensor in given] != versions:
            problem = "it changes hidden states in place, and others read them; copy them first"
        elif self.arm.overrides("feature_term") and not (isinstance(found, Tensor) and found.dim() == 0):
            problem = f"it returned {_shape(found)}, and a scalar tensor is needed"
        elif self.arm.file and isinstance(found, Tensor) and policy.final.requires_grad and not found.requires_grad:
            problem = NO_GRADIENT
        if problem:
            raise wrong_result(self.arm, "feature_term", problem)
        return found  # type: ignore[no-any-return]

    def token_term(self, policy: Tensor, reference: Tensor) -> Tensor:
        """Return a value per token from log-probabilities."""
        found = call(self.arm, "token_term", self.options, policy, reference)
        problem = None
        if not isinstance(found, Tensor) or found.shape != policy.shape[:1]:
            problem = f"it returned {_shape(found)}, and [{len(policy)}] is needed, a value a token"
        elif not found.requires_grad:
            problem = NO_GRADIENT
        if problem:
            raise wrong_result(self.arm, "token_term", problem)
        return found.to(policy.dtype)  # type: ignore[no-any-return]


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
            (gradient,) = torch.autograd.grad(values.sum(), logits)
        return values.detach(), gradient


@dataclass(frozen=True)
class OwnTerm:
    """The term that a study's own arm returned, which is asked for what it should have."""

    arm: Arm[Any]
    term: HeadTerm

    @property
    def weights(self) -> Tensor:
        """Each token's weight in the sum, [tokens]."""
        return self.term.weights

    def evaluate(self, rows: Tensor, log_probs: Tensor, head: Head) -> tuple[Tensor, Tensor]:
        """Return the term's values [rows], and their gradient [rows, vocab]; :class:`InputError` if it has others."""
        version = log_probs._version
        found = call(self.arm, "head_term", rows, log_probs, head, function=self.term.evaluate)
        shapes = [one.shape if isinstance(one, Tensor) else None for one in found] if isinstance(found, tuple) else []
        if shapes != [log_probs.shape[:1], log_probs.shape]:
            wanted = f"[{len(rows)}] and [{len(rows)}, {log_probs.shape[1]}]"
            raise wrong_result(self.arm, "head_term", f"evaluate returns a pair of tensors, of shapes {wanted}")
        if log_probs._version != version:
            raise wrong_result(self.arm, "head_term", "evaluate changes log_probs in place; copy them first")
        values, gradient = found
        return values.detach().to(log_probs.dtype), gradient.detach().to(log_probs.dtype, copy=True)


def build_penalty(name: str, options: dict[str, Any], file: str | None = None, digest: str | None = None) -> Penalty:
    """Return the penalty of the arm ``name``, which a study's own ``file`` may declare, with this SHA-256.

    Raises :class:`InputError` for an unknown name or option, and for a file that has changed.
    """
    arm, validated = DeclaredArm(name=name, file=file, sha256=digest, options=options).find()
    if not arm.has_penalty:
        raise InputError(f"{named(arm)}: it adds no penalty to the loss; name one that does")
    return Penalty(arm, validated)


def _shape(value: object) -> str:
    return f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"{type(value).__name__}"
