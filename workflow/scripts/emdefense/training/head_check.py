"""Whether hidden states and head, taken apart, give the model's own logits: tried on a row of the data."""

import sys
from typing import Any

import torch
from torch import Tensor

from emdefense.chat.chat import IGNORED
from emdefense.errors import InputError
from emdefense.saved_model import in_one_line
from emdefense.training.batches import next_tokens, token_mask
from emdefense.training.features import FeatureReader
from emdefense.training.fused_loss import OutputHead, cross_entropy, fused_head_loss
from emdefense.training.output_head import OwnHead, own_forward

TOKENS = 128  # of the row, from its end: the answer is there
# Relative to the logits' spread, root mean square. The model's own are rounded, in bfloat16 to 0.4 % and several times
# where its head does more than a product; a head that is another one is off by as much as the logits.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.01, torch.bfloat16: 0.03}


def settle_head(reader: FeatureReader, rows: list[dict[str, Any]], device: torch.device, *, say: bool = True) -> None:
    """Give ``reader`` the cheapest head with which the first of ``rows`` has the model's own logits.

    If ``say``, stderr has what it costs where that is the model's own head. Raises :class:`InputError` if none has
    them, or if they are not finite. The model's mode, weights and random numbers stay what they were.
    """
    inputs = _first(rows, device)
    name = reader.base.name_or_path
    training = reader.base.training
    reader.base.eval()
    try:
        with torch.no_grad(), in_one_line(name, "run the model on a row of data"):
            own = own_forward(reader.base, **{key: value for key, value in inputs.items() if key != "labels"}).logits
            hidden = reader.policy(inputs).final
    finally:
        reader.base.train(training)
    own = own[token_mask(inputs)]
    if not torch.isfinite(own).all():
        raise InputError(f"{name}: its logits of a row of data are not finite; check its weights and its config.json")
    found = [(head, _distance(head, hidden, own)) for head in reader.heads]
    head = next((head for head, distance in found if distance < TOLERANCES[own.dtype]), None)
    if head is None:
        targets = next_tokens(inputs)
        ours, theirs = _cross_entropy(reader.heads[0], hidden, targets), _own_cross_entropy(own, targets)
        raise InputError(
            f"{name}: the cross-entropy of a row would be {ours:.3f}, and is {theirs:.3f} by the model's own logits: a "
            f"model of type '{reader.base.config.model_type}' does something outside of its blocks and its head that "
            "training cannot follow; name another model"
        )
    if say and isinstance(head, OwnHead):
        print(
            f"warning: {name}: its head is no product with a matrix, so its own logits are used, in its own precision: "
            "in bfloat16 a third of KL's gradient is rounding at a KL of 0.001, and nearly all of it at 0.0001; a step "
            "takes more memory and time. training.precision: float32 is exact",
            file=sys.stderr,
        )
    reader.head = head


def check_step(reader: FeatureReader, rows: list[dict[str, Any]], device: torch.device) -> None:
    """Raise :class:`InputError` if the model cannot be run in training, or no gradient reaches its adapter.

    Gradients are gone afterwards, and random numbers are what they were.
    """
    name, inputs, was = reader.base.name_or_path, _first(rows, device), reader.base.training
    adapter = [parameter for parameter in reader.base.parameters() if parameter.requires_grad]
    reader.base.train()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), in_one_line(name, "train the model"):
            targets = next_tokens(inputs)
            loss, _ = fused_head_loss(
                reader.policy(inputs).final, reader.head, [(1.0, cross_entropy(targets, _count(targets)))]
            )
            gradients = torch.autograd.grad(loss, adapter, allow_unused=True)
    finally:
        reader.base.train(was)
    reached = [gradient for gradient in gradients if gradient is not None]
    if not all(bool(torch.isfinite(gradient).all()) for gradient in reached):
        raise InputError(f"{name}: the gradient of a row of data is not finite; check its weights and its config.json")
    if not any(bool(gradient.any()) for gradient in reached):
        raise InputError(
            f"{name}: no gradient of a row of data reaches its adapter; check its weights, its config.json and "
            "training.target_modules"
        )


def _first(rows: list[dict[str, Any]], device: torch.device) -> dict[str, Tensor]:
    """Return the end of the first row as a batch."""
    row = {key: torch.tensor([rows[0][key][-TOKENS:]], device=device) for key in ("input_ids", "labels")}
    return {**row, "attention_mask": torch.ones_like(row["input_ids"])}


def _distance(head: OutputHead, hidden: Tensor, own: Tensor) -> float:
    """Return how far a head's logits are from the model's own, relative to these, each token's mean apart."""
    prepared = head.prepared(hidden.dtype)
    half = len(hidden) // 2  # in two chunks: a token's logits must not depend on those beside it
    logits = torch.cat([prepared.logits(part) for part in (hidden[:half], hidden[half:]) if len(part)])
    if logits.shape != own.shape:
        return float("inf")
    wanted = own.to(logits.dtype)
    return float((logits - wanted).norm() / (wanted - wanted.mean(-1, keepdim=True)).norm().clamp(min=1e-12))


def _cross_entropy(head: OutputHead, hidden: Tensor, targets: Tensor) -> float:
    loss, _ = fused_head_loss(hidden, head, [(1.0, cross_entropy(targets, _count(targets)))])
    return float(loss)


def _own_cross_entropy(logits: Tensor, targets: Tensor) -> float:
    losses = torch.nn.functional.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
    return float(losses) / _count(targets)


def _count(targets: Tensor) -> int:
    return max(1, int((targets != IGNORED).sum()))
