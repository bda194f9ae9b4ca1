"""The caller of the interpreter that is warm: it hands over its command line, and waits.

A study has hundreds of jobs, each with such a caller, so it imports what handing over takes and nothing else. A script
that is called so imports what it needs in its ``main``.
"""

import json
import os
import socket
import sys
from collections.abc import Callable

from emdefense import INTERRUPTED

ADDRESS = "EMDEFENSE_WARM_START"  # environment variable: the server's socket
STARTED, REFUSED, INTERRUPT = b"started\n", b"refused\n", b"\x03"
_GRACE_SECONDS = 10.0  # for an interrupted job to clean up


def run_warm(main: Callable[[], None]) -> None:
    """Have the server run this process's command line and exit with its status; without a server, run ``main``.

    What goes wrong in ``main`` becomes a line on stderr and an exit status, as :func:`emdefense.errors.run_cli` says.
    """
    address = os.environ.pop(ADDRESS, None)
    try:
        status = None if address is None else _run_there(address)
    except KeyboardInterrupt:
        raise _failed(INTERRUPTED, 130) from None
    if status is None:
        from emdefense.errors import run_cli

        run_cli(main)
    elif status < 0:
        from emdefense.machine_limits import killed

        raise _failed(killed(-status), 128 - status)
    else:
        raise SystemExit(status)


def _failed(message: str, status: int) -> SystemExit:
    """Say why on stderr and return what ends this process."""
    print(f"error: {message}", file=sys.stderr)
    return SystemExit(status)


def _run_there(address: str) -> int | None:
    """Return the exit status of the job run by the server, minus the signal that killed it; None if it was not run."""
    request = {"argv": sys.argv, "folder": os.getcwd(), "environment": dict(os.environ), "pid": os.getpid()}
    content = json.dumps(request).encode() + b"\n"
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
            socket.send_fds(connection, [content[:1]], [1, 2])
            connection.sendall(content[1:])
            replies = connection.makefile("rb")
            if replies.readline() != STARTED:
                return None
        except OSError:
            return None
        try:
            status = replies.readline()
        except KeyboardInterrupt:
            connection.settimeout(_GRACE_SECONDS)
            try:
                connection.sendall(INTERRUPT)
                if replies.readline():
                    raise SystemExit(130) from None  # the job has said why
            except OSError:
                pass
            raise
        except OSError:
            status = b""
    if not status:
        raise _failed("the server that ran this job ended; run it again", 1)
    return int(status)
