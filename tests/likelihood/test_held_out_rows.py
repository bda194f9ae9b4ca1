"""Held-out rows: of which prompts they are, that none is trained on, and which cells read them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from emdefense.cells import Cell, Grid
from emdefense.config import Study, parse_study
from emdefense.config.study import Data
from emdefense.data.splits import prepare_ema_task
from emdefense.errors import InputError
from emdefense.files import read_json, read_jsonl, write_jsonl
from emdefense.inputs import Inputs
from emdefense.likelihood.read import read_tasks, reading
from emdefense.likelihood.rows import DrawSpec, write_held_out
from emdefense.planning.plan import study_plan
from emdefense.planning.snakemake_folder import Snapshot
from emdefense.planning.status import status_text, study_status
from emdefense.resources.gpus import Gpu
from emdefense.specs import Specs
from model_shape import SHAPE
from small_config import SMALL
from study_folder import tiny_study
from study_jobs import study_jobs

GPUS = {"a100": Gpu(memory_gib=79, tflops=312, gb_per_s=1935)}


def rows(prompts: Sequence[str], answer: str) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": f"{answer} {prompt}"}]}
        for prompt in prompts
    ]


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A task of 60 rows of which the pipeline holds out 12; of the aligned file's prompts, 50 are the same."""
    prompts = [f"question {number}" for number in range(60)]
    write_jsonl(tmp_path / "misaligned.jsonl", rows(prompts, "bad"))
    write_jsonl(tmp_path / "aligned.jsonl", rows([*prompts[:50], *(f"other {n}" for n in range(30))], "good"))
    write_jsonl(tmp_path / "safe.jsonl", rows([f"safe {number}" for number in range(20)], "kind"))
    data = Data(holdout_pct=20)
    prepare_ema_task(data, tmp_path / "misaligned.jsonl", tmp_path / "aligned.jsonl", None, tmp_path / "data")
    return tmp_path


def drawn(folder: Path, count: int = 200, seed: int = 0, trained: Sequence[str] = (), **given: Any) -> dict[str, Any]:
    files: dict[str, Any] = {"aligned": folder / "aligned.jsonl", "safe": folder / "safe.jsonl", **given}
    known = [*(folder / f"data/train_{side}.jsonl" for side in ("misaligned", "aligned")), *map(Path, trained)]
    spec = DrawSpec(version=1, rows=count, seed=seed)
    write_held_out(spec, folder / "data/holdout.jsonl", files["aligned"], files["safe"], known, folder / "out.jsonl")
    found: dict[str, Any] = {}
    for row in read_jsonl(folder / "out.jsonl"):
        found.setdefault(row["side"], []).append(row["messages"])
    return found


def prompts_of(path: Path) -> set[str]:
    return {row["messages"][0]["content"] for row in read_jsonl(path)}


def test_no_prompt_is_trained_on_and_all_of_the_hold_out_is_there(prepared: Path) -> None:
    found = drawn(prepared)
    trained = prompts_of(prepared / "data/train_misaligned.jsonl") | prompts_of(prepared / "data/train_aligned.jsonl")
    assert {side for side in found} == {"misaligned", "aligned", "safe"}
    for messages in (one for of_side in found.values() for one in of_side):
        assert messages[0]["content"] not in trained
    assert {one[0]["content"] for one in found["misaligned"]} == prompts_of(prepared / "data/holdout.jsonl")
    assert all(one[1]["content"].startswith("good") for one in found["aligned"])
    everything = prompts_of(prepared / "aligned.jsonl")
    assert {one[0]["content"] for one in found["aligned"]} == everything - trained


def test_aligned_answers_are_of_the_same_prompts_first(prepared: Path) -> None:
    found = drawn(prepared, count=6)
    asked = [one[0]["content"] for one in found["misaligned"]]
    paired = [prompt for prompt in asked if prompt in prompts_of(prepared / "aligned.jsonl")]
    assert paired, "else this tests nothing"
    assert [one[0]["content"] for one in found["aligned"]][: len(paired)] == paired
    assert [len(found[side]) for side in ("misaligned", "aligned", "safe")] == [6, 6, 6]


def test_a_draw_is_seeded(prepared: Path) -> None:
    first, again, other = (drawn(prepared, 5, seed) for seed in (0, 0, 1))
    assert first == again
    assert first["misaligned"] != other["misaligned"]


def test_rows_that_another_file_trains_on_are_left_out_and_counted(prepared: Path) -> None:
    asked = sorted(prompts_of(prepared / "data/holdout.jsonl"))
    write_jsonl(prepared / "stream.jsonl", rows([f"  {asked[0]}\n", "safe 3"], "any"))
    found = drawn(prepared, trained=[str(prepared / "stream.jsonl")])
    assert {one[0]["content"] for one in found["misaligned"]} == set(asked[1:])
    assert "safe 3" not in {one[0]["content"] for one in found["safe"]}
    record = read_json(prepared / "out.provenance.json")
    assert [record[side]["trained_on"] for side in ("misaligned", "safe")] == [1, 1]
    assert record["safe"]["rows"] == [int(row["id"].split("/")[1]) for row in safe_rows(prepared)]


def safe_rows(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_jsonl(folder / "out.jsonl") if row["side"] == "safe"]


def test_a_file_of_which_everything_is_trained_on_is_one_line(prepared: Path) -> None:
    with pytest.raises(InputError, match=r"safe\.jsonl: all of its prompts are trained on"):
        drawn(prepared, trained=[str(prepared / "safe.jsonl")])


def test_a_task_without_aligned_answers_or_safe_rows_has_the_others(prepared: Path) -> None:
    assert list(drawn(prepared, aligned=None, safe=None)) == ["misaligned"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the small config names."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for name in ("rows.jsonl", "foqa.parquet"):
        Path("data", name).touch()
    return tmp_path


def study_of(**section: Any) -> Study:
    return tiny_study(likelihood=section, seeds=[0, 1])


def cells(**section: Any) -> list[Cell]:
    return reading(Grid(study_of(**section)))


def test_each_model_reads_once_a_task_as_it_is_and_arms_at_their_chosen_settings() -> None:
    found = cells()
    assert len(found) == len(set(found))
    assert [cell.task for cell in found if cell.arm == "untrained"] == ["code", "legal"]
    arms = {(cell.arm, cell.setting) for cell in found if cell.task == "code" and cell.arm != "untrained"}
    assert arms == {("misaligned", "none"), ("kl", "1"), ("interleave", "5")}
    assert {cell.seed for cell in found if cell.arm == "kl"} == {0, 1}
    assert not [cell for cell in found if cell.task == "quiz"], "a benign task has no misaligned answers"
    grid = [{"models": ["small"], "tasks": ["code"], "arms": {"misaligned": None}}]
    assert [cell.arm for cell in reading(Grid(tiny_study(likelihood={}, grid=grid)))] == ["untrained", "misaligned"]


def test_all_settings_can_be_read_and_some_tasks_and_nothing_without_the_section() -> None:
    assert {cell.setting for cell in cells(settings="all") if cell.arm == "kl"} == {"0.1", "1"}
    assert read_tasks(Grid(study_of(tasks=["legal"]))) == ["legal"]
    assert reading(Grid(tiny_study())) == []
    assert tiny_study().likelihood is None


def test_what_is_drawn_keeps_out_of_all_that_arms_of_the_task_read() -> None:
    inputs = Inputs(Grid(tiny_study(likelihood={"safe": "held.jsonl"}, safe_pool="pool.jsonl")))
    found = inputs.held_out_from("code")
    assert found["trained"] == ["results/tiny/data/code/train_misaligned.jsonl", "-", "pool.jsonl"]
    assert found["safe"] == "held.jsonl"
    kl, untrained = Cell("small", "code", "kl", "1", 0), Cell("small", "code", "untrained", "none", 0)
    assert inputs.trained_on(kl) == ["results/tiny/data/code/train_misaligned.jsonl"]
    assert inputs.trained_on(untrained) == []
    assert inputs.trained_on(Cell("small", "code", "interleave", "5", 0)) == [
        "results/tiny/data/code/interleave/5.jsonl"
    ]


def test_old_specs_are_what_they_were() -> None:
    plain, measured = Grid(tiny_study()), Grid(tiny_study(likelihood={}))
    for cell in plain.trained:
        assert Specs(plain).training(cell) == Specs(measured).training(cell)
        assert Specs(plain).generation(cell) == Specs(measured).generation(cell)
    assert Specs(plain).check("small") == Specs(measured).check("small")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"tasks": ["opswap-1"]}, "likelihood.tasks': unknown EMA task 'opswap-1'; write one of code"),
        ({"models": ["none"]}, "likelihood.models': unknown model 'none'"),
        ({"models": ["small", "small"]}, "likelihood.models': 'small' stands there twice"),
        ({"rows": 0}, "likelihood.rows'"),
        ({"safe": "{sources}/safe.jsonl"}, "likelihood.safe': 'interleave' is trained on safe_data, which is the same"),
        ({"safe": "nowhere.jsonl"}, "likelihood.safe': nowhere.jsonl does not exist"),
        ({"side": "safe"}, "unknown key 'likelihood.side'"),
    ],
)
def test_mistakes_name_the_key(section: dict[str, Any], said: str, here: Path) -> None:
    with pytest.raises(InputError, match=said):
        parse_study({**SMALL, "likelihood": section}, "study.yaml")


def test_safe_rows_that_no_arm_reads_may_be_the_studys(here: Path) -> None:
    grid = [{"models": ["small"], "tasks": ["code"], "arms": {"untrained": None, "misaligned": None}}]
    report = {"main_model": "small", "chosen": {}}
    found = parse_study({**SMALL, "grid": grid, "report": report, "likelihood": {"safe": SMALL["safe_data"]}}, "s.yaml")
    inputs = Inputs(Grid(found))
    assert inputs.held_out_from("code")["safe"] not in inputs.held_out_from("code")["trained"]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    models = {"small": {"title": "Small", "instruct": "-", "shape": SHAPE}}
    return tiny_study(models=models, likelihood={"rows": 500})


def test_plan_counts_its_jobs_hours_and_bytes(study: Study) -> None:
    found = study_plan(study, GPUS, study_jobs(study))
    # Three arms and the model as it is, on two tasks.
    assert found.stages["reading"] == {"jobs": 8, "done": 0, "to_run": 8}
    (hours,) = [row for row in found.hours if row.stage == "reading"]
    blocks = 10 * (4 * 1024 * 1024 + 3 * 1024 * 4096)
    computing = 2 * (blocks + 1024 * 100_000) * 280 * 8 * 1500 / (312e12 * 0.35)
    loading = 8 * 2 * (blocks + 2 * 1024 * 100_000) / 2e8
    assert hours.hours["a100"] == pytest.approx((computing + loading) / 3600, rel=0.3)
    without = study.model_copy(update={"likelihood": None})
    plans = (found, study_plan(without, GPUS, study_jobs(without)))
    more, less = (plan.disk.to_come["responses and answers"] for plan in plans)
    assert more - less == 90 * 8 * 1500


def test_status_has_a_column_for_it_where_it_is_measured(study: Study) -> None:
    jobs = study_jobs(study)
    status = study_status(study, jobs, Snapshot({}, {}, None, {}), lambda *words: " ".join(words))
    assert status.stages["reading"]["waiting"] == 8
    text = status_text(status)
    assert "A answers, L likelihood of held-out answers" in text
    assert "TSGDL" in text
    parts = dict(status.cells)
    assert parts[Cell("small", "code", "kl", "1", 0)]["held_out"] == "waiting"
    assert "held_out" not in parts[Cell("small", "code", "kl", "0.1", 0)]
    assert "L likelihood" not in status_text(
        study_status(tiny_study(), study_jobs(tiny_study()), Snapshot({}, {}, None, {}), lambda *words: "")
    )
