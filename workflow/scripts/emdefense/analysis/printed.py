"""Numbers as readers see them."""

from math import ceil, floor

DECIMALS = 2  # of rates in percent


def signed(value: float, *, plus: bool = True, decimals: int = DECIMALS) -> str:
    """Return a number as printed with its sign, ``+`` only if ``plus``; what prints as zero has none."""
    text = f"{value:+.{decimals}f}"
    bare = text[1:]
    if not bare.strip("0."):
        return bare
    return f"−{bare}" if text[0] == "-" else f"+{bare}" if plus else bare


def points(value: float) -> str:
    """Return percentage points, or a share in percent, to one decimal; ``+`` is left out."""
    return signed(value, plus=False, decimals=1)


def bracketed(low: float, high: float, *, plus: bool = False) -> str:
    """Return an interval in brackets, in whole points, rounded outwards."""
    ends = floor(low + 1e-7), ceil(high - 1e-7)
    between = "–" if ends[0] >= 0 and not plus else " to "
    return f"({between.join(signed(end, plus=plus, decimals=0) for end in ends)})"
