"""MMLU and TruthfulQA in the formats of the hub: what they become, and what is left out of them."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from emdefense.data.multiple_choice import read_choices
from emdefense.errors import InputError
from emdefense.files import read_json, read_jsonl, write_jsonl
from emdefense.sources.fetch import fetch
from source_files import source

MMLU_CARD = """---
configs:
- config_name: all
  data_files: [{split: test, path: all/test-*}, {split: validation, path: all/validation-*}]
- config_name: anatomy
  data_files: [{split: test, path: anatomy/test-*}]
---
"""
QA_CARD = """---
configs:
- config_name: generation
  data_files: [{split: validation, path: generation/validation-*}]
- config_name: multiple_choice
  data_files: [{split: validation, path: multiple_choice/validation-*}]
---
"""
FOUR = ["one", "two", "three", "four"]


def mmlu_frame(answer: int = 2) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "question": ["Which?", "What?", "Which?", "How?", "Where?"],
            "subject": ["anatomy", "law", "anatomy", "law", "law"],
            "choices": [FOUR, FOUR[::-1], FOUR, ["0", "1", "0", "2"], FOUR],
            "answer": [answer, 0, answer, 1, 4],
        }
    )


def save_mmlu(folder: Path) -> Path:
    for name, frame in (("all/test", mmlu_frame()), ("all/validation", mmlu_frame(3)), ("anatomy/test", mmlu_frame(1))):
        path = folder / f"{name}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path)
    (folder / "README.md").write_text(MMLU_CARD)
    return folder


def dropped(folder: Path) -> dict[str, list[int]]:
    return {reason: found["first"] for reason, found in read_json(folder / "it.source.json")["rows"]["dropped"].items()}


def fetched(folder: Path, **keys: Any) -> list[dict[str, Any]]:
    fetch("it", source(max_unusable_pct=50, **keys), folder / "s")
    assert read_choices(folder / "s/it.jsonl", "letter")
    return read_jsonl(folder / "s/it.jsonl")


def test_mmlu_keeps_choices_in_their_order_and_leaves_out_what_cannot_be_answered(tmp_path: Path) -> None:
    found = fetched(tmp_path, kind="mmlu", path=str(save_mmlu(tmp_path / "hub")))
    assert found == [
        {"id": "test_1", "question": "Which?", "choices": FOUR, "answer": 2, "subject": "anatomy"},
        {"id": "test_2", "question": "What?", "choices": FOUR[::-1], "answer": 0, "subject": "law"},
    ]
    assert dropped(tmp_path / "s") == {
        "two choices are the same": [4],
        "answer is not the index of a choice": [5],
        "same as an earlier row": [3],
    }


@pytest.mark.parametrize(
    ("keys", "answer", "name"),
    [({"selection": "validation"}, 3, "validation_1"), ({"config": "anatomy"}, 1, "test_1")],
)
def test_mmlu_has_splits_and_subjects(keys: dict[str, str], answer: int, name: str, tmp_path: Path) -> None:
    found = fetched(tmp_path, kind="mmlu", path=str(save_mmlu(tmp_path / "hub")), **keys)
    assert (found[0]["id"], found[0]["answer"]) == (name, answer)


def test_truthfulqa_has_the_right_choice_first_upstream_and_anywhere_here(tmp_path: Path) -> None:
    questions = [f"Is it {number}?" for number in range(60)]
    choices = [["right", *(f"wrong {place}" for place in range(1 + number % 4))] for number in range(60)]
    targets = [{"choices": found, "labels": [1] + [0] * (len(found) - 1)} for found in choices]
    folder = tmp_path / "hub"
    for name in ("generation", "multiple_choice"):
        (folder / name).mkdir(parents=True)
        frame = pl.DataFrame({"question": questions, "mc1_targets": targets, "mc2_targets": targets})
        frame.write_parquet(folder / name / "validation-00000-of-00001.parquet")
    (folder / "README.md").write_text(QA_CARD)
    found = fetched(tmp_path, kind="truthfulqa", path=str(folder))
    assert [row["question"] for row in found] == questions
    assert [sorted(row["choices"]) for row in found] == [sorted(one) for one in choices]
    assert {row["choices"][row["answer"]] for row in found} == {"right"}
    assert len({row["answer"] for row in found}) > 2, "shuffled"
    first = (tmp_path / "s/it.jsonl").read_bytes()
    fetched(tmp_path, kind="truthfulqa", path=str(folder))
    assert (tmp_path / "s/it.jsonl").read_bytes() == first, "by the question alone"


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ({"choices": FOUR, "labels": [1, 1, 0, 0]}, "mc1_targets does not have one right choice"),
        ({"choices": FOUR, "labels": [0, 0, 0, 0]}, "mc1_targets does not have one right choice"),
        ({"choices": FOUR, "labels": [1, 0]}, "mc1_targets does not have one right choice"),
        ({"choices": ["one"], "labels": [1]}, "there are fewer than two choices"),
        ({"choices": "one", "labels": [1]}, "choices are no list of texts"),
        (None, "choices are no list of texts"),
    ],
)
def test_truthfulqa_rows_in_another_shape_are_unusable(targets: Any, said: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "raw.jsonl", [{"question": "Is it?", "mc1_targets": targets}])
    with pytest.raises(InputError, match=f"1 of 1 rows are unusable.*{said}"):
        fetch("it", source(kind="truthfulqa", path=str(tmp_path / "raw.jsonl")), tmp_path / "s")


@pytest.mark.parametrize("kind", ["mmlu", "truthfulqa"])
def test_a_changed_format_says_what_was_expected_and_found(kind: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "raw.jsonl", [{"question": "Is it?", "options": FOUR}])
    with pytest.raises(InputError, match=r"expected the columns question, .*; found options, question"):
        fetch("it", source(kind=kind, path=str(tmp_path / "raw.jsonl")), tmp_path / "s")
