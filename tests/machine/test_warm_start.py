"""The server that forks jobs: what a job prints and returns, who dies with whom, and what happens without it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from snakemake import benchmark

from emdefense.job_usage import Caller, Job, follow_jobs
from emdefense.warm_caller import ADDRESS, REFUSED
from emdefense.warm_start import job_file
from warm_parent import ENVIRONMENT, PARENT

JOB = """
import os, sys, time
from emdefense.warm_caller import run_warm

def main():
    print("in", os.getcwd(), "with", os.environ.get("GREETING"), "args", sys.argv[1:])
    print("forked", "preloaded" in sys.modules)
    print("to stderr", file=sys.stderr)
    if "sleep" in sys.argv:
        large = b"x" * (100 << 20)
        open("started", "w").write(str(os.getpid()))
        try:
            time.sleep(60)
        finally:
            open("cleaned", "w").close()
    if "crash" in sys.argv:
        raise RuntimeError("broken")
    sys.exit(3)

run_warm(main)
"""

SERVER = """
import os, sys, emdefense.warm_start as warm
warm.PRELOADED, warm._SILENCE_SECONDS, warm._MAX_REQUEST_BYTES = ("preloaded",), 0.5, 1 << 18
if os.fork():
    sys.stdin.read()
else:
    warm.serve({address!r}, os.getppid())
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.py"
    path.write_text(JOB)
    (tmp_path / "preloaded.py").write_text("")
    return path


@pytest.fixture
def server(tmp_path: Path, job: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A process that has started a server, which preloads a small module instead of the training stack."""
    address = tmp_path / "socket"
    code = SERVER.format(address=str(address))
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}{os.pathsep}{tmp_path}"}
    (tmp_path / "folder").mkdir()
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, text=True)
    wait_until(address.exists)
    monkeypatch.setitem(ENVIRONMENT, ADDRESS, str(address))
    yield parent
    parent.kill()
    parent.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run(job: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(job), *arguments],
        cwd=job.parent / "folder",
        env={**ENVIRONMENT, "GREETING": "hello"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.usefixtures("server")
def test_a_job_runs_in_a_fork_as_if_started_by_itself(job: Path) -> None:
    done = run(job, "a", "b c")
    expected = f"in {job.parent / 'folder'} with hello args ['a', 'b c']\nforked True\n"
    assert (done.returncode, done.stdout, done.stderr) == (3, expected, "to stderr\n")
    assert run(job).returncode == 3, "the server serves more than once"


@pytest.mark.usefixtures("server")
def test_a_crash_is_the_jobs_own(job: Path) -> None:
    done = run(job, "crash")
    assert done.returncode == 1
    assert "RuntimeError: broken" in done.stderr
    assert run(job).returncode == 3


def start_sleeper(job: Path) -> tuple[subprocess.Popen[str], int]:
    caller = subprocess.Popen(
        [sys.executable, str(job), "sleep"],
        cwd=job.parent / "folder",
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # also where it is ignored
    )
    started = job.parent / "folder/started"
    wait_until(lambda: started.exists() and started.read_text() != "")
    return caller, int(started.read_text())


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.usefixtures("server")
def test_a_killed_caller_takes_its_job_along(job: Path) -> None:
    caller, pid = start_sleeper(job)
    assert pid != caller.pid
    assert is_running(pid)
    caller.kill()
    caller.wait()
    wait_until(lambda: not is_running(pid))
    assert run(job).returncode == 3


def test_the_server_ends_with_its_parent_and_its_jobs_with_it(job: Path, server: subprocess.Popen[str]) -> None:
    caller, pid = start_sleeper(job)
    server.send_signal(signal.SIGKILL)
    server.wait()
    assert caller.wait(timeout=30) == 1
    wait_until(lambda: not is_running(pid))
    assert not Path(ENVIRONMENT[ADDRESS]).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent is gone")
@pytest.mark.usefixtures("server")
def test_a_killed_server_takes_its_jobs_along(job: Path) -> None:
    caller, pid = start_sleeper(job)
    os.kill(psutil.Process(pid).ppid(), signal.SIGKILL)
    wait_until(lambda: not is_running(pid))
    _, said = caller.communicate(timeout=30)
    assert caller.returncode == 1
    assert said.splitlines()[-1] == "error: the server that ran this job ended; run it again"


@pytest.mark.usefixtures("server")
def test_a_job_that_was_killed_says_so(job: Path) -> None:
    caller, pid = start_sleeper(job)
    os.kill(pid, signal.SIGKILL)
    _, said = caller.communicate(timeout=30)
    assert caller.returncode == 128 + 9
    assert said.splitlines()[-1].startswith(
        "error: the job was killed (signal 9), probably for want of memory; give it more"
    )
    assert run(job).returncode == 3


@pytest.mark.usefixtures("server")
def test_ctrl_c_reaches_the_job_which_cleans_up(job: Path) -> None:
    caller, pid = start_sleeper(job)
    caller.send_signal(signal.SIGINT)
    _, said = caller.communicate(timeout=30)
    assert caller.returncode == 130
    assert said == "to stderr\nerror: interrupted; run it again to go on, what is finished is kept\n"
    assert not is_running(pid)
    assert (job.parent / "folder/cleaned").exists()


def connection() -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(ENVIRONMENT[ADDRESS])
    made.settimeout(30)
    return made


NONSENSE = [
    b"garbage\n",
    b"\xff\xfe\n",
    b"[]\n",
    b"{}\n",
    b'{"argv": [], "folder": "/", "environment": {}, "pid": 1}\n',
    b'{"argv": ["a"], "folder": "/", "environment": {"A": 1}, "pid": 1}\n',
    b"[" * 100_000 + b"\n",
    b"x" * ((1 << 18) + 1),
]


@pytest.mark.usefixtures("server")
def test_nonsense_is_refused_and_nobody_waits_for_the_silent(job: Path) -> None:
    silent, half, gone = connection(), connection(), connection()
    half.sendall(b'{"argv": ')
    gone.sendall(b'{"argv": ')
    gone.close()
    assert run(job).returncode == 3, "a job runs meanwhile"
    for request in NONSENSE:
        with connection() as caller:
            socket.send_fds(caller, [request[:1]], [1, 2])
            caller.sendall(request[1:])
            assert caller.recv(100) == REFUSED, request[:20]
    sound = json.dumps({"argv": [str(job)], "folder": "/", "environment": {}, "pid": os.getpid()}).encode() + b"\n"
    for outputs in ([], [1]):
        with connection() as caller:
            if outputs:
                socket.send_fds(caller, [sound[:1]], outputs)
                caller.sendall(sound[1:])
            else:
                caller.sendall(sound)
            assert caller.recv(100) == REFUSED, "a job has two outputs"
    assert run(job).returncode == 3
    assert silent.recv(100) == half.recv(100) == b"", "they are let go"


@pytest.mark.usefixtures("server")
def test_a_job_that_is_refused_runs_by_itself(job: Path) -> None:
    done = run(job, "x" * 100_000, "y" * 100_000, "z" * 100_000)
    assert done.returncode == 3
    assert "forked False" in done.stdout


@pytest.mark.usefixtures("server")
def test_a_benchmark_is_of_the_job_and_not_of_its_caller(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, ENVIRONMENT[ADDRESS])
    monkeypatch.setattr(benchmark, "BenchmarkTimer", follow_jobs(benchmark.BenchmarkTimer))
    caller, pid = start_sleeper(job)
    with benchmark.benchmarked(caller.pid) as record:  # as Snakemake does with the shell of a rule
        wait_until(lambda: record.data_collected)
    assert record.max_rss > 100
    assert {process for process, _ in record.processed_procs} == {caller.pid, pid}
    caller.kill()
    caller.wait()
    wait_until(lambda: not job_file(ENVIRONMENT[ADDRESS], caller.pid).exists())


def test_pages_of_a_job_are_walked_over_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    walks = []
    walk = psutil.Process.memory_full_info
    monkeypatch.setattr(psutil.Process, "memory_full_info", lambda self: walks.append(self.pid) or walk(self))
    now = time.monotonic()
    monkeypatch.setattr("emdefense.job_usage.time.monotonic", lambda: now)
    job = Job(os.getpid())
    first = job.memory_full_info()
    held = bytearray(os.urandom(1 << 20) * 64)
    second = job.memory_full_info()
    assert (len(walks), second.uss) == (1, first.uss)
    assert second.rss - first.rss >= len(held) * 0.9, "what is resident costs nothing to ask"
    now += 60
    assert job.memory_full_info().uss > first.uss
    assert len(walks) == 2


@pytest.mark.usefixtures("server")
def test_children_of_a_job_are_looked_for_every_few_seconds(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, ENVIRONMENT[ADDRESS])
    looks = []
    look = psutil.Process.children
    monkeypatch.setattr(
        psutil.Process, "children", lambda self, recursive=False: looks.append(self.pid) or look(self, recursive)
    )
    now = time.monotonic()
    monkeypatch.setattr("emdefense.job_usage.time.monotonic", lambda: now)
    mine = Caller(os.getpid())
    mine.children(recursive=True)
    mine.children(recursive=True)
    assert looks == [os.getpid()] * 2, "none of its children has a job yet"
    caller, pid = start_sleeper(job)
    looks.clear()
    for _ in range(3):
        assert {caller.pid, pid} <= {child.pid for child in mine.children(recursive=True)}
    assert looks == [os.getpid(), pid]
    now += 60
    mine.children(recursive=True)
    assert looks == [os.getpid(), pid] * 2
    caller.kill()
    caller.wait()
    wait_until(lambda: not job_file(ENVIRONMENT[ADDRESS], caller.pid).exists())


def test_without_a_server_the_script_runs_by_itself(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job.parent / "folder").mkdir()
    for address in (None, str(job.parent / "no-such-socket")):
        monkeypatch.delitem(ENVIRONMENT, ADDRESS, raising=False)
        if address:
            monkeypatch.setitem(ENVIRONMENT, ADDRESS, address)
        done = run(job, "x")
        assert done.returncode == 3
        assert "args ['x']\nforked False" in done.stdout


def test_start_server_tells_children_where_it_is(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    address = Path(parent.stdout.readline().strip())
    wait_until(address.exists)
    parent.communicate(timeout=30)
    wait_until(lambda: not address.parent.exists())
