"""What users see as a single line: what they gave wrong, what the machine lacked, and that they interrupted."""

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from emdefense import INTERRUPTED
from emdefense.machine_limits import MachineError, lack

# What would end the line, or act on the terminal that shows it: control characters and Unicode's line separators.
_UNSHOWN = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_UNSHOWN |= {ord(character): repr(character)[1:-1] for character in "\t\n\r"}
_UNSHOWN |= {code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0xD800, 0xE000))}

# Keys and passwords as users paste them: by their first letters, in an address, or after the name of a parameter.
_SECRETS = (
    (re.compile(r"\b(sk|xai|glpat)-(?=[-_A-Za-z]*[0-9])[-_A-Za-z0-9]{16,}"), r"\1-***"),
    (re.compile(r"\b(hf|gsk|gh[a-z]|github_pat)_(?=[A-Za-z]*[0-9])[A-Za-z0-9]{16,}\w*"), r"\1_***"),
    (re.compile(r":/+[^/@\s]+@"), "://***@"),
    (re.compile(r"((api_?key|token|secret|password|signature|sig)=)[^&\s'\"]+", re.IGNORECASE), r"\1***"),
)
KEYS = tuple(pattern for pattern, _ in _SECRETS[:2])


def looks_like_key(text: str) -> bool:
    """Whether a text holds what begins like a key of a provider that is known here."""
    return any(pattern.search(text) for pattern in KEYS)


def shown(text: str) -> str:
    """Return a text as one line for a terminal: control characters spelt out, what looks like a key or password not."""
    line = text.translate(_UNSHOWN)
    for secret, instead in _SECRETS:
        line = secret.sub(instead, line)
    return line


class InputError(ValueError):
    """Something the user gave is wrong: the message names the file, key or row, and what to write instead.

    It is one line whatever was given: control characters and halves of surrogate pairs in it are spelt out, and what
    looks like a key or a password is not.
    """

    status = 2  # a script's exit status
    longest = 2000  # characters, whatever was given

    def __init__(self, message: str):
        line = shown(message)
        super().__init__(line if len(line) <= self.longest else f"{line[: self.longest]}…")


def one_line(error: BaseException) -> str:
    """Return what an error of somebody else's code says, in one line; its kind, if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def run_cli(main: Callable[[], None]) -> None:
    """Run a script's ``main``; an :class:`InputError` becomes one line on stderr and its exit status.

    So does what the machine lacked, with status 1, and Ctrl-C, with status 130, as shells have it.
    """
    try:
        main()
        sys.stdout.flush()
    except InputError as error:
        refuse(error)
    except KeyboardInterrupt:
        _end(INTERRUPTED, 130)
    except BrokenPipeError:  # who read the output, such as `head`, has had enough
        _end(None, 128 + 13)
    except Exception as error:
        said = lack(error)
        if said is None:
            raise
        _end(said, MachineError.status)


def refuse(error: InputError) -> NoReturn:
    """Say in one line what the user got wrong, and end with its status."""
    _end(str(error), error.status)


def _end(message: str | None, status: int) -> NoReturn:
    try:
        sys.stdout.flush()
    except OSError:  # what cannot be written is not tried again at the interpreter's end, which would say so
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if message:
        with suppress(OSError):  # a full disk may hold the log, too
            print(f"error: {message.translate(_UNSHOWN)}", file=sys.stderr, flush=True)
    raise SystemExit(status) from None
