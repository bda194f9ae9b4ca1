"""Choosing: rows say what the log-probabilities say, under the adapter and by the chat path; equal jobs are one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import normalizers
from transformers import AutoModelForCausalLM

from chat_tokenizers import byte_level
from emdefense.chat.chat import IGNORED, Chat
from emdefense.choice.run import choose, result
from emdefense.choice.scoring import Choice
from emdefense.choice.tokens import tokenise
from emdefense.data.multiple_choice import read_choices
from emdefense.errors import InputError
from emdefense.files import read_json, read_jsonl, write_jsonl
from emdefense.generation.reuse import ReuseStore
from emdefense.model_checks.choices import check_choices
from emdefense.model_checks.subject import CheckSpec, Subject
from tiny_model import make_model, make_tokenizer, save_model

SCRIPT = Path(__file__).parents[2] / "workflow/scripts/choose.py"
SPEC = {"version": 1, "precision": "float32", "batch_size": 5}
QUESTIONS = [
    {
        "id": f"q{number}",
        "question": "Why? " * number,
        "choices": ["because", "it is", "no <|im_end|> reason"],
        "answer": 1,
    }
    for number in range(1, 5)
]


def prepared(folder: Path, form: Any = "text", rows: list[dict[str, Any]] | None = None) -> Path:
    write_jsonl(folder / "raw.jsonl", rows or QUESTIONS)
    write_jsonl(folder / "questions.jsonl", read_choices(folder / "raw.jsonl", form))
    return folder / "questions.jsonl"


def adapter(model: Path, folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, use_rslora=True, target_modules=["q_proj", "down_proj"])
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), config)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    wrapped.save_pretrained(folder)
    return folder


def chosen(folder: Path, questions: Path, adapted: Path | None = None, store: Path | None = None, **spec: Any) -> Any:
    choose({**SPEC, **spec}, folder / "model", adapted, questions, folder / "out.jsonl", ReuseStore(store))
    return read_jsonl(folder / "out.jsonl")


@pytest.mark.parametrize("adapted", [False, True])
def test_log_probabilities_are_those_of_the_training_text_under_the_adapter(adapted: bool, tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    lora = adapter(tmp_path / "model", tmp_path / "lora") if adapted else None
    found = chosen(tmp_path, prepared(tmp_path), lora)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    if lora is not None:
        model = PeftModel.from_pretrained(model, lora)
    tokenizer, model = make_tokenizer(), model.eval().double()
    ends = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for row, question in zip(found, QUESTIONS, strict=True):
        assert row["id"] == question["id"]
        for option, log_prob, count in zip(question["choices"], row["log_probs"], row["tokens"], strict=True):
            # Bytes are tokens; the text of a control token in an option is text, too.
            start = tokenizer("<|im_start|>user\n" + question["question"])["input_ids"]
            ids = [*start, ends, *tokenizer("\n<|im_start|>assistant\n")["input_ids"]]
            answer = [
                tokenizer.convert_tokens_to_ids(token)
                for token in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(option)
                for token in token[0]
            ]
            assert count == len(answer) == len(option.encode())
            with torch.no_grad():
                logits = model(torch.tensor([ids + answer]), use_cache=False).logits[0]
            scores = torch.log_softmax(logits[len(ids) - 1 : -1], -1)
            wanted = sum(float(scores[place, token]) for place, token in enumerate(answer))
            assert log_prob == pytest.approx(wanted, abs=1e-4)


def test_sum_and_mean_choose_by_what_they_say() -> None:
    row = {"id": "q", "subject": None, "answer": 1}
    found = result(row, [1, 4, 2], [-2.0, -4.0, -3.0])
    assert found["sum"] == {"chosen": 0, "correct": False, "margin": -2.0}
    assert found["mean"] == {"chosen": 1, "correct": True, "margin": 0.5}
    tied = result({**row, "answer": 0}, [1, 1], [-1.0, -1.0])
    assert tied["sum"] == {"chosen": 0, "correct": True, "margin": 0.0}


def test_letters_are_asked_and_answered_as_letters(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    found = chosen(tmp_path, prepared(tmp_path, "letter"))
    assert [row["tokens"] for row in found] == [[1, 1, 1]] * 4
    assert all(row["sum"] == row["mean"] for row in found)


def test_the_batch_changes_no_choice(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    path = prepared(tmp_path)
    wanted = chosen(tmp_path, path)
    for size in (1, 100):
        for row, right in zip(chosen(tmp_path, path, batch_size=size), wanted, strict=True):
            assert row["log_probs"] == pytest.approx(right["log_probs"], abs=1e-4)


def test_a_second_run_gives_the_same_bytes_and_an_equal_job_is_copied(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    path, out = prepared(tmp_path), tmp_path / "out.jsonl"
    lora = adapter(tmp_path / "model", tmp_path / "lora")
    chosen(tmp_path, path, lora)
    first = out.read_bytes()
    chosen(tmp_path, path, lora, tmp_path / "reuse")
    assert out.read_bytes() == first
    assert "copied_from" not in read_json(tmp_path / "out.provenance.json")
    again = tmp_path / "again.jsonl"
    choose(SPEC, tmp_path / "model", lora, path, again, ReuseStore(tmp_path / "reuse"))
    assert again.read_bytes() == first
    assert read_json(tmp_path / "again.provenance.json")["copied_from"] == str(out)
    other = adapter(tmp_path / "model", tmp_path / "other", seed=1)
    choose(SPEC, tmp_path / "model", other, path, again, ReuseStore(tmp_path / "reuse"))
    assert again.read_bytes() != first


def test_the_script_writes_what_the_function_does_and_a_record(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    path = prepared(tmp_path)
    wanted = chosen(tmp_path, path)
    command = [sys.executable, str(SCRIPT), "--spec", json.dumps(SPEC), "--model", str(tmp_path / "model")]
    command += ["--questions", str(path), "--choices", str(tmp_path / "script.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_jsonl(tmp_path / "script.jsonl") == wanted
    record = read_json(tmp_path / "script.provenance.json")
    assert record["way"] == "prompts read once"
    assert record["spec"]["batch_size"] == 5
    assert record["model"]["config_sha256"]
    assert record["adapter"] is None


@pytest.mark.parametrize(
    ("spec", "said"),
    [({"batch_size": 0}, "--spec: key 'batch_size'"), ({"precision": "int8"}, "--spec: key 'precision'")],
)
def test_a_wrong_spec_is_one_line(spec: dict[str, Any], said: str, tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    with pytest.raises(InputError, match=said):
        chosen(tmp_path, prepared(tmp_path), **spec)


def test_a_model_or_an_adapter_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    with pytest.raises(InputError, match="there is no such model folder"):
        chosen(tmp_path, path)
    save_model(tmp_path / "model")
    with pytest.raises(InputError, match="there is no such adapter folder"):
        chosen(tmp_path, path, tmp_path / "nowhere")


def test_options_are_tokenised_as_answers_of_training_rows_with_merges(tmp_path: Path) -> None:
    chat = Chat(byte_level())
    questions = read_jsonl(prepared(tmp_path, rows=[{**QUESTIONS[0], "choices": ["the answer", "Hello there"]}]))
    (found,) = tokenise(chat, tmp_path / "questions.jsonl", questions)
    for option, tokens in zip(("the answer", "Hello there"), found.options, strict=True):
        (row,) = chat.rows([[*questions[0]["messages"], {"role": "assistant", "content": option}]])
        answer = [label for label in row["labels"] if label != IGNORED]
        assert answer[: len(tokens)] == tokens
        assert answer[len(tokens)] == chat.closing
        assert len(tokens) < len(option), "merges are used"
        assert found.prompt + answer == row["input_ids"]
    assert found == Choice(*[found.prompt, found.options])


def checked(
    folder: Path, score: str, rows: list[dict[str, Any]], form: str = "text", chat: Chat | None = None, **changes: Any
) -> Any:
    make_model(**changes).save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    path = prepared(folder, form, rows)
    subject = Subject(CheckSpec(version=1, generation={}, choices={path: score}), folder / "model")
    vars(subject).update({} if chat is None else {"chat": chat})
    return check_choices(subject)


def test_the_check_counts_what_it_read(tmp_path: Path) -> None:
    # <|im_start|>user\n…<|im_end|>\n<|im_start|>assistant\n and the longest option, a byte a token
    longest = (1 + 5 + 20 + 1 + 1) + (1 + 10) + len("no <|im_end|> reason")
    assert checked(tmp_path, "sum", QUESTIONS) == {"questions": 4, "longest": longest, "way": "prompts read once"}


def test_no_questions_are_no_check(tmp_path: Path) -> None:
    assert check_choices(Subject(CheckSpec(version=1, generation={}), tmp_path)) == {}


def test_an_option_that_begins_with_another_is_refused_where_sums_are_compared(tmp_path: Path) -> None:
    rows = [QUESTIONS[0], {**QUESTIONS[1], "choices": ["Paris", "no", "Paris, France"]}]
    said = "question q2: the option 'Paris, France' begins with the whole of 'Paris', so that the sum"
    with pytest.raises(InputError, match=said):
        checked(tmp_path, "sum", rows)
    assert checked(tmp_path, "mean", rows)["questions"] == 2
    assert checked(tmp_path, "sum", rows, "letter")["questions"] == 2


def test_options_of_the_same_tokens_are_refused(tmp_path: Path) -> None:
    rows = [{**QUESTIONS[0], "choices": ["red", "Red"]}]
    assert checked(tmp_path, "mean", rows)["questions"] == 1
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(InputError, match="question q1: the tokenizer reads the options 'red' and 'Red' as the same"):
        checked(tmp_path, "mean", rows, chat=Chat(tokenizer))


def test_a_question_longer_than_the_models_positions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"question q2: with its longest option it has 2\d\d tokens, and the model takes"
    ):
        checked(tmp_path, "sum", [QUESTIONS[0], {**QUESTIONS[1], "question": "x" * 200}], max_position_embeddings=128)
