"""No memory, no room on the disk, Ctrl-C: one line, its exit status, and nothing half done."""

import ast
import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from emdefense.errors import InputError, run_cli
from emdefense.files import folder_written_whole, write_jsonl, written_whole
from emdefense.machine_limits import MachineError, killed, lack
from tiny_model import make_model

SCRIPTS = Path(__file__).resolve().parents[2] / "workflow/scripts"
KEPT = "then run it again: what is finished is kept"
NO_MEMORY = "give the job more, or lower batch_size"
# As CUDA, a library of its, and a process of several, say it.
CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.15 GiB "
CUBLAS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
WORKER = "-- Process 1 terminated with the following error:\nTraceback (most recent call last):\n  ...\nMemoryError"


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


def from_another() -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device", "/data/x")
    except OSError as error:
        raise RuntimeError("while saving") from error


def dealt_with() -> None:
    try:
        raise MemoryError
    except MemoryError:
        raise InputError("wrong") from None


def said(main: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status of a script with this ``main``, and what it says."""
    with pytest.raises(SystemExit) as ended:
        run_cli(main)  # type: ignore[arg-type]
    return ended.value.code, capsys.readouterr().err  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("main", "expected"),
    [
        (lambda: torch.ones(1 << 50), f"out of memory (it asked for {4 << 50} bytes more); {NO_MEMORY}"),
        (lambda: np.ones(1 << 57), f"out of memory (it asked for 1.00 EiB more); {NO_MEMORY}"),
        (raising(MemoryError()), f"out of memory; {NO_MEMORY}"),
        (raising(OSError(errno.ENOMEM, "Cannot allocate memory")), f"out of memory; {NO_MEMORY}"),
        (
            raising(torch.OutOfMemoryError(CUDA)),
            f"out of the GPU's memory (it asked for 20.00 GiB more); {NO_MEMORY}",
        ),
        (raising(RuntimeError(CUBLAS)), f"out of the GPU's memory; {NO_MEMORY}"),
        (raising(torch.multiprocessing.ProcessRaisedException(WORKER, 1, 7)), f"out of memory; {NO_MEMORY}"),
        (
            raising(RuntimeError("can't start new thread")),
            "no further thread can be started; raise the limits on processes and memory (ulimit -u, -v)",
        ),
        (lambda: Path("/dev/full").write_text("x"), "no space left on a disk; free some"),
        (lambda: torch.save(torch.ones(10**5), "/dev/full"), "no space left on a disk; free some"),
        (raising(OSError(errno.EDQUOT, "Disk quota exceeded", "/a")), "/a: no space left on its disk; free some"),
        (raising(ExceptionGroup("tasks", [OSError(errno.ENOSPC, "No space", "/b")])), "/b: no space left on its disk;"),
        (from_another, "/data/x: no space left on its disk; free some"),
        (raising(PermissionError(errno.EACCES, "Permission denied", "/c\n")), "/c\\n: Permission denied; correct that"),
        (raising(MachineError(killed(9))), "the job was killed (signal 9), probably for want of memory; give it more"),
    ],
)
def test_what_the_machine_lacks_is_one_line(
    main: Callable[[], object], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, line = said(main, capsys)
    assert (status, line.count("\n")) == (1, 1)
    assert line.startswith(f"error: {expected}")
    assert line.rstrip().endswith(KEPT)


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    expected = "error: interrupted; run it again to go on, what is finished is kept\n"
    assert said(raising(KeyboardInterrupt()), capsys) == (130, expected)


def test_ctrl_c_during_imports_is_the_same_line() -> None:
    code = "import os, signal; signal.signal(2, signal.default_int_handler); import emdefense; os.kill(os.getpid(), 2)"
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT, "130 in a shell"
    assert done.stderr == "error: interrupted; run it again to go on, what is finished is kept\n"


def run_code(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True, check=False)


MAPPED = "ImportError('/lib/x.so: failed to map segment from shared object')"


@pytest.mark.parametrize("error", ["MemoryError", MAPPED, f"RuntimeError('transformers') from {MAPPED}"])
def test_too_little_memory_for_imports_is_one_line(error: str) -> None:
    done = run_code(f"import emdefense\nraise {error}")
    assert (done.returncode, done.stderr) == (1, f"error: out of memory; {NO_MEMORY}, {KEPT}\n")


@pytest.mark.parametrize("module", ["emdefense.config", "emdefense.training.run"])
def test_imports_that_run_into_a_limit_of_memory_are_one_line(module: str) -> None:
    pytest.importorskip("resource")
    if not Path("/proc/self/statm").exists():
        pytest.skip("how much memory a process has mapped is read from /proc")
    # Every script imports `emdefense.errors` before anything large.
    code = "import emdefense.errors, resource\npages = int(open('/proc/self/statm').read().split()[0])\n"
    code += "resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 20),) * 2)\n"
    done = run_code(f"{code}import {module}")
    assert (done.returncode, done.stderr) == (1, f"error: out of memory; {NO_MEMORY}, {KEPT}\n")


@pytest.mark.parametrize(
    "text", ["error return without exception set", "<function compile> returned NULL without setting an exception"]
)
def test_a_failure_without_a_reason_is_want_of_memory_only_under_a_limit(text: str) -> None:
    failing = f"raise SystemError('{text}')"
    limit = "import emdefense, resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40,) * 2)\n"
    done = run_code(f"{limit}{failing}")
    assert (done.returncode, done.stderr) == (1, f"error: out of memory; {NO_MEMORY}, {KEPT}\n")
    assert run_code(f"import emdefense\n{failing}").stderr.startswith("Traceback")


@pytest.mark.parametrize("error", ["KeyError('x')", "ImportError('x.so: cannot allocate memory in static TLS block')"])
def test_other_faults_of_imports_are_tracebacks(error: str) -> None:
    done = run_code(f"import emdefense\nraise {error}")
    assert (done.returncode, done.stderr.startswith("Traceback")) == (1, True)


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_before_a_script_imports_what_is_large_it_imports_ours(script: Path) -> None:
    """By then errors of imports are one line."""
    imports = [node for node in ast.parse(script.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports]
    others = [name for name in names if name is None or name.partition(".")[0] not in sys.stdlib_module_names]
    assert others[0] is not None
    assert others[0].startswith("emdefense.")


def test_a_fault_of_ours_is_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (RuntimeError("a memory of something"), KeyError("x"), FileNotFoundError(errno.ENOENT, "No", "/x")):
        assert lack(error) is None
        with pytest.raises(type(error)):
            run_cli(raising(error))
    assert capsys.readouterr().err == ""
    # What was dealt with is not why the next fault was raised.
    with pytest.raises(InputError) as later:
        dealt_with()
    assert lack(later.value) is None


def test_the_status_stands_though_the_log_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        with pytest.raises(SystemExit) as ended:
            run_cli(raising(MemoryError()))
        patch.undo()
        with pytest.raises(OSError, match="No space"):
            full.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
    assert ended.value.code == 1


@pytest.mark.parametrize(
    ("output", "status", "expected"),
    [
        ("> /dev/full", 1, "error: no space left on a disk; free some, then run it again: what is finished is kept\n"),
        ("| true", 141, ""),
    ],
)
def test_output_that_nobody_takes_is_no_traceback(output: str, status: int, expected: str) -> None:
    code = "from emdefense.errors import run_cli; import time; run_cli(lambda: (time.sleep(0.5), print(1)))"
    shell = f"set -o pipefail; '{sys.executable}' -c '{code}' {output}"
    done = subprocess.run(["bash", "-c", shell], cwd=SCRIPTS, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, expected)


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_every_script_runs_by_run_cli(script: Path) -> None:
    last = script.read_text().rstrip().rpartition("\n\n\n")[2]
    assert re.fullmatch(r'if __name__ == "__main__":\n    run_(cli|warm)\(main\)', last), last


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 64 KiB."""
    folder = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def write_rows(path: Path) -> None:
    write_jsonl(path, ({"text": "x" * 1000} for _ in range(200)))


def write_frame(path: Path) -> None:
    with written_whole(path) as temporary:
        pl.DataFrame({"x": np.random.default_rng(0).random(10**5)}).write_parquet(temporary)


def write_tensors(path: Path) -> None:
    with written_whole(path) as temporary:
        save_file({"x": torch.ones(10**5)}, temporary)


def write_state(path: Path) -> None:
    with written_whole(path) as temporary:
        torch.save(torch.ones(10**5), temporary)


def write_model(path: Path) -> None:
    with folder_written_whole(path) as temporary:
        make_model().save_pretrained(temporary)


@pytest.mark.parametrize("write", [write_rows, write_frame, write_tensors, write_state, write_model])
def test_a_full_disk_is_named_and_holds_what_it_held(write: Callable[[Path], None], small_disk: Path) -> None:
    earlier = small_disk / "earlier"
    earlier.write_text("result")
    with pytest.raises(MachineError, match=f"^{earlier}: no space left on its disk; free some, {KEPT}$"):
        write(earlier)
    assert [(path.name, path.read_text()) for path in small_disk.iterdir()] == [("earlier", "result")]


@pytest.mark.parametrize("where", ["folder/rows.jsonl", "file/rows.jsonl", "x" * 300])
def test_what_cannot_be_written_as_something_else_has_the_name_is_one_line(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder/rows.jsonl").mkdir(parents=True)
    (tmp_path / "file").touch()
    status, line = said(lambda: write_jsonl(tmp_path / where, [{}]), capsys)
    assert status == 1
    assert line.startswith(f"error: {tmp_path}/")
    assert line.endswith("; correct that, " + KEPT + "\n")
    assert line.count("\n") == 1


@pytest.mark.parametrize(("room", "error"), [(0, MachineError), (100, pl.exceptions.ComputeError)])
def test_a_full_disk_is_told_whatever_a_library_says_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, error: type[Exception]
) -> None:
    """As polars says that there is no room for a file's first bytes, on a disk that is asked and has none."""
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=1000, f_bavail=room))
    path = tmp_path / "rates.parquet"
    with (
        pytest.raises(error, match=f"{path}: no space left on its disk" if room == 0 else "thrift"),
        written_whole(path),
    ):
        raise pl.exceptions.ComputeError("parquet: File out of specification: Invalid thrift: transport error")
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_cannot_be_loaded_for_want_of_memory_is_that() -> None:
    assert NO_MEMORY in str(lack(ImportError("libtorch.so: failed to map segment from shared object")))
