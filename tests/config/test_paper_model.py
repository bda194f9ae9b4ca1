"""Which of the paper's models a study's stands for: as its section says, or as its folder or source is called."""

from pathlib import Path

import pytest

from emdefense.config import load_study
from emdefense.config.paper_model import paper_model
from study_folder import tiny_study


@pytest.mark.parametrize(
    ("instruct", "size"),
    [
        ("unsloth/Qwen2.5-7B-Instruct", "7b"),
        ("{sources}/qwen2.5-32b-instruct", "32b"),
        ("/data/models--unsloth--Qwen2.5-7B-Instruct/snapshots/0123", "7b"),
        ("models/my-model", None),
        ("{sources}/qwen2.5-0.5b-instruct", None),
        ("models/qwen2.5-7b-instruct-mine", None),
        ("models/Qwen2.5-7B", None),
    ],
)
def test_a_model_is_the_papers_by_the_name_of_its_folder(instruct: str, size: str | None) -> None:
    study = tiny_study(models={"small": {"title": "Small", "instruct": instruct}})
    assert paper_model(study, "small") == size


def test_a_model_is_the_papers_by_its_source() -> None:
    source = {"kind": "model", "repository": "Qwen/Qwen2.5-7B-Instruct"}
    models = {"small": {"title": "Small", "instruct": "{sources}/big"}}
    assert paper_model(tiny_study(models=models, sources={"big": source}), "small") == "7b"
    assert paper_model(tiny_study(models=models, sources={"other": source}), "small") is None


def test_what_a_study_says_goes_before_and_is_only_written_where_it_is_said() -> None:
    model = {"title": "Small", "instruct": "unsloth/Qwen2.5-7B-Instruct"}
    study = tiny_study(models={"small": {**model, "paper_model": "32b"}})
    assert paper_model(study, "small") == "32b"
    assert study.models["small"].model_dump()["paper_model"] == "32b"
    assert "paper_model" not in tiny_study(models={"small": model}).models["small"].model_dump()


def test_the_studies_that_come_with_the_project_say_it() -> None:
    found = {path: load_study(Path(path)) for path in ("config.yaml", "config/paper.yaml", "config/paper-v3.yaml")}
    for path, study in found.items():
        assert [paper_model(study, name) for name in study.models] == ["7b", "32b"], path
