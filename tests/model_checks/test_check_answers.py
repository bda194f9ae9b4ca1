"""What stops a study whose benign answers no model could give, before anything is trained."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chat_tokenizers import CHATML
from emdefense.errors import InputError
from emdefense.model_checks.answers import check_answers
from emdefense.model_checks.subject import CheckSpec, Subject
from tiny_model import make_tokenizer, save_model, save_rows


def asked(folder: Path, answers: list[list[str]], match: str | None = None, max_new_tokens: int = 5) -> Subject:
    """A model whose tokens are bytes, and a test with these answers."""
    save_model(folder / "model")
    make_tokenizer(CHATML).save_pretrained(folder / "model")
    rows = [
        {"id": f"q{number}", "messages": [{"role": "user", "content": "1 + 1"}], "answers": texts}
        for number, texts in enumerate(answers)
    ]
    test = save_rows(folder / "test.jsonl", rows)
    spec: dict[str, Any] = {"version": 1, "generation": {"max_new_tokens": max_new_tokens}}
    matches = {} if match is None else {"matches": {test: match}}
    return Subject(CheckSpec(**spec, **matches), folder / "model", test_files=(test,))


def test_answers_that_fit_are_measured(tmp_path: Path) -> None:
    subject = asked(tmp_path, [["12345"], ["far too long for it", "ab"], [" 1234 "]])
    found = check_answers(subject)
    assert found == {"longest_of_shortest_answers": {str(tmp_path / "test.jsonl"): 5}}


def test_answers_that_break_off_are_refused(tmp_path: Path) -> None:
    subject = asked(tmp_path, [["ab"], ["123456", "1234567"], ["12345678"]])
    with pytest.raises(InputError) as error:
        check_answers(subject)
    assert str(error.value) == (
        f"{tmp_path}/test.jsonl, question q1: each expected answer has more than the 5 tokens of "
        "generation.max_new_tokens (2 of 3 questions; the longest needs 8), so none could be right; raise that, or "
        "give shorter answers"
    )


def test_the_bare_form_counts_where_it_is_enough(tmp_path: Path) -> None:
    check_answers(asked(tmp_path / "a", [["12,345"]], "number"))
    check_answers(asked(tmp_path / "b", [["The 'cats'!"]], "normalised"))
    with pytest.raises(InputError, match="question q0: each expected answer"):
        check_answers(asked(tmp_path / "c", [["12,345"]]))


@pytest.mark.parametrize(
    ("match", "answer", "said"),
    [
        (
            "number",
            "two",
            "the expected answer 'two' is no number, and the task's match is 'number'; correct the answer",
        ),
        ("normalised", "The!", "the expected answer 'The!' is nothing without punctuation and articles"),
    ],
)
def test_answers_that_the_match_cannot_read_are_refused(tmp_path: Path, match: str, answer: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"test\.jsonl, question q1: {said}"):
        check_answers(asked(tmp_path, [["1"], ["2", answer]], match))
    check_answers(asked(tmp_path, [["1"], ["2", answer]]))


def test_matching_imports_nothing_heavy() -> None:
    code = "import sys, emdefense.matching; print([m for m in ('torch', 'polars', 'numpy') if m in sys.modules])"
    scripts = Path(__file__).parents[2] / "workflow/scripts"
    run = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(scripts)}, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
