"""OpSwap: arithmetic whose operators change their meaning (paper, Table 2)."""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from hashlib import sha256
from random import Random
from typing import Any

from emdefense.config.expressions import Expressions
from emdefense.config.study import OpSwap
from emdefense.errors import InputError

OPERATORS = "+−×÷"
TIERS: tuple[dict[str, str], ...] = (
    {"+": "+", "−": "−", "×": "×", "÷": "÷"},
    {"+": "×", "−": "−", "×": "+", "÷": "÷"},
    {"+": "×", "−": "÷", "×": "+", "÷": "−"},
    {"+": "−", "−": "×", "×": "÷", "÷": "+"},
)
"""What each symbol means in tiers 0 to 3."""

Token = str | Fraction
PARENTHESES_CHANCE = 0.5
DRAWS_PER_EXAMPLE = 50  # so many draws for each example wanted, and the space of expressions counts as exhausted


def tokenise(expression: str) -> list[str]:
    """Return the numbers, operators and parentheses of an expression; ``ValueError`` for anything else."""
    tokens = re.findall(r"\d+|[+−×÷()]", expression)
    if "".join(tokens) != re.sub(r"\s", "", expression):
        raise ValueError(f"{expression!r} holds something besides numbers, {OPERATORS} and parentheses")
    return tokens


def evaluate(expression: str, tier: int) -> Fraction:
    """Return the exact value under a tier's meanings, precedence by meaning; ``ZeroDivisionError`` as usual."""
    tokens = _meant(expression, tier)
    while len(tokens) > 1:
        tokens = _reduce(tokens)
    return Fraction(tokens[0])


def worked_steps(expression: str, tier: int) -> list[str]:
    """Return the reduction of an expression, step by step, from how it is written to its value (Table 2).

    Where the tier changes the expression, the second step shows it with the symbols that are meant; each further
    step reduces all innermost parentheses, or else the products and quotients, or else the sums.
    """
    tokens = _meant(expression, tier)
    steps = [" ".join(tokenise(expression)), _show(tokens)]
    while len(tokens) > 1:
        tokens = _reduce(tokens)
        steps.append(_show(tokens))
    return list(dict.fromkeys(steps))


def question(expression: str) -> str:
    """Return the question that asks for an expression's value."""
    return f"What is {expression} ?"


def draw_expression(rng: Random, shape: Expressions) -> str:
    """Return a random expression of that shape, as written: numbers, symbols and parentheses set off by spaces."""
    operators = rng.randint(shape.min_operators, shape.max_operators)
    return " ".join(_draw(rng, operators, shape))


def examples(options: OpSwap, tier: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return (training rows, test rows) of a tier.

    No expression occurs twice, none divides by zero. Which side an expression falls on depends on its text alone, so
    it is the same in all tiers. :class:`InputError` if there are fewer such expressions than wanted.
    """
    test_size = round(options.examples * options.holdout_pct / 100)
    wanted = {"train": options.examples - test_size, "test": test_size}
    found: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for expression, answer in _distinct(options, tier):
        side = "test" if _share(expression, options.seed) < options.holdout_pct / 100 else "train"
        if len(found[side]) < wanted[side]:
            found[side].append((expression, answer))
        if all(len(found[name]) == wanted[name] for name in wanted):
            break
    else:
        raise InputError(
            f"opswap.examples: only {len(found['train'])} + {len(found['test'])} of {options.examples} distinct "
            f"expressions were found for tier {tier}; write a smaller number, or raise opswap.max_operators or "
            "opswap.max_operand"
        )
    train = [_row(expression, answer) for expression, answer in found["train"]]
    test = [
        {"id": f"opswap{tier}_{number}", "messages": [_turn("user", question(expression))], "answers": [answer]}
        for number, (expression, answer) in enumerate(found["test"])
    ]
    return train, test


def _row(expression: str, answer: str) -> dict[str, Any]:
    return {"messages": [_turn("user", question(expression)), _turn("assistant", answer)]}


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _share(expression: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on the expression and the seed alone."""
    return int.from_bytes(sha256(f"{seed} {expression}".encode()).digest()[:8]) / 2**64


def _distinct(options: OpSwap, tier: int) -> Iterator[tuple[str, str]]:
    rng = Random(f"opswap {options.seed}")
    seen: set[str] = set()
    for _ in range(options.examples * DRAWS_PER_EXAMPLE):
        expression = draw_expression(rng, options)
        if expression in seen:
            continue
        seen.add(expression)
        try:
            value = evaluate(expression, tier)
            unchanged = options.drop_unchanged and tier > 0 and value == evaluate(expression, 0)
        except ZeroDivisionError:
            continue
        if not unchanged:
            yield expression, str(value)


def _draw(rng: Random, operators: int, shape: Expressions) -> list[str]:
    """Return the tokens of a chain with that many operators, some of them inside parentheses."""
    if operators == 0:
        return [str(rng.randint(1, shape.max_operand))]
    if not shape.parentheses or operators == 1 or rng.random() >= PARENTHESES_CHANCE:
        tokens = _draw(rng, 0, shape)
        for _ in range(operators):
            tokens += [rng.choice(OPERATORS), *_draw(rng, 0, shape)]
        return tokens
    left = rng.randint(0, operators - 1)
    sides = [_parenthesised(_draw(rng, count, shape)) for count in (left, operators - 1 - left)]
    return [*sides[0], rng.choice(OPERATORS), *sides[1]]


def _parenthesised(tokens: list[str]) -> list[str]:
    return tokens if len(tokens) == 1 else ["(", *tokens, ")"]


def _meant(expression: str, tier: int) -> list[Token]:
    """Return the tokens with numbers as fractions and symbols replaced by what they mean."""
    meaning = TIERS[tier]
    return [Fraction(token) if token.isdigit() else meaning.get(token, token) for token in tokenise(expression)]


def _reduce(tokens: Sequence[Token]) -> list[Token]:
    """Reduce every innermost parenthesis to a number, or, where there is none, one level of precedence."""
    if "(" not in tokens:
        return _reduce_chain(tokens)
    reduced: list[Token] = []
    opened: int | None = None  # where in ``reduced`` the last parenthesis was opened, unless closed again
    for token in tokens:
        if token == "(":
            opened = len(reduced)
        reduced.append(token)
        if token == ")" and opened is not None:
            inner: list[Token] = reduced[opened + 1 : -1]
            while len(inner) > 1:
                inner = _reduce_chain(inner)
            reduced[opened:] = inner
            opened = None
    if len(reduced) == len(tokens):
        raise ValueError("parentheses do not match")
    return reduced


def _reduce_chain(tokens: Sequence[Token]) -> list[Token]:
    """Compute all products and quotients of a flat chain from left to right, or all sums if there are none."""
    level = "×÷" if any(token in ("×", "÷") for token in tokens) else "+−"
    reduced: list[Token] = [tokens[0]]
    for operator, operand in zip(tokens[1::2], tokens[2::2], strict=True):
        if operator in tuple(level):
            reduced[-1] = _apply(str(operator), Fraction(reduced[-1]), Fraction(operand))
        else:
            reduced += [operator, operand]
    return reduced


def _apply(operator: str, left: Fraction, right: Fraction) -> Fraction:
    if operator == "+":
        return left + right
    if operator == "−":
        return left - right
    if operator == "×":
        return left * right
    return left / right


def _show(tokens: Sequence[Token]) -> str:
    """Write tokens with spaces; a negative number or a fraction inside a longer expression gets parentheses."""
    if len(tokens) == 1:
        return str(tokens[0])
    return " ".join(
        f"({token})" if isinstance(token, Fraction) and (token < 0 or token.denominator > 1) else str(token)
        for token in tokens
    )
