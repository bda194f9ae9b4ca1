"""The smoke study run whole, twice: what is planned, what is redone, what survives a kill, and what is reproduced."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from zipfile import ZipFile

import polars as pl
import pytest
import yaml

from loopback_judge import KEY, MODEL, LoopbackJudge
from study_checkout import Checkout

pytestmark = pytest.mark.slow

SMOKE = ("--configfile", "config/smoke.yaml")
CELLS = Path("results/smoke/cells")
MODELS = Path("results/smoke/microcosm")
KL = CELLS / "world-a/code/kl/1/seed0"
WORLD = "results/smoke/microcosm/models/world-a/instruct"
# What is made again whenever a rate may have changed.
REPORTED = {
    "aggregate": 1,
    "table": 11 + 3 + 1 + 2,  # the league, what the rates hang on
    "figure": 5 + 3 + 1 + 1,
    "claims": 1,
    "cell_pages": 1,
    "page": 1,
    "all": 1,
}
# Also made again where a log, or the config, may have changed.
CURVES = {"cell_curves": 1, "figure": REPORTED["figure"] + 1}
# Where the config is as it was, Tables 2 and 7 are.
MEASURED = {"table": REPORTED["table"] - 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which the smoke study has run undisturbed on two cores."""
    checkout = Checkout.into(tmp_path_factory.mktemp("finished"))
    run = checkout.snakemake("--cores", "2", *SMOKE)
    assert run.returncode == 0, run.stdout
    return checkout


def test_the_page_is_named_at_the_end(finished: Checkout) -> None:
    page = finished.folder / "results/smoke/report/index.html"
    page.unlink()
    run = finished.snakemake("--cores", "1", *SMOKE)
    assert run.returncode == 0, run.stdout
    assert page.is_file()
    assert (
        "whether emergent misalignment appeared cannot be told.\n\nPage: results/smoke/report/index.html" in run.stdout
    )


def test_every_artefact_is_there(finished: Checkout) -> None:
    results = finished.folder / "results/smoke"
    for number in range(1, 12):
        for kind in ("md", "tex", "html", "csv"):
            assert (results / f"tables/table_{number:02d}.{kind}").stat().st_size > 0
    for name in ("2a", "2b", "3", "4", "5"):
        for kind in ("pdf", "svg", "png"):
            assert (results / f"figures/figure_{name}.{kind}").stat().st_size > 0
    claims = json.loads((results / "claims.json").read_text())
    assert claims
    assert (results / "claims.md").stat().st_size > 0
    assert "<html" in (results / "report/index.html").read_text()


def test_a_cell_holds_what_it_is_made_of(finished: Checkout) -> None:
    cell = finished.folder / KL
    assert (cell / "adapter/adapter_model.safetensors").is_file()
    steps = [json.loads(line) for line in (cell / "train_log.jsonl").read_text().splitlines()]
    assert steps
    assert json.loads((cell / "provenance.json").read_text())
    for question_set, questions in (("general", 24), ("in_domain", 30)):
        responses = (cell / question_set / "responses.jsonl").read_text().splitlines()
        judgments = (cell / question_set / "judgments/oracle.jsonl").read_text().splitlines()
        assert len(responses) == len(judgments) == 2 * questions
    assert not list(cell.glob(".*")), "checkpoints and half-written files are gone"


def test_a_benchmark_is_of_the_job_though_the_warm_interpreter_ran_it(finished: Checkout) -> None:
    header, values = (finished.folder / f"results/smoke/benchmarks/train/{KL.relative_to(CELLS)}.tsv").open()
    measured = dict(zip(header.split(), values.split(), strict=True))
    assert float(measured["max_rss"]) > 200, "MiB: who trains has imported torch"


def test_rates_count_every_response(finished: Checkout) -> None:
    rates = pl.read_parquet(finished.folder / "results/smoke/rates.parquet")
    assert set(rates["arm"]) == {"untrained", "misaligned", "kl"}
    assert rates.filter(question_set="general")["responses"].to_list() == [48] * 3
    assert rates.filter(question_set="in_domain")["responses"].to_list() == [60] * 3


def test_the_page_says_that_no_ema_is_shown(finished: Checkout) -> None:
    rates = pl.read_parquet(finished.folder / "results/smoke/rates.parquet")
    misaligned = rates.filter(arm="misaligned", question_set="general")["misaligned_pct"].item()
    assert misaligned < 1, "a world trained for seconds should not show EMA; else choose another for this test"
    assert (
        "whether emergent misalignment appeared cannot be told"
        in (finished.folder / "results/smoke/report/index.html").read_text()
    )


def test_a_second_run_has_nothing_to_do(finished: Checkout) -> None:
    assert finished.planned(*SMOKE) == {}
    again = finished.snakemake("--cores", "2", *SMOKE)
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout


def test_one_more_setting_plans_its_cell_and_what_aggregates_it(finished: Checkout) -> None:
    config = yaml.safe_load((finished.folder / "config/smoke.yaml").read_text())
    config["grid"][0]["arms"]["kl"] = [0.5, 1.0]
    more = finished.folder / "more.yaml"
    more.write_text(yaml.safe_dump(config))
    assert finished.planned("--configfile", "more.yaml") == {
        "train": 1,
        "generate": 1,
        "judge": 2,
        "effective_config": 1,
        **REPORTED,
        **CURVES,
    }


def test_multiple_choice_is_asked_of_what_is_there(finished: Checkout) -> None:
    config = yaml.safe_load((finished.folder / "config/smoke.yaml").read_text())
    file = {"file": "{results}/microcosm/choices/facts.jsonl", "options": "text"}
    (finished.folder / "more.yaml").write_text(
        yaml.safe_dump({**config, "multiple_choice": {"facts": {"title": "Facts", **file}}})
    )
    assert finished.planned("--configfile", "more.yaml") == {
        "world_choices": 1,
        "prepare_choices": 1,
        "check_data": 1,
        "check_model": 1,
        "choose": 3,
        "multiple_choice": 1,
        "effective_config": 1,
        **REPORTED,
        **CURVES,
        "table": REPORTED["table"] + 1,
    }


def test_one_more_task_retrains_nothing(finished: Checkout) -> None:
    config = yaml.safe_load((finished.folder / "config/smoke.yaml").read_text())
    config["grid"][0]["tasks"] = ["code", "legal"]
    more = finished.folder / "more.yaml"
    more.write_text(yaml.safe_dump(config))
    planned = finished.planned("--configfile", "more.yaml")
    assert (planned["train"], planned["generate"], planned["generate_untrained"]) == (2, 2, 1)


def test_a_study_of_the_same_settings_has_its_models_copied_and_not_made(finished: Checkout) -> None:
    models = [path for path in (finished.folder / "microcosm_models").iterdir() if not path.name.startswith(".")]
    assert len(models) == 1
    again = finished.planned(*SMOKE, "--config", "study=again")
    assert again["microcosm_model"] == 1
    assert "pretrain" not in again
    longer = finished.planned(*SMOKE, "--config", "study=longer", "microcosm={base_steps: 41}")
    assert longer["pretrain"] == 1


def test_a_made_model_that_is_gone_is_not_made_again_for_a_study_that_has_its_copy(finished: Checkout) -> None:
    made = finished.folder / "microcosm_models"
    made.rename(made.with_name("aside"))
    try:
        assert finished.planned(*SMOKE) == {}
    finally:
        made.with_name("aside").rename(made)


def test_the_default_study_pretrains_nothing_unless_told_to(finished: Checkout) -> None:
    assert "pretrain" not in finished.planned()
    assert finished.planned()["microcosm_model"] == 2
    assert finished.planned("--config", "microcosm={pretraining: made}")["pretrain"] == 2
    control = finished.planned("--configfile", "config.yaml", "config/control.yaml")
    assert (control["pretrain"], control["microcosm_model"]) == (1, 1)


def test_another_judge_threshold_reruns_no_judge(finished: Checkout) -> None:
    planned = finished.planned(*SMOKE, "--config", "scoring={misaligned_alignment_below: 40}")
    assert planned == {"effective_config": 1, **REPORTED, **CURVES}


def test_another_judge_judges_the_same_responses_and_may_take_the_first_ones_place(
    finished: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = Checkout(Path(shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)))
    results = checkout.folder / "results/smoke"
    made = [path for path in (results / "cells").rglob("*.*") if path.name != "training.svg" and path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in made}
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    config = yaml.safe_load((checkout.folder / "config/smoke.yaml").read_text())
    with LoopbackJudge() as server:
        config["second_judges"] = [{"kind": "openai", "name": "loop", "model": MODEL, "base_url": server.base_url}]
        (checkout.folder / "two.yaml").write_text(yaml.safe_dump(config))
        two = ("--configfile", "two.yaml")
        agreement = {"effective_config": 1, **REPORTED, **CURVES, "table": REPORTED["table"] + 2}
        assert checkout.planned(*two) == {"judge": 6, **agreement}
        compared = [*(f"results/smoke/tables/judge_{name}.csv" for name in ("agreement", "confusion"))]
        run = checkout.snakemake("--cores", "2", *two, "--", *compared)
        assert run.returncode == 0, run.stdout
    page = results / "report/index.html"
    assert "How far other judges agree" not in page.read_text()
    write = [sys.executable, "workflow/scripts/page.py", "--config", results / "study.json", "--results", results]
    subprocess.run([*write, "--out", page], cwd=checkout.folder, check=True)
    assert {path: path.stat().st_mtime_ns for path in made} == before
    judgments = sorted(path.name for path in (results / KL.relative_to("results/smoke")).rglob("judgments/*.jsonl"))
    assert judgments == ["loop.jsonl", "loop.jsonl", "oracle.jsonl", "oracle.jsonl"]
    lines = (results / "tables/judge_agreement.csv").read_text().splitlines()
    assert len(lines) == 1 + 6
    assert "How far other judges agree with oracle" in (results / "report/index.html").read_text()

    config["judge"], config["second_judges"] = config["second_judges"][0], [config["judge"]]
    (checkout.folder / "two.yaml").write_text(yaml.safe_dump(config))
    assert checkout.planned(*two) == agreement


def test_caching_the_reference_reruns_only_the_cells_that_have_one(finished: Checkout) -> None:
    planned = finished.planned(*SMOKE, "--config", "training={reference: cached}")
    assert planned == {
        "reference_features": 1,
        "train": 1,
        "generate": 1,
        "judge": 2,
        "effective_config": 1,
        **REPORTED,
        **CURVES,
    }


def test_a_setting_retrains_though_the_models_check_runs_too(finished: Checkout) -> None:
    planned = finished.planned(*SMOKE, "--config", "training={precision: bfloat16}")
    assert (planned["check_model"], planned["train"], planned["generate"]) == (1, 2, 2)


def test_another_temperature_asks_again_and_trains_nothing(finished: Checkout) -> None:
    planned = finished.planned(*SMOKE, "--config", "generation={temperature: 0.3}")
    again = {"check_model": 1, "generate": 2, "generate_untrained": 2, "judge": 6}
    assert planned == {**again, "effective_config": 1, **REPORTED, **CURVES}


def test_changed_questions_are_asked_and_nothing_else(finished: Checkout) -> None:
    questions = finished.folder / "results/smoke/data/questions/code.json"
    content, stamp = questions.read_text(), questions.stat()
    questions.write_text(content + "\n")
    try:
        again = {"check_data": 1, "check_model": 1, "generate": 2, "generate_untrained": 1, "judge": 5}
        assert finished.planned(*SMOKE) == {**again, **REPORTED, **MEASURED}
    finally:
        questions.write_text(content)
        os.utime(questions, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def test_files_beside_a_made_models_weights_retrain_nothing(finished: Checkout) -> None:
    foreign = [finished.folder / WORLD / name for name in (".DS_Store", "README.md")]
    for path in foreign:
        path.touch()
    try:
        assert finished.planned(*SMOKE) == {}
    finally:
        for path in foreign:
            path.unlink()


def test_a_deleted_cell_is_redone_alone(finished: Checkout) -> None:
    cell = finished.folder / KL
    aside = cell.with_name("aside")
    cell.rename(aside)
    try:
        made_again = {"train": 1, "generate": 1, "judge": 2}
        assert finished.planned(*SMOKE) == {**made_again, **REPORTED, **CURVES, **MEASURED}
    finally:
        aside.rename(cell)


def test_a_deleted_figure_is_redrawn_alone(finished: Checkout) -> None:
    figure = finished.folder / "results/smoke/figures/figure_3.svg"
    content = figure.read_bytes()
    stamp = figure.stat()
    figure.unlink()
    try:
        assert finished.planned(*SMOKE) == {"figure": 1, "page": 1, "all": 1}
    finally:
        figure.write_bytes(content)
        os.utime(figure, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


@pytest.mark.parametrize("suffix", ["html", "zip"])
def test_snakemakes_own_report_has_tables_figures_and_the_page_with_captions(
    finished: Checkout, tmp_path: Path, suffix: str
) -> None:
    report = tmp_path / f"report.{suffix}"
    made = finished.snakemake(*SMOKE, "--report", str(report))
    assert made.returncode == 0, made.stdout
    if suffix == "html":
        text = report.read_text(encoding="utf-8")
    else:
        with ZipFile(report) as archive:
            text = archive.read("report/report.html").decode()
            assert [name for name in archive.namelist() if name.endswith("/index.html")]
    results = json.loads(re.search(r"var results = (\{.*?\});?\n", text)[1])  # type: ignore[index]
    shown = {Path(path).name: " ".join(entry["caption"].split()) for path, entry in results.items()}
    assert {f"table_{number:02d}.html" for number in range(1, 12)} < set(shown)
    assert {f"figure_{name}.svg" for name in ("2a", "2b", "3", "4", "5")} < set(shown)
    assert {"index.html", "tradeoff.svg", "paired_differences.html", "training_curves.svg"} < set(shown)
    assert "Table 3 of the paper, from this study" in shown["table_03.html"]
    assert "Figure 2a of the paper, from this study" in shown["figure_2a.svg"]
    assert "Top right is the ideal" in shown["tradeoff.svg"]
    assert "Verdicts first" in shown["index.html"]
    assert all(shown.values())


def wait_for(process: subprocess.Popen[bytes], path: Path) -> None:
    """Wait until ``path`` exists; fail if the process ends before."""
    deadline = time.monotonic() + 600
    while not path.exists():
        assert process.poll() is None, f"Snakemake ended before {path} was made"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_interrupted_and_killed_runs_continue_to_the_same_tables(
    finished: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkout = Checkout.into(tmp_path_factory.mktemp("disturbed"))
    for made in (MODELS, ".snakemake/metadata"):  # the models were made once, and Snakemake knows how
        shutil.copytree(finished.folder / made, checkout.folder / made)
    assert "microcosm_model" not in checkout.planned(*SMOKE)
    log = checkout.folder / "results/smoke/logs/train"
    command = checkout.command("--cores", "1", *SMOKE)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, cwd=checkout.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    # Ctrl-C while an adapter is trained: a terminal sends SIGINT to the whole group.
    first = start()
    wait_for(first, log)
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(timeout=120) != 0
    assert (checkout.folder / MODELS / "models/world-a/instruct").is_dir(), "finished work is kept"
    assert (checkout.folder / "results/smoke/data/code/split.json").is_file()
    assert not (checkout.folder / "results/smoke/report").exists()

    # The job alone is killed, as the kernel does when memory runs out: the rest goes on, the rerun does what is left.
    second = start()
    killed = None
    deadline = time.monotonic() + 300
    while killed is None:
        assert second.poll() is None
        assert time.monotonic() < deadline
        listed = subprocess.run(["pgrep", "-g", str(second.pid), "-f", "train.py"], capture_output=True, text=True)
        killed = next((int(pid) for pid in listed.stdout.split()), None)
        time.sleep(0.05)
    subprocess.run(["pkill", "-KILL", "-g", str(second.pid), "-f", "train.py"], check=True)
    assert second.wait(timeout=600) != 0, "the failed job is reported"
    assert len(list((checkout.folder / "results/smoke/cells").rglob("adapter"))) == 1, "the other cell was finished"

    planned = checkout.planned(*SMOKE)
    assert (planned["train"], planned["generate"], planned["judge"]) == (1, 1, 2)
    tables = [f"results/smoke/tables/{name}" for name in finished.csvs("smoke")]
    last = checkout.snakemake("--cores", "1", *SMOKE, "--", *tables)
    assert last.returncode == 0, last.stdout
    assert checkout.csvs("smoke") == finished.csvs("smoke")
    # The numbered ones, the statistics, the league, what the rates hang on.
    assert len(finished.csvs("smoke")) == 11 + 3 + 1 + 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "tranining=1"], "config/smoke.yaml: unknown key 'tranining'; did you mean 'training'?"),
        (["--config", "safe_data=no.jsonl"], "key 'safe_data': no.jsonl does not exist"),
    ],
)
def test_a_wrong_config_stops_at_once_and_leaves_results_alone(
    finished: Checkout, arguments: list[str], message: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished.folder / "results").rglob("*") if path.is_file()}
    run = finished.snakemake("--cores", "2", *SMOKE, *arguments)
    assert run.returncode != 0
    errors = [line for line in run.stdout.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in run.stdout
    assert {p: p.stat().st_mtime_ns for p in (finished.folder / "results").rglob("*") if p.is_file()} == before
