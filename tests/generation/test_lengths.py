"""Prompts and answers that are longer than a model's positions: one line, before anything is sampled or trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BloomConfig, FalconConfig, GPT2Config, MambaConfig, PretrainedConfig, Qwen2Config

from emdefense import provenance
from emdefense.errors import InputError
from emdefense.files import read_jsonl, write_json, write_jsonl
from emdefense.generation import engines, transformers_engine
from emdefense.generation.lengths import check_lengths, positions
from emdefense.generation.reuse import ReuseStore
from emdefense.generation.run import answer, generate
from emdefense.model_checks.run import check_model
from emdefense.model_checks.subject import CheckSpec, Subject
from tiny_model import save_model, save_rows

SPEC = {"version": 1, "samples_per_question": 2, "max_new_tokens": 8, "precision": "float32"}
AROUND = len("suser\ne\nsassistant\n")  # with a token each for <|im_start|> and <|im_end|>
POSITIONS = 64
FITS = POSITIONS - AROUND - SPEC["max_new_tokens"]  # characters, a token each


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), layers=1, max_position_embeddings=POSITIONS)


def questions(path: Path, *lengths: int) -> Path:
    write_json(path, [{"id": f"q{n}", "prompt": "x" * n, "system": None, "rubrics": {}} for n in lengths])
    return path


def test_a_question_just_fits_and_one_token_more_is_one_line_before_anything_is_sampled(
    model: Path, tmp_path: Path
) -> None:
    generate(SPEC, model, None, [(questions(tmp_path / "a.json", 3, FITS), tmp_path / "a.jsonl")], ReuseStore(None))
    assert len(read_jsonl(tmp_path / "a.jsonl")) == 4
    first = questions(tmp_path / "b.json", 3)
    second = questions(tmp_path / "c.json", FITS + 1, FITS + 2, 3)
    with pytest.raises(InputError) as error:
        generate(SPEC, model, None, [(first, tmp_path / "b.jsonl"), (second, tmp_path / "c.jsonl")], ReuseStore(None))
    assert str(error.value) == (
        f"{second}, question q{FITS + 2}: the prompt has {POSITIONS - 8 + 2} tokens and generation.max_new_tokens is "
        f"8, together more than the {POSITIONS} that the model takes; lower "
        "generation.max_new_tokens to 6 at most, or leave the question out, or shorten it (2 of 3 questions are too "
        "long, this one most)"
    )
    assert not (tmp_path / "b.jsonl").exists(), "nor is anything else"


def test_a_prompt_that_leaves_no_room_at_all_is_not_helped_by_a_lower_limit(model: Path, tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "t.jsonl", [{"id": "t", "messages": [{"role": "user", "content": "x" * 200}], "answers": ["2"]}]
    )
    with pytest.raises(InputError, match=r"t\.jsonl, question t: the prompt has 2\d\d tokens .*; leave the question"):
        answer(SPEC, model, None, tmp_path / "t.jsonl", tmp_path / "a.jsonl", ReuseStore(None))


def test_it_is_said_before_training_too(model: Path, tmp_path: Path) -> None:
    rows = save_rows(
        tmp_path / "r.jsonl",
        [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}],
    )
    spec = CheckSpec(version=1, generation={"max_new_tokens": 8, "precision": "float32"})
    check_model(Subject(spec, model, (rows,), (questions(tmp_path / "a.json", FITS),)), tmp_path / "found.json")
    with pytest.raises(InputError, match=rf"b\.json, question q{FITS + 1}: the prompt has"):
        check_model(Subject(spec, model, (rows,), (questions(tmp_path / "b.json", FITS + 1),)), tmp_path / "found.json")


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, 100),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 100),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, 400),
        (
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 90,
                    "rope_theta": 1e4,
                }
            },
            360,
        ),
        (
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 50,
                    "rope_theta": 1e4,
                }
            },
            100,
        ),
    ],
)
def test_scaled_positions_count_as_they_are_scaled(settings: dict[str, Any], most: int) -> None:
    assert positions(Qwen2Config(max_position_embeddings=100, **settings)) == most


@pytest.mark.parametrize("config", [BloomConfig(), FalconConfig(alibi=True), MambaConfig()], ids=lambda c: c.model_type)
def test_models_without_such_a_limit_have_none(config: PretrainedConfig) -> None:
    assert positions(config) is None
    check_lengths([[0] * 10**6], ["here"], 10**6, positions(config))


def test_positions_go_by_other_names_too() -> None:
    assert positions(GPT2Config(n_positions=77)) == 77


def test_a_package_without_a_version_is_named_before_anything_is_sampled(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engines.PACKAGES, "transformers", ("transformers", "torch", "nowhere"))
    monkeypatch.setattr(transformers_engine, "load_model", lambda *_: pytest.fail("the model is loaded"))
    with pytest.raises(InputError, match="the package nowhere is installed without its metadata"):
        generate(SPEC, model, None, [(questions(tmp_path / "q.json", 3), tmp_path / "r.jsonl")], ReuseStore(None))


def test_a_build_of_another_name_is_recorded_by_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "packages_distributions", lambda: {"nowhere": ["torch"]})
    assert provenance.package_versions(["nowhere"]) == {"torch": torch.__version__}
