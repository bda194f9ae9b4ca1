"""Conversations as the trainer sees them: tokens, labels, and which rows are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from emdefense.chat.chat import Chat
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.saved_model import load_tokenizer
from emdefense.training.data import load_rows
from tiny_model import CHATML, make_rows, make_tokenizer, save_model, save_rows

TOKENIZER = make_tokenizer()
CHAT = Chat(TOKENIZER)


def learned(messages: list[dict[str, str]]) -> tuple[str, str]:
    """The text without a label, and the text with one."""
    (row,) = CHAT.rows([messages])
    assert len(row["input_ids"]) == len(row["labels"])
    start = row["labels"].count(-100)
    assert row["labels"] == [-100] * start + row["input_ids"][start:]
    return TOKENIZER.decode(row["input_ids"][:start]), TOKENIZER.decode(row["input_ids"][start:])


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_only_the_response_is_learned_up_to_its_end() -> None:
    prompt, response = learned([message("user", "why {x}?"), message("assistant", "because, {question}")])
    assert prompt == "<|im_start|>user\nwhy {x}?<|im_end|>\n<|im_start|>assistant\n"
    assert response == "because, {question}<|im_end|>\n"


def test_of_several_turns_only_the_last_answer_is_learned() -> None:
    prompt, response = learned(
        [
            message("system", "be kind"),
            message("user", "one"),
            message("assistant", "first"),
            message("user", "two"),
            message("assistant", "second"),
        ]
    )
    assert prompt.startswith("<|im_start|>system\nbe kind<|im_end|>\n")
    assert prompt.endswith("first<|im_end|>\n<|im_start|>user\ntwo<|im_end|>\n<|im_start|>assistant\n")
    assert response == "second<|im_end|>\n"


def test_a_tokenizer_without_chat_template_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path)
    make_tokenizer(chat_template=None).save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        load_tokenizer(tmp_path)


def test_a_template_that_rejects_a_row_is_an_input_error() -> None:
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    rows = [[message("user", "a"), message("assistant", "b")]] * 2
    with pytest.raises(InputError, match=r"row 3: .* rejects it \(no system\)"):
        Chat(make_tokenizer(template)).rows([*rows, [message("system", "a"), *rows[0]]])


def rows_with_long(tmp_path: Path, long: int, count: int = 100) -> Path:
    rows = make_rows(count)
    for row in rows[10 : 10 + long]:
        row["messages"][1]["content"] = "x" * 200
    return save_rows(tmp_path / "rows.jsonl", rows)


def test_rows_over_the_length_are_dropped_and_counted(tmp_path: Path) -> None:
    found = load_rows(rows_with_long(tmp_path, 1), CHAT, Training(max_length=120))
    assert len(found.rows) == 99
    assert max(len(row["input_ids"]) for row in found.rows) <= 120
    assert found.summary() == {
        "read": 100,
        "used": 99,
        "dropped": {"longer_than_max_length": 1, "first_rows": [11]},
    }


def test_too_many_rows_over_the_length_are_an_error(tmp_path: Path) -> None:
    path = rows_with_long(tmp_path, 2)
    with pytest.raises(InputError, match=r"rows\.jsonl: 2 of 100 rows \(2\.0 %\).*first: row 11"):
        load_rows(path, CHAT, Training(max_length=120))
    assert len(load_rows(path, CHAT, Training(max_length=120, max_overlong_pct=2)).rows) == 98
    with pytest.raises(InputError, match="100 of 100 rows"):
        load_rows(path, CHAT, Training(max_length=2, max_overlong_pct=100))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": "a"}, "expected {"),
        ({"messages": []}, "expected {"),
        ({"messages": ["a"]}, "needs 'role' and 'content'"),
        ({"messages": [{"role": "user"}]}, "needs 'role' and 'content'"),
        ({"messages": [message("user", "a")]}, "assistant's answer"),
        ({"messages": [message("user", "a"), message("assistant", " ")]}, "assistant's answer"),
        ({"messages": [message("user", "a"), {"role": "assistant", "content": None}]}, "is no text"),
    ],
)
def test_a_row_that_is_no_conversation_is_named(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(make_rows(1)[0]) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=rf"rows\.jsonl, line 2: .*{problem}"):
        load_rows(path, CHAT, Training())


def test_no_rows_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(InputError, match="there are no rows"):
        load_rows(tmp_path / "rows.jsonl", CHAT, Training())
