"""Numbers as readers see them."""

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
