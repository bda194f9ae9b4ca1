"""The table of SafeLoRA's matrices: how many are projected at each τ, of which kind, and how much of them is left."""

from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import median

from emdefense.analysis.conditions import arm_title
from emdefense.arms.safelora import SafeLoRA
from emdefense.arms.safelora.cosines import Matrix, Projection, kinds, read_projections
from emdefense.cells import Cell
from emdefense.config import Study
from emdefense.report.tables.table import DASH, Block, Column, Table, TableCell, number

NORMS = {
    "squared_norm": "C is divided by the square of V's norm, as in the paper's equation.",
    "norm": "C is divided by V's norm, as in IBM's code.",
}
LEGEND = (
    "Projected: matrices W = BA whose cosine with CW is below τ, of all there are. Norm kept: Frobenius norm of CW as "
    "a share of W's, over the projected matrices; adapter: the same over all matrices, projected or not."
)
CSV_COLUMNS = (
    *("model", "task", "seed", "matrix", "block", "kind"),
    *("cosine", "norm_before", "norm_after", "norm_kept", "norm_v"),
)


def matrices_table(study: Study, preparations: Mapping[Cell, Path]) -> Table:
    """Return the table, a row per task and τ, over all seeds; its CSV has a line for every matrix of every adapter."""
    projections = read_projections(study, preparations)
    found = kinds(projections, study)
    models = list(dict.fromkeys(p.cell.model for p in projections))
    arms = list(dict.fromkeys(p.cell.arm for p in projections))
    groups: dict[tuple[str, str, str], list[Projection]] = {}
    for projection in projections:
        cell = projection.cell
        groups.setdefault((cell.model, cell.task, cell.arm), []).append(projection)
    blocks: list[Block] = []
    for (model, task, arm), group in groups.items():
        title = (
            study.tasks[task].title if len(models) == 1 else f"{study.models[model].title}: {study.tasks[task].title}"
        )
        title += f", {arm_title(study, arm)}" if len(arms) > 1 else ""
        matrices = [matrix for projection in group for matrix in projection.matrices]
        rows = tuple(_row(title if n == 0 else "", tau, matrices, found) for n, tau in enumerate(group[0].taus))
        if len(rows) == 1 and blocks and all(row[0].text for row in blocks[-1]):
            blocks[-1] += rows  # no rules between single rows
        else:
            blocks.append(rows)
    norms = {arm: NORMS[_options(study, arm).normalisation] for arm in arms}
    several = [f"{arm_title(study, arm)}: {norm}" for arm, norm in norms.items()]
    remarks = [LEGEND, *(several if len(arms) > 1 else norms.values())]
    if len(study.seeds) > 1:
        remarks.append(f"Over {len(study.seeds)} seeds.")
    prefix = f"{study.models[models[0]].title}: " if len(models) == 1 else ""
    return Table(
        title=f"{prefix}{'w' if prefix else 'W'}hat SafeLoRA projects at each τ",
        columns=(
            Column("Task", numeric=False),
            Column("τ"),
            *(Column(kind, "Projected") for kind in (*found, "all")),
            *(Column(title, "Norm kept (%)") for title in ("median", "range", "adapter")),
        ),
        blocks=tuple(blocks),
        csv_header=(*CSV_COLUMNS, *(f"projected_{tau}" for tau in _taus(projections))),
        csv_rows=tuple(_csv_row(p, matrix, projections) for p in projections for matrix in p.matrices),
        remarks=tuple(remarks),
    )


def _row(title: str, tau: str, matrices: list[Matrix], found: list[str]) -> tuple[TableCell, ...]:
    projected = [matrix for matrix in matrices if matrix.is_projected(tau)]
    counts = []
    for kind in found:
        counts.append(f"{sum(m.kind == kind for m in projected)}/{sum(m.kind == kind for m in matrices)}")
    kept = [100 * matrix.kept for matrix in projected if matrix.kept is not None]
    before = sqrt(sum(m.norm_before**2 for m in matrices))
    after = sqrt(sum((m.norm_after if m.is_projected(tau) else m.norm_before) ** 2 for m in matrices))
    texts = (
        *(title, tau, *counts, f"{len(projected)}/{len(matrices)}"),
        number(median(kept)) if kept else DASH,
        f"{number(min(kept))}–{number(max(kept))}" if kept else DASH,
        number(100 * after / before) if before else DASH,
    )
    return tuple(TableCell(text) for text in texts)


def _taus(projections: Sequence[Projection]) -> list[str]:
    return sorted({tau for projection in projections for tau in projection.taus}, key=float)


def _csv_row(projection: Projection, matrix: Matrix, projections: Sequence[Projection]) -> tuple[str, ...]:
    """Return a matrix's line; whether it is projected is empty at a τ that its task does not have."""
    cell = projection.cell
    numbers = (matrix.cosine, matrix.norm_before, matrix.norm_after, matrix.kept, matrix.norm_v)
    return (
        *(cell.model, cell.task, str(cell.seed), matrix.name),
        *("" if matrix.block is None else str(matrix.block), matrix.kind),
        *("" if value is None else f"{value:.6g}" for value in numbers),
        *(
            ("yes" if matrix.is_projected(tau) else "no") if tau in projection.taus else ""
            for tau in _taus(projections)
        ),
    )


def _options(study: Study, arm: str) -> SafeLoRA:
    options = study.every_arm[arm].options
    assert isinstance(options, SafeLoRA)
    return options
