"""A job in a process that was forked from one that has imported all that the job needs."""

import ctypes
import json
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from emdefense import INTERRUPTED
from emdefense.machine_limits import lack


def read_request(content: bytes) -> dict[str, Any] | None:
    """Return a request, or None if this is none."""
    try:
        request = json.loads(content)
        texts = [*request["argv"], request["folder"], *request["environment"], *request["environment"].values()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    sound = all(isinstance(text, str) for text in texts) and isinstance(request["pid"], int) and request["argv"]
    return request if sound else None


def become_job(request: dict[str, Any], outputs: Sequence[int], server: int) -> NoReturn:
    """Run a request in this process, a fork of ``server``, with these descriptors for its output, and end with it."""
    code = 1
    try:
        _die_with(server)
        for output, standard in zip(outputs, (1, 2), strict=True):
            os.dup2(output, standard)
            os.close(output)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the server inherited
        code = _run_script(request)
    finally:
        os._exit(code)


def _die_with(server: int) -> None:
    """Have the kernel kill this process when ``server``, which forked it, is gone; Linux can."""
    set_parent_death_signal = 1
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != server:  # it went before this could be asked for
        os._exit(1)


def _run_script(request: dict[str, Any]) -> int:
    """Run a script in this process and return its exit status."""
    try:
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = request["argv"]
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        if not isinstance(error.code, int | None):
            print(error.code, file=sys.stderr)
            return 1
        return error.code or 0
    except KeyboardInterrupt:
        print(f"error: {INTERRUPTED}", file=sys.stderr)
        return 130
    except BaseException as error:
        said = lack(error)
        print(f"error: {said}" if said else traceback.format_exc(), file=sys.stderr)
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
