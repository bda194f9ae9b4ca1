"""Rows of a source: converted one by one, with a count of what is dropped and why."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from emdefense.errors import InputError
from emdefense.text_files import check_text

SHOWN = 20  # row numbers recorded for each reason; the counts are of all
REPEATED = "same as an earlier row"

Converted = dict[str, Any]


class Unusable(ValueError):
    """A row that is broken; the message says how."""


class Unwanted(ValueError):
    """A row that is left out on purpose; the message says why."""


@dataclass
class Rows:
    """The converted rows of one file or split, how many were read, and the numbers of those dropped by reason."""

    kept: list[Converted] = field(default_factory=list)
    read: int = 0
    unusable: dict[str, list[int]] = field(default_factory=dict)
    unwanted: dict[str, list[int]] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """Return what the source's record says of them."""
        dropped = {
            reason: {"rows": len(numbers), "first": numbers[:SHOWN]}
            for reason, numbers in {**self.unusable, **self.unwanted}.items()
        }
        return {"read": self.read, "kept": len(self.kept), "dropped": dropped}


def convert(raw: Iterable[Any], convert_one: Callable[[Any], Converted], where: str, max_unusable_pct: float) -> Rows:
    """Return the rows that ``convert_one`` makes of ``raw``, counted from 1, without those it rejects or repeats.

    It rejects by raising :class:`Unusable` or :class:`Unwanted`. Raises :class:`InputError` naming ``where`` if more
    than ``max_unusable_pct`` are unusable, or if nothing is left.
    """
    rows = Rows()
    seen: set[str] = set()
    for number, row in enumerate(raw, start=1):
        rows.read += 1
        try:
            made = convert_one(row)
            key = json.dumps({k: v for k, v in made.items() if k != "id"}, sort_keys=True)
            if key in seen:
                raise Unwanted(REPEATED)
        except Unusable as error:
            rows.unusable.setdefault(str(error), []).append(number)
        except Unwanted as error:
            rows.unwanted.setdefault(str(error), []).append(number)
        else:
            seen.add(key)
            rows.kept.append(made)
    _check_enough(rows, where, max_unusable_pct)
    return rows


def _check_enough(rows: Rows, where: str, max_unusable_pct: float) -> None:
    unusable = sum(len(numbers) for numbers in rows.unusable.values())
    if unusable > rows.read * max_unusable_pct / 100:
        reasons = "; ".join(
            f"{reason}: {len(numbers)}, first row {numbers[0]}" for reason, numbers in rows.unusable.items()
        )
        raise InputError(
            f"{where}: {unusable} of {rows.read} rows are unusable ({reasons}); mend them, or raise max_unusable_pct"
        )
    if not rows.kept:
        raise InputError(f"{where}: of {rows.read} rows none is left; check that it is the right file")


def check_columns(found: Iterable[str], expected: Iterable[str], where: str) -> None:
    """Raise :class:`InputError` saying what was expected and found if a column is missing; others may be there."""
    found, expected = sorted(found), list(expected)
    if set(expected) - set(found):
        raise InputError(
            f"{where}: expected the columns {', '.join(expected)}; found {', '.join(found) or 'none'}; has its format "
            "changed? Pin the revision that has them"
        )


def text(row: dict[str, Any], column: str) -> str:
    """Return a row's text; :class:`Unusable` if it has none."""
    value = row.get(column)
    if value is None:
        raise Unusable(f"{column} is missing")
    if not isinstance(value, str):
        raise Unusable(f"{column} is not a text")
    if not value.strip():
        raise Unusable(f"{column} is empty")
    try:
        check_text(value)
    except ValueError:
        raise Unusable(f"{column} holds half of a surrogate pair") from None
    return value


def conversation(prompt: str, answer: str) -> Converted:
    """Return one exchange in the format that everything downstream reads."""
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}
