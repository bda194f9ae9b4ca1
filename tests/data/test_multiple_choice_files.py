"""Files of multiple-choice questions: what is asked, what is drawn, and what is refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from emdefense.data.multiple_choice import INSTRUCTION, TELLING, read_choices
from emdefense.errors import InputError

ROW = {"id": "q1", "question": "Which is red?", "choices": ["A cherry", "The sea"], "answer": 0}


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def many(count: int, choices: int = 3, answer: int | None = None) -> list[dict[str, Any]]:
    options = [f"option {number}" for number in range(choices)]
    return [
        {
            "id": f"q{number}",
            "question": f"What is {number}?",
            "choices": options,
            "answer": number % choices if answer is None else answer,
        }
        for number in range(count)
    ]


def test_by_letter_options_stand_under_the_question_and_letters_answer(tmp_path: Path) -> None:
    (row,) = read_choices(written(tmp_path / "a.jsonl", {**ROW, "subject": "fruit"}), "letter")
    text = f"Which is red?\n\nA. A cherry\nB. The sea\n\n{INSTRUCTION}"
    assert row == {
        "id": "q1",
        "subject": "fruit",
        "messages": [{"role": "user", "content": text}],
        "options": ["A", "B"],
        "answer": 0,
    }


def test_by_text_the_question_stands_alone_and_options_answer(tmp_path: Path) -> None:
    (row,) = read_choices(written(tmp_path / "a.jsonl", ROW), "text")
    assert row["messages"] == [{"role": "user", "content": "Which is red?"}]
    assert (row["options"], row["answer"], row["subject"]) == (["A cherry", "The sea"], 0, None)


def test_a_limit_draws_by_the_seed_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", *many(50))

    def drawn(limit: int | None, seed: int = 0) -> list[int]:
        return [int(row["id"][1:]) for row in read_choices(path, "text", limit, seed)]

    assert drawn(None) == drawn(50) == drawn(99) == list(range(50))
    assert drawn(12) == sorted(drawn(12)) == drawn(12)
    assert len(set(drawn(12))) == 12
    assert drawn(12) != drawn(12, seed=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": None}, "give each row an id of its own"),
        ({"id": "x" * 201}, "at most 200 characters"),
        ({"question": " "}, "it asks nothing"),
        ({"question": 3}, "it asks nothing"),
        ({"subject": 3}, "'subject' is no text"),
        ({"choices": "AB"}, "the choices are no list of texts"),
        ({"choices": ["A", ""]}, "the choices are no list of texts"),
        ({"choices": ["A"]}, "there is 1 choice; give at least two"),
        ({"choices": ["the  sea", "the sea"]}, "the choice 'the sea' stands there twice"),
        ({"answer": 2}, "'answer' is not the index of a choice; write 0 to 1"),
        ({"answer": -1}, "'answer' is not the index of a choice"),
        ({"answer": "A"}, "'answer' is not the index of a choice"),
        ({"answer": True}, "'answer' is not the index of a choice"),
        ({"question": "\ud800"}, "half of a surrogate pair"),
    ],
)
def test_a_row_that_is_no_question_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", ROW, {**ROW, "id": "q2", **change})
    with pytest.raises(InputError) as caught:
        read_choices(path, "text")
    assert f"{path}, line 2: " in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "the file has no rows"),
        ([ROW, ROW], "the id 'q1' stands in two rows"),
        (many(2, choices=27), "27 choices are more than there are letters"),
        (many(TELLING, answer=0), f"the right option is A in all {TELLING} rows"),
    ],
)
def test_a_file_that_cannot_be_asked_by_letter_is_named(rows: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        read_choices(written(tmp_path / "a.jsonl", *rows), "letter")


def test_by_text_there_may_be_many_options_and_the_first_may_always_be_right(tmp_path: Path) -> None:
    assert len(read_choices(written(tmp_path / "a.jsonl", *many(TELLING, 27, answer=0)), "text")) == TELLING
    few = many(TELLING - 1, answer=2)
    assert len(read_choices(written(tmp_path / "b.jsonl", *few), "letter")) == TELLING - 1
