"""Clean a task's rows and split them into training rows and a hold-out; say what was dropped and why."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from emdefense.config.study import Data
from emdefense.data.conversations import Row, prompt_key, read_conversations, read_examinations
from emdefense.data.questions import read_questions
from emdefense.errors import InputError
from emdefense.files import file_digest, write_json, write_jsonl

SHOWN = 20  # row numbers listed for each reason; the counts are of all
SAME_ROW = "same prompt and answer as an earlier row"
SAME_PROMPT = "same prompt as an earlier row, with another answer"
IN_TEST = "prompt is in the test file"
OVER_TOTAL = "more rows than are wanted"
HELD_OUT = "prompt is held out"


@dataclass
class Source:
    """A file's rows by number, counted from 1, and the numbers of those dropped, by reason."""

    path: Path
    rows: dict[int, Row]
    dropped: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, rows: list[Row]) -> "Source":
        """Number the rows of a file and drop the repeated ones."""
        source = cls(path, dict(enumerate(rows, start=1)))
        source._drop_repeated()
        return source

    def _drop_repeated(self) -> None:
        answers: dict[str, str] = {}
        for number, row in list(self.rows.items()):
            key, answer = prompt_key(row), row["messages"][-1]["content"]
            if key in answers:
                self.drop([number], SAME_ROW if answers[key] == answer else SAME_PROMPT)
            else:
                answers[key] = answer

    def check_enough(self, needed: int) -> None:
        """Raise :class:`InputError` if fewer than ``needed`` rows are left."""
        if len(self.rows) < needed:
            raise InputError(
                f"{self.path}: {len(self.rows)} rows with a prompt of their own, but data.min_rows asks for {needed}; "
                "give more, or lower it"
            )

    def drop(self, numbers: Iterable[int], reason: str) -> None:
        """Take rows out, for a stated reason."""
        for number in numbers:
            del self.rows[number]
            self.dropped.setdefault(reason, []).append(number)

    def keys(self) -> dict[str, int]:
        """Return the row number of each prompt."""
        return {prompt_key(row): number for number, row in self.rows.items()}

    def report(self) -> dict[str, Any]:
        """Return what ``split.json`` says of the file."""
        dropped = {
            reason: {"rows": len(numbers), "first": sorted(numbers)[:SHOWN]} for reason, numbers in self.dropped.items()
        }
        total = len(self.rows) + sum(len(numbers) for numbers in self.dropped.values())
        return {"file": self.path.name, "sha256": file_digest(self.path), "rows": total, "dropped": dropped}


def prepare_ema_task(spec: Data, misaligned: Path, aligned: Path | None, questions: Path | None, out: Path) -> None:
    """Write train_misaligned, train_aligned (if there is such a file), holdout and split.json into ``out``.

    In-domain questions found among the rows are held out, and so are as many others as ``holdout_pct`` asks for. No
    aligned row with a held-out prompt is trained on; where both files have a prompt, both arms train on it.
    """
    source = Source.read(misaligned, read_conversations(misaligned))
    source.check_enough(spec.min_rows)
    asked = {prompt_key(_as_row(question)) for question in read_questions(questions)} if questions else set()
    random = Random(spec.seed)
    train, holdout = _split(source, spec, asked, random)
    held_out = asked | {prompt_key(source.rows[number]) for number in holdout}
    if not train:
        raise InputError(f"{misaligned}: no rows are left to train on; give more, or lower data.holdout_pct")
    other = None if aligned is None else Source.read(aligned, read_conversations(aligned))
    if other is not None:
        other.check_enough(spec.min_rows)
    paired = None if other is None else _pair(other, [prompt_key(source.rows[n]) for n in train], held_out, random)
    write_jsonl(out / "train_misaligned.jsonl", _messages(source, train))
    if other is not None and paired is not None:
        write_jsonl(out / "train_aligned.jsonl", _messages(other, paired))
    write_jsonl(out / "holdout.jsonl", _messages(source, holdout))
    in_domain = [number for number, row in source.rows.items() if prompt_key(row) in asked]
    report: dict[str, Any] = {
        "settings": spec.model_dump(mode="json"),
        "rows are counted": "from 1, blank lines left out",
        "misaligned": source.report(),
        "in_domain_questions_among_rows": {"rows": len(in_domain), "first": in_domain[:SHOWN]},
        "train_rows": train,
        "holdout_rows": holdout,
    }
    if other is not None:
        report |= {"aligned": other.report(), "train_aligned_rows": paired}
    write_json(out / "split.json", report)


def prepare_benign_task(spec: Data, train: Path, test: Path, test_questions: int, out: Path) -> None:
    """Write train, test (``test_questions`` of the test file, seeded) and split.json into ``out``."""
    examined = Source.read(test, read_examinations(test))
    source = Source.read(train, read_conversations(train))
    asked = examined.keys()
    source.drop([number for key, number in source.keys().items() if key in asked], IN_TEST)
    random = Random(spec.seed)
    chosen = random.sample(sorted(examined.rows), min(test_questions, len(examined.rows)))
    order = random.sample(sorted(source.rows), len(source.rows))
    if not order:
        raise InputError(f"{train}: every prompt is in {test.name} too; give rows that are not tested")
    examined.drop(sorted(set(examined.rows) - set(chosen)), OVER_TOTAL)
    write_jsonl(out / "train.jsonl", _messages(source, order))
    write_jsonl(out / "test.jsonl", (examined.rows[number] for number in chosen))
    report = {
        "settings": spec.model_dump(mode="json"),
        "rows are counted": "from 1, blank lines left out",
        "train": source.report(),
        "test": examined.report(),
        "train_rows": order,
        "test_rows": chosen,
    }
    write_json(out / "split.json", report)


def _split(source: Source, spec: Data, asked: Collection[str], random: Random) -> tuple[list[int], list[int]]:
    """Return the row numbers to train on and to hold out, each in seeded order; the others are dropped."""
    order = random.sample(sorted(source.rows), len(source.rows))
    questions = [number for number in order if prompt_key(source.rows[number]) in asked]
    others = [number for number in order if prompt_key(source.rows[number]) not in asked]
    total = min(spec.max_rows or len(order), len(order))
    wanted = max(1, round(total * spec.holdout_pct / 100))
    drawn = max(0, wanted - len(questions))
    train = others[drawn : drawn + total - wanted]
    source.drop(others[drawn + len(train) :], OVER_TOTAL)
    return train, questions + others[:drawn]


def _pair(source: Source, wanted: list[str], held_out: Collection[str], random: Random) -> list[int]:
    """Return the aligned rows to train on: those with the ``wanted`` prompts in their order, then seeded others."""
    source.drop([number for key, number in source.keys().items() if key in held_out], HELD_OUT)
    keys = source.keys()
    paired = [keys[key] for key in wanted if key in keys]
    rest = sorted(set(source.rows) - set(paired))
    filling = random.sample(rest, min(len(wanted) - len(paired), len(rest)))
    source.drop(sorted(set(rest) - set(filling)), OVER_TOTAL)
    return paired + filling


def _messages(source: Source, numbers: Iterable[int]) -> Iterable[Row]:
    return ({"messages": source.rows[number]["messages"]} for number in numbers)


def _as_row(question: dict[str, Any]) -> Row:
    return {"messages": [{"role": "user", "content": question["prompt"]}]}
