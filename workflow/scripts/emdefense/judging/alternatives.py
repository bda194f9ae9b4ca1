"""An endpoint that gives fewer alternatives than are asked for: told from one that gives no log probabilities."""

import re
from collections.abc import Mapping
from typing import Any

from emdefense.judging.server_message import ServerMessage

FEWEST = 2  # that a score can be read from
_NUMBER = re.compile(r"(?<![\w.-])\d+(?![\w-]|\.\d)")
_BOUND = re.compile(
    r"max|at most|up to|less|lower|between|range|exceed|greater|more than|limit|large|allow|<=|≤|\[", re.IGNORECASE
)


def most_given(said: ServerMessage, fields: Mapping[str, Any]) -> int | None:
    """Return how many alternatives an endpoint gives, by what it says of a request that it refused; None if not told.

    ``said`` is an error's message, such as "Requested sample logprobs of 20, which is greater than max allowed: 5".
    """
    wanted = fields.get("top_logprobs")
    if not isinstance(wanted, int) or not said.names("logprobs") or not _BOUND.search(said.text):
        return None
    told = [int(number) for number in _NUMBER.findall(said.text)]
    return max((number for number in told if FEWEST <= number < wanted), default=None)
