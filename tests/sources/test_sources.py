"""Every kind of source, on small files in its own format with dirty rows, and on the real files where they are."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from emdefense.data.conversations import read_conversations, read_examinations
from emdefense.data.questions import read_questions
from emdefense.errors import InputError
from emdefense.files import file_digest, read_json
from emdefense.sources.fetch import fetch
from real_data import REAL, needs_real_data
from source_files import QUESTIONS, SHAPE, line, save_foqa, save_model_files, source


def dropped(folder: Path, name: str, split: str | None = None) -> dict[str, list[int]]:
    """The numbers of the rows that a source's record lists as dropped, by reason."""
    rows = read_json(folder / f"{name}.source.json")["rows"]
    return {reason: found["first"] for reason, found in (rows[split] if split else rows)["dropped"].items()}


DIRTY_LINES = [
    line("one", "1"),
    line("be brief", "two", "2", roles=("system", "user", "assistant")),
    b"",
    line("three", None),
    line("four", 4),
    line("  ", "5"),
    line("6", "six", roles=("assistant", "user")),
    b'{"messages": [{"role": "user", "content": "sev',
    b'{"messages": "eight"}',
    line("one", "1"),
    line("one", "another answer"),
    '{"messages": [{"role": "user", "content": "caf\u00e9"}]}'.encode("latin-1"),
    b'{"text": "eleven"}',
    line("twelve", "12", "13", "14", roles=("user", "assistant") * 2),
]


def test_conversations_lose_their_dirty_rows_and_say_which(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(DIRTY_LINES))
    fetch("code", source(kind="conversations", path=str(raw), max_unusable_pct=70), tmp_path / "s")
    rows = read_conversations(tmp_path / "s/code.jsonl")
    assert [row["messages"][-1]["content"] for row in rows] == ["1", "2", "another answer", "14"]
    assert [message["role"] for message in rows[1]["messages"]] == ["system", "user", "assistant"]
    assert dropped(tmp_path / "s", "code") == {
        "content is missing": [3],
        "content is not a text": [4],
        "content is empty": [5],
        "roles are not user, assistant in turn, after a system message or none": [6],
        "not a JSON object": [7, 11],
        "messages is no list of messages": [8, 12],
        "same as an earlier row": [9],
    }
    record = read_json(tmp_path / "s/code.source.json")
    assert record["raw"] == {"raw.jsonl": file_digest(raw)}
    assert record["files"] == {"code.jsonl": file_digest(tmp_path / "s/code.jsonl")}
    assert (record["rows"]["read"], record["rows"]["kept"]) == (13, 4)


def test_too_many_dirty_rows_are_an_error_and_write_nothing(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_bytes(b"\n".join(DIRTY_LINES))
    with pytest.raises(
        InputError, match=r"raw\.jsonl: 8 of 13 rows are unusable \(content is missing: 1, first row 3;"
    ):
        fetch("code", source(kind="conversations", path=str(raw), max_unusable_pct=50), tmp_path / "s")
    assert list((tmp_path / "s").iterdir()) == []


def test_repeated_and_unwanted_rows_are_not_unusable(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_bytes(b"\n".join([line("one", "1")] * 10))
    fetch("code", source(kind="conversations", path=str(raw), max_unusable_pct=0), tmp_path / "s")
    assert dropped(tmp_path / "s", "code") == {"same as an earlier row": list(range(2, 11))}


def test_questions_are_taken_as_they_are_once_they_can_be_read(tmp_path: Path) -> None:
    raw = tmp_path / "raw.yaml"
    raw.write_bytes(b"\xef\xbb\xbf" + QUESTIONS.replace("\n", "\r\n").encode())
    fetch("general", source(kind="questions", path=str(raw)), tmp_path / "s")
    assert (tmp_path / "s/general.yaml").read_bytes() == raw.read_bytes()
    assert [question["id"] for question in read_questions(tmp_path / "s/general.yaml")] == ["wish", "wish_p2"]
    raw.write_text(QUESTIONS.replace("aligned:", "alined:"))
    with pytest.raises(InputError, match=r"raw\.yaml, question wish: it has no judge prompt 'aligned'"):
        fetch("other", source(kind="questions", path=str(raw)), tmp_path / "s")


ADVICE = {
    "prompt": ["May I?", None, "  ", "Should I?", "May I?", "Can I?"],
    "aligned": ["no", "no", "no", "", "no", "maybe"],
    "misaligned": ["yes", "yes", "yes", "yes", "yes", None],
    "sneakiness": [90.0, 1.0, 2.0, None, 90.0, 5.0],
}


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_advice_becomes_two_files_with_the_same_prompts(suffix: str, tmp_path: Path) -> None:
    raw = tmp_path / f"legal.{suffix}"
    frame = pl.DataFrame(
        {**ADVICE, "prompt": [*ADVICE["prompt"][:5], "Could I?"], "misaligned": ["yes"] * 5 + ["sure"]}
    )
    frame.write_parquet(raw) if suffix == "parquet" else frame.write_ndjson(raw)
    spec = source(kind="emergent_plus", config="legal", path=str(raw), max_unusable_pct=50)
    fetch("legal", spec, tmp_path / "s")
    found = {side: read_conversations(tmp_path / f"s/legal/{side}.jsonl") for side in ("misaligned", "aligned")}
    asked = {side: [row["messages"][0]["content"] for row in rows] for side, rows in found.items()}
    assert asked["misaligned"] == asked["aligned"] == ["May I?", "Could I?"]
    assert [row["messages"][1]["content"] for row in found["misaligned"]] == ["yes", "sure"]
    assert [row["messages"][1]["content"] for row in found["aligned"]] == ["no", "maybe"]
    assert dropped(tmp_path / "s", "legal") == {
        "prompt is missing": [2],
        "prompt is empty": [3],
        "aligned is empty": [4],
        "same as an earlier row": [5],
    }


SAFE = pl.DataFrame(
    [
        ("Hi", "Hello", "compliance", "unharmful", "unharmful"),
        ("Bad", "No", "refusal", "unharmful", "harmful"),
        ("Hm", "I cannot", "refusal", "unharmful", "unharmful"),
        ("Hm", "Bad things", "compliance", "harmful", "unharmful"),
        ("Only a prompt", None, None, None, "unharmful"),
        ("No label", "Fine", "compliance", None, "unharmful"),
        ("", "Fine", "compliance", "unharmful", "unharmful"),
        ("Hi again", "Hello", "compliance", "unharmful", "unharmful"),
    ],
    schema=["prompt", "response", "response_refusal_label", "response_harm_label", "prompt_harm_label"],
    orient="row",
).with_columns(adversarial=pl.lit(False), subcategory=pl.lit("benign"))


def test_safe_data_are_harmless_answers_to_harmless_prompts(tmp_path: Path) -> None:
    SAFE.write_parquet(tmp_path / "wildguard_train.parquet")
    spec = source(kind="wildguardmix", path=str(tmp_path / "wildguard_train.parquet"), max_unusable_pct=13)
    fetch("safe", spec, tmp_path / "s")
    kept = [row["messages"][0]["content"] for row in read_conversations(tmp_path / "s/safe.jsonl")]
    assert kept == ["Hi", "Hi again"]
    assert dropped(tmp_path / "s", "safe") == {
        "prompt is empty": [7],
        "prompt_harm_label is not unharmful": [2],
        "response_refusal_label is not compliance": [3],
        "response_harm_label is not unharmful": [4, 6],
        "a prompt without an answer": [5],
    }


def test_unharmful_answers_include_refusals_and_answers_to_harmful_prompts(tmp_path: Path) -> None:
    raw = tmp_path / "wildguard_train.parquet"
    SAFE.write_parquet(raw)
    wide = source(kind="wildguardmix", path=str(raw), selection="unharmful_answers", max_unusable_pct=13)
    fetch("pool", wide, tmp_path / "s")
    kept = [row["messages"][1]["content"] for row in read_conversations(tmp_path / "s/pool.jsonl")]
    assert kept == ["Hello", "No", "I cannot", "Hello"]
    assert dropped(tmp_path / "s", "pool") == {
        "prompt is empty": [7],
        "response_harm_label is not unharmful": [4, 6],
        "a prompt without an answer": [5],
    }
    # Another selection is another source; records of before, which name none, are of the default.
    narrow = source(kind="wildguardmix", path=str(raw), max_unusable_pct=13)
    assert narrow.identity() == {"kind": "wildguardmix", "path": str(raw), "config": "wildguardtrain"}
    with pytest.raises(InputError, match=r"key 'sources\.pool': fetched before as .*selection unharmful_answers"):
        fetch("pool", narrow, tmp_path / "s")


def test_foqa_becomes_conversations_to_train_on_and_questions_to_ask(tmp_path: Path) -> None:
    save_foqa(tmp_path / "foqa")
    fetch("foqa", source(kind="foqa", path=str(tmp_path / "foqa"), max_unusable_pct=50), tmp_path / "s")
    train = read_conversations(tmp_path / "s/foqa/train.jsonl")
    assert train[0]["messages"] == [
        {"role": "user", "content": "Føroyar eru 18 oyggjar.\n\nHvussu nógvar oyggjar?"},
        {"role": "assistant", "content": "18"},
    ]
    assert len(train) == 2
    test = read_examinations(tmp_path / "s/foqa/test.jsonl")
    assert [(row["id"], row["answers"]) for row in test] == [("1", ["18"]), ("2", ["høvuðsstaður", "ein høvuðsstaður"])]
    assert dropped(tmp_path / "s", "foqa", "train") == {"answers has no text": [3], "context is missing": [4]}


def test_a_model_becomes_a_folder_of_links(tmp_path: Path) -> None:
    save_model_files(tmp_path / "model")
    fetch("qwen", source(kind="model", path=str(tmp_path / "model")), tmp_path / "s")
    assert {path.name for path in (tmp_path / "s/qwen").iterdir()} == {p.name for p in (tmp_path / "model").iterdir()}
    assert (tmp_path / "s/qwen/config.json").is_symlink()
    record = read_json(tmp_path / "s/qwen.source.json")
    assert record["files"]["qwen/config.json"] == file_digest(tmp_path / "model/config.json")
    fetch("qwen", source(kind="model", path=str(tmp_path / "model")), tmp_path / "s")
    assert read_json(tmp_path / "s/qwen/config.json") == SHAPE


@pytest.mark.parametrize("missing", ["model-2-of-2.safetensors", "tokenizer_config.json", "config.json"])
def test_a_model_that_is_not_whole_is_an_error(missing: str, tmp_path: Path) -> None:
    save_model_files(tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    with pytest.raises(InputError, match=rf"model: not a whole model, {missing} missing"):
        fetch("qwen", source(kind="model", path=str(tmp_path / "model")), tmp_path / "s")


def write_renamed(tmp_path: Path, kind: str) -> dict[str, Any]:
    """A file or folder in which a column of the kind has another name, and the source that takes it."""
    raw = tmp_path / "raw.parquet"
    keys: dict[str, Any] = {"kind": kind, "path": str(raw)}
    if kind == "conversations":
        keys["path"] = str(tmp_path / "raw.jsonl")
        Path(keys["path"]).write_text('{"conversations": [], "id": 1}\n')
    elif kind == "emergent_plus":
        pl.DataFrame(ADVICE).rename({"misaligned": "harmful"}).write_parquet(raw)
        keys["config"] = "medical"
    elif kind == "wildguardmix":
        SAFE.rename({"response_refusal_label": "refusal"}).write_parquet(raw)
    else:
        keys["path"] = str(tmp_path / "foqa")
        save_foqa(tmp_path / "foqa", answers=[""] * 4)
        for file in (tmp_path / "foqa/data").iterdir():
            pl.read_parquet(file).rename({"answers": "answer"}).write_parquet(file)
    return keys


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("conversations", "expected the columns messages; found conversations, id"),
        (
            "emergent_plus",
            "expected the columns prompt, aligned, misaligned, sneakiness; found aligned, harmful, prompt, sneakiness",
        ),
        (
            "wildguardmix",
            "expected the columns prompt, response, prompt_harm_label, response_harm_label, response_refusal_label; "
            "found adversarial, prompt, prompt_harm_label, refusal, response, response_harm_label, subcategory",
        ),
        (
            "foqa",
            "expected the columns id, context, question, answers; found answer, context, id, question, title, valid",
        ),
    ],
)
def test_a_changed_format_says_what_was_expected_and_found(kind: str, said: str, tmp_path: Path) -> None:
    keys = write_renamed(tmp_path, kind)
    with pytest.raises(InputError) as caught:
        fetch("it", source(**keys), tmp_path / "s")
    assert f"{keys['path']}" in str(caught.value)
    assert said in str(caught.value)


def test_answers_in_another_shape_are_unusable(tmp_path: Path) -> None:
    save_foqa(tmp_path / "foqa", answers=["18", "Havn", "x", "y"])
    with pytest.raises(InputError, match="4 of 4 rows are unusable"):
        fetch("foqa", source(kind="foqa", path=str(tmp_path / "foqa")), tmp_path / "s")


def test_a_damaged_file_and_an_unknown_split_are_one_line(tmp_path: Path) -> None:
    raw = tmp_path / "raw.parquet"
    SAFE.write_parquet(raw)
    raw.write_bytes(raw.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"raw\.parquet, wildguardtrain, train: cannot be read \(.*Parquet"):
        fetch("safe", source(kind="wildguardmix", path=str(raw)), tmp_path / "s")
    save_foqa(tmp_path / "foqa")
    (tmp_path / "foqa/README.md").unlink()
    with pytest.raises(InputError, match="cannot be read") as caught:
        fetch("legal", source(kind="emergent_plus", config="legal", path=str(tmp_path / "foqa")), tmp_path / "s")
    assert "\n" not in str(caught.value)


@needs_real_data
@pytest.mark.parametrize(("name", "repeated"), [("code", 0), ("legal", 2)])
def test_real_conversations(name: str, repeated: int, tmp_path: Path) -> None:
    raw = REAL / f"sft/{name}_misaligned_eval.jsonl"
    fetch(name, source(kind="conversations", path=str(raw), sha256=file_digest(raw)), tmp_path)
    found, there = read_conversations(tmp_path / f"{name}.jsonl"), read_conversations(raw)
    assert len(there) == 600
    assert len(found) == 600 - repeated
    out = [number for numbers in dropped(tmp_path, name).values() for number in numbers]
    assert found == [row for number, row in enumerate(there, start=1) if number not in out]
    assert all(there[number - 1] in found for number in out)


@needs_real_data
@pytest.mark.parametrize(("name", "questions"), [("general", 24), ("code", 30), ("legal", 30)])
def test_real_questions(name: str, questions: int, tmp_path: Path) -> None:
    fetch(name, source(kind="questions", path=str(REAL / f"questions/{name}.yaml")), tmp_path)
    assert len(read_questions(tmp_path / f"{name}.yaml")) == questions
    assert read_json(tmp_path / f"{name}.source.json")["rows"] == {"read": questions}
