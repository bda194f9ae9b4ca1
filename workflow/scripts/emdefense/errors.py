"""The one exception that users see as a single line."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """Something the user gave is wrong: the message names the file, key or row, and what to write instead."""


def run_cli(main: Callable[[], None]) -> None:
    """Run a script's ``main``; an :class:`InputError` becomes one line on stderr and exit status 2."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
