"""What scoring a pool left in the preparations of a study: every row's score, and the rows with the highest."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emdefense.arms.interleave import Interleaving
from emdefense.arms.interleave.scores import ROWS, Scored, read_scores
from emdefense.cells import Cell, Grid
from emdefense.config import Study
from emdefense.files import iterate_jsonl


@dataclass(frozen=True)
class ScoredPool:
    """The pool as one model scores it for one task, seed and arm."""

    cell: Cell
    folder: Path
    rows: tuple[Scored, ...]

    @property
    def scores(self) -> list[float]:
        """The scores of the rows to choose from."""
        return [row.score for row in self.rows if row.score is not None and not row.left_out]

    @property
    def lowest_kept(self) -> float:
        """The lowest score of a row that is kept."""
        return min(row.score for row in self.rows if row.score is not None and row.rank is not None)

    def left_out(self, reason: str) -> int:
        """Return how many rows are left out for a reason."""
        return sum(row.left_out == reason for row in self.rows)

    def best(self, count: int) -> list[dict[str, Any]]:
        """Return the conversations with the highest scores, the highest first."""
        found = iterate_jsonl(self.folder / ROWS)
        return [row for row, _ in zip(found, range(count), strict=False)]


def read_pools(study: Study, preparations: Mapping[Cell, Path]) -> list[ScoredPool]:
    """Return the scored pools among what arms have prepared, in the order of the config."""
    grid = Grid(study)
    return [
        ScoredPool(cell, folder, tuple(read_scores(folder)))
        for cell, folder in preparations.items()
        if isinstance(grid.arm(cell), Interleaving)
    ]
