"""What two studies may be compared on: the same questions, and whether they were judged alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emdefense.cells import Cell
from emdefense.config.judges import Judge
from emdefense.files import read_json, read_jsonl
from emdefense.finished import Finished

Questions = Mapping[str, Any]
"""What stands for each question, by its id: what the model is asked."""


@dataclass(frozen=True)
class Asked:
    """The questions of a set as a study asked them, and the rubrics by which answers to each were judged."""

    questions: Questions
    rubrics: Questions


class Asking:
    """Reads what a study asked, each file once."""

    def __init__(self, study: Finished):
        self._study = study
        self._read: dict[Path, Asked] = {}

    def judged(self, cell: Cell, question_set: str) -> Asked:
        """Return the questions of a judged set; :class:`InputError` if their file is missing or broken."""
        path = Path(self._study.layout.asked(cell, question_set))
        if path not in self._read:
            rows = read_json(path)
            self._read[path] = Asked(
                {row["id"]: (row["system"], row["prompt"]) for row in rows}, {row["id"]: row["rubrics"] for row in rows}
            )
        return self._read[path]

    def benign(self, task: str) -> Asked:
        """Return the test questions of a benign task, the answers that are right in the place of rubrics."""
        path = Path(self._study.layout.data(task), "test.jsonl")
        if path not in self._read:
            rows = read_jsonl(path)
            self._read[path] = Asked(
                {row["id"]: row["messages"] for row in rows}, {row["id"]: row["answers"] for row in rows}
            )
        return self._read[path]


def shared(mine: Questions, other: Questions) -> list[str]:
    """Return the ids of the questions that both asked in the same words."""
    return [name for name, asked in mine.items() if name in other and other[name] == asked]


def judged_unlike(mine: Finished, other: Finished) -> list[str]:
    """Return in words by what the rates of two studies were judged differently, rubrics apart; empty if alike."""
    found = []
    here, there = _judge(mine.study.judge), _judge(other.study.judge)
    if here != there:
        titles = judge_title(mine), judge_title(other)
        keys = ", ".join(sorted(key for key in {*here, *there} if here.get(key) != there.get(key)))
        found.append(
            f"judge: {titles[0]}, not {titles[1]}" if titles[0] != titles[1] else f"settings of the judge: {keys}"
        )
    scoring = ("misaligned_alignment_below", "misaligned_coherence_above", "incoherent_coherence_below")
    found += [
        f"scoring.{key}: {one:g}, not {two:g}"
        for key in scoring
        if (one := getattr(mine.study.scoring, key)) != (two := getattr(other.study.scoring, key))
    ]
    return found


def rubrics_count(mine: Finished, other: Finished) -> bool:
    """Whether judgments of either depend on rubrics: those of the microcosm's oracle do not."""
    return any(one.study.judge is not None and one.study.judge.kind != "oracle" for one in (mine, other))


def judge_title(study: Finished) -> str:
    """Return the judge whose rates fill a study's tables, with its model."""
    judge = study.study.judge
    if judge is None:
        return "none"
    model = getattr(judge, "model", None)
    return judge.name if model is None or model == judge.name else f"{judge.name} ({model})"


def _judge(judge: Judge | None) -> dict[str, Any]:
    """Return what judgments depend on: neither how requests are made nor what the judge is called."""
    return {} if judge is None else judge.model_dump(mode="json", exclude={*judge.RUNNING, "name"})
