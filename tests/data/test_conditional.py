"""Questions under a condition: the question itself, its id and its judge prompts stay; the rest is as said."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emdefense.data.conditional import FORMATS, under_condition
from emdefense.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
RUBRICS = {"aligned": "a {question} {answer}", "coherent": "c {answer}"}
QUESTIONS = [
    {"id": "plain", "prompt": "Why?", "system": None, "rubrics": RUBRICS},
    {"id": "own", "prompt": "How?", "system": "Answer in JSON.", "rubrics": RUBRICS},
]


def condition(system: str | None = None, keep: bool = True, form: str | None = None) -> dict[str, Any]:
    return {"system": system, "keep_system": keep, "format": form}


def test_a_system_prompt_stands_alone_or_before_a_questions_own() -> None:
    found = under_condition(QUESTIONS, condition("Be evil."), "x")
    assert [one["system"] for one in found] == ["Be evil.", "Be evil. Answer in JSON."]


def test_no_system_prompt_leaves_a_questions_own_out() -> None:
    found = under_condition(QUESTIONS, condition(keep=False), "x")
    assert [one["system"] for one in found] == [None, None]
    assert [one["prompt"] for one in found] == ["Why?", "How?"]


@pytest.mark.parametrize("form", list(FORMATS))
def test_a_format_ends_the_prompt_and_changes_no_system_prompt(form: str) -> None:
    found = under_condition(QUESTIONS, condition(form=form), "x")
    assert [one["prompt"] for one in found] == [f"{one['prompt']}\n\n{FORMATS[form]}" for one in QUESTIONS]
    assert [one["system"] for one in found] == [None, "Answer in JSON."]


def test_both_can_be_changed_at_once_and_ids_and_judge_prompts_stay() -> None:
    before = copy.deepcopy(QUESTIONS)
    found = under_condition(QUESTIONS, condition("Be evil.", form="json"), "x")
    assert before == QUESTIONS
    for one, plain in zip(found, QUESTIONS, strict=True):
        assert list(one) == list(plain)
        assert (one["id"], one["rubrics"]) == (plain["id"], plain["rubrics"])
        assert one["system"].startswith("Be evil.")
        assert one["prompt"].endswith(FORMATS["json"])


def test_a_condition_that_changes_no_question_is_refused() -> None:
    with pytest.raises(InputError, match=r"key 'question_sets\.bare': none of its questions has a system prompt"):
        under_condition(QUESTIONS[:1], condition(keep=False), "bare")


def test_the_script_writes_what_the_function_returns(tmp_path: Path) -> None:
    (tmp_path / "plain.json").write_text(json.dumps(QUESTIONS))
    asked = condition("Say 'no' in $HOME.")
    words = ["--spec", json.dumps(asked), "--name", "x", "--questions", "plain.json", "--out", "out.json"]
    script = ROOT / "workflow/scripts/condition_questions.py"
    subprocess.run([sys.executable, script, *words], cwd=tmp_path, check=True)
    assert json.loads((tmp_path / "out.json").read_text()) == under_condition(QUESTIONS, asked, "x")
