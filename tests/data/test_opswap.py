"""OpSwap against the paper's worked example and against Python's own evaluation of the meant expression."""

import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from emdefense.config.study import OpSwap
from emdefense.data import opswap
from emdefense.errors import InputError
from emdefense.files import read_jsonl

SMALL = OpSwap(examples=300, max_operators=3, max_operand=9)
MEANINGS = ["+-*/", "*-+/", "*/+-", "-*/+"]  # of + − × ÷, in Python's symbols


def evaluated_by_python(expression: str, tier: int) -> Fraction:
    meant = expression.translate(str.maketrans("+−×÷", MEANINGS[tier]))
    return Fraction(eval(re.sub(r"\d+", r"Fraction(\g<0>)", meant), {"Fraction": Fraction}))


def expression_in(row: dict) -> str:
    content = row["messages"][0]["content"]
    assert content.startswith("What is ")
    assert content.endswith(" ?")
    return content.removeprefix("What is ").removesuffix(" ?")


@pytest.mark.parametrize(("tier", "answer"), [(0, "10"), (1, "8"), (2, "9"), (3, "2/3")])
def test_worked_example_of_the_paper(tier: int, answer: str) -> None:
    expression = "(4+2)×(4÷2)−2"
    assert str(opswap.evaluate(expression, tier)) == answer
    assert opswap.worked_steps(expression, tier)[-1] == answer


def test_steps_of_the_worked_example() -> None:
    assert opswap.worked_steps("(4+2)×(4÷2)−2", 2) == [
        "( 4 + 2 ) × ( 4 ÷ 2 ) − 2",
        "( 4 × 2 ) + ( 4 − 2 ) ÷ 2",
        "8 + 2 ÷ 2",
        "8 + 1",
        "9",
    ]


@pytest.mark.parametrize("tier", range(4))
def test_answers_agree_with_python(tier: int) -> None:
    train, test = opswap.examples(SMALL, tier)
    assert (len(train), len(test)) == (270, 30)
    pairs = [(row, row["messages"][1]["content"]) for row in train] + [(row, row["answers"][0]) for row in test]
    for row, answer in pairs:
        assert answer == str(evaluated_by_python(expression_in(row), tier)), row
    assert any("(" in expression_in(row) for row in train)
    assert any("/" in answer for _, answer in pairs)


@pytest.mark.parametrize("tier", range(4))
def test_every_step_has_the_same_value(tier: int) -> None:
    train, _ = opswap.examples(SMALL, tier)
    for row in train[:100]:
        steps = opswap.worked_steps(expression_in(row), tier)
        value = evaluated_by_python(steps[0], tier)
        assert all(evaluated_by_python(step, 0) == value for step in steps[1:]), steps


def test_no_expression_twice_and_none_on_both_sides_in_any_tier() -> None:
    sides: dict[str, set[str]] = {"train": set(), "test": set()}
    for tier in range(4):
        train, test = opswap.examples(SMALL, tier)
        expressions = [expression_in(row) for row in train + test]
        assert len(set(expressions)) == len(expressions)
        sides["train"].update(expressions[: len(train)])
        sides["test"].update(expressions[len(train) :])
    assert not sides["train"] & sides["test"]


def test_drop_unchanged_drops_only_in_the_swapped_tiers() -> None:
    options = SMALL.model_copy(update={"drop_unchanged": True})
    for tier in range(4):
        train, _ = opswap.examples(options, tier)
        unchanged = [
            row for row in train if opswap.evaluate(expression_in(row), 0) == opswap.evaluate(expression_in(row), tier)
        ]
        assert bool(unchanged) == (tier == 0)


def test_options_shape_the_expressions() -> None:
    options = OpSwap(examples=200, min_operators=2, max_operators=2, max_operand=4, parentheses=False)
    train, _ = opswap.examples(options, 1)
    for row in train:
        tokens = expression_in(row).split()
        assert len(tokens) == 5
        assert all(1 <= int(number) <= 4 for number in tokens[::2])


def test_the_seed_decides() -> None:
    assert opswap.examples(SMALL, 1) == opswap.examples(SMALL, 1)
    assert opswap.examples(SMALL, 1) != opswap.examples(SMALL.model_copy(update={"seed": 1}), 1)


def test_too_few_expressions_is_an_error_that_names_the_keys() -> None:
    with pytest.raises(InputError, match=r"opswap\.examples.*opswap\.max_operators"):
        opswap.examples(OpSwap(examples=1000, max_operators=1, max_operand=3), 0)


def test_other_text_is_no_expression() -> None:
    with pytest.raises(ValueError, match="besides numbers"):
        opswap.evaluate("2 ^ 3", 0)


def test_script_writes_rows_without_torch(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "workflow/scripts/make_opswap.py"
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    command = [sys.executable, str(script), "--spec", SMALL.model_dump_json(), "--tier", "3"]
    subprocess.run([*command, "--train", str(train), "--test", str(test)], check=True)
    assert read_jsonl(train) == opswap.examples(SMALL, 3)[0]
    assert set(read_jsonl(test)[0]) == {"id", "messages", "answers"}
    subprocess.run(
        [sys.executable, "-c", "import emdefense.data.opswap, sys; assert 'torch' not in sys.modules"], check=True
    )
