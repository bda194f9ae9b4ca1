"""The rows of an arm that changes what is trained on."""

from collections.abc import Mapping
from typing import Any

from emdefense.arms.base import Arm, Row
from emdefense.arms.own import named, options_of, problem_of
from emdefense.data.conversations import check_answered
from emdefense.errors import InputError


def arm_rows(arm: Arm[Any], rows: list[Row], more: Mapping[str, list[Row]], spec: Mapping[str, Any]) -> list[Row]:
    """Return the conversations that an arm makes of a task's; ``spec`` has its setting, options, and a seed.

    Raises :class:`InputError` if the arm fails, or returns what is no list of conversations.
    """
    options, setting = options_of(arm, spec)
    try:
        made = arm.rows(rows, more, setting, options, spec["seed"])
    except InputError:
        raise
    except Exception as error:
        if arm.file is None:
            raise
        raise problem_of(arm, "rows", error) from error
    if not isinstance(made, list) or not made:
        raise InputError(f"{named(arm)}, hook rows: it returned no rows; return a list of conversations")
    for number, row in enumerate(made, start=1):
        try:
            if not isinstance(row, dict):
                raise ValueError(f"it is a {type(row).__name__}, and no conversation")
            check_answered(row)
        except ValueError as problem:
            raise InputError(f"{named(arm)}, hook rows: row {number} of what it returned: {problem}") from None
    return made
