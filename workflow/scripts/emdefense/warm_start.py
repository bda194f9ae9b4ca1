"""One interpreter that has imported the training stack, and forks itself for each job.

On a small model, importing torch, transformers and TRL takes as long as training or sampling. So Snakemake starts this
server on the machine where it runs, and a script that finds it hands its command line over. The server imports when
first asked; then it forks a child that runs the script as if it had been started by itself, with the caller's folder,
environment and output. Where no server answers (by hand, on a cluster's node) the script simply runs.

A caller that dies takes its child along, and the server ends with the Snakemake that started it.
"""

import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from emdefense.fast_imports import fast_imports

ADDRESS = "EMDEFENSE_WARM_START"  # environment variable: the server's socket
PRELOADED = ("emdefense.training.run", "emdefense.generation.transformers_engine")
_POLL_SECONDS = 0.02
_MAX_REQUEST_BYTES = 1 << 20


def start_server() -> None:
    """Start a server that lives as long as this process, and tell all later children of this process where it is."""
    address = str(Path(tempfile.mkdtemp(prefix="emdefense-")) / "socket")
    os.environ[ADDRESS] = address
    subprocess.Popen(
        [sys.executable, "-m", "emdefense.warm_start", address, str(os.getpid())],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches callers, and through them their children
    )


def run_warm(run: Callable[[], None]) -> None:
    """Have the server run this process's command line and exit with its status; without a server, call ``run``."""
    address = os.environ.pop(ADDRESS, None)
    if address is None or not Path(address).exists():
        run()
        return
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
        except OSError:
            run()
            return
        request = {"argv": sys.argv, "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], [1, 2])
        status = connection.recv(16)
    raise SystemExit(int(status) if status else "error: the server that ran this job ended; run it again")


def serve(address: str, parent: int) -> None:
    """Accept requests until the process ``parent`` is gone."""
    children: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(address)
        listener.listen(128)
        selector.register(listener, selectors.EVENT_READ)
        try:
            while os.getppid() == parent:
                for key, _ in selector.select(_POLL_SECONDS):
                    if key.fileobj is listener:
                        connection, _ = listener.accept()
                        children[_fork(connection, listener)] = connection
                        selector.register(connection, selectors.EVENT_READ)
                    else:  # callers say nothing after their request, so this one is gone
                        selector.unregister(key.fileobj)
                        pid = next(pid for pid, connection in children.items() if connection is key.fileobj)
                        os.kill(pid, signal.SIGKILL)
                _report_ended(children, selector)
        finally:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            Path(address).unlink(missing_ok=True)
            with suppress(OSError):  # start_server made this folder for the socket alone
                Path(address).parent.rmdir()


def _report_ended(children: dict[int, socket.socket], selector: selectors.BaseSelector) -> None:
    """Tell the caller of each child that has ended its exit status."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        connection = children.pop(pid)
        with suppress(OSError, KeyError):
            selector.unregister(connection)
        with suppress(OSError):
            code = os.waitstatus_to_exitcode(status)
            connection.sendall(str(code if code >= 0 else 128 - code).encode())
        connection.close()


def _fork(connection: socket.socket, listener: socket.socket) -> int:
    """Fork a child that runs the request waiting on ``connection``; return its process id."""
    content, outputs, _, _ = socket.recv_fds(connection, _MAX_REQUEST_BYTES, 2)
    while not content.endswith(b"\n"):
        content += connection.recv(_MAX_REQUEST_BYTES)
    with fast_imports():
        for module in PRELOADED:
            importlib.import_module(module)
    pid = os.fork()
    if pid:
        for output in outputs:
            os.close(output)
        return pid
    code = 1
    try:
        listener.close()
        connection.close()
        request = json.loads(content)
        for output, standard in zip(outputs, (1, 2), strict=True):
            os.dup2(output, standard)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        code = _run_script(request["argv"])
    finally:
        os._exit(code)


def _run_script(argv: list[str]) -> int:
    """Run a script in this process and return its exit status."""
    sys.argv = argv
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as error:
        if not isinstance(error.code, int | None):
            print(error.code, file=sys.stderr)
            return 1
        return error.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
