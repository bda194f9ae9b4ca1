"""Whether a person watches, as bars are for terminals alone; and what marks a record for the end of a run."""

import os
import sys

AT_THE_END = "emdefense_at_the_end"  # attribute of records that are shown below the bars, when they stand still


def shows_bars() -> bool:
    """Whether stderr is a terminal that can redraw its lines."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
