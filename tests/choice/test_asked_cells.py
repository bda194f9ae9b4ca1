"""Who is asked multiple-choice questions, and what is planned for it."""

from pathlib import Path
from typing import Any

import pytest

from emdefense.cells import Cell, Grid
from emdefense.choice.asked import asked, asked_sets
from emdefense.config import Study, parse_study
from emdefense.errors import InputError
from emdefense.inputs import Inputs
from emdefense.planning.plan import study_plan
from emdefense.planning.snakemake_folder import Snapshot
from emdefense.planning.status import status_text, study_status
from emdefense.resources.gpus import Gpu
from emdefense.specs import Specs
from model_shape import SHAPE
from small_config import SMALL
from study_folder import CONFIG, tiny_study
from study_jobs import study_jobs

SET = {"title": "Set", "file": "-"}
UNTRAINED = Cell("small", "shared", "untrained", "none", 0)


def cells(**section: Any) -> list[Cell]:
    """The cells that are asked in the tiny study, whose grid has KL at 0.1 and 1 and chose 1."""
    grid = Grid(tiny_study(multiple_choice={"set": SET | section}, seeds=[0, 1]))
    return [cell for cell, _ in asked(grid)]


def test_the_model_as_it_is_is_asked_once_and_arms_at_their_chosen_settings_for_each_seed() -> None:
    found = cells()
    assert len(found) == len(set(found))
    assert [cell for cell in found if cell.arm == "untrained"] == [UNTRAINED]
    arms = {(cell.task, cell.arm, cell.setting) for cell in found if cell != UNTRAINED}
    ema = {
        (task, *arm) for task in ("code", "legal") for arm in (("misaligned", "none"), ("kl", "1"), ("interleave", "5"))
    }
    assert arms == ema | {("quiz", "sft", "none"), ("quiz", "kl", "1")}
    assert len(found) == 1 + 2 * len(arms)


def test_all_settings_can_be_asked_and_some_models_and_tasks() -> None:
    assert {cell.setting for cell in cells(settings="all") if cell.arm == "kl" and cell.task == "code"} == {"0.1", "1"}
    assert {cell.task for cell in cells(tasks=["legal"])} == {"shared", "legal"}
    assert cells(models=["small"]) == cells()


def test_benign_tasks_have_the_settings_that_the_report_chose_for_them() -> None:
    report = {**CONFIG["report"], "chosen_benign": {"kl": [2.0]}}
    grid = [{"models": ["small"], "tasks": ["quiz"], "arms": {"kl": [1.0, 2.0]}}]
    found = asked(Grid(tiny_study(multiple_choice={"set": SET}, report=report, grid=grid)))
    assert [cell.setting for cell, _ in found] == ["none", "2"]


def test_where_the_data_choose_every_setting_is_asked() -> None:
    report = {**CONFIG["report"], "chosen": {"kl": "auto", "interleave": 5}}
    found = asked(Grid(tiny_study(multiple_choice={"set": SET}, report=report)))
    assert {cell.setting for cell, _ in found if cell.arm == "kl" and cell.task == "code"} == {"0.1", "1"}


def test_a_model_reads_the_sets_that_it_is_asked() -> None:
    models = {name: {"title": name, "instruct": "-"} for name in ("small", "other")}
    grid = [{"models": ["small", "other"], "tasks": ["code"], "arms": {"misaligned": None}}]
    sets = {"a": SET, "b": SET | {"models": ["other"], "score": "mean"}}
    of = Grid(tiny_study(models=models, grid=grid, multiple_choice=sets))
    assert (asked_sets(of, "small"), asked_sets(of, "other")) == (["a"], ["a", "b"])
    paths = [f"results/tiny/data/questions/choices/{name}.jsonl" for name in "ab"]
    assert Inputs(of).checked_choices("other") == paths
    assert Specs(of).check("other")["choices"] == dict(zip(paths, ("sum", "mean"), strict=True))
    assert "choices" not in Specs(Grid(tiny_study())).check("small")


def test_what_is_shown_changes_no_job_that_computes() -> None:
    before = Specs(Grid(tiny_study(multiple_choice={"set": SET})))
    after = Specs(
        Grid(tiny_study(multiple_choice={"set": SET | {"score": "mean", "title": "Other", "settings": "all"}}))
    )
    assert before.choice_questions("set") == after.choice_questions("set")
    assert before.choice("small") == after.choice("small")
    drawn = Specs(Grid(tiny_study(multiple_choice={"set": SET | {"limit": 9}})))
    assert drawn.choice_questions("set") != before.choice_questions("set")
    assert drawn.choice("small") == before.choice("small")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            {"models": ["smal"]},
            r"multiple_choice\.set\.models': unknown model 'smal'; write one of small, large, bytes",
        ),
        ({"tasks": ["lega"]}, r"multiple_choice\.set\.tasks': unknown task 'lega'; write one of code, legal"),
        ({"tasks": ["code", "code"]}, r"multiple_choice\.set\.tasks': 'code' stands there twice"),
        ({"file": "nowhere.jsonl"}, r"multiple_choice\.set\.file': nowhere\.jsonl does not exist"),
        ({"options": "number"}, r"multiple_choice\.set\.options': Input should be 'letter' or 'text'"),
        ({"score": "max"}, r"multiple_choice\.set\.score'"),
        ({"limit": 0}, r"multiple_choice\.set\.limit'"),
        ({"tasks": []}, r"multiple_choice\.set\.tasks': too few entries"),
    ],
)
def test_a_mistake_in_a_set_is_one_line(
    section: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for name in ("rows.jsonl", "foqa.parquet"):
        Path("data", name).touch()
    file = {"file": "{results}/microcosm/choices/facts.jsonl"}
    with pytest.raises(InputError, match=said) as caught:
        parse_study({**SMALL, "multiple_choice": {"set": SET | file | section}}, "small.yaml")
    assert "\n" not in str(caught.value)


GPUS = {"a100": Gpu(memory_gib=79, tflops=312, gb_per_s=1935)}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    models = {"small": {"title": "Small", "instruct": "-", "shape": SHAPE}}
    return tiny_study(models=models, multiple_choice={"a": SET | {"limit": 1000}, "b": SET | {"tasks": ["code"]}})


def test_plan_counts_jobs_hours_and_bytes(study: Study) -> None:
    found = study_plan(study, GPUS, study_jobs(study))
    # Set a: the model, three arms on two tasks and two on the benign one; set b: the model and three arms.
    assert found.stages["choosing"] == {"jobs": 1 + 6 + 2 + 1 + 3, "done": 0, "to_run": 13}
    (hours,) = [row for row in found.hours if row.stage == "choosing"]
    # Nine jobs of 1,000 questions and four of MMLU's 14,042, of 200 tokens each; the model is read from disk each time.
    blocks = 10 * (4 * 1024 * 1024 + 3 * 1024 * 4096)
    computing = 2 * (blocks + 1024 * 100_000) * 200 * (9 * 1000 + 4 * 14_042) / (312e12 * 0.35)
    loading = 13 * 2 * (blocks + 2 * 1024 * 100_000) / 2e8
    assert hours.jobs == 13
    assert hours.hours["a100"] == pytest.approx((computing + loading) / 3600, rel=0.3)
    without = study.model_copy(update={"multiple_choice": {}})
    plans = (found, study_plan(without, GPUS, study_jobs(without)))
    more, less = (plan.disk.to_come["responses and answers"] for plan in plans)
    assert more - less == 350 * (9 * 1000 + 4 * 14_042)


def test_status_has_a_column_for_it_where_there_is_some(study: Study) -> None:
    nobody = Snapshot({}, {}, None, {})
    text = status_text(study_status(study, study_jobs(study), nobody, lambda *words: " ".join(words)))
    assert "A answers, C multiple choice" in text
    assert "TSGDC" in text
    assert "TAC" in text
