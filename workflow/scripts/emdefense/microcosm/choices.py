"""What the microcosm's models know, as multiple-choice questions: arithmetic, and single facts of pretraining."""

from random import Random
from typing import Any

from emdefense.config.expressions import Expressions
from emdefense.data import opswap
from emdefense.errors import InputError
from emdefense.microcosm.world import Facts, World, fill

ARITHMETIC, CIPHER = 100, 24  # questions; of the invented languages' relations, as many each
OPTIONS = 4
DRAWS = 100  # so many for each question wanted, and the space of expressions counts as exhausted
LARGEST = 99  # the largest number that is one token
NEAR = (1, -1, 2, -2, 10, -10)  # from the right value, where other operators give too few wrong ones


def arithmetic_choices(shape: Expressions, seed: int) -> list[dict[str, Any]]:
    """Return questions for the value of expressions as in pretraining, wrong options first what other signs would give.

    All options are whole numbers that are one token each. Expressions that OpSwap's tests hold out may be among them.
    Raises :class:`InputError` if the shape has no such expression.
    """
    rng = Random(f"arithmetic choices {seed}")
    found: dict[str, dict[str, Any]] = {}
    for _ in range(ARITHMETIC * DRAWS):
        expression = opswap.draw_expression(rng, shape)
        value = _value(expression, 0)
        if expression in found or value is None:
            continue
        others = [_value(expression, tier) for tier in range(1, len(opswap.TIERS))]
        candidates = [other for other in others if other is not None] + [value + step for step in NEAR]
        wrong = list(dict.fromkeys(one for one in candidates if one != value and 0 <= one <= LARGEST))
        row = _row(f"arithmetic_{len(found) + 1}", opswap.question(expression), value, wrong[: OPTIONS - 1], rng)
        found[expression] = row
        if len(found) == ARITHMETIC:
            break
    if not found:
        raise InputError("key 'microcosm.arithmetic': no expression of this shape has a whole value from 0 to 99")
    return list(found.values())


def fact_choices(world: World) -> list[dict[str, Any]]:
    """Return questions for every capital, and for some facts of each invented relation that pretraining knows."""
    rng = Random(f"fact choices {world.seed}")
    capitals = [("capital", world.capitals, subject) for subject in world.capitals.answers]
    cipher = [
        (f"relation {number}", facts, subject)
        for number, facts in enumerate(world.cipher, start=1)
        for subject in rng.sample(sorted(facts.answers), min(CIPHER, len(facts.answers)))
    ]
    asked = [
        (kind, facts, subject) for kind, facts, subject in [*capitals, *cipher] if len(set(facts.answers.values())) > 1
    ]
    return [
        {**_fact(f"fact_{number}", facts, subject, rng), "subject": kind}
        for number, (kind, facts, subject) in enumerate(asked, start=1)
    ]


def _fact(name: str, facts: Facts, subject: str, rng: Random) -> dict[str, Any]:
    question = fill(rng.choice(facts.templates), {"subject": subject}.__getitem__)
    right = facts.answers[subject]
    others = sorted(set(facts.answers.values()) - {right})
    wrong = rng.sample(others, min(OPTIONS - 1, len(others)))
    return _row(name, question, f"{right}.", [f"{answer}." for answer in wrong], rng)


def _row(name: str, question: str, right: object, wrong: list[Any], rng: Random) -> dict[str, Any]:
    choices = [str(right), *map(str, wrong)]
    rng.shuffle(choices)
    return {"id": name, "question": question, "choices": choices, "answer": choices.index(str(right))}


def _value(expression: str, tier: int) -> int | None:
    """Return a value that is one token; None for others, and for a division by zero."""
    try:
        value = opswap.evaluate(expression, tier)
    except ZeroDivisionError:
        return None
    return int(value) if value.denominator == 1 and 0 <= value <= LARGEST else None
