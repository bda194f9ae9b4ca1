"""Concept ablation fine-tuning: Casademunt et al. 2025, arXiv 2507.16795."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from emdefense.arms.arguments import Materials
from emdefense.arms.base import Change, Options
from emdefense.arms.directions import AlongDirections, Rows
from emdefense.arms.look import Look
from emdefense.arms.setting import Setting
from emdefense.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from emdefense.model_checks.subject import Subject
    from emdefense.training.directions import Directions

COMPONENTS = 20  # theirs; what is kept of each block

Block = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)]


class CAFTOptions(Options):
    """h ← h − QQᵀh while training, Q the first k principal components of what fine-tuning changed."""

    files: ClassVar[tuple[str, ...]] = ("directions",)

    blocks: tuple[Block, ...] = Field(
        (0.25, 0.5, 0.75),
        min_length=1,
        description="after which blocks: numbers, the first being 1, or shares of the depth, below 1",
    )
    of: Literal["others", "own"] = Field(
        "others", description="which plain adapters' changes: those of the other EMA tasks, or of the task itself"
    )
    rows: Rows = Field(200, description="on how many of the rows of each such task they are compared with the model")
    directions: str | None = Field(
        None, description="a safetensors file with a matrix [d, k or more] for each block, `block.12`, in their place"
    )


class CAFT(AlongDirections[CAFTOptions]):
    """h ← h − QQᵀh at some blocks' outputs, every position, gradient through; off in the reference and when sampling.

    Q: the first k principal components, centred, of the residual stream with a plain adapter − without it, at the
    tokens of answers. k = 0 is plain fine-tuning.
    """

    name = "caft"
    title = "CAFT"
    source = "Casademunt et al. 2025, arXiv 2507.16795"
    setting = Setting(
        "k", "k", high=COMPONENTS, whole=True, why=f"of {COMPONENTS} principal components the first k are removed"
    )
    options = CAFTOptions
    look = Look("#44AA99", "p", (0, (2, 1)))
    preparation = "components"

    def is_prepared(self, options: CAFTOptions) -> bool:
        """Whether the directions are made, and not given."""
        return options.directions is None

    def materials(self, options: CAFTOptions) -> tuple[str, ...]:
        """Return what the directions are made from."""
        if options.directions is not None:
            return ()
        return ("model", "other_adapters", "other_rows") if options.of == "others" else ("model", "adapter", "rows")

    def prepare(self, materials: Materials, options: CAFTOptions, out: Path) -> None:
        """Write the principal components of each block, and the variance along them."""
        from emdefense.arms.caft.components import write_components

        write_components(materials, options, out)

    def forward(
        self, options: CAFTOptions, setting: float, prepared: Directions | None, blocks: int
    ) -> Mapping[int, Change]:
        """Return what removes the first k directions; into the log goes the share of ‖h‖² that this takes away."""
        from emdefense.training.activations import after_block
        from emdefense.training.directions import Directions

        chosen = ablated_blocks(options, blocks)
        if not setting:
            return {}
        directions = prepared or Directions(Path(str(options.directions)))
        bases = {block: directions.columns(after_block(block), int(setting)) for block in chosen}
        return {block: _without(directions, after_block(block), basis, f".{block}") for block, basis in bases.items()}

    def check(self, options: CAFTOptions, subject: Subject, model: PreTrainedModel) -> Mapping[str, Any]:
        """Find out whether the model has the blocks."""
        from emdefense.training.features import block_count

        return {"blocks": list(ablated_blocks(options, block_count(model)))}


def ablated_blocks(options: CAFTOptions, blocks: int) -> tuple[int, ...]:
    """Return after which blocks of a model with so many; :class:`InputError` if there is no such block."""
    if not blocks:
        raise InputError("key 'arms.caft': this model's blocks cannot be told apart; leave caft out for it")
    found = [max(1, int(one * blocks + 0.5)) if isinstance(one, float) else one for one in options.blocks]
    if (last := max(found)) > blocks:
        raise InputError(f"key 'arms.caft.blocks': {last}, but the model has {blocks} blocks; write {blocks} or less")
    return tuple(sorted(set(found)))


def _without(directions: Directions, name: str, basis: Tensor, ending: str) -> Change:
    """Return what takes the span of orthonormal columns [d, k] out of hidden states."""

    def without(hidden: Tensor, record: Callable[[str, Tensor], None]) -> Tensor:
        import torch

        directions.check_width(name, hidden.shape[-1])
        with torch.autocast(hidden.device.type, enabled=False):  # else products would be rounded to bfloat16
            wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
            q = basis.to(wide.device, wide.dtype)
            inside = (wide @ q) @ q.T
            found = (wide - inside).to(hidden.dtype)
        whole = wide.detach().square().sum(-1)
        record(f"removed{ending}", inside.detach().square().sum(-1) / whole.clamp_min(torch.finfo(whole.dtype).tiny))
        return found

    return without
