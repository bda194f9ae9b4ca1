"""What `status` says of a study that runs, failed or was killed: on Snakemake's own marks, and on a real run."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from snakemake.persistence.file import FilePersistence

from emdefense.cells import Cell
from emdefense.config import Study
from emdefense.planning import snakemake_folder
from emdefense.planning.job import Job
from emdefense.planning.snakemake_folder import Snapshot, take_snapshot
from emdefense.planning.states import STATES, State, state_of, worst
from emdefense.planning.status import Status, status_text, study_status
from study_checkout import Checkout
from study_folder import tiny_study
from study_jobs import study_jobs

QUIET = Snapshot({}, {}, None, {})
KL = Cell("small", "code", "kl", "1", 0)
RESULTS = "results/tiny"


def status_of(study: Study, now: Snapshot) -> Status:
    return study_status(study, study_jobs(study), now, lambda *words: shlex.join(["snakemake", *words]))


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    return tiny_study()


@pytest.fixture
def training(study: Study) -> Job:
    (job,) = [job for job in study_jobs(study) if job.cell == KL and job.stage == "training"]
    return job


def touch(path: str, at: float | None = None, text: str = "") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    if at is not None:
        os.utime(path, (at, at))


def make(job: Job) -> None:
    for output in job.outputs:
        touch(output)


def runs(job: Job, since: float = 100.0) -> Snapshot:
    return Snapshot({}, dict.fromkeys(job.outputs, since), 4711, {})


def test_a_job_is_done_when_snakemake_has_nothing_to_do(training: Job) -> None:
    assert state_of(training, QUIET) == "waiting"
    make(training)
    assert state_of(training, QUIET) == "waiting", "it is there, but of other settings"
    assert state_of(replace(training, needs_run=False), QUIET) == "done"
    Path(training.outputs[-1]).unlink()
    assert state_of(training, QUIET) == "waiting"


def test_marked_outputs_are_running_or_interrupted(training: Job) -> None:
    make(training)
    marked = {training.outputs[0]: None}
    assert state_of(training, Snapshot(marked, {}, None, {})) == "interrupted"
    locked = dict.fromkeys(training.outputs, 1.0)
    assert state_of(training, Snapshot(marked, locked, None, {})) == "interrupted", "killed, the lock is still there"
    assert state_of(training, Snapshot(marked, locked, 4711, {})) == "running"
    of_another_study = {"results/other/claims.md": 1.0}
    assert state_of(training, Snapshot(marked, of_another_study, 4711, {})) == "interrupted"


@pytest.mark.parametrize(
    ("queue", "state"),
    [({"7": "RUNNING"}, "running"), ({"7": "PENDING"}, "waiting"), ({"8": "RUNNING"}, "interrupted")],
)
def test_a_submitted_job_is_what_slurm_says(training: Job, queue: dict[str, str], state: State) -> None:
    assert state_of(training, Snapshot({training.outputs[0]: "7"}, {}, None, queue)) == state


def test_a_log_without_outputs_is_a_failure(training: Job) -> None:
    touch(training.log, at=200)
    assert state_of(training, QUIET) == "failed"
    assert state_of(training, runs(training, since=150)) == "failed", "of the run that is going on"
    assert state_of(training, runs(training, since=250)) == "waiting", "of an earlier run; this one will try again"
    assert training.benchmark
    touch(training.benchmark, at=201)
    assert state_of(training, QUIET) == "waiting", "it had succeeded, and its outputs were removed"
    touch(training.benchmark, at=199)
    assert state_of(training, QUIET) == "failed", "an earlier run had succeeded"


def test_the_worst_of_several_states_counts() -> None:
    assert worst(["done", "waiting", "running"]) == "running"
    assert worst(STATES) == "failed"


def test_marks_and_locks_are_read_as_snakemake_writes_them(tmp_path: Path) -> None:
    long = "results/x/cells/" + "/".join(["a-folder-with-a-long-name"] * 12) + "/adapter"
    persistence = FilePersistence(path=tmp_path / ".snakemake")
    persistence._mark_incomplete(long, None)
    persistence._mark_incomplete("results/x/claims.md", "12345")
    persistence._write_locks("output", [long, "results/x/claims.md"])
    persistence._write_locks("input", ["config.yaml"])
    now = take_snapshot(tmp_path / ".snakemake")
    assert now.making == {long: None, "results/x/claims.md": "12345"}
    assert set(now.locked) == {long, "results/x/claims.md"}
    assert all(abs(since - time.time()) < 60 for since in now.locked.values())
    assert now.process is None
    persistence._unmark_incomplete(long)
    persistence._unmark_incomplete("results/x/claims.md")
    persistence._delete_locks()
    assert take_snapshot(tmp_path / ".snakemake") == QUIET


def test_squeue_is_asked_where_jobs_were_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    persistence = FilePersistence(path=tmp_path / ".snakemake")
    persistence._mark_incomplete("a", None)
    fake = tmp_path / "bin/squeue"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\n[ "$*" = "--me --noheader --format=%i %T" ] && printf "7 RUNNING\\n8 PENDING\\n"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    assert take_snapshot(tmp_path / ".snakemake").queue == {}
    persistence._mark_incomplete("b", "8")
    assert take_snapshot(tmp_path / ".snakemake").queue == {"7": "RUNNING", "8": "PENDING"}
    fake.write_text("#!/bin/sh\nexit 1\n")
    assert take_snapshot(tmp_path / ".snakemake").queue == {}, "a squeue that fails is as good as none"


@pytest.mark.parametrize(
    ("words", "running"),
    [
        ("/x/.venv/bin/python /x/.venv/bin/snakemake --cores 2", True),
        ("python -m snakemake --profile slurm", True),
        ("snakemake -n", False),
        ("python -m snakemake --unlock", False),
        ("python -m snakemake --snakefile x --mode remote", False),
        ("python workflow/scripts/status.py --configfile snakemake.yaml", False),
        ("less .snakemake/log", False),
    ],
)
def test_a_snakemake_is_told_by_its_command_line(words: str, running: bool) -> None:
    assert snakemake_folder._runs_jobs(words.split()) is running


def filled(study: Study) -> Status:
    """The status of the tiny study with something in each state."""
    jobs = {job.log.removeprefix(f"{RESULTS}/logs/"): job for job in study_jobs(study)}
    for log in ("train/small/code/misaligned/none/seed0.log", "generate/small/code/misaligned/none/seed0.log"):
        make(jobs[log])
    make(jobs["generate/small/shared/untrained/none/seed0/general.log"])
    broken = jobs["judge/small/code/misaligned/none/seed0/in_domain/oracle.log"]
    touch(broken.log, text="asking\nerror: judge 'gpt' refused the key\n\n")
    going, queued = jobs["train/small/code/kl/0.1/seed0.log"], jobs["train/small/legal/kl/0.1/seed0.log"]
    killed = jobs["answer/small/quiz/kl/1/seed0.log"]
    make(jobs["train/small/quiz/kl/1/seed0.log"])
    making = {going.outputs[0]: None, queued.outputs[0]: "9", killed.outputs[0]: None}
    locked = dict.fromkeys([*going.outputs, *queued.outputs], 0.0)
    return status_of(study, Snapshot(making, locked, 4711, {"9": "PENDING"}))


def test_the_matrix_shows_each_cells_parts(study: Study) -> None:
    text = status_text(filled(study))
    table = text[text.index("small") : text.index("failed: ")]
    assert [line.rstrip() for line in table.splitlines() if line] == [
        "small         code  legal  quiz",
        "              TSGD  TSGD   TA",
        "untrained      ...   ...",
        "misaligned    ##.X  ....",
        "kl 0.1        >...  ....",
        "kl 1          ....  ....   #!",
        "interleave 5  ....  ....",
        "sft                        ..",
    ]
    assert "# done, > running, X failed, ! interrupted, . waiting" in text
    training = next(line for line in text.splitlines() if line.startswith("training"))
    assert training.split() == ["training", "10", "2", "7", "1"]


def test_a_failure_comes_with_its_last_line_and_the_command_that_reruns_it(study: Study) -> None:
    status = filled(study)
    (failure,) = status.failures
    judgments = f"{RESULTS}/cells/small/code/misaligned/none/seed0/in_domain/judgments/oracle.jsonl"
    assert failure.last_line == "error: judge 'gpt' refused the key"
    assert failure.command == f"snakemake -- {judgments}"
    text = status_text(status)
    assert "failed: judge small/code/misaligned/none/seed0, in_domain, oracle\n  error: judge 'gpt' refused" in text
    assert f"  again: snakemake -- {judgments}" in text
    assert status.commands == {"all": "snakemake"}
    assert "To make what is missing, once Snakemake has ended:" in text


def test_slurms_word_on_a_job_stands_beside_its_own(study: Study, training: Job) -> None:
    touch(training.log, at=100, text="step 10/338  ce 1.2\rstep 20/338  ce 1.1\n")
    slurm = "logs/slurm/rule_train/small_code_kl_1_seed0"
    touch(f"{slurm}/1.log", at=50, text="slurmstepd: error: *** JOB 1 CANCELLED\n")
    assert status_of(study, QUIET).failures[0].last_line == "step 20/338  ce 1.1"
    touch(f"{slurm}/2.log", at=101, text="Building DAG\nslurmstepd: error: *** JOB 2 DUE TO TIME LIMIT ***\nbye\n")
    said = status_of(study, QUIET).failures[0].last_line
    assert said == "step 20/338  ce 1.1 (slurmstepd: error: *** JOB 2 DUE TO TIME LIMIT ***)"


def test_what_a_killed_snakemake_left_on_the_cluster_is_ended_first(study: Study, training: Job) -> None:
    making = {**dict.fromkeys(training.outputs, "12"), "results/other/claims.md": "13"}
    now = Snapshot(making, dict.fromkeys(training.outputs, 0.0), None, {"12": "RUNNING", "13": "RUNNING"})
    status = status_of(study, now)
    assert list(status.commands.values()) == ["scancel 12", "snakemake --unlock", "snakemake"]
    assert "but no Snakemake runs here" in status_text(status)


def test_an_empty_log_is_said_to_be_empty(study: Study, training: Job) -> None:
    touch(training.log)
    status = status_of(study, QUIET)
    assert status.failures[0].last_line == ""
    assert "its log is empty" in status_text(status)


def test_many_tasks_are_shown_in_blocks_and_many_failures_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = {"kind": "ema", "title": "T", "misaligned": "-"}
    names = [f"a-task-of-a-long-name-{number}" for number in range(8)]
    grid = [{"models": ["small"], "tasks": names, "arms": {"misaligned": None, "kl": [0.1, 0.2, 1]}}]
    study = tiny_study(tasks=dict.fromkeys(names, task), grid=grid, seeds=[0, 1])
    for job in study_jobs(study):
        if job.stage == "training":
            touch(job.log, text="error: " + "very " * 200 + "wrong\n")
    status = status_of(study, QUIET)
    assert len(status.failures) == 64
    lines = status_text(status).splitlines()
    assert max(len(line) for line in lines if not line.startswith(("  again", "  log", "failed"))) <= 100
    assert "and 44 more failures; --json lists them all" in lines
    headers = [line for line in lines if line.startswith("small")]
    assert [name for line in headers for name in line.split()[1:]] == names
    assert len(headers) == 3
    assert sum(line.startswith("kl 0.2, seed 1") for line in lines) == 3


def test_the_json_keeps_its_keys(study: Study) -> None:
    found = json.loads(json.dumps(filled(study).as_json()))
    assert set(found) == {"study", "snakemake", "stages", "again", "cells", "failures", "commands"}
    assert set(found["snakemake"]) == {"process", "since", "locked", "host"}
    assert all(set(counts) == set(STATES) for counts in found["stages"].values())
    assert set(found["failures"][0]) == {"rule", "job", "log", "last_line", "command"}
    by_arm = {(cell["task"], cell["arm"], cell["setting"]): cell for cell in found["cells"]}
    assert by_arm["code", "misaligned", "none"] == {
        **{"model": "small", "task": "code", "arm": "misaligned", "setting": "none", "seed": 0},
        "parts": {"adapter": "done", "responses": "done", "judged_general": "waiting", "judged_in_domain": "failed"},
    }
    assert by_arm["quiz", "kl", "1"]["parts"] == {"adapter": "done", "answers": "interrupted"}
    assert "adapter" not in by_arm["code", "untrained", "none"]["parts"]


def test_a_cell_shows_the_failure_of_what_it_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    grid = [{"models": ["small"], "tasks": ["code"], "arms": {"kl": [0.1, 1], "safelora": [0.3]}}]
    model = {"title": "Small", "instruct": "-", "base": "-"}
    study = tiny_study(models={"small": model}, grid=grid, training={"reference": "cached"})
    touch(f"{RESULTS}/logs/features/small/code/kl.log", text="error: no disk\n")
    touch(f"{RESULTS}/logs/prepare_arm/small/code/safelora/projection/seed0.log", text="error: no base\n")
    status = status_of(study, QUIET)
    parts = {(cell.arm, cell.setting): parts["adapter"] for cell, parts in status.cells}
    assert parts == {
        **{("kl", "0.1"): "failed", ("kl", "1"): "failed", ("safelora", "0.3"): "failed"},
        ("misaligned", "none"): "waiting",  # not in the grid, but trained to be projected
    }
    assert [failure.rule for failure in status.failures] == ["reference_features", "prepare_arm"]


@pytest.mark.slow
def test_a_run_that_is_killed_and_fails_ends_by_pasting_what_status_says(tmp_path: Path) -> None:
    checkout = Checkout.into(tmp_path)
    wanted = "results/smoke/cells/world-a/code/kl/1/seed0/adapter"
    # Many epochs: status takes a second or more, and must meet the training.
    options = ["--configfile", "config/smoke.yaml", "--config", "training={epochs: 25}"]

    def status() -> Any:
        words = [sys.executable, "workflow/scripts/status.py", *options, "--json"]
        return json.loads(subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)

    def adapter(found: Any) -> str:
        return next(str(cell["parts"]["adapter"]) for cell in found["cells"] if cell["arm"] == "kl")

    def until(happened: Callable[[Any], bool]) -> Any:
        deadline = time.monotonic() + 300
        while not happened(found := status()):
            assert time.monotonic() < deadline, found
        return found

    def paste(line: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(line)
        assert words[0] == "snakemake"
        return checkout.snakemake("--cores", "1", *words[1:])

    assert status()["snakemake"]["process"] is None
    first = subprocess.Popen(
        checkout.command("--cores", "1", *options, "--", wanted),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        found = until(lambda found: adapter(found) == "running")
        assert found["snakemake"]["process"] == first.pid
        assert found["stages"]["models"]["done"] == 2, "made, and copied"
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    found = until(lambda found: adapter(found) != "running")
    assert adapter(found) == "interrupted"
    assert found["snakemake"]["locked"]
    assert list(found["commands"]) == ["unlock", "all"]
    assert paste(found["commands"]["unlock"]).returncode == 0
    assert not status()["snakemake"]["locked"]

    tokenizer = tmp_path / "results/smoke/microcosm/models/world-a/instruct/tokenizer.json"
    whole = tokenizer.read_text()
    times = tokenizer.parent.stat()
    tokenizer.write_text("{")
    assert paste(f"snakemake {shlex.join(options)} -- {wanted}").returncode != 0
    found = status()
    assert adapter(found) == "failed"
    (failure,) = found["failures"]
    assert failure["rule"] == "train"
    assert failure["last_line"], "the log says why"
    tokenizer.write_text(whole)
    os.utime(tokenizer.parent, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = paste(failure["command"])
    assert done.returncode == 0, done.stdout
    found = status()
    assert adapter(found) == "done"
    assert found["failures"] == []
    assert found["snakemake"]["process"] is None
