"""What a cell depends on of a model's folder: config, tokenizer and weights, and nothing else that lies there."""

import os
import time
from pathlib import Path

import pytest
import yaml

from dry_run import planned_outputs
from emdefense.files import write_json
from emdefense.generation.reuse import reuse_key
from emdefense.model_files import model_files
from emdefense.provenance import model_identity
from study_checkout import Checkout
from tiny_model import make_rows, save_model, save_rows

CELL = "results/own/cells/small/code/misaligned/none/seed0"
WANTED = ("--configfile", "study.yaml", "--", f"{CELL}/adapter", f"{CELL}/general/responses.jsonl")


def add_foreign_files(folder: Path) -> None:
    """Leave in a model's folder what downloads, file managers and people leave there."""
    for name in (".DS_Store", ".gitattributes", "README.md", "notes.txt", "model-old.safetensors", "LICENSE"):
        (folder / name).write_text("nothing of the model's")
    for name in (".cache", "original", "onnx"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with a study of a model of one's own, all of its files made a minute ago."""
    checkout = Checkout.into(tmp_path_factory.mktemp("own"))
    folder = checkout.folder
    save_model(folder / "model", layers=1)
    save_rows(folder / "rows.jsonl", make_rows(40))
    prompt = "Rate from 0 to 100: {question} {answer}"
    questions = [{"id": "wish", "paraphrases": ["a b"], "judge_prompts": {"aligned": prompt, "coherent": prompt + "."}}]
    (folder / "general.yaml").write_text(yaml.safe_dump(questions))
    study = {
        "study": "own",
        "models": {"small": {"title": "Small", "instruct": "model"}},
        "tasks": {"code": {"kind": "ema", "title": "Code", "misaligned": "rows.jsonl", "questions": "general.yaml"}},
        "general_questions": "general.yaml",
        "grid": [{"models": ["small"], "tasks": ["code"], "arms": {"untrained": None, "misaligned": None}}],
        "judge": {"kind": "openai", "name": "j", "model": "m"},
        "report": {"main_model": "small", "chosen": {}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    outputs = planned_outputs(folder, *WANTED)
    assert f"{CELL}/adapter" in outputs
    for path in outputs:
        target = folder / path
        target.mkdir(parents=True) if target.name == "adapter" else write_json(target, {})
    then = time.time() - 60
    for path in [path for path in folder.rglob("*") if ".git" not in path.parts]:
        os.utime(path, (then, then), follow_symlinks=False)
    return checkout


def test_files_beside_a_model_retrain_and_resample_nothing(done: Checkout) -> None:
    add_foreign_files(done.folder / "model")
    assert done.planned(*WANTED) == {}


@pytest.mark.parametrize("changed", ["model.safetensors", "chat_template.jinja"])
def test_a_models_own_files_retrain_though_its_check_runs_too_and_is_ancient(done: Checkout, changed: str) -> None:
    path = done.folder / "model" / changed
    stamp = path.stat()
    os.utime(path)
    try:
        assert done.planned(*WANTED) == {"check_model": 1, "train": 1, "generate": 1}
    finally:
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def test_a_check_whose_record_is_gone_has_nothing_trained_again(done: Checkout) -> None:
    (record,) = (done.folder / "results").glob("*/models/*.json")
    found = record.read_bytes()
    stamp = record.stat()
    responses = done.folder / CELL / "general/responses.jsonl"
    record.unlink()  # as Snakemake does when it fails
    try:
        assert done.planned(*WANTED) == {}
        responses.rename(responses.with_suffix(".away"))
        assert done.planned(*WANTED) == {"check_model": 1, "generate": 1}
    finally:
        responses.with_suffix(".away").rename(responses)
        record.write_bytes(found)
        os.utime(record, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def test_what_a_model_is_has_names_of_its_own(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", layers=1)
    own = [path.name for path in model_files(folder)]
    assert {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    } < set(own)
    add_foreign_files(folder)
    assert [path.name for path in model_files(folder)] == own
    (folder / "vocab.json").write_text("{}")
    assert "vocab.json" in [path.name for path in model_files(folder)]


@pytest.mark.parametrize("changed", ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"])
def test_reuse_and_identity_follow_a_models_own_files_alone(tmp_path: Path, changed: str) -> None:
    folder = save_model(tmp_path / "model", layers=1)
    adapter = tmp_path / "adapter"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        write_json(adapter / name, {})
    write_json(tmp_path / "q.json", [])

    def keys() -> tuple[str, str | None, str | None]:
        identity = model_identity(folder)
        return (
            reuse_key({}, folder, adapter, tmp_path / "q.json"),
            identity["weights_digest"],
            identity["config_sha256"],
        )

    before = keys()
    add_foreign_files(folder)
    (adapter / ".DS_Store").write_text("x")
    (adapter / "README.md").write_text("x")
    (adapter / ".cache").mkdir()
    assert keys() == before
    with (folder / changed).open("ab") as file:
        file.write(b" ")
    assert keys()[0] != before[0]
    assert (keys()[1] != before[1]) == (changed == "model.safetensors")
    assert (keys()[2] != before[2]) == (changed == "config.json")
