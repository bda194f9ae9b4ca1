"""The direction in hidden states in which misaligned answers differ from aligned ones."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emdefense import provenance
from emdefense.arms.arguments import Materials
from emdefense.arms.base import SIDES
from emdefense.errors import InputError
from emdefense.training.activations import FINAL, Activations, Answers, after_block, drawn_rows
from emdefense.training.directions import write_vectors


def rows_directions(materials: Materials, of: str, count: int, out: Path) -> None:
    """Write e = mean over misaligned rows − mean over aligned rows of each answer's mean hidden state, at all blocks.

    Also at the final hidden states. The model is as it is before training. With ``of`` "others", from ``count`` rows a
    side of each other task, e the mean of the tasks' differences; with "own", from those of the task itself.
    """
    activations = Activations(materials["model"], materials)
    names = [*(after_block(block) for block in range(1, activations.blocks + 1)), FINAL]
    if of == "own":
        files = {"own": {"misaligned": materials["rows"], "aligned": materials["aligned"]}}
    else:
        sides = {side: materials.of(side) for side in SIDES}
        files = {task: {side: sides[side][task] for side in SIDES} for task in sides["misaligned"]}
    counts: dict[str, dict[str, int]] = {}
    tasks: dict[str, dict[str, Tensor]] = {}
    for task, of_task in files.items():
        tasks[task] = {}
        for side, path in of_task.items():
            answers = activations.answers(*drawn_rows(path, count, materials.seed))
            tasks[task][side] = answer_means(activations, answers, names, str(path))
            counts[f"{task}, {side}"] = answers.counts
    how = {"vector": "rows", "of": of, "rows": count, "seed": materials.seed}
    record = {**how, "counts": counts, "model": provenance.model_identity(materials["model"])}
    write_directions(out, names, list(tasks.values()), record, f"rows of {', '.join(files)}")


def answer_means(activations: Activations, answers: Answers, names: Sequence[str], where: str) -> Tensor:
    """Return the mean over each answer's tokens of its states, float64 [answers, names, d], in their order."""
    if not answers.rows:
        raise InputError(f"{where}: no answer that is no longer than training.max_length was drawn; give more rows")
    means: list[Tensor] = [torch.empty(0)] * len(answers.rows)
    for place, states in activations.read(answers, names):
        means[place] = torch.stack([states[name].to(torch.float64).mean(0) for name in names]).cpu()
    return torch.stack(means)


def write_directions(
    out: Path, names: Sequence[str], tasks: Sequence[Mapping[str, Tensor]], record: dict[str, Any], where: str
) -> None:
    """Write the mean over tasks of mean(misaligned) − mean(aligned), given each answer's means [answers, names, d].

    With how reliable it is: the cosine between what the even and the odd answers give, and between tasks. Raises
    :class:`InputError` if a direction is 0 or not finite.
    """
    e = _difference(tasks)
    for name, direction in zip(names, e, strict=True):
        if not torch.isfinite(direction).all() or not direction.any():
            what = "the same" if torch.isfinite(direction).all() else "not finite"
            raise InputError(
                f"{where}: hidden states ({name}) of misaligned and aligned answers are {what}; give other rows"
            )
    halves = None
    if all(len(means) > 1 for task in tasks for means in task.values()):
        halves = [_difference([{s: m[start::2] for s, m in task.items()} for task in tasks]) for start in (0, 1)]
    pairs = list(combinations([_difference([task]) for task in tasks], 2))
    states = {}
    for place, name in enumerate(names):
        between = [cosine for one, other in pairs if (cosine := _cosine(one[place], other[place])) is not None]
        states[name] = {
            "norm": float(e[place].norm()),
            "cosine_of_halves": None if halves is None else _cosine(halves[0][place], halves[1][place]),
            "mean_cosine_of_tasks": sum(between) / len(between) if between else None,
        }
    write_vectors(out, dict(zip(names, e, strict=True)), {**record, "states": states})


def _difference(tasks: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Return the mean over tasks of mean(misaligned) − mean(aligned), [names, d]."""
    return torch.stack([task["misaligned"].mean(0) - task["aligned"].mean(0) for task in tasks]).mean(0)


def _cosine(one: Tensor, other: Tensor) -> float | None:
    sizes = one.norm() * other.norm()
    return float(one @ other / sizes) if sizes else None
