"""What arms that act along directions in hidden states have in common: what these are made from, and where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from emdefense.arms.base import Arm, Options, OptionsType

if TYPE_CHECKING:
    from emdefense.training.directions import Directions

Rows = Annotated[int, Field(ge=1)]

OTHERS = ("model", "other_rows")
OWN = ("model", "rows", "aligned")


class RowsOptions(Options):
    """From which answers a direction is made."""

    of: Literal["others", "own"] = Field(
        "others", description="whose misaligned and aligned rows: the other EMA tasks', or the task's own"
    )
    rows: Rows = Field(200, description="how many of them, of each task and side")

    @property
    def read(self) -> tuple[str, ...]:
        """What the direction is made from."""
        return OTHERS if self.of == "others" else OWN


class AlongDirections(Arm[OptionsType]):
    """An arm whose preparation is a file of directions, made by running the model."""

    runs_model = True

    def load(self, options: OptionsType, folder: Path) -> Directions:
        """Return the directions."""
        from emdefense.training.directions import VECTORS, Directions

        return Directions(folder / VECTORS)
