"""The one exception that users see as a single line."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """Something the user gave is wrong: the message names the file, key or row, and what to write instead."""

    status = 2  # a script's exit status


def run_cli(main: Callable[[], None]) -> None:
    """Run a script's ``main``; an :class:`InputError` becomes one line on stderr and its exit status."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.status) from None
