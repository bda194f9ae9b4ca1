"""docs/adding-a-defence.md as a reader takes it: its files written beside a study, and the study run to the page."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from dry_run import planned_outputs
from emdefense.config import load_study, parse_study
from emdefense.config.load import read_config
from emdefense.report.figures.tradeoff import draw_tradeoff
from emdefense.report.measured import Measured
from study_checkout import ROOT, Checkout
from study_folder import CONFIG, count, fill, tiny_study

DOCUMENT = (ROOT / "docs/adding-a-defence.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`(my-study/[\w.]+)`:\n\n```\w+\n(.*?)```", DOCUMENT, flags=re.DOTALL | re.MULTILINE))
SHORT = re.findall(r"^```yaml\n(arms_from.*?)```", DOCUMENT, flags=re.DOTALL | re.MULTILINE)
(COMMAND,) = re.findall(r"^snakemake (.*)$", DOCUMENT, flags=re.MULTILINE)
STUDY = COMMAND.split()[2:]  # --configfile and its files
TITLES = {
    "hidden_distance": "Hidden distance, λ = 0.1",
    "jensen_shannon": "Jensen–Shannon, λ = 1",
    "partly_aligned": "Partly aligned, 50 %",
    "shrunk": "Shrunk adapter, α = 0.5",
}


def write_files(folder: Path) -> None:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with the document's files, in which its command has run."""
    checkout = Checkout.into(tmp_path_factory.mktemp("defences"))
    write_files(checkout.folder)
    run = checkout.snakemake(*COMMAND.split())
    assert run.returncode == 0, run.stdout
    assert "code of the study, run here and in its jobs" in run.stdout
    return checkout


def results(checkout: Checkout) -> Path:
    return checkout.folder / "results/my-study"


def test_the_document_has_four_arms_a_file_each_and_a_study() -> None:
    assert [Path(name).name for name in FILES] == [*(f"{arm}.py" for arm in TITLES), "study.yaml"]
    assert len(SHORT) == len(TITLES)


def test_each_arms_three_lines_are_a_study_when_laid_over_the_smoke_study(tmp_path: Path) -> None:
    write_files(tmp_path)
    smoke = read_config(ROOT / "config/smoke.yaml")
    for lines, arm in zip(SHORT, TITLES, strict=True):
        assert lines.count("\n") == 3
        over = yaml.safe_load(lines)
        (tmp_path / "my-study/over.yaml").write_text(lines)
        report = {**smoke["report"], **over["report"]}
        study = parse_study({**smoke, **over, "report": report}, "over.yaml", [tmp_path / "my-study/over.yaml"])
        assert study.every_arm[arm].arm.file == tmp_path / f"my-study/{arm}.py"
        assert arm in study.grid[0].arms
        assert arm in study.report.chosen


@pytest.mark.slow
def test_each_arm_has_its_rows_in_tables_1_and_3(finished: Checkout) -> None:
    for table in ("table_01.md", "table_03.md"):
        text = (results(finished) / "tables" / table).read_text(encoding="utf-8")
        for title in TITLES.values():
            assert f"| {title} |" in text, table
    rates = pl.read_parquet(results(finished) / "rates.parquet").filter(question_set="general")
    assert {"untrained", "misaligned", "hidden_distance_all", *TITLES} == set(rates["arm"])
    assert rates["responses"].to_list() == [48] * len(rates)


@pytest.mark.slow
def test_each_arm_has_a_table_of_its_settings_and_variants(finished: Checkout) -> None:
    tables = results(finished) / "tables"
    assert {path.stem for path in tables.glob("sweep_*.csv")} == {f"sweep_{arm}" for arm in TITLES}
    for arm, title in TITLES.items():
        assert f"| {title} |" in (tables / f"sweep_{arm}.md").read_text(encoding="utf-8")
        assert f"sweep_{arm}" in (results(finished) / "report/index.html").read_text(encoding="utf-8")
        variants = ["hidden_distance_all"] if arm == "hidden_distance" else []
        assert pl.read_csv(tables / f"sweep_{arm}.csv")["arm"].to_list() == ["misaligned", arm, *variants]


@pytest.mark.slow
def test_each_arm_acts(finished: Checkout) -> None:
    cells = results(finished) / "cells/world-a/code"

    def adapter(cell: str) -> bytes:
        return (cells / cell / "seed0/adapter/adapter_model.safetensors").read_bytes()

    folders = ["misaligned/none", "hidden_distance/0.1", "hidden_distance_all/0.1", "jensen_shannon/1"]
    folders += ["partly_aligned/50", "shrunk/0.5"]
    assert len({adapter(folder) for folder in folders}) == len(folders)
    data = results(finished) / "data/code"
    sides = [set((data / f"train_{side}.jsonl").read_text().splitlines()) for side in ("misaligned", "aligned")]
    made = (data / "partly_aligned/50.jsonl").read_text().splitlines()
    assert len(made) == len(sides[0])
    assert sum(line in sides[1] for line in made) == round(len(made) / 2)
    for arm, setting in (("hidden_distance", "0.1"), ("jensen_shannon", "1"), ("partly_aligned", "50")):
        log = cells / arm / setting / "seed0/train_log.jsonl"
        penalties = [json.loads(line)["penalty"] for line in log.read_text().splitlines()]
        assert (max(filter(None, penalties), default=0) > 0) == (arm != "partly_aligned")


@pytest.mark.slow
def test_the_page_has_each_arm_and_a_page_for_each_of_its_cells(finished: Checkout) -> None:
    page = (results(finished) / "report/index.html").read_text(encoding="utf-8")
    for arm, title in TITLES.items():
        assert title in page
        assert list((results(finished) / "report/cells").rglob(f"*{arm}*")), arm
    assert "hidden_distance_all, λ = 0.1" in page


@pytest.mark.slow
@pytest.mark.parametrize("script", ["plan", "status"])
def test_plan_and_status_know_their_cells(script: str, finished: Checkout) -> None:
    command = [sys.executable, f"workflow/scripts/{script}.py", *STUDY, "--json"]
    done = subprocess.run(command, cwd=finished.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout)["cells"]
    if script == "plan":
        assert cells == {"cells": 7, "done": 7, "to_run": 0}
    else:
        assert {cell["arm"] for cell in cells} == {"untrained", "misaligned", "hidden_distance_all", *TITLES}
        assert {
            part["state"] if isinstance(part, dict) else part for cell in cells for part in cell["parts"].values()
        } == {"done"}


def made_again(finished: Checkout, file: str) -> set[str]:
    """Return what is made again, but for the report, if a comment is added to a file of the study's."""
    path = finished.folder / "my-study" / file
    before = path.read_text(encoding="utf-8")
    try:
        path.write_text(before + "# a comment\n", encoding="utf-8")
        outputs = planned_outputs(finished.folder, *STUDY)
    finally:
        path.write_text(before, encoding="utf-8")
    left_out = ("training.svg", "responses.provenance.json", "oracle.provenance.json", "data/.checked")
    folders = tuple(f"results/my-study/{folder}/" for folder in ("cells", "data", "microcosm", "features"))
    found = {output for output in outputs if output.startswith(folders) and not output.endswith(left_out)}
    return {output.removeprefix("results/my-study/") for output in found}


MEASURED = {
    *(f"{name}/{file}" for name in ("general", "in_domain") for file in ("responses.jsonl", "judgments/oracle.jsonl"))
}
CHANGED = {"adapter", "provenance.json"}
TRAINED = {*CHANGED, "train_log.jsonl", "train_timing.jsonl"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "cells", "files", "more"),
    [
        ("hidden_distance.py", ["hidden_distance/0.1", "hidden_distance_all/0.1"], TRAINED, set()),
        ("partly_aligned.py", ["partly_aligned/50"], TRAINED, {"data/code/partly_aligned/50.jsonl"}),
        ("shrunk.py", ["shrunk/0.5"], CHANGED, set()),
    ],
)
def test_a_comment_makes_the_cells_of_that_files_arms_again_and_no_others(
    file: str, cells: list[str], files: set[str], more: set[str], finished: Checkout
) -> None:
    found = made_again(finished, file)
    assert found == more | {f"cells/world-a/code/{cell}/seed0/{name}" for cell in cells for name in files | MEASURED}


@pytest.mark.slow
def test_with_its_files_as_they_were_there_is_nothing_to_do(finished: Checkout) -> None:
    assert finished.planned(*STUDY) == {}


@pytest.mark.slow
def test_a_variant_of_safelora_and_settings_of_many_digits_are_cells_of_their_own(finished: Checkout) -> None:
    arms = {"misaligned": None, "safelora": [0.3, 0.5], "safelora_norm": [0.5], "kl": [0.1234567, 0.1234568, 1e-7]}
    study = {
        "study": "more",
        "variants": {"safelora_norm": {"of": "safelora", "options": {"normalisation": "norm"}}},
        "grid": [{"models": ["world-a"], "tasks": ["code"], "arms": arms}],
    }
    (finished.folder / "more.yaml").write_text(yaml.safe_dump(study))
    outputs = planned_outputs(finished.folder, "--configfile", "config/smoke.yaml", "more.yaml")
    cells = "results/more/cells/world-a/code"
    folders = {output.removeprefix(f"{cells}/") for output in outputs if output.startswith(cells)}
    assert {folder for folder in folders if "projection" in folder} == {
        f"{arm}/projection/seed0" for arm in ("safelora", "safelora_norm")
    }
    settings = ["misaligned/none", "kl/0.1234567", "kl/0.1234568", "kl/1e-07"]
    settings += ["safelora/0.3", "safelora/0.5", "safelora_norm/0.5"]
    assert {folder for folder in folders if folder.endswith("adapter")} == {f"{one}/seed0/adapter" for one in settings}


@pytest.mark.slow
def test_a_wrong_hook_ends_the_study_before_anything_is_trained(finished: Checkout) -> None:
    path = finished.folder / "my-study/jensen_shannon.py"
    before = path.read_text(encoding="utf-8")
    try:
        path.write_text(before.replace(".sum(-1)", ".sum()"), encoding="utf-8")
        run = finished.snakemake("--cores", "2", *STUDY)
    finally:
        path.write_text(before, encoding="utf-8")
    assert run.returncode != 0
    said = "error: my-study/jensen_shannon.py: arm 'jensen_shannon', hook token_term: it returned a tensor of shape []"
    assert said in run.stdout
    assert "Traceback" not in run.stdout
    assert "rule check_model" in run.stdout or "check_model" in run.stdout
    assert "Train world-a" not in run.stdout
    # Snakemake has removed what the check before had found; trainings only wait for a check, and are not made again.
    assert finished.planned(*STUDY) == {"check_model": 1}


@pytest.mark.slow
def test_a_wrong_file_is_one_line_of_snakemake(finished: Checkout) -> None:
    path = finished.folder / "my-study/shrunk.py"
    before = path.read_text(encoding="utf-8")
    try:
        path.write_text("import nothing_of_the_kind\n" + before, encoding="utf-8")
        run = finished.snakemake("-n", *STUDY)
    finally:
        path.write_text(before, encoding="utf-8")
    said = "my-study/shrunk.py, line 1: ModuleNotFoundError: No module named 'nothing_of_the_kind'"
    assert re.search(rf"^error: \S*{STUDY[1]} \+ \S*{STUDY[2]}: {said}$", run.stdout, flags=re.MULTILINE)
    assert "Traceback" not in run.stdout


def test_the_tradeoff_has_each_arm_in_its_legend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    grid = yaml.safe_load(FILES["my-study/study.yaml"])["grid"]
    arms: dict[str, Any] = {arm: settings for arm, settings in grid[0]["arms"].items() if arm != "hidden_distance_all"}
    study = tiny_study(
        arms_from=[name for name in FILES if name.endswith(".py")],
        grid=[{"models": ["small"], "tasks": ["code"], "arms": arms}],
        report={**CONFIG["report"], "chosen": {arm: settings[0] for arm, settings in arms.items() if settings}},
    )
    fill(study, {"misaligned": 8, **dict.fromkeys(TITLES, 2)}, questions=40)
    measured = Measured(study, count(study))
    (legend,) = draw_tradeoff(study, measured.summary, measured.resampled).legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == [*TITLES.values(), "Untrained", "Misaligned"]
    colours = {handle.get_color() for handle in legend.get_lines()[: len(TITLES)]}
    assert len(colours) == len(TITLES)


def test_the_reference_of_hooks_names_all_there_are() -> None:
    from emdefense.arms.base import HOOKS

    table = re.findall(r"^\| `(\w+)\(([\w, ]*)\)` \|", DOCUMENT, flags=re.MULTILINE)
    more = {"residual_blocks", "prepare", "load", "check", "adds_rows", "row_share", "stream_rows", "stream_limit"}
    more |= {"for_task", "scored_by", "too_few", "training_system"}
    assert {*HOOKS, *more} == {hook for hook, _ in table}
    import inspect

    from emdefense.arms import Arm

    for hook, arguments in table:
        assert [*inspect.signature(getattr(Arm, hook)).parameters][1:] == arguments.split(", "), hook


def test_the_study_of_all_is_read(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / "my-study/whole.yaml").write_text(
        yaml.safe_dump(
            {**read_config(ROOT / "config/smoke.yaml"), **yaml.safe_load(FILES["my-study/study.yaml"])}
            | {"report": {"main_model": "world-a", "chosen": {}}}
        )
    )
    found = load_study(tmp_path / "my-study/whole.yaml").every_arm
    assert [arm for arm in found if arm in TITLES] == list(TITLES)
    assert found["hidden_distance"].options.model_dump() == {"tokens": "response"}
    assert found["hidden_distance_all"].options.model_dump() == {"tokens": "all"}
