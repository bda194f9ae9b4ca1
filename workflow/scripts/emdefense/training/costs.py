"""What training costs by arithmetic, from the model's shape alone: FLOP a token, and bytes of cached features.

A multiply-add counts as two. Counted are products of matrices; norms, activations, the softmax and the optimiser are
below 1 % of them. Frozen weights get no gradient, so the backward pass costs them one product, not two.
"""

from dataclasses import dataclass, replace
from typing import Any

from emdefense.arms.base import Arm
from emdefense.arms.hooks import call
from emdefense.arms.study_arm import StudyArm
from emdefense.config.shape import ModelShape
from emdefense.config.training import Training

BYTES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class TokenFlop:
    """FLOP per token of a batch, by what they are for."""

    forward: float
    backward: float
    head: float
    reference: float
    recomputed: float
    stream: float = 0.0  # of a second stream of batches, on top

    @property
    def useful(self) -> float:
        """What the result needs, by which the model FLOP utilisation (MFU) is defined: nothing computed twice."""
        return self.forward + self.backward + self.head + self.reference

    @property
    def all(self) -> float:
        """What the GPU computes."""
        return self.useful + self.recomputed + self.stream


def training_flop(
    shape: ModelShape, training: Training, penalty: Arm[Any] | None, length: float, response_share: float
) -> TokenFlop:
    """Return the FLOP per token of rows of ``length`` tokens, of which ``response_share`` carry cross-entropy.

    ``penalty`` is the arm that adds one, of all tokens' distributions or of hidden states only. Per token and block,
    with the block's weights W, adapters of R = r·(in + out) parameters, and queries of q dimensions in all:

    - forward: 2W + 2R, and 2·length·q for attention, in which a token sees half of the row on average;
    - backward: 2W for the activations, 4R for activations and adapters, and twice the attention;
    - head, of V·d weights: logits and the gradient of the hidden states at response tokens (4Vd); with a penalty at
      every token the reference's logits as well (6Vd);
    - a live reference: 2W and the attention once more, without adapters;
    - activation checkpointing: the forward pass once more.
    """
    weights = shape.num_hidden_layers * sum(inputs * outputs for inputs, outputs in shape.projections.values())
    adapters = shape.adapter_parameters(training)
    attention = 2 * length * shape.query_size * shape.num_hidden_layers
    forward = 2 * weights + 2 * adapters + attention
    product = 2 * shape.vocab_size * shape.hidden_size
    return TokenFlop(
        forward=forward,
        backward=2 * weights + 4 * adapters + 2 * attention,
        head=3 * product if penalty and penalty.reads_head else 2 * product * response_share,
        reference=2 * weights + attention if penalty and training.reference == "live" else 0,
        recomputed=forward if training.activation_checkpointing else 0,
    )


def arm_flop(shape: ModelShape, training: Training, arm: StudyArm, length: float, response_share: float) -> TokenFlop:
    """Return the FLOP per token of the rows that an arm is trained on, its second stream's share of a step included."""
    members = [member.arm for member in arm.members if member.arm.has_penalty]
    # One that reads the head at every token costs the most; the reference is run once for all.
    penalties = sorted((one for one in members if not one.stream), key=lambda one: not one.reads_head)
    flop = training_flop(shape, training, penalties[0] if penalties else None, length, response_share)
    share = stream_share(training, arm)
    if not share:
        return flop
    live = training.model_copy(update={"reference": "live"})
    (streamed,) = (one for one in members if one.stream)
    return replace(flop, stream=share * training_flop(shape, live, streamed, length, 0.0).all)


def stream_share(training: Training, arm: StudyArm) -> float:
    """Return how many rows of a second stream a step has for each of the task's."""
    rows = sum(call(member.arm, "stream_rows", member.options) for member in arm.members if member.arm.stream)
    return float(rows / (training.batch_size * training.accumulation_steps))


def training_cost(training: Training, arm: StudyArm, row_share: float = 1.0) -> float:
    """Return what a training costs for each that plain fine-tuning on the task's rows costs, in passes of the model.

    A backward pass counts as a forward pass, since frozen weights get no gradient; the output head, adapters and
    preparations are left out. ``row_share`` is how many rows there are for each of the task's.
    """
    reads = any(member.arm.has_penalty and not member.arm.stream for member in arm.members)
    reference = 1.0 if reads and (training.reference == "live" or arm.acts_in_training) else 0.0
    return row_share * (2 + reference + 3 * stream_share(training, arm)) / 2


def feature_bytes(tokens: int, width: int, blocks: int, precision: str) -> int:
    """Return the bytes on disk of the final hidden states and the residual stream after ``blocks`` blocks."""
    return tokens * width * (1 + blocks) * BYTES[precision]
