"""The rows of an arm that changes what is trained on."""

import json
from collections.abc import Mapping
from typing import Any

from emdefense.arms.base import Arm, Options, Row
from emdefense.arms.hooks import call, wrong_result
from emdefense.data.conversations import check_answered


def arm_rows(
    arm: Arm[Any], rows: list[Row], more: Mapping[str, list[Row]], setting: float | None, options: Options, seed: int
) -> list[Row]:
    """Return the conversations that an arm makes of a task's.

    Raises :class:`InputError` if the arm fails, or returns what is no list of conversations.
    """
    made = call(arm, "rows", rows, more, setting, options, seed)
    if not isinstance(made, list) or not made:
        raise wrong_result(arm, "rows", "it returned no rows; return a list of conversations")
    for number, row in enumerate(made, start=1):
        try:
            if not isinstance(row, dict):
                raise ValueError(f"it is a {type(row).__name__}, and no conversation")
            check_answered(row)
            json.dumps(row, allow_nan=False)
        except (ValueError, TypeError) as problem:
            raise wrong_result(arm, "rows", f"row {number} of what it returned: {problem}") from None
    return made
