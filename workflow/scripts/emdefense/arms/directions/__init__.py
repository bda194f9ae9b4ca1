"""What arms that act along directions in hidden states have in common: from which rows these are made."""

from typing import Annotated, Literal

from pydantic import Field

from emdefense.arms.base import Options

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
