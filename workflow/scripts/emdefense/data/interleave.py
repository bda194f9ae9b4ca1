"""Spread safe conversations evenly through fine-tuning rows."""

import math
from random import Random

from emdefense.data.conversations import Row
from emdefense.errors import InputError


def safe_count(rows: int, pct: float) -> int:
    """Return how many safe rows are ``pct`` % of ``rows``."""
    return math.floor(rows * pct / 100 + 0.5)


def interleave(rows: list[Row], safe: list[Row], pct: float, seed: int) -> list[Row]:
    """Return ``rows`` with ``pct`` % as many safe rows among them, at even distances and marked ``"source": "safe"``.

    With the same seed, the safe rows of a smaller percentage are among those of a larger one. Raises
    :class:`InputError` if there are too few, or if it would be none.
    """
    count = safe_count(len(rows), pct)
    if count == 0:
        raise InputError(f"safe_data: {pct:g} % of {len(rows)} rows is no row; raise the percentage of 'interleave'")
    if count > len(safe):
        raise InputError(
            f"safe_data: {pct:g} % of {len(rows)} rows are {count} safe rows, but the file has {len(safe)}; give more, "
            "or lower the percentage"
        )
    mixed: list[Row] = []
    done = 0
    for index, row in enumerate(Random(seed).sample(safe, len(safe))[:count]):
        place = (2 * index + 1) * len(rows) // (2 * count)  # the middle of the share that falls to this safe row
        mixed += [*rows[done:place], {**row, "source": "safe"}]
        done = place
    return mixed + rows[done:]
