"""The tables of scored pools: how scores lie, and the rows with the highest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emdefense.analysis.conditions import arm_title
from emdefense.arms.interleave.pools import ScoredPool, read_pools
from emdefense.arms.interleave.scores import OVERLONG, REFUSES, SCORES
from emdefense.cells import Cell
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.report.page.untrusted import readable
from emdefense.report.tables.table import Column, Table, TableCell

QUANTILES = {"lowest": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "highest": 1.0}
BEST = 10
SHOWN, HOVER = 160, 2000  # characters of a text in a cell, and when a pointer rests on it
LEGEND = (
    "Score: mean loss under the misaligned adapters less the loss before fine-tuning, over the latter plus 1. Losses "
    "are in nats per answer token."
)
COUNTED = ("pool", "overlong", "refusals", "kept")
CSV_COLUMNS = ("model", "task", "arm", "seed", *COUNTED)


def scores_table(study: Study, preparations: Mapping[Cell, Path]) -> Table:
    """Return the table, a row per model, task and arm, over all seeds; its CSV has a line for each seed."""
    pools = read_pools(study, preparations)
    groups: dict[tuple[str, str, str], list[ScoredPool]] = {}
    for pool in pools:
        groups.setdefault((pool.cell.model, pool.cell.task, pool.cell.arm), []).append(pool)
    names = [f"{name}" for name in QUANTILES]
    remarks = [LEGEND, f"Every row's score and losses lie in {SCORES} of the folder of each model, task and seed."]
    if len(study.seeds) > 1:
        remarks.append(f"Over {len(study.seeds)} seeds.")
    return Table(
        title="Scores of the pool's rows, by the task that is trained",
        columns=(
            *(Column(title, numeric=False) for title in ("Model", "Task", "Arm")),
            *(Column(title, "Rows") for title in ("in the pool", "too long", "refusals", "kept")),
            *(Column(title, "Score") for title in (*names, "lowest kept")),
        ),
        blocks=(tuple(_row(study, *group, found) for group, found in groups.items()),),
        csv_header=(*CSV_COLUMNS, *(f"q{100 * share:g}" for share in QUANTILES.values()), "lowest_kept"),
        csv_rows=tuple(_csv_row(pool) for pool in pools),
        remarks=tuple(remarks),
    )


def best_table(study: Study, preparations: Mapping[Cell, Path], model: str) -> Table:
    """Return the ten best rows of a model's first task and arm; the CSV has those of all models, tasks, arms and seeds.

    Raises :class:`InputError` if no pool was scored.
    """
    pools = read_pools(study, preparations)
    of_model = [pool for pool in pools if pool.cell.model == model]
    if not of_model:
        raise InputError(f"study '{study.study}': no pool has been scored, so there are no best rows")
    shown = of_model[0]
    where = f"{study.models[model].title}, {study.tasks[shown.cell.task].title}, {arm_title(study, shown.cell.arm)}"
    lines = [(pool, rank, row) for pool in pools for rank, row in enumerate(pool.best(BEST), start=1)]
    return Table(
        title=f"The {BEST} rows of the pool with the highest scores: {where}",
        columns=(Column(""), Column("Score"), Column("Prompt", numeric=False), Column("Answer", numeric=False)),
        blocks=(tuple(_best(rank, row) for rank, row in enumerate(shown.best(BEST), start=1)),),
        csv_header=("model", "task", "arm", "seed", "rank", "row", "score", "prompt", "answer"),
        csv_rows=tuple(
            (*_names(pool), str(rank), str(row["pool"]["row"]), f"{row['pool']['score']:.6g}", *_texts(row))
            for pool, rank, row in lines
        ),
        remarks=("Texts are cut; the CSV has them whole, for each task, arm and seed.",),
    )


def _best(rank: int, row: Mapping[str, Any]) -> tuple[TableCell, ...]:
    texts = (TableCell(_short(text, SHOWN), hover=_short(text, HOVER)) for text in _texts(row))
    return (TableCell(str(rank)), TableCell(f"{row['pool']['score']:.3f}"), *texts)


def _short(text: str, limit: int) -> str:
    return readable(" ".join(text.split()), limit)


def _texts(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a conversation asks last, and its answer."""
    asked = [message["content"] for message in row["messages"] if message["role"] == "user"]
    return asked[-1], row["messages"][-1]["content"]


def _names(pool: ScoredPool) -> tuple[str, str, str, str]:
    return pool.cell.model, pool.cell.task, pool.cell.arm, str(pool.cell.seed)


def _row(study: Study, model: str, task: str, arm: str, found: Sequence[ScoredPool]) -> tuple[TableCell, ...]:
    scores = [score for pool in found for score in pool.scores]
    counts = [_span([_counts(pool)[place] for pool in found]) for place in range(len(COUNTED))]
    names = (study.models[model].title, study.tasks[task].title, arm_title(study, arm))
    numbers = [*np.quantile(scores, list(QUANTILES.values())), min(pool.lowest_kept for pool in found)]
    return tuple(TableCell(text) for text in (*names, *counts, *(f"{value:.3f}" for value in numbers)))


def _counts(pool: ScoredPool) -> tuple[int, ...]:
    kept = sum(row.rank is not None for row in pool.rows)
    return len(pool.rows), pool.left_out(OVERLONG), pool.left_out(REFUSES), kept


def _span(counts: Sequence[int]) -> str:
    """Return what all seeds have, or the least and the most."""
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}–{high}"


def _csv_row(pool: ScoredPool) -> tuple[str, ...]:
    numbers = [*np.quantile(pool.scores, list(QUANTILES.values())), pool.lowest_kept]
    return (*_names(pool), *map(str, _counts(pool)), *(f"{value:.6g}" for value in numbers))
