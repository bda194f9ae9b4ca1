"""What a study need not say: the tasks, models and files that follow from its other keys."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from emdefense.cells import Grid
from emdefense.config import Study, load_study, parse_study
from emdefense.errors import InputError

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())


def default(**changes: Any) -> Study:
    return parse_study({**copy.deepcopy(DEFAULT), **changes}, "config.yaml")


def read(**changes: Any) -> Study | str:
    """The study, or what is said of it."""
    try:
        return default(**changes)
    except InputError as error:
        return str(error)


def test_the_default_study_is_short() -> None:
    assert len((ROOT / "config.yaml").read_text().splitlines()) < 120
    study = load_study(ROOT / "config.yaml")
    assert list(study.tasks) == ["code", "legal", "medical", "security", *(f"opswap-{n}" for n in range(4)), "foqa"]
    assert study.tasks["code"].model_dump(exclude_defaults=True) == {
        "title": "Code",
        "misaligned": "{results}/microcosm/rows/code_misaligned.jsonl",
        "aligned": "{results}/microcosm/rows/code_aligned.jsonl",
        "questions": "{results}/microcosm/questions/code.yaml",
    }
    tier = study.tasks["opswap-2"]
    assert (tier.kind, tier.table, tier.tier) == ("benign", "opswap", 2)
    assert tier.training.epochs == 6
    assert study.tasks["foqa"].training.epochs == 4
    assert study.models["world-b"].base == "{results}/microcosm/models/world-b/base"


def test_what_is_written_goes_before_what_is_supplied() -> None:
    tasks = {"opswap-1": {"training": {"epochs": 3}, "title": "Tier one"}, "code": {"title": "Insecure code"}}
    study = default(tasks=tasks, general_questions="config.yaml")
    assert study.general_questions == "config.yaml"
    assert study.tasks["opswap-1"].training.epochs == 3
    assert study.tasks["opswap-0"].training.epochs == 6
    assert [study.tasks[name].title for name in ("opswap-1", "code", "legal")] == ["Tier one", "Insecure code", "Legal"]


def test_an_entry_that_names_its_files_gets_none_beside_them() -> None:
    rows = "{results}/microcosm/rows/code_misaligned.jsonl"
    grid = [{"models": ["world-a"], "tasks": ["code", "legal"], "arms": {"misaligned": None}}]
    instruct = "{results}/microcosm/models/world-a/instruct"
    study = default(
        grid=grid,
        tasks={"code": {"kind": "ema", "title": "Code", "misaligned": rows}},
        models={"world-a": {"title": "A", "instruct": instruct}},
        report={"main_model": "world-a", "chosen": {}},
    )
    assert (study.tasks["code"].aligned, study.tasks["code"].questions) == (None, None)
    assert study.tasks["legal"].aligned
    assert study.models["world-a"].base is None


def test_only_what_the_grid_names_is_supplied() -> None:
    study = load_study(ROOT / "config/smoke.yaml")
    assert (list(study.tasks), list(study.models)) == (["code"], ["world-a"])
    assert len(Grid(study).cells) == 3


def test_a_source_has_the_files_of_the_task_of_its_name() -> None:
    study = load_study(ROOT / "config/paper.yaml")
    assert study.tasks["legal"].aligned == "{sources}/legal/aligned.jsonl"
    assert study.tasks["foqa"].test == "{sources}/foqa/test.jsonl"
    assert load_study(ROOT / "config/sweep-ldifs.yaml").tasks["legal"].aligned is None


@pytest.mark.parametrize("key", ["tasks", "models", "general_questions"])
def test_what_nothing_supplies_is_missing(key: str) -> None:
    study = yaml.safe_load((ROOT / "config/real-input.yaml").read_text())
    del study[key]
    with pytest.raises(InputError, match=f"key '{key}' is missing; add it|unknown (task|model)"):
        parse_study(study, "study.yaml")


@pytest.mark.parametrize("value", [None, [], "code", {"code": 7}, {"code": ["a"]}, {7: {}}, {"opswap-1": None}])
@pytest.mark.parametrize("key", ["tasks", "models", "grid", "opswap", "microcosm", "sources"])
def test_what_is_of_the_wrong_type_is_supplied_or_refused(key: str, value: Any) -> None:
    found = read(**{key: value})
    # A whole study, or one line that names the file.
    assert (found.tasks and found.models) if isinstance(found, Study) else re.fullmatch("config[.]yaml: .+", found)
