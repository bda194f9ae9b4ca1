"""A command run in a terminal of its own, and what it wrote there."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SECONDS = 120.0


class Shown(NamedTuple):
    """What a terminal got, and the exit status of the command."""

    raw: str
    status: int

    @property
    def text(self) -> str:
        """What was written, without colours and movements; lines that were redrawn stand there each time."""
        return _CONTROL.sub("", self.raw).replace("\r\n", "\n").replace("\r", "\n")

    @property
    def has_cursor(self) -> bool:
        """Whether the cursor was given back, if it was ever hidden."""
        return self.raw.rfind(SHOW_CURSOR) >= self.raw.rfind(HIDE_CURSOR)


def in_terminal(
    command: list[str],
    folder: Path,
    *,
    columns: int = 100,
    interrupt: Callable[[str], bool] = lambda text: False,
    **variables: str,
) -> Shown:
    """Run a command in a pseudo-terminal; Ctrl-C is typed once ``interrupt`` says so of what was written until then."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "TERM": "xterm-256color", **variables},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=_take_terminal,
    )
    os.close(theirs)
    raw, typed, ends = b"", False, time.monotonic() + _SECONDS
    while time.monotonic() < ends:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                raw += os.read(ours, 1 << 16)
            except OSError:  # nobody holds the other end any more
                break
        if not typed and interrupt(raw.decode("utf-8", errors="replace")):
            os.write(ours, b"\x03")
            typed = True
    else:
        process.kill()
    status = process.wait()
    os.close(ours)
    return Shown(raw.decode("utf-8", errors="replace"), status)


def _take_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
