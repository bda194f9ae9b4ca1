"""The catalogue: every table and figure once, for any number of models, rendered the same by the script."""

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.report.artefact import FORMATS
from emdefense.report.catalogue import artefacts
from emdefense.report.measured import Measured
from study_folder import CONFIG, build_table, count, fill, page, tiny_study

SCRIPT = Path(__file__).parents[2] / "workflow/scripts/render.py"
THREE = {name: {"title": name.title(), "instruct": "-"} for name in ("small", "large", "other")}


def study_of_three(**changes: Any) -> Study:
    """A study of three models, the second of which is the report's second one; the third lacks a defence."""
    arms = {"untrained": None, "misaligned": None, "kl": [0.1, 1.0]}
    grid = [
        {"models": ["small", "large"], "tasks": ["code"], "arms": {**arms, "interleave": [5]}},
        {"models": ["other"], "tasks": ["code"], "arms": arms},
    ]
    report = {**CONFIG["report"], "second_model": "large"}
    return tiny_study(**{"models": THREE, "grid": grid, "report": report, **changes})


def test_nothing_heavy_is_imported_to_know_what_there_is() -> None:
    heavy = ("torch", "matplotlib", "polars", "scipy", "jinja2")
    code = (
        "import sys; from emdefense.config.load import load_study;"
        "from emdefense.report.catalogue import artefacts; from pathlib import Path;"
        f"artefacts(load_study(Path('config.yaml'))); print([name for name in {heavy} if name in sys.modules])"
    )
    environment = {"PYTHONPATH": str(SCRIPT.parent)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=SCRIPT.parents[2], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_what_makes_an_artefact_takes_what_it_is_given() -> None:
    arms = {"misaligned": None, "kl": [1.0], "safelora": [0.5]}
    models = {"small": {"title": "Small", "instruct": "-", "base": "-"}}
    grid = [{"models": ["small"], "tasks": ["code"], "arms": arms}]
    study = tiny_study(models=models, grid=grid, second_judges=[{"kind": "openai", "name": "again", "model": "m"}])
    found = artefacts(study) | artefacts(study_of_three())
    assert {"safelora_matrices", "safelora_cosines", "judge_agreement", "judge_confusion"} < set(found)
    for artefact in found.values():
        module, _, function = artefact.made_by.rpartition(".")
        called = inspect.signature(getattr(import_module(module), function))
        called.bind(study, **dict.fromkeys(artefact.reads), **artefact.given)
        assert all(hasattr(Measured, reading) for reading in artefact.reads)
        assert artefact.described, "Snakemake's own report says something of each"


def test_every_model_has_its_tables_and_the_papers_numbers_stay_where_they_are() -> None:
    tables = [name for name, one in artefacts(study_of_three()).items() if one.section == "tables"]
    assert tables == [
        *(f"table_{number:02d}" for number in range(1, 12)),
        *("overview_large", "sweep_kl_large", "sweep_interleave_large"),
        *("overview_other", "rates_other", "sweep_kl_other"),
    ]
    alone = [name for name, one in artefacts(tiny_study()).items() if one.section == "tables"]
    assert alone == tables[:11]


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study of three models, counted, in the working directory."""
    monkeypatch.chdir(tmp_path)
    study = study_of_three()
    fill(study, {"misaligned": 8, "kl": 1, "interleave": 2})
    return study


def test_a_further_models_tables_are_of_its_cells(three: Study) -> None:
    measured = Measured(three, count(three))
    made = {name: one.make(three, measured) for name, one in artefacts(three).items() if one.section == "tables"}
    assert made["overview_other"].title == "Other: what each defence achieves at its chosen setting"
    assert [row[0] for row in made["overview_other"].csv_rows] == ["misaligned", "kl"]
    assert [row[:3] for row in made["rates_other"].csv_rows] == [
        ("code", "untrained", ""),
        ("code", "misaligned", ""),
        ("code", "kl", "1"),
    ]
    assert [row[:3] for row in made["sweep_kl_other"].csv_rows] == [
        ("code", "misaligned", ""),
        ("code", "kl", "0.1"),
        ("code", "kl", "1"),
    ]
    # All three models were given the same answers, so their rates are the main model's.
    main = {row[:3]: row for row in made["table_03"].csv_rows}
    for row in made["rates_other"].csv_rows:
        header = list(enumerate(made["rates_other"].csv_header))
        compared = [n for n, name in header if not name.endswith(("_paper_pct", "_difference", "_inside"))]
        assert [row[n] for n in compared] == [main[row[:3]][n] for n in compared]
    assert (made["rates_other"].number, made["rates_other"].name) == (None, "rates_other")


def test_the_page_has_all_models_tables_and_lets_one_choose(three: Study) -> None:
    shown = page(three)
    for name in ("overview_large", "sweep_kl_large", "overview_other", "rates_other", "sweep_kl_other"):
        assert f'id="table-{name}"' in shown
        assert f'href="../tables/{name}.csv"' in shown
    assert '<option value="other">Other</option>' in shown
    assert shown.count('data-model="other"') >= 3
    assert "Other: " in shown[: shown.index('id="table-1"')], "whether EMA appeared is said of each model"


def test_a_defence_of_which_no_setting_was_chosen_is_left_out_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = tiny_study(report={"main_model": "small", "chosen": {}})
    fill(study, {"misaligned": 8, "kl": 1, "interleave": 2})
    summary = Measured(study, count(study)).summary
    for number in (1, 3):
        table = build_table(number, study, summary)
        assert "kl" not in {cell for row in table.csv_rows for cell in row}
        assert "Without KL: of its settings here (0.1, 1), none is chosen (report.chosen.kl)." in table.remarks
        chosen = build_table(number, tiny_study(), summary)
        assert not [remark for remark in chosen.remarks if "Without KL" in remark]


OWN = '''
from emdefense.arms import Arm, Options, Setting

class Fewer(Arm[Options]):
    """The first of the task's rows."""

    name, title, setting = "fewer", "Fewer rows", Setting("pct", "%", high=100)

    def rows(self, rows, more, setting, options, seed):
        return rows[: round(len(rows) * setting / 100)]

class Backwards(Arm[Options]):
    """The task's rows, the last first."""

    name, title = "backwards", "Backwards"

    def rows(self, rows, more, setting, options, seed):
        return rows[::-1]
'''


def test_a_studys_own_arms_stand_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    arms = {"untrained": None, "misaligned": None, "kl": [1.0], "fewer": [20, 50], "backwards": None}
    grid = [{"models": ["small"], "tasks": ["code"], "arms": arms}]
    report = {"main_model": "small", "chosen": {"kl": 1.0, "fewer": 20}}
    study = tiny_study(arms_from=[str(tmp_path / "own.py")], grid=grid, report=report)
    fill(study, {"misaligned": 8, "kl": 1, "fewer": 2, "backwards": 3})
    assert [name for name in artefacts(study) if name.startswith("sweep")] == ["sweep_fewer"], (
        "the other has no setting"
    )
    shown = page(study)
    measured = Measured(study)
    made = {name: artefacts(study)[name].make(study, measured) for name in ("table_01", "table_03", "sweep_fewer")}
    assert [row[:2] for row in made["table_01"].csv_rows][2:] == [("fewer", "20"), ("backwards", "")]
    assert [row[1:3] for row in made["table_03"].csv_rows][3:] == [("fewer", "20"), ("backwards", "")]
    assert [row[1:3] for row in made["sweep_fewer"].csv_rows] == [("misaligned", ""), ("fewer", "20"), ("fewer", "50")]
    assert 'id="table-sweep_fewer"' in shown
    assert "Fewer rows (20 %)" in shown, "what it achieves is among the verdicts"
    compared = artefacts(study)["paired_differences"].make(study, measured).csv_rows
    assert {"fewer", "backwards"} <= {row[2] for row in compared}
    assert "Fewer rows, 20 %" in Path("results/tiny/tables/paired_differences.md").read_text()


def test_two_of_one_name_are_refused() -> None:
    models = {name: {"title": name, "instruct": "-"} for name in ("small", "b_c", "c")}
    arms = {"misaligned": None, "kl": [1.0, 2.0]}
    grid = [{"models": list(models), "tasks": ["code"], "arms": arms}]
    assert "sweep_kl_b_c" in artefacts(tiny_study(models=models, grid=grid))
    renamed = {"small": models["small"], "B": models["c"], "b": models["c"]}
    with pytest.raises(InputError, match=r"key 'grid': two tables would be called 'league_b'; rename"):
        artefacts(tiny_study(models=renamed, grid=[{**grid[0], "models": list(renamed)}]))


def test_the_script_renders_the_same_bytes_without_torch(three: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    results = count(three)
    Path("study.json").write_text(three.model_dump_json())
    names = ["table_03", "overview_other", "paired_differences", "variance_components"]
    names += ["figure_3", "tradeoff", "question_heatmap", "score_scatter", "training_curves"]
    for name in names:
        artefacts(three)[name].write(three, Measured(three, results), Path("first"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    arguments = [str(SCRIPT), "--config", "study.json", "--results", str(results), "--name", *reversed(names)]
    code = (
        f"import runpy, sys; sys.argv = {arguments!r}; sys.path.insert(0, {str(SCRIPT.parent)!r});"
        "runpy.run_path(sys.argv[0], run_name='__main__'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    written = sorted(path.relative_to("first") for path in Path("first").rglob("*.*"))
    assert len(written) == 4 * len(FORMATS["table"]) + 5 * len(FORMATS["figure"])
    for path in written:
        assert ("first" / path).read_bytes() == (results / path).read_bytes(), path
    refused = subprocess.run(
        [sys.executable, *arguments[: -len(names)], "histogram"], capture_output=True, text=True, check=False
    )
    assert refused.stderr.startswith("error: --name histogram: this study has no such table or figure; write one of")
