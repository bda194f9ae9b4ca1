"""The jobs of a study that lies nowhere: Snakemake's, of a folder that has all of its inputs and no outputs."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from emdefense.config import Study
from emdefense.planning.job import Job
from study_checkout import ROOT


def study_jobs(study: Study) -> list[Job]:
    """Return the study's jobs as they stand in the working directory: to run are those that lack an output."""
    return [replace(job, needs_run=not all(map(os.path.exists, job.outputs))) for job in _jobs(study.model_dump_json())]


@cache
def _jobs(study: str) -> list[Job]:
    with TemporaryDirectory() as folder:
        write_inputs(Path(folder), study)
        return planned_jobs(Path(folder))


def write_inputs(folder: Path, study: str) -> None:
    """Write a study, given as JSON, and what tiny ones read: rows and a model called ``-``, and the oracle's world."""
    (folder / "study.json").write_text(study)
    for name in ("Snakefile", "workflow", "profiles", "config"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "-").touch()
    world = folder / "results" / Study.model_validate_json(study).study / "microcosm/world.json"
    world.parent.mkdir(parents=True)
    world.touch()


def planned_jobs(folder: Path) -> list[Job]:
    """Return the jobs of the study in a folder as plan and status have them; what it names is not checked."""
    from emdefense.snakemake_dag import planned_study

    with _here(folder), patch("emdefense.config.load.check_study"):
        return planned_study([Path("study.json")], [])[1]


@contextmanager
def _here(folder: Path) -> Iterator[None]:
    """Work in a folder, and leave this process as it was."""
    environment, path, before = dict(os.environ), list(sys.path), Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
