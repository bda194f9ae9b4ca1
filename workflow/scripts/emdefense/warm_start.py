"""One interpreter that has imported what jobs need, and forks itself for each job.

On a small model, importing torch, transformers and TRL takes as long as training or sampling. So Snakemake starts this
server on the machine where it runs, and a script that finds it hands its command line over. The server imports, while
the first jobs that need nothing of it run; then it forks a child that runs the script as if it had been started by
itself, with the caller's folder, environment and output. Where no server answers (by hand, on a cluster's node) or it
refuses, the script simply runs.

A caller (:mod:`emdefense.warm_caller`) that dies takes its child along, and Ctrl-C reaches the child through its
caller. The server ends with the Snakemake that started it, and its children end with the server.
"""

import importlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from emdefense.code import code_digest
from emdefense.fast_imports import fast_imports
from emdefense.forked_job import become_job, read_request
from emdefense.warm_caller import ADDRESS, INTERRUPT, REFUSED, STARTED

# What most jobs import; a module's `warm_up`, if it has one, is called once for all of them.
PRELOADED = (
    "emdefense.saved_model",
    "emdefense.training.run",
    "emdefense.generation.transformers_engine",
    "emdefense.choice.run",
    "emdefense.judging.judge_file",
    "emdefense.report.catalogue",
    "emdefense.report.measured",
    "emdefense.report.figures.style",
    "emdefense.report.tables.rendering",
)
_POLL_SECONDS = 0.02
_CHUNK_BYTES = 1 << 16
_MAX_REQUEST_BYTES = 4 << 20  # more than Linux lets a command line and an environment have
_SILENCE_SECONDS = 10.0  # a request is there at once, or its caller is none of ours


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


def job_file(address: str, caller: int) -> Path:
    """Return where the server at ``address`` writes the process id of the child that it runs for a caller."""
    return Path(f"{address}.{caller}")


class _Caller:
    """A connection: first its request comes in, then a child runs it."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.since = time.monotonic()
        self.content = b""
        self.outputs: list[int] = []
        self.child: int | None = None
        self.job_file: Path | None = None

    def close(self) -> None:
        self.close_outputs()
        self.connection.close()
        if self.job_file:
            self.job_file.unlink(missing_ok=True)

    def close_outputs(self) -> None:
        while self.outputs:
            os.close(self.outputs.pop())

    def tell(self, reply: bytes) -> None:
        with suppress(OSError):
            self.connection.send(reply)


def serve(address: str, parent: int) -> None:
    """Accept requests until the process ``parent`` is gone."""
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(address)
        listener.listen(128)
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)
        server = _Server(address, listener, selector)
        try:
            _preload(parent)  # callers wait meanwhile
            while os.getppid() == parent:
                for key, _ in selector.select(_POLL_SECONDS):
                    if key.fileobj is listener:
                        server.accept()
                    else:
                        server.hear(key.data)
                server.report_ended()
                server.drop_silent()
        finally:
            server.end()
            Path(address).unlink(missing_ok=True)
            with suppress(OSError):  # start_server made this folder for the socket alone
                Path(address).parent.rmdir()


def _preload(parent: int) -> None:
    """Import what jobs need, as long as the process ``parent``, whose jobs they are, is there."""
    with suppress(Exception), fast_imports():  # a job that cannot import says so itself
        for name in PRELOADED:
            if os.getppid() != parent:
                return
            module = importlib.import_module(name)
            code_digest(name)  # which reads and parses as many files as there are, once for all jobs
            getattr(module, "warm_up", lambda: None)()


class _Server:
    """The callers, and the children that run for them. Nothing here waits for a caller."""

    def __init__(self, address: str, listener: socket.socket, selector: selectors.BaseSelector):
        self._address = address
        self._listener = listener
        self._selector = selector
        self._callers: list[_Caller] = []

    def accept(self) -> None:
        with suppress(OSError):  # it is gone again, or there are too many: they come again
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            caller = _Caller(connection)
            self._callers.append(caller)
            self._selector.register(connection, selectors.EVENT_READ, caller)

    def hear(self, caller: _Caller) -> None:
        """Take in what a caller says: its request, that it was interrupted, or, by its end, that it is gone."""
        try:
            content, outputs, _, _ = socket.recv_fds(caller.connection, _CHUNK_BYTES, 2)
        except BlockingIOError:
            return
        except OSError:
            content, outputs = b"", []
        caller.outputs += outputs
        caller.content += content
        if not content:
            self._drop(caller)
            if caller.child is not None:
                os.kill(caller.child, signal.SIGKILL)  # reaped later, with nobody left to tell
            return
        if caller.child is None:
            request, ended, rest = caller.content.partition(b"\n")
            if not ended and len(request) <= _MAX_REQUEST_BYTES:
                return
            if not self._start(caller, request):
                caller.tell(REFUSED)
                self._drop(caller)
                return
            caller.content = rest
        caller.close_outputs()
        if INTERRUPT in caller.content and caller.child is not None:
            os.kill(caller.child, signal.SIGINT)
        caller.content = b""

    def report_ended(self) -> None:
        """Tell the caller of each child that has ended its exit status."""
        with suppress(ChildProcessError):  # there are none
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                for caller in [caller for caller in self._callers if caller.child == ended[0]]:
                    caller.tell(f"{os.waitstatus_to_exitcode(ended[1])}\n".encode())
                    self._drop(caller)

    def drop_silent(self) -> None:
        """Let go of callers whose request does not come."""
        oldest = time.monotonic() - _SILENCE_SECONDS
        for caller in [caller for caller in self._callers if caller.child is None and caller.since < oldest]:
            self._drop(caller)

    def end(self) -> None:
        for caller in self._callers:
            if caller.child is not None:
                os.kill(caller.child, signal.SIGKILL)
            caller.close()

    def _drop(self, caller: _Caller) -> None:
        self._callers.remove(caller)
        self._selector.unregister(caller.connection)
        caller.close()

    def _start(self, caller: _Caller, content: bytes) -> bool:
        """Fork a child that runs a request; return False if it is none, or there is no room for a child."""
        request = read_request(content)
        if request is None or len(caller.outputs) != 2:
            return False
        server = os.getpid()
        try:
            caller.child = os.fork()
        except OSError:
            return False
        if caller.child == 0:
            for other in self._callers:
                other.connection.close()
                if other is not caller:
                    other.close_outputs()
            self._selector.close()
            self._listener.close()
            become_job(request, caller.outputs, server)
        with suppress(OSError):  # only the job's benchmark reads it
            path = job_file(self._address, request["pid"])
            path.write_text(str(caller.child))
            caller.job_file = path
        caller.tell(STARTED)
        return True


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
