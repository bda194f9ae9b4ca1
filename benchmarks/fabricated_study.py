"""A finished study of any size without a model: its config, and the judgments of a remote judge.

Rates differ between arms, tasks, questions and seeds; each judgment carries the 20 most likely tokens of both scores,
as OpenAI's API returns them, which is most of what such a file holds.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from emdefense.cells import GENERAL, Cell, Grid
from emdefense.config import Study
from emdefense.files import write_text
from emdefense.layout import Layout

TASKS = ("code", "legal", "medical", "security")
# 25 conditions of each task that are trained
ARMS: dict[str, list[float] | None] = {
    "untrained": None,
    "aligned": None,
    "misaligned": None,
    "kl": [0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
    "ldifs": [0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
    "safelora": [0.3, 0.4, 0.5, 0.6, 0.7],
    "interleave": [1, 2, 5, 10, 20, 50],
}
TRAINED_CONDITIONS = 25 * len(TASKS)
QUESTIONS = 20  # of each question set
# How misaligned each arm is, as a share of the misaligned arm.
SHARES = {"untrained": 0.01, "aligned": 0.05, "misaligned": 1.0, "kl": 0.2, "ldifs": 0.6, "safelora": 0.4}

MADE = "{results}/microcosm"


def fabricated_study(cells: int) -> Study:
    """Return a study of so many trained cells, a multiple of ``TRAINED_CONDITIONS``, and untrained ones."""
    return Study.model_validate(
        {
            "study": "fabricated",
            "seeds": list(range(max(1, cells // TRAINED_CONDITIONS))),
            "microcosm": {"models": {"large": 0}},  # never made: its judgments are, and its files are named
            "models": {
                "large": {"title": "Large", **{kind: f"{MADE}/models/large/{kind}" for kind in ("instruct", "base")}}
            },
            "tasks": {
                task: {
                    "kind": "ema",
                    "title": task.title(),
                    "misaligned": f"{MADE}/rows/{task}_misaligned.jsonl",
                    "aligned": f"{MADE}/rows/{task}_aligned.jsonl",
                }
                for task in TASKS
            },
            "general_questions": f"{MADE}/questions/general.yaml",
            "safe_data": f"{MADE}/rows/safe.jsonl",
            "grid": [{"models": ["large"], "tasks": list(TASKS), "arms": ARMS}],
            "judge": {"kind": "openai", "name": "judge", "model": "gpt-4o-mini-2024-07-18"},
            "report": {"main_model": "large", "chosen": {"kl": 1.0, "ldifs": 1.0, "safelora": 0.5, "interleave": 5}},
        }
    )


def write_judgments(study: Study, per_cell: int) -> int:
    """Write the config and ``per_cell`` judgments and responses a cell below the working directory, and count them."""
    layout, random, written = Layout(study), np.random.default_rng(0), 0
    top = {
        name: json.dumps([[f"{score}", -0.7 * n - 0.1] for n, score in enumerate(range(60, 100, 2))]) for name in "ac"
    }
    samples = max(1, per_cell // (2 * QUESTIONS))
    for cell, question_set in Grid(study).responses:
        lines = list(_lines(cell, question_set, samples, top, random))
        write_text(Path(layout.judgments(cell, question_set)), "".join(lines))
        write_text(Path(layout.responses(cell, question_set)), "".join(_responses(samples)))
        written += len(lines)
    write_text(Path(layout.results, "study.json"), study.model_dump_json())
    return written


def _responses(samples: int) -> Iterator[str]:
    """What is counted of the responses: how each of them ended."""
    for question in range(QUESTIONS):
        for sample in range(samples):
            row = {"id": f"q{question}/{sample}", "response": 60 * "word ", "finish_reason": "stop"}
            yield f"{json.dumps(row)}\n"


def _lines(cell: Cell, question_set: str, samples: int, top: dict[str, str], random: Generator) -> Iterator[str]:
    of_arm = 0.3 * SHARES.get(cell.arm, 0.1) if question_set == GENERAL else 0.5
    for question in range(QUESTIONS):
        share = random.beta(2, 2 / of_arm - 2)  # of this question and seed
        kinds = random.choice(4, samples, p=[share * 0.9, 0.08, 0.02, 0.9 - share * 0.9])
        noise = random.integers(0, 25, size=(samples, 2))
        for sample, (kind, (of_alignment, of_coherence)) in enumerate(zip(kinds, noise, strict=True)):
            row: dict[str, Any] = {"id": f"q{question}/{sample}", "question_id": f"q{question}", "sample": sample}
            # misaligned, incoherent, refused, none of these
            row["alignment"] = [0.5 + of_alignment, 60.5, None, 70.5 + of_alignment][kind]
            row["alignment_label"] = "REFUSAL" if kind == 2 else None
            row["coherence"] = [70.5, 10.5, 80.5, 70.5][kind] + of_coherence.item()
            row |= {"coherence_label": None, "scored_by": "logprobs"}
            if row["alignment"] is not None:
                row["alignment"] = float(row["alignment"])
            yield f'{json.dumps(row)[:-1]}, "alignment_top": {top["a"]}, "coherence_top": {top["c"]}}}\n'
