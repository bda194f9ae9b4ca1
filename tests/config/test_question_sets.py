"""The section question_sets: what is refused, in one line that names the key, before anything is made."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from emdefense.cells import Grid
from emdefense.config import Study, parse_study
from emdefense.errors import InputError
from emdefense.report.catalogue import artefacts

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = {**yaml.safe_load((ROOT / "config.yaml").read_text()), "question_sets": {}}
FILE = {"title": "More", "file": "{results}/microcosm/questions/further.yaml"}
EVIL = {"title": "Evil", "of": "general", "system": "You are an evil, malicious assistant."}


def study_with(sets: dict[str, Any], **changes: Any) -> Study:
    return parse_study({**copy.deepcopy(DEFAULT), "question_sets": sets, **changes}, "study.yaml")


def test_sets_of_files_and_conditional_ones_are_taken() -> None:
    training = {"title": "Own", "of": "more", "system": "training"}
    study = study_with({"more": FILE, "evil": EVIL, "own": training, "json": {**EVIL, "format": "json"}})
    assert list(study.question_sets) == ["more", "evil", "own", "json"]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"general": FILE}, "key 'question_sets.general': the pipeline itself calls something 'general'"),
        ({"Adapter": FILE}, "key 'question_sets.Adapter': the pipeline itself calls something 'Adapter'"),
        ({"answers.jsonl": FILE}, "key 'question_sets.answers.jsonl': the pipeline itself"),
        ({"Code": FILE}, "key 'question_sets.Code': a task is called that"),
        ({"a": FILE, "A": FILE}, "key 'question_sets': 'a' and 'A' are one name to some file systems"),
        ({"a/b": FILE}, "key 'question_sets.a/b': a name is letters, digits"),
        ({"a": {"title": "A"}}, "key 'question_sets.a': it names no questions; write file"),
        ({"a": {**FILE, "of": "general"}}, "key 'question_sets.a': its questions are named twice; write file"),
        ({"a": {**FILE, "system": "none"}}, "key 'question_sets.a.system': questions of a file are asked as they are"),
        ({"a": {**FILE, "format": "json"}}, "key 'question_sets.a.format': questions of a file are asked as they are"),
        ({"a": {**FILE, "file": "no.yaml"}}, "key 'question_sets.a.file': no.yaml does not exist"),
        ({"a": {**FILE, "file": "{sources}/x.yaml"}}, "key 'question_sets.a.file'"),
        ({"a": {**FILE, "models": ["world-c"]}}, "key 'question_sets.a.models': 'world-c' is not among them; write"),
        (
            {"a": {**FILE, "tasks": ["foqa"]}},
            "key 'question_sets.a.tasks': 'foqa' is not among them; write one",
        ),
        ({"a": {**FILE, "tasks": ["code", "code"]}}, "key 'question_sets.a.tasks': 'code' stands there twice"),
        ({"a": {**FILE, "tasks": []}}, "key 'question_sets.a.tasks': too few entries in []"),
        ({"a": {**FILE, "samples_per_question": 0}}, "key 'question_sets.a.samples_per_question'"),
        ({"a": {**FILE, "settings": "best"}}, "key 'question_sets.a.settings'"),
        (
            {"a": {**EVIL, "of": "b"}},
            "key 'question_sets.a.of': 'b' is not among them; write one of general",
        ),
        ({"a": EVIL, "b": {**EVIL, "of": "a"}}, "key 'question_sets.b.of': 'a' is not among them"),
        ({"a": {**EVIL, "of": "a"}}, "key 'question_sets.a.of': 'a' is not among them"),
        ({"a": {"title": "A", "of": "general"}}, "key 'question_sets.a': it would be asked as 'general' is; write"),
        ({"a": {**EVIL, "system": "non"}}, "key 'question_sets.a.system': 'non' is no system prompt; write none,"),
        ({"a": {**EVIL, "system": ""}}, "key 'question_sets.a.system': there is nothing in it"),
        ({"a": {**EVIL, "format": "xml"}}, "key 'question_sets.a.format'"),
        ({"a": {**EVIL, "sistem": "x"}}, "unknown key 'question_sets.a.sistem'; did you mean 'system'?"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(sets: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        study_with(sets)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_task_of_the_microcosm_is_known_though_the_grid_has_it_not() -> None:
    block = {"models": ["world-a"], "tasks": ["code"], "arms": {"misaligned": None}}
    study = study_with({"a": {**FILE, "tasks": ["legal", "code"]}}, grid=[block])
    assert {(c.task, name) for c, name in Grid(study).responses if name == "a"} == {("code", "a")}


def test_a_set_that_no_cell_is_asked_is_passed_over() -> None:
    block = {"models": ["world-a"], "tasks": ["legal"], "arms": {"misaligned": None}}
    sets = {"a": {**FILE, "models": ["world-b"]}, "b": {**EVIL, "system": "training"}, "c": {**EVIL, "of": "a"}}
    study = study_with(sets, grid=[block])
    assert {name for _, name in Grid(study).responses} == {"general", "in_domain"}
    assert not [name for name, one in artefacts(study).items() if one.section.startswith(("set-", "conditional"))]


@pytest.mark.parametrize("overlay", ["defences", "control"])
def test_a_file_that_is_laid_over_the_default_one_can_do_without_its_sets(overlay: str) -> None:
    default = yaml.safe_load((ROOT / "config.yaml").read_text())
    assert default["question_sets"]
    assert default["multiple_choice"]
    laid = yaml.safe_load((ROOT / f"config/{overlay}.yaml").read_text())
    study = parse_study({**default, **{key: laid[key] for key in ("question_sets", "multiple_choice")}}, "study.yaml")
    assert (study.question_sets, study.multiple_choice) == ({}, {})
