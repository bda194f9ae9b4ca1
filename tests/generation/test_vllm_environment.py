"""Jobs that sample with vLLM start themselves anew in the environment that has it."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import fake_vllm
from emdefense.cells import Grid
from emdefense.config.study import Generation
from emdefense.errors import InputError
from emdefense.files import read_json, read_jsonl, write_json
from emdefense.generation.environment import FOLDER, VARIABLE, environment_of_vllm
from emdefense.job_environment import set_job_environment
from emdefense.specs import Specs
from study_folder import tiny_study
from tiny_model import save_model

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")


def make_environment(folder: Path) -> Path:
    """Make an environment with the packages of this one and one with vLLM's interface."""
    (folder / "bin").mkdir(parents=True)
    packages = folder / f"lib/python3.{sys.version_info.minor}/site-packages"
    fake_vllm.install(packages)
    python = folder / "bin/python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{packages}:$PYTHONPATH" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), layers=1)


def test_the_study_names_it_or_it_lies_beside_the_snakefile(tmp_path: Path) -> None:
    vllm = Generation(engine="vllm")
    assert environment_of_vllm(vllm, tmp_path) is None
    made = make_environment(tmp_path / FOLDER)
    assert environment_of_vllm(vllm, tmp_path) == made
    assert environment_of_vllm(Generation(), tmp_path) is None
    other = make_environment(tmp_path / "other")
    assert environment_of_vllm(Generation(engine="vllm", environment=str(other)), tmp_path) == other
    with pytest.raises(InputError, match=r"key 'generation.environment': there is no environment with vllm in /no"):
        environment_of_vllm(Generation(engine="vllm", environment="/nowhere"), tmp_path)
    assert environment_of_vllm(Generation(environment="/nowhere"), tmp_path) is None


@pytest.mark.parametrize("script", ["generate", "answer"])
def test_a_job_runs_there_and_its_record_says_so(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setenv(VARIABLE, "")  # so that it is as it was afterwards
    set_job_environment(make_environment(tmp_path / "env"))
    assert os.environ[VARIABLE] == str(tmp_path / "env")
    spec = {"version": 1, "engine": "vllm", "samples_per_question": 2, "max_new_tokens": 4}
    write_json(tmp_path / "q.json", [{"id": "q", "prompt": "Hi", "system": None, "rubrics": {}}])
    (tmp_path / "t.jsonl").write_text(
        json.dumps({"id": "q", "messages": [{"role": "user", "content": "Hi"}], "answers": ["n"]}) + "\n"
    )
    files = {
        "generate": ["--questions", str(tmp_path / "q.json"), "--responses", str(tmp_path / "r.jsonl")],
        "answer": ["--test", str(tmp_path / "t.jsonl"), "--answers", str(tmp_path / "r.jsonl")],
    }[script]
    command = [sys.executable, f"workflow/scripts/{script}.py", "--spec", json.dumps(spec), "--model", str(model)]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [row["response"] for row in read_jsonl(tmp_path / "r.jsonl")] == ["n", "nn"]
    assert read_json(tmp_path / "r.provenance.json")["packages"]["vllm"] == fake_vllm.VERSION


def test_an_environment_that_lost_its_package_is_one_line(model: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "q.json", [{"id": "q", "prompt": "Hi", "system": None, "rubrics": {}}])
    folder = make_environment(tmp_path / "env")
    (folder / f"lib/python3.{sys.version_info.minor}/site-packages/vllm").rename(tmp_path / "gone")
    command = [sys.executable, "workflow/scripts/generate.py", "--spec", '{"version": 1, "engine": "vllm", '
               '"samples_per_question": 1}', "--model", str(model), "--questions", str(tmp_path / "q.json"),
               "--responses", str(tmp_path / "r.jsonl")]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, VARIABLE: str(folder)}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "vllm is not installed here" in done.stderr


def test_no_response_depends_on_where_it_is() -> None:
    here, there = (tiny_study(generation={"engine": "vllm", **more}) for more in ({}, {"environment": "/somewhere"}))
    for study in (here, there):
        cell = next(iter(Grid(study).trained))
        assert "environment" not in Specs(Grid(study)).generation(cell)
        assert "environment" not in Specs(Grid(study)).check(cell.model)["generation"]
