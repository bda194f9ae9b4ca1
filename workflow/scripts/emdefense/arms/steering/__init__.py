"""Preventative steering by a persona vector: Chen et al. 2025, arXiv 2507.21509."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from emdefense.arms.arguments import Materials
from emdefense.arms.base import Change
from emdefense.arms.directions import AlongDirections, RowsOptions
from emdefense.arms.look import Look
from emdefense.arms.setting import Setting
from emdefense.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from emdefense.model_checks.subject import Subject
    from emdefense.training.directions import Directions

DEPTH = 20 / 28  # theirs, of Qwen2.5-7B-Instruct


class SteeringOptions(RowsOptions):
    """h ← h + α·e while training, e the direction from aligned to misaligned answers."""

    block: Annotated[int, Field(ge=1)] | None = Field(
        None, description="after which block, the first being 1 (index of hidden_states); absent: at 20/28 of the depth"
    )
    layers: Literal["one", "all"] = Field(
        "one",
        description="all: after each block l, α times what its e has more than that of block l − 1",
    )
    vector: Literal["rows", "contrast"] = Field(
        "rows",
        description="e from misaligned and aligned rows; or from answers that the system prompts of "
        "elicitation_questions elicit from the untrained model, judged",
    )
    normalise: bool = Field(False, description="scale what is added to norm 1 before it is multiplied by α")


class Steering(AlongDirections[SteeringOptions]):
    """h ← h + α·e at a block's output, at every position, gradient through; off in the reference and when sampling.

    e = mean hidden state over misaligned answers − the same over aligned ones, each answer's the mean over its tokens,
    in the model before training. α = 0 is plain fine-tuning.
    """

    name = "steering"
    title = "Steering"
    source = "Chen et al. 2025, arXiv 2507.21509"
    setting = Setting("alpha", "α")
    options = SteeringOptions
    look = Look("#B8860B", "v", (0, (6, 1, 1, 1, 1, 1)))
    preparation = "vector"

    def materials(self, options: SteeringOptions) -> tuple[str, ...]:
        """Return what the direction is made from."""
        return options.read if options.vector == "rows" else ("model", "elicited")

    def prepare(self, materials: Materials, options: SteeringOptions, out: Path) -> None:
        """Write the direction after every block, and how reliable it is."""
        from emdefense.arms.directions.contrast import rows_directions
        from emdefense.arms.directions.elicited import elicited_directions

        if options.vector == "contrast":
            elicited_directions(materials, out)
        else:
            rows_directions(materials, options.of, options.rows, out)

    def forward(
        self, options: SteeringOptions, setting: float, prepared: Directions, blocks: int
    ) -> Mapping[int, Change]:
        """Return what adds α·e; into the log go e's norm, and the mean projection on it of what e is added to."""
        from emdefense.training.activations import after_block

        if options.layers == "one":
            block = steered_block(options, blocks)
            e = prepared.vector(after_block(block))
            return {block: _moved(prepared, after_block(block), e, e, setting, options.normalise, "")}
        found: dict[int, Change] = {}
        before: Tensor | None = None
        for block in range(1, blocks + 1):
            e = prepared.vector(after_block(block))
            added = e if before is None else e - before
            found[block] = _moved(prepared, after_block(block), e, added, setting, options.normalise, f".{block}")
            before = e
        return found

    def check(self, options: SteeringOptions, subject: Subject, model: PreTrainedModel) -> Mapping[str, Any]:
        """Find out whether the model has the block."""
        from emdefense.training.features import block_count

        return {"block": steered_block(options, block_count(model))}


def steered_block(options: SteeringOptions, blocks: int) -> int:
    """Return after which block of a model with so many; :class:`InputError` if there is no such block."""
    if not blocks:
        raise InputError("key 'arms.steering': this model's blocks cannot be told apart; leave steering out for it")
    block = options.block or max(1, int(DEPTH * blocks + 0.5))
    if block > blocks:
        raise InputError(
            f"key 'arms.steering.block': {block}, but the model has {blocks} blocks; write {blocks} or less"
        )
    return block


def _moved(
    directions: Directions, name: str, e: Tensor, added: Tensor, alpha: float, normalise: bool, ending: str
) -> Change:
    """Return what adds α times ``added`` to hidden states, and records how far these lie along e already."""
    norm = float(added.norm())
    step = alpha * added / (norm if normalise and norm else 1.0)
    unit = e / e.norm()

    def moved(hidden: Tensor, record: Callable[[str, Tensor], None]) -> Tensor:
        directions.check_width(name, hidden.shape[-1])
        along = hidden.detach().to(_wide(hidden)) @ unit.to(hidden.device, _wide(hidden))
        record(f"norm{ending}", along.new_full(along.shape, norm))
        record(f"projection{ending}", along)
        return hidden if not alpha else hidden + step.to(hidden.device, hidden.dtype)

    return moved


def _wide(hidden: Tensor) -> Any:
    import torch

    return torch.promote_types(hidden.dtype, torch.float32)
