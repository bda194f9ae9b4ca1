"""The one exception that users see as a single line."""

import sys
from collections.abc import Callable

# What would end the line, or act on the terminal that shows it: control characters and Unicode's line separators.
_UNSHOWN = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_UNSHOWN |= {ord(character): repr(character)[1:-1] for character in "\t\n\r"}
_UNSHOWN |= {code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0xD800, 0xE000))}


class InputError(ValueError):
    """Something the user gave is wrong: the message names the file, key or row, and what to write instead.

    It is one line whatever was given: control characters and halves of surrogate pairs in it are spelt out.
    """

    status = 2  # a script's exit status

    def __init__(self, message: str):
        super().__init__(message.translate(_UNSHOWN))


def run_cli(main: Callable[[], None]) -> None:
    """Run a script's ``main``; an :class:`InputError` becomes one line on stderr and its exit status."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.status) from None
