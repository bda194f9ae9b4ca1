"""Snakemake's DAG as plan and status take it: whole, without a trace, and under another's lock."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from snakemake.persistence.file import FilePersistence

from emdefense.errors import InputError
from emdefense.planning.job import STAGES, Job
from study_checkout import ROOT
from study_folder import tiny_study
from study_jobs import planned_jobs, write_inputs

KL = "results/tiny/logs/train/small/code/kl/1/seed0.log"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the tiny study and all that it reads."""
    write_inputs(tmp_path, tiny_study().model_dump_json())
    return tmp_path


def everything(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def test_no_trace_is_left_where_snakemake_never_ran(folder: Path) -> None:
    before = everything(folder)
    assert planned_jobs(folder)
    assert everything(folder) == before


def test_a_job_is_what_its_rule_declares(folder: Path) -> None:
    jobs = {job.log: job for job in planned_jobs(folder)}
    training = jobs[KL]
    cell = "results/tiny/cells/small/code/kl/1/seed0"
    assert (training.rule, training.stage, training.name) == ("train", "training", "small/code/kl/1/seed0")
    assert training.slurm_name == "small_code_kl_1_seed0"
    assert training.outputs[0] == f"{cell}/adapter"
    assert training.benchmark == "results/tiny/benchmarks/train/small/code/kl/1/seed0.tsv"
    assert "results/tiny/data/code/train_misaligned.jsonl" in training.inputs
    assert training.needs_run
    assert "output files have to be generated" in training.reasons
    assert training.cell is not None
    assert training.cell.folder == "small/code/kl/1/seed0"
    judging = jobs["results/tiny/logs/judge/small/code/kl/1/seed0/general/oracle.log"]
    assert (judging.question_set, judging.judge) == ("general", "oracle")
    assert {job.stage for job in jobs.values()} <= set(STAGES)


def test_every_rule_before_the_report_has_its_stage() -> None:
    found = {}
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for name in re.findall(r"^ *(?:rule|use rule \w+ as) (\w+)", path.read_text(), flags=re.MULTILINE):
            found[name] = path.stem
    assert len(found) > 30
    late = {name for name in found if Job(name, {}, (), (), "", None, False, ()).stage == "report"}
    assert late == {name for name, file in found.items() if file in ("report", "statistics")} | {"fetch"}


def make(folder: Path, outputs: Iterable[str]) -> None:
    """Make files and folders, all of them of one moment with what is there."""
    for output in outputs:
        path = folder / output
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name in ("adapter", "cells"):
            path.mkdir()
        else:
            path.touch()
    for path in folder.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (1e9, 1e9))


def test_under_a_live_lock_it_is_read_and_nothing_is_touched(folder: Path) -> None:
    jobs = {job.log: job for job in planned_jobs(folder)}
    make(folder, (output for job in jobs.values() for output in job.outputs))
    assert not [job for job in planned_jobs(folder) if job.needs_run]
    persistence = FilePersistence(path=folder / ".snakemake")
    persistence._mark_incomplete(jobs[KL].outputs[0], None)
    persistence._write_locks("output", jobs[KL].outputs)
    persistence._write_locks("input", ["-"])
    before = everything(folder)
    to_run = {job.log: job for job in planned_jobs(folder) if job.needs_run}
    assert everything(folder) == before
    assert to_run[KL].reasons == ("forced",)
    assert {job.rule for job in to_run.values()} >= {"train", "generate", "judge", "page"}
    assert sum(job.rule == "train" for job in to_run.values()) == 1


def test_a_record_that_goes_while_it_is_read_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(folder, (output for job in planned_jobs(folder) for output in job.outputs))
    FilePersistence(path=folder / ".snakemake")

    def gone(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(FilePersistence, "_io_read", gone)
    assert planned_jobs(folder)


def test_a_file_that_nothing_makes_is_one_line(folder: Path) -> None:
    (folder / "-").unlink()
    with pytest.raises(InputError, match=r"^-: no such file, and no rule makes it; rule \w+ reads it$"):
        planned_jobs(folder)


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("persistence-backend: db", "persistence-backend: plan and status read Snakemake's records from files only"),
        ("rerun-triggers: [often]", "Snakemake's profile: .*often"),
        ("cores: [", "Snakemake's profile: "),
    ],
)
def test_a_profile_that_cannot_be_followed_is_one_line(folder: Path, profile: str, said: str) -> None:
    (folder / "profiles").unlink()
    (folder / "profiles/default").mkdir(parents=True)
    (folder / "profiles/default/config.yaml").write_text(profile)
    with pytest.raises(InputError, match=said):
        planned_jobs(folder)
