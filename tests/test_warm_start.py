"""The server that forks jobs: what a job prints and returns, who dies with whom, and what happens without it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emdefense.warm_start import ADDRESS

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "workflow/scripts")}

JOB = """
import os, sys, time
from emdefense.warm_start import run_warm

def main():
    print("in", os.getcwd(), "with", os.environ.get("GREETING"), "args", sys.argv[1:])
    print("forked", "preloaded" in sys.modules)
    print("to stderr", file=sys.stderr)
    if "sleep" in sys.argv:
        open("started", "w").write(str(os.getpid()))
        time.sleep(60)
    if "crash" in sys.argv:
        raise RuntimeError("broken")
    sys.exit(3)

run_warm(main)
"""

SERVER = """
import os, sys, emdefense.warm_start as warm
warm.PRELOADED = ("preloaded",)
if os.fork():
    sys.stdin.read()
else:
    warm.serve({address!r}, os.getppid())
"""

# Lives until its input is closed, as Snakemake lives until its jobs are done.
PARENT = """
import sys, emdefense.warm_start as warm
warm.start_server()
print(__import__("os").environ[warm.ADDRESS], flush=True)
sys.stdin.read()
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


def start_sleeper(job: Path) -> tuple[subprocess.Popen[bytes], int]:
    caller = subprocess.Popen([sys.executable, str(job), "sleep"], cwd=job.parent / "folder", env=ENVIRONMENT)
    started = job.parent / "folder/started"
    wait_until(lambda: started.exists() and started.read_text() != "")
    return caller, int(started.read_text())


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


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
