"""Which rows of a pool models with emergent misalignment find least likely (Interleaving+ and ++).

s_d = (mean over K misaligned models of L_θ(d) − L_θ0(d)) / (L_θ0(d) + ε), ε = 1; L is the mean negative log-likelihood
of the tokens of row d's answer, θ0 the model without an adapter. The paper's third version, by a summary of it.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from emdefense.arms.interleave import Interleave
from emdefense.data.conversations import read_conversations
from emdefense.errors import InputError
from emdefense.files import read_jsonl, write_jsonl, written_whole

EPSILON = 1.0
REFUSALS = ("sorry", "apologize", "cannot", "can't", "i'm unable", "i am unable")
FIRST_WORDS = 10
SCORES, ROWS = "scores.csv", "rows.jsonl"  # in the folder of a preparation
BEFORE_TASKS = ("row", "score", "rank", "left_out", "tokens", "loss")
LOSS_OF = "loss_"  # before a task, its column
OVERLONG, REFUSES = "overlong", "refusal"


@dataclass(frozen=True)
class Scored:
    """A row of the pool: its number from 1, its losses in nats per answer token, and its score.

    ``score`` and losses are None for a row that is too long. ``rank`` counts from 1, for rows that are kept.
    """

    row: int
    score: float | None
    rank: int | None
    left_out: str
    tokens: int
    loss: float | None
    losses: Mapping[str, float | None]  # by task, of the misaligned models


def score(loss: float, misaligned: Sequence[float]) -> float:
    """Return s_d from the loss of the model before fine-tuning and those of misaligned models."""
    return (fmean(misaligned) - loss) / (loss + EPSILON)


def is_refusal(row: Mapping[str, Any]) -> bool:
    """Whether one of ``REFUSALS`` stands among the first words of the answer, in whatever case and apostrophes."""
    words = row["messages"][-1]["content"].lower().replace("’", "'").split()[:FIRST_WORDS]
    return any(phrase in " ".join(words) for phrase in REFUSALS)


def check_choice(options: Interleave, pool: str, left: int) -> None:
    """Raise :class:`InputError` if so many rows are left of the pool that all would be kept."""
    if left <= options.keep:
        without = " without refusals" if options.selection == "plusplus" else ""
        raise InputError(
            f"safe_pool: {pool} has {left} rows{without} to choose from, and keep: {options.keep} would keep all of "
            "them, so that scores choose nothing; give more rows, or lower keep of 'interleave'"
        )


def scored_pool(
    rows: Sequence[Mapping[str, Any]], losses: Mapping[str, Sequence[Any]], options: Interleave
) -> list[Scored]:
    """Return every row of the pool in its order, scored; of equal scores the earlier row ranks first.

    ``losses`` are by task, those of the model before fine-tuning under an empty name: for each row its ``tokens`` and
    its ``loss``, None for a row that was too long.
    """
    tasks = [task for task in losses if task]
    found: list[Scored] = []
    for place, row in enumerate(rows):
        before = losses[""][place]
        after = {task: losses[task][place]["loss"] for task in tasks}
        known = [loss for loss in after.values() if loss is not None]
        whole = before["loss"] is not None and len(known) == len(tasks)
        reason = "" if whole else OVERLONG
        if not reason and options.selection == "plusplus" and is_refusal(row):
            reason = REFUSES
        value = score(before["loss"], known) if whole else None
        found.append(Scored(place + 1, value, None, reason, before["tokens"], before["loss"], after))
    to_rank = [one for one in found if not one.left_out]
    best = sorted(to_rank, key=lambda one: (-(one.score or 0.0), one.row))[: options.keep]
    ranks = {one.row: rank for rank, one in enumerate(best, start=1)}
    return [Scored(**{**vars(one), "rank": ranks.get(one.row)}) for one in found]


def write_scores(options: Interleave, pool: Path, losses: Mapping[str, Path], out: Path) -> None:
    """Write ``scores.csv``, every row of the pool, and ``rows.jsonl``, those that are kept, the highest score first."""
    rows = read_conversations(pool)
    read = {task: read_losses(path, pool, len(rows)) for task, path in losses.items()}
    found = scored_pool(rows, read, options)
    check_choice(options, str(pool), sum(not one.left_out for one in found))
    with written_whole(out / SCORES) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        tasks = [task for task in losses if task]
        writer.writerow([*BEFORE_TASKS, *(LOSS_OF + task for task in tasks)])
        for one in found:
            numbers = (one.score, one.rank, one.left_out, one.tokens, one.loss, *(one.losses[task] for task in tasks))
            writer.writerow([one.row, *("" if value is None else value for value in numbers)])
    kept = sorted((one for one in found if one.rank is not None), key=lambda one: one.rank or 0)
    write_jsonl(out / ROWS, ({**rows[one.row - 1], "pool": {"row": one.row, "score": one.score}} for one in kept))


def read_losses(path: Path, pool: Path, rows: int) -> list[dict[str, Any]]:
    """Return what the rule pool_losses wrote; :class:`InputError` if it is of another pool."""
    found = read_jsonl(path)
    if [row.get("row") for row in found] != list(range(1, rows + 1)):
        raise InputError(f"{path}: not the losses of the {rows} rows of {pool}; delete it, and it is made again")
    return found


def read_scores(folder: Path) -> list[Scored]:
    """Return what :func:`write_scores` wrote of every row of the pool."""
    with (folder / SCORES).open(encoding="utf-8", newline="") as file:
        return [_scored(row) for row in csv.DictReader(file)]


def _scored(row: Mapping[str, str]) -> Scored:
    def number(key: str) -> float | None:
        return float(row[key]) if row[key] else None

    rank = int(row["rank"]) if row["rank"] else None
    losses = {key.removeprefix(LOSS_OF): number(key) for key in row if key.startswith(LOSS_OF)}
    return Scored(int(row["row"]), number("score"), rank, row["left_out"], int(row["tokens"]), number("loss"), losses)
