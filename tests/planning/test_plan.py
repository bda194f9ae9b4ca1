"""What `plan` says a study takes: numbers by hand on a tiny study, the paper's against other counts of them."""

import csv
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emdefense.cells import Cell, Grid
from emdefense.config import Study, load_study
from emdefense.config.judges import OpenAIJudge
from emdefense.judging.cache import Cache
from emdefense.judging.requests import all_requests, probes
from emdefense.judging.responses import ResponseFile
from emdefense.layout import Layout
from emdefense.planning.command_line import snakemake_command, study_parser
from emdefense.planning.made_again import Again
from emdefense.planning.plan import Plan, plan_text, study_plan
from emdefense.resources.gpus import Gpu, read_gpus
from model_shape import SHAPE
from study_checkout import ROOT
from study_folder import tiny_study, write_rows
from study_jobs import study_jobs

SCRIPTS = ROOT / "workflow/scripts"
GPUS = {
    "a100": Gpu(memory_gib=79, tflops=312, gb_per_s=1935),
    "a40": Gpu(memory_gib=44, tflops=150, gb_per_s=696),
}
MODEL = {"title": "Small", "instruct": "-", "samples_per_question": 10, "shape": SHAPE}
JUDGE = {"kind": "openai", "name": "judge", "model": "gpt-4o-mini-2024-07-18"}
# q, k, v, o: 1024 + 1024 each; gate, up, down: 1024 + 4096 each; of rank 32 in ten blocks, fp32.
ADAPTER = 10 * 32 * (4 * 2048 + 3 * 5120) * 4
# Characters of a judge prompt with a general or a held-out question / 4, a message's 7, a response's 200.
GENERAL_CALL, IN_DOMAIN_CALL = (1030 + 180) / 4 + 207, (1030 + 400) / 4 + 207


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The tiny study with a size and a remote judge, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tiny_study(models={"small": MODEL}, judge=JUDGE)


def plan(study: Study) -> Plan:
    return study_plan(study, GPUS, study_jobs(study))


def finish(study: Study, log: str) -> None:
    """Make the outputs of the job with this log."""
    (job,) = [job for job in study_jobs(study) if job.log.endswith(log)]
    for output in job.outputs:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_text("" if output.endswith(".jsonl") else "{}")


def test_jobs_and_cells_are_counted_by_stage(study: Study) -> None:
    finish(study, "logs/train/small/code/misaligned/none/seed0.log")
    finish(study, "logs/answer/small/quiz/sft/none/seed0.log")
    finish(study, "logs/train/small/quiz/sft/none/seed0.log")
    found = plan(study)
    # Two tasks with untrained, misaligned, two KL and one interleaving; a benign one with plain fine-tuning and KL.
    assert found.cells == {"cells": 12, "done": 1, "to_run": 11}
    assert found.stages["training"] == {"jobs": 10, "done": 2, "to_run": 8}
    assert found.stages["sampling"] == {"jobs": 2 * 4 + 1 + 2, "done": 0, "to_run": 11}
    assert found.stages["answering"] == {"jobs": 2, "done": 1, "to_run": 1}
    assert found.stages["judging"] == {"jobs": 2 * 8 + 1 + 2, "done": 0, "to_run": 19}


def test_the_judge_costs_what_a_hand_count_gives(study: Study) -> None:
    cost = plan(study).judge
    assert cost is not None
    # Ten samples of 24 general questions for eight cells and the untrained model, of 30 in-domain ones for ten.
    assert cost.calls == cost.to_make == 2 * (9 * 240 + 10 * 300)
    assert cost.input_tokens == 2 * (9 * 240 * GENERAL_CALL + 10 * 300 * IN_DOMAIN_CALL) == 5_588_040
    assert cost.output_tokens == 10_320
    assert cost.dollars == pytest.approx((5_588_040 * 0.15 + 10_320 * 0.60) / 1e6)


def test_batches_cost_half(study: Study) -> None:
    batch = study.model_copy(update={"judge": OpenAIJudge(**{**JUDGE, "mode": "batch"})})
    once, half = plan(study), plan(batch)
    assert once.judge is not None
    assert half.judge is not None
    assert half.judge.dollars == pytest.approx(once.judge.dollars / 2)
    assert "(0.075 and 0.3 USD a million tokens in and out, 2026-04-05, half for a batch)" in plan_text(half, GPUS)


def test_what_was_judged_or_paid_for_is_not_paid_again(study: Study) -> None:
    layout, cell = Layout(study), Cell("small", "code", "misaligned", "none", 0)
    finish(study, "logs/judge/small/code/misaligned/none/seed0/general/judge.log")
    finish(study, "logs/questions/code.log")
    finish(study, "logs/generate/small/code/misaligned/none/seed0.log")
    questions, responses = Path(layout.questions("code")), Path(layout.responses(cell, "in_domain"))
    rubrics = {"aligned": "a" * 92 + "{answer}", "coherent": "c" * 92 + "{answer}"}
    questions.write_text(json.dumps([{"id": "q", "prompt": "p" * 20, "rubrics": rubrics}]))
    write_rows(responses, [{"id": str(n), "question_id": "q", "response": f"{n:040}"} for n in range(10)])
    unpaid = plan(study).judge
    assert isinstance(study.judge, OpenAIJudge)
    asked = list(all_requests(study.judge, ResponseFile(questions, responses), "logprobs"))
    with Cache(Path(study.judge_cache)) as cache:
        top = [["87", -0.1], ["88", -2.4]]
        cache.add(probes(study.judge)[0].key, {"text": "87 100", "top": top, "tokens": ["87", " 100"]})
        for request in asked[:7]:
            cache.add(request.key, {"text": "80", "top": [["80", 0.0]]})
    cost = plan(study).judge
    assert unpaid is not None
    assert cost is not None
    assert (unpaid.judged, unpaid.journalled, cost.judged, cost.journalled) == (480, 0, 480, 7)
    assert (cost.calls, cost.to_make) == (unpaid.calls, unpaid.to_make - 7)
    assert cost.input_tokens == unpaid.input_tokens - 7 * ((20 + 100 + 40) / 4 + 7)


def test_what_is_to_be_made_again_counts_as_if_it_were_not_there(study: Study) -> None:
    untouched = plan(study)
    for job in study_jobs(study):
        finish(study, job.log)
    path = Path("results/tiny/data/code/train_misaligned.jsonl")
    path.write_text("{}\n" * 7)
    write_rows(Path("results/tiny/data/legal/train_misaligned.jsonl"), [{}] * 7)
    changed = [replace(job, needs_run=True, reasons=("params have changed",)) for job in study_jobs(study)]
    again = study_plan(study, GPUS, changed)
    assert untouched.judge is not None
    assert again.judge is not None
    assert (again.judge.to_make, again.judge.judged) == (untouched.judge.to_make, 0)
    assert [row.hours for row in again.hours] == [row.hours for row in untouched.hours]
    assert again.disk.to_come == untouched.disk.to_come
    assert Again("train", 10, "params have changed") in again.again
    assert "\nto make again: 10 train: params have changed\n" in plan_text(again, GPUS)
    assert untouched.again == []


def test_responses_that_are_there_are_counted_as_they_are(study: Study) -> None:
    cell = Cell("small", "legal", "kl", "1", 0)
    finish(study, "logs/questions/legal.log")
    finish(study, "logs/generate/small/legal/kl/1/seed0.log")
    rows = [{"question_id": "q", "response": text} for text in ("a" * 40, "a" * 40, "b" * 80)]
    write_rows(Path(Layout(study).responses(cell, "in_domain")), rows)
    questions = [{"id": "q", "prompt": "p" * 20, "rubrics": {"aligned": "r" * 100, "coherent": "r" * 140}}]
    Path(Layout(study).questions("legal")).write_text(json.dumps(questions))
    cost = plan(study).judge
    assert cost is not None
    # The file has three responses, two alike, that of general questions none. The task's other four cells ask this
    # one question ten times; all other in-domain responses are taken to be as long as these.
    assert cost.repeated == 2
    assert cost.to_make == 2 * (8 * 240 + 5 * 300) + 4 + 2 * 4 * 10
    prompt, mean = (20 + 120) / 4 + 7, 160 / 3 / 4
    of_legal = 4 * (prompt + 60 / 4) + 80 * (prompt + mean)
    of_code = 2 * 5 * 300 * ((1030 + 400) / 4 + 7 + mean)
    assert cost.input_tokens == round(2 * 8 * 240 * GENERAL_CALL + of_code + of_legal)
    assert cost.basis == "assumed responses of 200 tokens and the study's own responses"


def test_no_price_no_dollars_and_no_judge_no_cost(study: Study) -> None:
    elsewhere = plan(study.model_copy(update={"judge": study.judge.model_copy(update={"base_url": "http://x/v1"})}))
    assert elsewhere.judge is not None
    assert elsewhere.judge.dollars is None
    assert "no price of this model" in plan_text(elsewhere, GPUS)
    assert plan(tiny_study(models={"small": MODEL})).judge is None


def test_each_judge_has_its_jobs_and_its_cost(study: Study) -> None:
    alone = plan(study)
    second = {**JUDGE, "name": "second", "model": "gpt-4o-2024-08-06"}
    both = study.model_validate({**study.model_dump(), "second_judges": [second, {"kind": "oracle"}]})
    for cell, question_set in Grid(both).responses:
        finish(both, f"logs/judge/{cell.folder}/{question_set}/judge.log")
    found = plan(both)
    assert found.stages["judging"] == {"jobs": 3 * 19, "done": 19, "to_run": 2 * 19}
    assert found.judge is not None
    assert (found.judge.calls, found.judge.judged, found.judge.to_make) == (10_320, 10_320, 0)
    (cost,) = found.second_judges
    assert (cost.model, cost.calls, cost.to_make) == ("gpt-4o-2024-08-06", 10_320, 10_320)
    assert found.disk.to_come["judgments"] == pytest.approx(alone.disk.to_come["judgments"] * (1 + 220 / 1350))
    assert plan_text(found, GPUS).count("asked twice about each response") == 2


def test_disk_is_what_a_hand_count_gives(study: Study) -> None:
    finish(study, "logs/train/small/code/misaligned/none/seed0.log")
    disk = plan(study).disk
    assert disk.to_come["adapters"] == 9 * ADAPTER
    assert disk.passing == int(2 * ADAPTER / 4 * (4 + 2.04))  # two checkpoints of an 8-bit optimiser
    assert disk.to_come["judgments"] == 1350 * (9 * 240 + 10 * 300)
    # Answers: 200 questions ten times, twice.
    assert disk.to_come["responses and answers"] == 1200 * (9 * 240 + 10 * 300) + 400 * 2 * 2000
    assert 0 < disk.there < 20_000


def test_cached_features_are_as_large_as_the_rows(study: Study) -> None:
    cached = study.model_copy(update={"training": study.training.model_copy(update={"reference": "cached"})})
    found = plan(cached)
    assert found.stages["features"]["to_run"] == 3
    # 5,400 rows of 280 tokens for two tasks, 848 of 400 for the benign one, the final hidden state in bfloat16.
    assert found.disk.to_come["reference features"] == (2 * 5400 * 280 + 848 * 400) * 1024 * 2
    assert {row.stage: row.jobs for row in found.hours}["features"] == 3


def timed(study: Study, cell: Cell, seconds: float, device: str, resumed: int | None = None) -> None:
    """Make a training that was finished on ``device`` in ``seconds``."""
    finish(study, f"logs/train/{cell.folder}.log")
    provenance = {"machine": {"device": device}, "resumed_from_step": resumed}
    (Path(Layout(study).cell(cell)) / "provenance.json").write_text(json.dumps(provenance))
    benchmark = Path(f"results/tiny/benchmarks/train/{cell.folder}.tsv")
    benchmark.parent.mkdir(parents=True, exist_ok=True)
    benchmark.write_text(f"s\th:m:s\n{seconds}\t-\n")


def two_trainings() -> Study:
    grid = [{"models": ["small"], "tasks": ["code", "legal"], "arms": {"misaligned": None}}]
    return tiny_study(models={"small": MODEL}, judge=JUDGE, grid=grid)


def test_hours_are_arithmetic_until_a_job_has_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = two_trainings()
    training = next(row for row in plan(study).hours if row.stage == "training")
    weights, adapters = 10 * (4 * 1024**2 + 3 * 1024 * 4096), ADAPTER / 4
    attention, head = 2 * 280 * 1024 * 10, 2 * 1024 * 100_000
    flop = 4 * weights + 6 * adapters + 3 * attention + 2 * 0.65 * head
    seconds = 2 * 5400 * 280 * 1.5 * flop / (312e12 * 0.35)
    assert training.hours["a100"] == pytest.approx(seconds / 3600)
    assert training.basis == "arithmetic"

    timed(study, Cell("small", "code", "misaligned", "none", 0), 3600, "NVIDIA A100-SXM4-80GB")
    measured = next(row for row in plan(study).hours if row.stage == "training")
    assert measured.basis == "measured on 1 finished jobs"
    assert measured.hours == {"a100": pytest.approx(1), "a40": pytest.approx(312 / 150)}

    timed(study, Cell("small", "code", "misaligned", "none", 0), 3600, "NVIDIA A40")
    on_the_other = next(row for row in plan(study).hours if row.stage == "training")
    assert on_the_other.hours == {"a100": pytest.approx(150 / 312), "a40": pytest.approx(1)}

    timed(study, Cell("small", "code", "misaligned", "none", 0), 3600, "NVIDIA A40", resumed=7)
    assert next(row for row in plan(study).hours if row.stage == "training").basis == "arithmetic"


def test_rows_that_are_prepared_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = two_trainings()
    before = next(row for row in plan(study).hours if row.stage == "training").hours["a100"]
    for task in ("code", "legal"):
        finish(study, f"logs/prepare_task/{task}.log")
        path = Path(f"results/tiny/data/{task}/train_misaligned.jsonl")
        path.write_text(("x" * (84 - 1 + 1000) + "\n") * 54)  # 1,000 characters of text: 280 tokens with the template
    after = next(row for row in plan(study).hours if row.stage == "training").hours["a100"]
    assert after == pytest.approx(before / 100)


def test_small_models_take_what_the_finished_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = tiny_study()
    unknown = next(row for row in plan(study).hours if row.stage == "training")
    assert (unknown.jobs, unknown.unknown, unknown.hours) == (10, 10, {})
    timed(study, Cell("small", "code", "misaligned", "none", 0), 30, "cpu")
    timed(study, Cell("small", "code", "kl", "1", 0), 90, "cpu")
    known = next(row for row in plan(study).hours if row.stage == "training")
    # KL 90 s thrice in the two tasks, plain 30 s once; interleaving and the benign arms as the mean of all.
    assert known.hours == {"cpu": pytest.approx((3 * 90 + 30 + 4 * 60) / 3600)}
    assert "cpu" in plan_text(plan(study), GPUS)


def test_the_papers_hours_are_those_of_the_published_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, gpus = load_study(ROOT / "config/paper.yaml"), read_gpus(ROOT / "profiles/slurm/gpus.yaml")
    counted = list(csv.DictReader((ROOT / "docs/gpu_hours.csv").open(encoding="utf-8")))
    monkeypatch.chdir(tmp_path)
    found = study_plan(study, gpus, study_jobs(study))
    for model in study.models:
        of_model = [row for row in counted if row["model"] == model]
        hours = {row.stage: row.hours["a100"] for row in found.hours if row.model == model}
        assert hours.pop("training") == pytest.approx(
            sum(float(row["training_gpu_hours"]) for row in of_model), abs=0.05
        )
        assert sum(hours.values()) == pytest.approx(sum(float(row["sampling_gpu_hours"]) for row in of_model), abs=0.05)
    assert found.judge is not None
    assert found.judge.to_make == 951_840
    assert [row.model for row in found.hours if "a40" not in row.hours] == ["qwen2.5-32b"] * 2
    both = found.scenarios["a40"]
    assert both["a100"] == pytest.approx(sum(row.hours["a100"] for row in found.hours if "a40" not in row.hours))
    # 7.6 billion parameters twice and 32.8 once, in bfloat16.
    assert found.disk.to_come["model weights"] == pytest.approx(2 * (2 * 7.616e9 + 32.76e9), rel=1e-3)
    text = plan_text(found, gpus)
    assert max(map(len, text.splitlines())) <= 100
    # 84 cells of 7B and its untrained model, and 12 of 32B and its untrained model with a tenth.
    tokens = 2 * ((85 * 2400 + 13 * 240) * GENERAL_CALL + (88 * 3000 + 16 * 300) * IN_DOMAIN_CALL)
    assert found.judge.input_tokens == tokens == 514_530_480
    assert "dollars: 77.75 (0.15 and 0.6 USD a million tokens in and out" in text


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "workflow/scripts/plan.py", *arguments]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def test_hours_of_this_machines_cores_stand_in_one_column() -> None:
    plan = json.loads(command("--configfile", "config/paper.yaml", "--here", "--json").stdout)
    assert {partition for row in plan["hours"] for partition in row["hours"]} <= {"cpu"}
    (sampling,) = [row for row in plan["hours"] if (row["model"], row["stage"]) == ("qwen2.5-7b", "answering")]
    assert sampling["hours"]["cpu"] > 0
    text = command("--configfile", "config/paper.yaml", "--here").stdout
    (head,) = [line for line in text.splitlines() if line.startswith("hours to run")]
    assert head.split() == ["hours", "to", "run", "jobs", "cpu"]


def keys(value: Any) -> Any:
    """Return a JSON value's keys, level by level; of a list, those of its first element."""
    if isinstance(value, Mapping):
        return {key: keys(inner) for key, inner in value.items()}
    return [keys(value[0])] if isinstance(value, list) and value else None


def test_the_json_keeps_its_keys() -> None:
    done = command("--configfile", "config/paper.yaml", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    counts = {"jobs": None, "done": None, "to_run": None}
    stages = ("sources", "data", "checking", "training", "changing", "sampling", "answering", "judging", "report")
    row = ("model", "stage", "jobs", "hours", "unknown", "measured_on", "by_arithmetic", "basis")
    judge = ("model", "calls", "judged", "journalled", "repeated", "to_make", "input_tokens", "output_tokens")
    assert keys(found) == {
        "study": None,
        "cells": {"cells": None, "done": None, "to_run": None},
        "stages": {stage: counts for stage in stages},
        "again": None,
        "hours": [{**dict.fromkeys(row), "hours": {"a100": None}}],
        "scenarios": {"a100": {"a100": None}, "a40": {"a100": None, "a40": None}},
        "judge": {
            **dict.fromkeys((*judge, "dollars", "basis")),
            "price": {"input": None, "output": None, "as_of": None},
        },
        "second_judges": None,
        "disk": {
            "to_come": dict.fromkeys(
                ("model weights", "adapters", "reference features", "responses and answers", "judgments")
            ),
            **dict.fromkeys(("passing", "there", "free", "unknown")),
        },
    }


def test_planning_imports_neither_torch_nor_snakemake() -> None:
    modules = "gpu_hours", "plan", "status", "snakemake_folder", "command_line"
    run = (
        f"import sys; import {', '.join(f'emdefense.planning.{name}' for name in modules)};"
        "print({'torch', 'transformers', 'snakemake', 'polars'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", run], cwd=SCRIPTS, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--configfile", "config/nowhere.yaml"], "config/nowhere.yaml: there is no such config file"),
        (["--configfile", "config/smoke.yaml", "--config", "sedes=[0]"], "unknown key 'sedes'; did you mean 'seeds'?"),
        (["--config", "seeds"], "--config seeds: write KEY=VALUE"),
        (["--gpus", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str) -> None:
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_command_names_the_study_as_it_was_named() -> None:
    named = ["--configfile", "a.yaml", "b.yaml", "--config", 'training={"epochs": 3}']
    arguments = study_parser(None).parse_args(named)
    expected = """snakemake --configfile a.yaml b.yaml --config 'training={"epochs": 3}' -- 'x y'"""
    assert snakemake_command(arguments, "--", "x y") == expected
    assert snakemake_command(study_parser(None).parse_args([])) == "snakemake"
