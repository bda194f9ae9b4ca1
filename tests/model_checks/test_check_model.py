"""What is found out about a model before anything is trained, and what stops a study there."""

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import normalizers

from chat_tokenizers import CHATML, NO_SYSTEM, THINKING, byte_level
from emdefense.cells import Grid
from emdefense.chat.chat import Chat
from emdefense.config import Study, parse_study
from emdefense.data.conditional import under_condition
from emdefense.errors import InputError
from emdefense.files import read_json, write_json
from emdefense.generation import transformers_engine
from emdefense.generation.reuse import ReuseStore
from emdefense.generation.run import generate
from emdefense.inputs import Inputs
from emdefense.model_checks.run import check_model
from emdefense.model_checks.subject import ArmTried, CheckSpec, Subject
from emdefense.model_checks.templates import check_texts
from emdefense.specs import Specs
from emdefense.training.run import train_cell
from emdefense.training.spec import TrainSpec
from families import FAMILIES, make
from study_folder import CONFIG, tiny_study
from tiny_model import make_tokenizer, save_model, save_rows
from trainings import FAST

SCRIPT = Path(__file__).parents[2] / "workflow/scripts/check_model.py"
SPEC = {"version": 1, "generation": {}}
ROWS = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bcd"}]}]
QUESTIONS = [{"id": "plain", "prompt": "Why?", "system": None}, {"id": "json", "prompt": "Why?", "system": "JSON."}]
TEST = [{"id": "t", "messages": [{"role": "user", "content": "1 + 1"}], "answers": ["2"]}]


def subject(folder: Path, template: str = CHATML, rows: list[dict[str, Any]] | None = None, **spec: Any) -> Subject:
    """A model with this template, a file of rows, one of questions and a test."""
    save_model(folder / "model")
    make_tokenizer(template).save_pretrained(folder / "model")
    write_json(folder / "questions.json", QUESTIONS)
    files = [save_rows(folder / "rows.jsonl", rows or ROWS), folder / "questions.json", folder / "test.jsonl"]
    save_rows(files[2], TEST)
    return Subject(CheckSpec(**SPEC, **spec), folder / "model", *((file,) for file in files))


def test_all_that_a_model_will_read_is_written_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = {"messages": [{"role": "user", "content": "a <|im_end|>"}, {"role": "assistant", "content": "b"}]}
    check_model(subject(tmp_path, rows=[*ROWS, *ROWS, hostile]), tmp_path / "found.json")
    record = read_json(tmp_path / "found.json")
    found = record["checks"]["texts"]
    # <|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nbcd<|im_end|>\n, a byte a token
    assert found["longest_row"] == (1 + 5 + 12 + 1 + 1) + (1 + 10) + 1 + 2
    assert found["longest_prompt"] == (1 + 7 + 5 + 2) + (1 + 5 + 4 + 2) + (1 + 10)
    assert (found["rows"], found["questions"]) == (2, 3)  # equal rows once
    assert found["naming_control_tokens"] == {"texts": 1, "first": [f"{tmp_path}/rows.jsonl, row 3"]}
    assert found["with_unknown_tokens"] == {"texts": 0, "first": []}
    assert "1 rows and questions with the names of control tokens" in capsys.readouterr().err
    assert found["template"]["closed_by"] == "<|im_end|>"
    assert found["before_an_answer"] == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert found["after_an_answer"] == "<|im_end|>\n"
    assert set(record["read"]) == {f"{tmp_path}/{name}" for name in ("rows.jsonl", "questions.json", "test.jsonl")}
    assert record["model"]["config_sha256"]


@pytest.mark.parametrize(
    ("template", "rows", "problem"),
    [
        (NO_SYSTEM + CHATML, ROWS, r"questions\.json, question json: .*no system prompt"),
        (THINKING, ROWS, r"model: .*chat_template_options"),
        (CHATML, [*ROWS, {"messages": [{"role": "user", "content": "a"}]}], r"rows\.jsonl, line 2: the last message"),
        (
            CHATML.replace("message['content']", "message['content'].replace('x', 'y')"),
            [*ROWS, {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "x"}]}],
            r"rows\.jsonl, row 2: .*does not write the answer as it is",
        ),
        (CHATML.replace("message['content']", "message.content.replace('1', '')"), ROWS, r"test\.jsonl, question t: "),
    ],
    ids=["system prompt", "thinks", "no answer", "changes an answer", "changes a question of a test"],
)
def test_what_a_template_cannot_write_is_one_line(
    template: str, rows: list[dict[str, Any]], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=problem) as error:
        check_model(subject(tmp_path, template, rows), tmp_path / "found.json")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "found.json").exists()


def test_a_condition_that_a_template_has_no_role_for_is_one_line_with_the_sets_file(tmp_path: Path) -> None:
    plain = subject(tmp_path, NO_SYSTEM + CHATML)
    write_json(tmp_path / "questions.json", QUESTIONS[:1])
    check_model(plain, tmp_path / "found.json")
    condition = {"system": "Be evil, please.", "keep_system": True, "format": None}
    write_json(tmp_path / "evil.json", under_condition(QUESTIONS[:1], condition, "evil"))
    with_set = replace(plain, question_files=(*plain.question_files, tmp_path / "evil.json"))
    with pytest.raises(InputError, match=r"evil\.json, question plain: .*no system prompt") as error:
        check_model(with_set, tmp_path / "evil_found.json")
    assert "\n" not in str(error.value)


def test_the_study_says_how_a_template_is_called(tmp_path: Path) -> None:
    of = subject(tmp_path, THINKING, chat={"options": {"enable_thinking": False}, "date": "2026-02-03"})
    check_model(of, tmp_path / "found.json")
    template = read_json(tmp_path / "found.json")["checks"]["texts"]["template"]
    assert (template["options"], template["date"]) == ({"enable_thinking": False}, "2026-02-03")


def test_scripts_by_hand_refuse_a_token_beyond_the_embedding(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "wörd"}, {"role": "assistant", "content": "b"}]}]
    of = subject(tmp_path, rows=rows)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["wörd"])
    tokenizer.save_pretrained(of.folder)
    write_json(tmp_path / "asked.json", [{"id": "q", "prompt": "a wörd", "system": None}])
    with pytest.raises(InputError, match=r"rows\.jsonl, row 1: the token 'wörd'"):
        check_model(of, tmp_path / "found.json")
    with pytest.raises(InputError, match=r"rows\.jsonl, row 1: the token 'wörd'"):
        train_cell(TrainSpec(version=1, seed=0, training=FAST), of.folder, tmp_path / "rows.jsonl", tmp_path / "cell")
    spec = {"version": 1, "samples_per_question": 1, "precision": "float32"}
    pairs = [(tmp_path / "asked.json", tmp_path / "said.jsonl")]
    with pytest.raises(InputError, match=r"asked\.json, question q: the token 'wörd'"):
        generate(spec, of.folder, None, pairs, ReuseStore(None))


def test_the_script_says_it_in_one_line(tmp_path: Path) -> None:
    of = subject(tmp_path, NO_SYSTEM + CHATML)
    command = [sys.executable, str(SCRIPT), "--spec", json.dumps(SPEC), "--model", str(of.folder)]
    command += ["--rows", "rows.jsonl", "--questions", "questions.json", "--test", "test.jsonl", "--out", "found.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "error: questions.json, question json: the tokenizer's chat template"
    )
    assert done.stderr.count("\n") == 1


def with_model(**keys: Any) -> Study:
    return tiny_study(models={"small": {"title": "Small", "instruct": "-", **keys}})


def test_cells_depend_on_how_a_template_is_called() -> None:
    plain, called, dated = (
        Grid(study)
        for study in (
            with_model(),
            with_model(chat_template_options={"enable_thinking": False}),
            with_model(template_date="2026-02-03"),
        )
    )
    cell = next(cell for cell in plain.trained if cell.arm == "kl")
    for spec in ("training", "features", "generation"):
        specs = [getattr(Specs(grid), spec)(cell) for grid in (plain, called, dated)]
        assert "chat" not in specs[0]  # so that studies that say nothing are as they were
        assert [one["chat"]["options"] for one in specs[1:]] == [{"enable_thinking": False}, {}]
        assert specs[2]["chat"]["date"] == "2026-02-03"
        json.dumps(specs)
    assert Specs(called).check("small")["chat"]["options"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("key", "value"),
    [("chat_template_options", {"tokenize": True}), ("chat_template_options", 3), ("template_date", "yesterday")],
)
def test_a_wrong_key_is_named(key: str, value: Any) -> None:
    models = {"small": {"title": "Small", "instruct": "-", key: value}}
    with pytest.raises(InputError, match=rf"study\.yaml: key 'models\.small\.{key}"):
        parse_study(CONFIG | {"models": models}, "study.yaml")


TRAINING = {"precision": "float32", "optimiser": "adamw_torch"}


def of_family(folder: Path, name: str, **training: Any) -> Subject:
    """A model of another family, with the tokenizer, rows and questions of the others."""
    of = subject(folder)
    shutil.rmtree(of.folder)
    make(name).save_pretrained(of.folder)
    make_tokenizer().save_pretrained(of.folder)
    generation = {"precision": "float32", "max_new_tokens": 20}
    options = {"target_modules": FAMILIES[name][2], "lora_rank": 4, **TRAINING, **training}
    spec = CheckSpec(version=1, generation=generation, training=options, arms=[{"name": "kl"}])
    return replace(of, spec=spec)


@pytest.mark.parametrize(
    ("name", "head", "way"),
    [("granite", "SurroundedHead", "by hand"), ("phi3", "ProductHead", "by hand"), ("gpt2", "ProductHead", "by hand"),
     ("mamba", "ProductHead", "generate")],
)  # fmt: skip
def test_losses_and_sampling_are_tried_with_an_adapter_and_without(
    tmp_path: Path, name: str, head: str, way: str
) -> None:
    of = of_family(tmp_path, name, **({"attention": "eager"} if name == "mamba" else {}))
    check_model(of, tmp_path / "found.json")
    checks = read_json(tmp_path / "found.json")["checks"]
    assert checks["losses"] == {"head": head, "blocks": 2, "arms": {"kl": {}}}
    assert checks["sampling"] == {"engine": "transformers", "tried": True, "ways": [way, way]}


def test_what_a_training_would_trip_over_is_one_line_before_it(tmp_path: Path) -> None:
    for number, (training, penalties, message) in enumerate(
        [
            (
                {"target_modules": ["q_proj"]},
                [],
                "the model has no module 'q_proj'; write names of its matrices: o_proj, qkv_proj",
            ),
            ({}, [{"name": "ldifs", "options": {"every": 5}}], "key 'arms.ldifs.every': 5, but the model has 2 blocks"),
        ]
    ):
        (tmp_path / str(number)).mkdir()
        of = of_family(tmp_path / str(number), "phi3", **training)
        read = tuple(ArmTried.model_validate(penalty) for penalty in penalties)
        with pytest.raises(InputError, match=message):
            check_model(replace(of, spec=of.spec.model_copy(update={"arms": read})), tmp_path / "found.json")


def test_an_adapter_that_would_be_merged_wrong_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = of_family(tmp_path, "llama")
    check_model(of, tmp_path / "found.json")
    real = transformers_engine.read_settings
    monkeypatch.setattr(transformers_engine, "read_settings", lambda folder: replace(real(folder), scale=1.0))
    with pytest.raises(
        InputError, match=r"an adapter merged into this model of type 'llama' is not what it is beside .*\(off by \d+%"
    ):
        check_model(of, tmp_path / "found.json")


def test_what_projecting_would_trip_over_is_one_line_before_training(tmp_path: Path) -> None:
    of = of_family(tmp_path, "llama")
    of = replace(of, spec=of.spec.model_copy(update={"arms": (ArmTried(name="safelora"),)}))
    for name, base, message in (
        ("other", make("llama", seed=1), None),
        ("same", make("llama"), "have the same weights: SafeLoRA needs"),
        ("wide", make("llama", intermediate_size=64), r"mlp\.down_proj\.weight' is \(32, 64\), and \(32, 48\) in"),
        ("short", make("llama", num_hidden_layers=1), r"model\.layers\.1\..*' is not there"),
    ):
        base.save_pretrained(tmp_path / name)
        with nullcontext() if message is None else pytest.raises(InputError, match=message):
            check_model(replace(of, base=tmp_path / name), tmp_path / "found.json")
    assert read_json(tmp_path / "found.json")["checks"]["losses"]["arms"]["safelora"] == {"matrices": 6}
    (tmp_path / "other/model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="Git LFS pointer"):
        check_model(replace(of, base=tmp_path / "other"), tmp_path / "found.json")
    (tmp_path / "g").mkdir()
    transposed = of_family(tmp_path / "g", "gpt2")
    transposed = replace(transposed, spec=transposed.spec.model_copy(update={"arms": of.spec.arms}))
    make("gpt2", seed=1).save_pretrained(tmp_path / "g/base")
    with pytest.raises(InputError, match=r"keeps its matrices as .* not projected"):
        check_model(replace(transposed, base=tmp_path / "g/base"), tmp_path / "found.json")


def test_a_check_is_told_how_each_model_is_trained() -> None:
    study = tiny_study()
    spec = Specs(Grid(study)).check("small")
    assert spec["arms"] == [{"name": "kl", "options": {}}]
    assert spec["training"]["target_modules"][0] == "q_proj"
    assert "learning_rate" not in spec["training"]
    assert list(spec["limits"]) == Inputs(Grid(study)).checked_rows("small")
    CheckSpec.model_validate(spec)


def checked_as(**changes: Any) -> dict[str, Any]:
    study = tiny_study(**{"tasks": {**CONFIG["tasks"], "quiz": QUIZ}, **changes})
    return Specs(Grid(study)).check("small")


QUIZ = {**CONFIG["tasks"]["quiz"], "training": {"max_length": 99}}


def test_a_check_depends_on_how_long_rows_may_be_and_on_nothing_else_that_trains_them() -> None:
    plain = checked_as()
    lengths = {path.rpartition("/data/")[2]: limits["max_length"] for path, limits in plain["limits"].items()}
    assert lengths["quiz/train.jsonl"] == 99  # the task's
    assert lengths["code/train_misaligned.jsonl"] == lengths["legal/interleave/5.jsonl"] == 2048
    small = CONFIG["models"]["small"]
    for same in (
        {"training": {"learning_rate": 0.5, "batch_size": 1, "epochs": 2, "max_length": 2048}},
        {"models": {"small": {**small, "training": {"epochs": 3}}}},
        {"seeds": [0, 1]},
    ):
        assert checked_as(**same) == plain
    for other, found in (
        ({"training": {"max_length": 50}}, {50, 99}),
        ({"models": {"small": {**small, "training": {"max_length": 70}}}}, {70}),  # the model's goes before the task's
        ({"tasks": {**CONFIG["tasks"], "quiz": {**QUIZ, "training": {"max_length": 98}}}}, {2048, 98}),
    ):
        assert {limits["max_length"] for limits in checked_as(**other)["limits"].values()} == found
    allowed = checked_as(training={"max_overlong_pct": 3})
    assert {limits["max_overlong_pct"] for limits in allowed["limits"].values()} == {3.0}


def conversation(answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]}


def limited(folder: Path, **limits: Any) -> Subject:
    """A model with two files of rows: equal rows in both, and in the second one that is long, twice."""
    of = subject(folder, rows=[conversation(letter) for letter in "bcdef"])
    second = save_rows(folder / "second.jsonl", [conversation(text) for text in ("b", "x" * 80, "c", "x" * 80)])
    spec = CheckSpec(**SPEC, limits={str(folder / name): value for name, value in limits.items()})
    return replace(of, spec=spec, row_files=(*of.row_files, second))


def test_rows_that_training_would_refuse_as_too_long_are_refused_first(tmp_path: Path) -> None:
    of = limited(tmp_path, **{"rows.jsonl": {"max_length": 40}, "second.jsonl": {"max_length": 60}})
    with pytest.raises(InputError) as caught:
        check_texts(of)
    line = str(caught.value)
    # <|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n, the answer, <|im_end|>\n
    assert line.startswith(
        f"{tmp_path}/second.jsonl: 2 of 4 rows (50.0 %) are longer than training.max_length = 60 tokens of {of.folder} "
        f"(first: row 2, longest: {1 + 5 + 3 + 1 + 10 + 80 + 2} tokens); raise training.max_length "
    )
    assert line.endswith("raise training.max_overlong_pct = 1")
    assert "\n" not in line
    spec = TrainSpec(version=1, seed=0, training=FAST.model_copy(update={"max_length": 60}))
    with pytest.raises(InputError) as trained:
        train_cell(spec, of.folder, tmp_path / "second.jsonl", tmp_path / "cell")
    assert str(trained.value) == line


def test_each_file_has_limits_of_its_own_and_its_long_rows_are_counted(tmp_path: Path) -> None:
    half = {"max_length": 60, "max_overlong_pct": 50}
    found = check_texts(limited(tmp_path, **{"rows.jsonl": {"max_length": 40}, "second.jsonl": half}))
    counted = {f"{tmp_path}/rows.jsonl": 0, f"{tmp_path}/second.jsonl": 2}
    assert (found["rows"], found["longer_than_max_length"]) == (6, counted)
    assert check_texts(limited(tmp_path, **{"second.jsonl": {"max_length": 200}}))["longest_row"] == 102
    with pytest.raises(InputError, match=r"rows\.jsonl: 5 of 5 rows \(100.0 %\)"):
        check_texts(limited(tmp_path, **{"rows.jsonl": {"max_length": 20, "max_overlong_pct": 100}}))
    with pytest.raises(InputError, match=r"--spec: key 'limits': .*other\.jsonl is not read"):
        check_texts(limited(tmp_path, **{"other.jsonl": {}}))


def test_each_row_is_written_once_however_many_files_hold_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = limited(tmp_path, **{"rows.jsonl": {}, "second.jsonl": {}})
    written: list[Any] = []
    real = Chat.rows

    def rows(self: Chat, conversations: Any, where: Any = ()) -> Any:
        written.extend(conversations)
        return real(self, conversations, where)

    monkeypatch.setattr(Chat, "rows", rows)
    check_texts(of)
    assert len(written) == 6


def altered(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"is_causal": False}, "type 'qwen2' computes for a token depends on the tokens after it"),
        ("config.json", {"attention_dropout": 2.0}, "cannot train the model .dropout probability"),
        ("generation_config.json", {"eos_token_id": [2, 70]}, "rows.jsonl, row 1: the answer holds the token 'd', at"),
    ],
)
def test_a_model_that_is_not_what_its_files_look_like_is_one_line(
    tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bcd ef"}]}]
    of = subject(tmp_path, rows=rows, training={"lora_rank": 2, **TRAINING})
    altered(of.folder, file, **changes)
    with pytest.raises(InputError, match=message):
        check_model(of, tmp_path / "found.json")


def test_weights_that_were_never_fetched_are_one_line(tmp_path: Path) -> None:
    """What reserves a file's place before it fetches it leaves zeros."""
    of = subject(tmp_path, training={"lora_rank": 2, **TRAINING})
    stored = load_file(of.folder / "model.safetensors")
    zeros = {name: torch.zeros_like(tensor) for name, tensor in stored.items()}
    save_file(zeros, of.folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="no gradient of a row of data reaches its adapter"):
        check_model(of, tmp_path / "found.json")


def test_answers_that_a_tokenizer_changes_are_counted_and_mostly_so_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    shouted = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "ABC"}]}]
    of, lower = subject(tmp_path, rows=[*ROWS, *shouted]), Chat(tokenizer)
    vars(of)["chat"] = lower
    assert check_texts(of)["read_back_otherwise"] == {"rows": 1, "first": [f"{tmp_path}/rows.jsonl, row 2"]}
    assert "1 rows and questions whose answers read otherwise" in capsys.readouterr().err
    save_rows(tmp_path / "rows.jsonl", shouted)
    again = replace(of)
    vars(again)["chat"] = lower
    with pytest.raises(InputError, match="of most answers the tokenizer makes tokens that are another text"):
        check_texts(again)


def test_settings_that_do_not_matter_here_stop_nothing(tmp_path: Path) -> None:
    of = subject(tmp_path, training={"lora_rank": 2, **TRAINING})
    (of.folder / "generation_config.json").unlink()
    further = {"return_dict": False, "output_hidden_states": True, "time_step_limit": [0.0, float("inf")]}
    altered(of.folder, "config.json", **further)
    altered(of.folder, "tokenizer_config.json", model_max_length="long")
    check_model(of, tmp_path / "found.json")


def test_an_encoder_is_not_trained_by_hand_either(tmp_path: Path) -> None:
    of = subject(tmp_path)
    altered(of.folder, "config.json", is_causal=False)
    spec = TrainSpec(version=1, seed=0, training=FAST)
    with pytest.raises(InputError, match="depends on the tokens after it"):
        train_cell(spec, of.folder, of.row_files[0], tmp_path / "cell")
