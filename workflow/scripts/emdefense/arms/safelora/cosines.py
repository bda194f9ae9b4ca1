"""What SafeLoRA's projections say of every matrix, as the training stage left it in plain CSV."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emdefense.arms.safelora import ProjectedAdapter
from emdefense.cells import Cell, Grid
from emdefense.config import Study

BLOCK = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Matrix:
    """One adapted matrix: cos(BA, B'A), and Frobenius norms of BA, B'A and V without LoRA's scaling."""

    name: str
    cosine: float
    norm_before: float
    norm_after: float
    norm_v: float

    @property
    def block(self) -> int | None:
        """The number of its transformer block, from 0; None for a matrix outside the blocks."""
        found = BLOCK.search(self.name)
        return None if found is None else int(found[1])

    @property
    def kind(self) -> str:
        """What it projects: ``q``, ``down``, …"""
        return self.name.rpartition(".")[2].removesuffix("_proj")

    @property
    def kept(self) -> float | None:
        """The share of the norm of BA that its projection has; None where BA is 0."""
        return self.norm_after / self.norm_before if self.norm_before else None

    def is_projected(self, tau: str) -> bool:
        """Whether the projection takes its place: the paper's condition is cos < τ."""
        return self.cosine < float(tau)


@dataclass(frozen=True)
class Projection:
    """All matrices of one adapter in the model's order, and the τ at which the study uses them, ascending."""

    cell: Cell
    taus: tuple[str, ...]
    matrices: tuple[Matrix, ...]


def read_projections(study: Study, preparations: Mapping[Cell, Path]) -> list[Projection]:
    """Return the projections among what arms have prepared, in the order of the config."""
    grid = Grid(study)
    return [
        Projection(cell, tuple(grid.prepared[cell]), _matrices(folder / "cosines.csv", study))
        for cell, folder in preparations.items()
        if isinstance(grid.arm(cell), ProjectedAdapter)
    ]


def kinds(projections: Sequence[Projection], study: Study) -> list[str]:
    """Return the kinds of matrix that occur, in the order of ``training.target_modules``."""
    order = _order(study)
    return sorted(
        {m.kind for p in projections for m in p.matrices}, key=lambda kind: (order.get(kind, len(order)), kind)
    )


def _matrices(path: Path, study: Study) -> tuple[Matrix, ...]:
    order = _order(study)
    with path.open(encoding="utf-8", newline="") as file:
        matrices = [
            Matrix(row.pop("matrix"), **{key: float(value) for key, value in row.items()})
            for row in csv.DictReader(file)
        ]
    return tuple(sorted(matrices, key=lambda m: (m.block is None, m.block or 0, order.get(m.kind, len(order)), m.name)))


def _order(study: Study) -> dict[str, int]:
    return {name.removesuffix("_proj"): place for place, name in enumerate(study.training.target_modules)}
