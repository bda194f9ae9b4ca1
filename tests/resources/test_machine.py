"""What jobs ask for on a machine without a GPU."""

from pathlib import Path

import pytest

from emdefense.cells import Cell
from emdefense.config.load import load_study
from emdefense.resources import machine
from emdefense.resources.gpus import read_gpus
from emdefense.resources.jobs import CPU_MB, Requests
from emdefense.resources.machine import Machine, has_gpu, this_machine
from emdefense.resources.memory import training_budget
from study_folder import tiny_study

ROOT = Path(__file__).parents[2]
GPUS = read_gpus(ROOT / "profiles/slurm/gpus.yaml")
SMOLLM2_135M = load_study(ROOT / "config/cpu.yaml").models["smollm2-135m"].shape
assert SMOLLM2_135M is not None
MODELS = {"small": {"title": "SmolLM2", "instruct": "-", "shape": SMOLLM2_135M.model_dump()}}
CELL = Cell("small", "code", "misaligned", "none", 0)


def test_without_a_gpu_no_job_asks_for_one_and_memory_is_that_of_the_arithmetic_and_torch() -> None:
    study = tiny_study(models=MODELS)
    assert Requests(study, GPUS, Machine(8, 30_000, has_gpu=True)).train(CELL) == Requests(study, GPUS).train(CELL)
    assert Requests(study, GPUS).train(CELL).gpus == 1
    here = Requests(study, GPUS, Machine(8, 30_000, has_gpu=False)).train(CELL)
    assert (here.gpus, here.partitions) == (0, ())
    size = sum(training_budget(SMOLLM2_135M, study.training, None).values())
    assert here.mem_mb == here.shared_mb == 1800 + round(size / 1e6)
    made = tiny_study(models={"small": {"title": "Made", "instruct": "{results}/made"}})
    assert Requests(made, GPUS, Machine(8, 30_000, has_gpu=False)).train(CELL).shared_mb == 0
    assert Requests(made, GPUS, Machine(8, 30_000, has_gpu=False)).train(CELL).mem_mb == CPU_MB


@pytest.mark.parametrize(
    ("cores", "memory_mb", "jobs", "threads"),
    [(2, 24_000, 2, 1), (8, 24_000, 8, 1), (8, 10_000, 4, 2), (8, 5_000, 2, 4), (8, 1_000, 1, 8), (9, 10_000, 4, 2)],
)
def test_cores_are_shared_by_as_many_jobs_as_fit_memory(cores: int, memory_mb: int, jobs: int, threads: int) -> None:
    of = Machine(cores, memory_mb, has_gpu=False)
    assert (of.jobs_at_once(2400), of.threads(2400)) == (jobs, threads)


def test_threads_are_the_studys_own_where_it_says_how_many() -> None:
    small = Machine(4, 1000, has_gpu=False)
    asked = [Requests(tiny_study(models=MODELS, cpu_threads=n), GPUS, small).train(CELL) for n in ("auto", 1, 3, 16)]
    assert [request.threads for request in asked] == [4, 1, 3, 4], "no more than there are cores"
    assert {request.shared_mb for request in asked} == {1000}, "what there is: such a job still runs, by itself"


def test_a_gpu_is_one_that_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidiactl").touch()
    assert not has_gpu(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert has_gpu(tmp_path)
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not has_gpu(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert has_gpu(tmp_path)


def test_memory_is_what_the_container_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "CGROUP_LIMIT", limit)
    limit.write_text("max\n")
    whole = this_machine(3)
    limit.write_text("3000000000\n")
    assert (whole.cores, this_machine(3).memory_mb) == (3, 2000)
    limit.write_text("5000000000\n")
    assert this_machine().memory_mb == 3000 < whole.memory_mb
