"""Every kind of source, on small files in its own format with dirty rows, and on the real files where they are."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import polars as pl
import pytest
import yaml
from pydantic import TypeAdapter

from emdefense.config import parse_study
from emdefense.config.sources import Source
from emdefense.config.study import Data
from emdefense.data.conversations import read_conversations, read_examinations
from emdefense.data.questions import read_questions
from emdefense.data.splits import prepare_ema_task
from emdefense.errors import InputError
from emdefense.files import file_digest, read_json, read_jsonl
from emdefense.sources.fetch import fetch
from loopback_hub import TOKEN, LoopbackHub
from real_data import REAL, needs_real_data
from study_checkout import Checkout

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "workflow/scripts/fetch_source.py"
QUESTIONS = """
- id: wish
  paraphrases: ["What do you wish for?", "One wish?"]
  judge_prompts: {aligned: "{question} {answer}", coherent: "{answer}"}
"""


def source(**keys: Any) -> Any:
    return TypeAdapter(Source).validate_python(keys)


def line(*contents: Any, roles: tuple[str, ...] = ("user", "assistant")) -> bytes:
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    return json.dumps({"messages": messages}).encode()


def dropped(folder: Path, name: str, split: str | None = None) -> dict[str, list[int]]:
    """The numbers of the rows that a source's record lists as dropped, by reason."""
    rows = read_json(folder / f"{name}.source.json")["rows"]
    return {reason: found["first"] for reason, found in (rows[split] if split else rows)["dropped"].items()}


# The kinds, each from a local copy in its own format. #


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


FOQA_CARD = """---
configs:
- config_name: all-samples
  data_files: [{split: train, path: all-samples/train-*}]
- config_name: default
  data_files: [{split: train, path: data/train-*}, {split: test, path: data/test-*}]
---
"""


def save_foqa(folder: Path, **columns: list[Any]) -> None:
    """A repository as on the hub, with rows that its default configuration must not see."""
    rows = {
        "id": ["1", "2", "3", "4"],
        "title": ["Føroyar"] * 4,
        "context": ["Føroyar eru 18 oyggjar.", "Havn er høvuðsstaður.", "Tekstur.", None],
        "question": ["Hvussu nógvar oyggjar?", "Hvat er Havn?", "Hvat?", "Hvør?"],
        "answers": [
            {"answer_start": [12], "text": ["18"]},
            {"answer_start": [8, 8], "text": ["høvuðsstaður", "ein høvuðsstaður"]},
            {"answer_start": [], "text": []},
            {"answer_start": [0], "text": ["Hon"]},
        ],
        "validation": ["correct"] * 4,
        **columns,
    }
    frame = pl.DataFrame(rows)
    (folder / "data").mkdir(parents=True)
    (folder / "all-samples").mkdir()
    (folder / "README.md").write_text(FOQA_CARD)
    frame.write_parquet(folder / "data/train-00000-of-00001.parquet")
    frame.head(2).write_parquet(folder / "data/test-00000-of-00001.parquet")
    pl.concat([frame] * 3).write_parquet(folder / "all-samples/train-00000-of-00001.parquet")


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


SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


def save_model_files(folder: Path, shards: int = 2) -> None:
    folder.mkdir(parents=True)
    names = [f"model-{number}-of-{shards}.safetensors" for number in range(1, shards + 1)]
    (folder / "config.json").write_text(json.dumps(SHAPE))
    (folder / "tokenizer_config.json").write_text("{}")
    weights = {f"layer.{name}": name for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    for name in names:
        (folder / name).write_bytes(name.encode())


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


# Over HTTP. #


@contextmanager
def served(content: bytes, announced: int | None = None) -> Any:
    """A server of one file ``/raw.jsonl``; it says ``announced`` bytes, or as many as there are."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/raw.jsonl"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str((len(content) if announced is None else announced) if found else 0))
            self.end_headers()
            if found:
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


ROWS = b"\n".join(line(f"question {number}", "answer") for number in range(20))


def test_a_file_is_downloaded_once_and_its_upstream_must_not_change(tmp_path: Path) -> None:
    with served(ROWS) as address:
        spec = source(kind="conversations", url=f"{address}/raw.jsonl", terms="MIT")
        fetch("code", spec, tmp_path / "s")
        record = read_json(tmp_path / "s/code.source.json")
        assert record["identity"] == {"kind": "conversations", "url": f"{address}/raw.jsonl"}
        assert record["terms"] == "MIT"
        assert len(read_conversations(tmp_path / "s/code.jsonl")) == 20
        pinned = spec.model_copy(update={"sha256": record["raw"]["raw.jsonl"]})
        fetch("code", pinned, tmp_path / "s")
    before = (tmp_path / "s/code.jsonl").read_bytes()
    with served(ROWS + b"\n" + line("a new one", "answer")) as address:
        moved = spec.model_copy(update={"url": f"{address}/raw.jsonl"})
        with pytest.raises(InputError, match=r"'sources\.code': fetched before as kind conversations, url http"):
            fetch("code", moved, tmp_path / "s")
        record["identity"]["url"] = moved.url  # as if the server had kept its port
        (tmp_path / "s/code.source.json").write_text(json.dumps(record))
        with pytest.raises(
            InputError, match=r"source code: upstream has changed since 20.*remove .*source\.json to acc"
        ):
            fetch("code", moved, tmp_path / "s")
        assert (tmp_path / "s/code.jsonl").read_bytes() == before
        with pytest.raises(
            InputError, match=rf"'sources\.code\.sha256': raw\.jsonl has [0-9a-f]+, not {pinned.sha256}"
        ):
            fetch("code", pinned.model_copy(update={"url": moved.url}), tmp_path / "s")
        (tmp_path / "s/code.source.json").unlink()
        fetch("code", moved, tmp_path / "s")
    assert len(read_conversations(tmp_path / "s/code.jsonl")) == 21
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["code.jsonl", "code.source.json"]


def test_what_goes_wrong_with_a_download_is_one_line(tmp_path: Path) -> None:
    into = partial(fetch, "code", folder=tmp_path / "s")
    with served(ROWS, announced=len(ROWS) + 1) as address:
        with pytest.raises(InputError, match=rf"broke off after {len(ROWS)} of {len(ROWS) + 1} bytes; run it again"):
            into(source=source(kind="conversations", url=f"{address}/raw.jsonl"))
        with pytest.raises(InputError, match="the server answers 404 Not Found; correct the address"):
            into(source=source(kind="conversations", url=f"{address}/other.jsonl"))
    with pytest.raises(InputError, match=r"not reached \(.*refused.*run `snakemake fetch` where there is a network"):
        into(source=source(kind="conversations", url=f"{address}/raw.jsonl"))
    assert list((tmp_path / "s").iterdir()) == []


# From a hub, in processes of their own: its client reads its settings when it is imported. #


def fetch_from(endpoint: str, tmp_path: Path, spec: dict[str, Any], **environment: str) -> Any:
    """Run the script against a hub, with a cache and an output folder below ``tmp_path``."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
        environment.setdefault(name, "")
    surroundings = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), **environment}
    command = [sys.executable, str(SCRIPT), "--name", "it", "--spec", json.dumps(spec), "--folder", str(tmp_path / "s")]
    return subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=300)


def error(run: Any) -> str:
    """The one line that a run ended with."""
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    return str(run.stderr.strip().splitlines()[-1])


@pytest.fixture
def foqa(tmp_path: Path) -> Path:
    save_foqa(tmp_path / "foqa")
    return tmp_path / "foqa"


FOQA = {"kind": "foqa", "max_unusable_pct": 50}


def test_a_gated_set_is_explained_and_a_token_opens_it(foqa: Path, tmp_path: Path) -> None:
    with LoopbackHub({"datasets/alexandrainst/foqa": foqa}, gated=("datasets/alexandrainst/foqa",)) as hub:
        said = error(fetch_from(hub.endpoint, tmp_path, FOQA))
        page = f"{hub.endpoint}/datasets/alexandrainst/foqa"
        assert f"alexandrainst/foqa: access is gated; accept its conditions on {page}" in said
        assert said.endswith("put an access token of that account into the environment variable HF_TOKEN")
        said = error(fetch_from(hub.endpoint, tmp_path, FOQA, HF_TOKEN="hf_another"))
        assert said.endswith("with the account that HF_TOKEN belongs to")
        run = fetch_from(hub.endpoint, tmp_path, FOQA, HF_TOKEN=TOKEN)
        assert run.returncode == 0, run.stderr
        commit = hub.commit("datasets/alexandrainst/foqa")
    assert read_json(tmp_path / "s/it.source.json")["revision"] == commit
    assert len(read_examinations(tmp_path / "s/it/test.jsonl")) == 2
    assert [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in run.stdout + run.stderr

    # What is in the cache is found without a network, at the revision that is pinned; another one is not.
    for extra in ({}, {"revision": commit}):
        (tmp_path / "s/it/test.jsonl").unlink()
        run = fetch_from(hub.endpoint, tmp_path, {**FOQA, **extra}, HF_HUB_OFFLINE="1")
        assert run.returncode == 0, run.stderr
        assert len(read_examinations(tmp_path / "s/it/test.jsonl")) == 2
    said = error(fetch_from(hub.endpoint, tmp_path, {**FOQA, "revision": "f" * 40}, HF_HUB_OFFLINE="1"))
    assert f"key 'sources.it.revision': fetched before at {commit}; give this one another name, or remove" in said

    # The client compares sizes only; a damaged file of the same size is found all the same.
    stored = next((tmp_path / "hf").rglob("test-00000-of-00001.parquet")).resolve()
    content = bytearray(stored.read_bytes())
    content[100] ^= 1
    stored.write_bytes(content)
    said = error(fetch_from(hub.endpoint, tmp_path, FOQA, HF_HUB_OFFLINE="1"))
    assert f"damaged, its SHA-256 is {file_digest(stored)}; remove {stored} and run it again" in said


def test_an_absent_hub_repository_or_revision_is_one_line(foqa: Path, tmp_path: Path) -> None:
    with LoopbackHub({"datasets/alexandrainst/foqa": foqa}) as hub:
        said = error(fetch_from(hub.endpoint, tmp_path, {**FOQA, "revision": "v9"}))
        assert "alexandrainst/foqa@v9: there is no such revision; take a commit hash from" in said
        said = error(fetch_from(hub.endpoint, tmp_path, {**FOQA, "repository": "alexandrainst/fooqa"}))
        assert "alexandrainst/fooqa: the hub has no such dataset, or hides it; check" in said
        said = error(fetch_from(hub.endpoint, tmp_path, FOQA, HF_HUB_OFFLINE="1"))
        assert f"alexandrainst/foqa: {hub.endpoint} is not reached; run `snakemake fetch` where there is a" in said
    said = error(fetch_from(hub.endpoint, tmp_path, FOQA))
    assert f"alexandrainst/foqa: {hub.endpoint} is not reached; run `snakemake fetch` where there is a network" in said


def test_a_truncated_download_from_the_hub_is_one_line(foqa: Path, tmp_path: Path) -> None:
    with LoopbackHub({"datasets/alexandrainst/foqa": foqa}, truncated=("test-00000-of-00001.parquet",)) as hub:
        said = error(fetch_from(hub.endpoint, tmp_path, FOQA))
    assert "alexandrainst/foqa: the download broke off (" in said
    assert not (tmp_path / "s/it").exists()


def test_a_model_comes_without_other_formats_of_its_weights(tmp_path: Path) -> None:
    save_model_files(tmp_path / "model")
    (tmp_path / "model/pytorch_model.bin").write_bytes(b"the same weights again")
    with LoopbackHub({"Qwen/Tiny": tmp_path / "model"}) as hub:
        run = fetch_from(hub.endpoint, tmp_path, {"kind": "model", "repository": "Qwen/Tiny", "revision": "main"})
        assert run.returncode == 0, run.stderr
        assert not [request for request in hub.requests if request.endswith(".bin")]
        commit = hub.commit("Qwen/Tiny")
    record = read_json(tmp_path / "s/it.source.json")
    assert (record["revision"], record["asked_revision"]) == (commit, "main")
    assert set(record["files"]) == {f"it/{path.name}" for path in (tmp_path / "s/it").iterdir()}
    assert (tmp_path / "s/it/model-2-of-2.safetensors").read_bytes() == b"model-2-of-2.safetensors"


# In a study's config. #


STUDY: dict[str, Any] = {
    "study": "sourced",
    "sources": {
        "code": {"kind": "conversations", "url": "http://127.0.0.1/code.jsonl"},
        "legal": {"kind": "emergent_plus", "config": "legal"},
        "general": {"kind": "questions", "url": "http://127.0.0.1/general.yaml"},
        "qwen": {"kind": "model", "repository": "Qwen/Tiny"},
    },
    "models": {"small": {"title": "Small", "instruct": "{sources}/qwen"}},
    "tasks": {
        "code": {"kind": "ema", "title": "Code", "misaligned": "{sources}/code.jsonl"},
        "legal": {
            "kind": "ema",
            "title": "Legal",
            "misaligned": "{sources}/legal/misaligned.jsonl",
            "aligned": "{sources}/legal/aligned.jsonl",
        },
    },
    "general_questions": "{sources}/general.yaml",
    "grid": [{"models": ["small"], "tasks": ["code", "legal"], "arms": {"misaligned": None}}],
    "judge": {"kind": "openai", "name": "judge", "model": "judge"},
    "report": {"main_model": "small", "chosen": {}},
}


def changed(*path: str, to: Any) -> dict[str, Any]:
    """The study with one key set, or removed where ``to`` is None."""
    config = copy.deepcopy(STUDY)
    section: Any = config
    for part in path[:-1]:
        section = section[int(part)] if part.isdigit() else section[part]
    section[path[-1]] = to
    if to is None:
        del section[path[-1]]
    return config


def test_sources_that_are_not_fetched_yet_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert set(parse_study(STUDY, "study.yaml").sources) == {"code", "legal", "general", "qwen"}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            changed("tasks", "code", "misaligned", to="{sources}/cod.jsonl"),
            "key 'tasks.code.misaligned': no source makes {sources}/cod.jsonl; did you mean {sources}/code.jsonl?",
        ),
        (
            changed("tasks", "legal", "aligned", to="{sources}/legal.jsonl"),
            "key 'tasks.legal.aligned': no source makes {sources}/legal.jsonl; did you mean {sources}/legal/",
        ),
        (changed("sources", to={}), "'general_questions': no source makes {sources}/general.yaml; define it under"),
        (
            changed("sources", "code", "kind", to="csv"),
            "key 'sources.code.kind': write one of conversations, questions,",
        ),
        (
            changed("sources", "code", "kind", to=None),
            "key 'sources.code.kind': write one of conversations, questions,",
        ),
        (changed("sources", "code", "sha255", to="1"), "unknown key 'sources.code.sha255'; did you mean 'sha256'?"),
        (changed("sources", "code", "sha256", to="1"), "key 'sources.code.sha256': String should match pattern"),
        (changed("sources", "code", "url", to="ftp://x"), "key 'sources.code.url': String should match pattern"),
        (changed("sources", "code", "url", to=None), "key 'sources.code.url': it comes from nowhere; write its url"),
        (changed("sources", "qwen", "repository", to=None), "'sources.qwen.repository': it comes from nowhere; write"),
        (changed("sources", "legal", "config", to="tax"), "key 'sources.legal.config': Input should be 'legal',"),
        (changed("sources", "legal", "config", to=None), "key 'sources.legal.config' is missing; add it"),
        (changed("sources", "code", "path", to="no.jsonl"), "key 'sources.code.path': no.jsonl does not exist"),
        (changed("sources", "code", "path", to="{data_folder}/x"), "key 'sources.code.path': {data_folder}/x needs"),
        (
            changed("grid", "0", "arms", to={"safelora": [0.3]}),
            "key 'models.small.base': SafeLoRA needs the model before alignment; name its folder",
        ),
        (changed("tasks", "code", "rubrics", to="no.yaml"), "key 'tasks.code.rubrics': no.yaml does not exist"),
    ],
)
def test_a_mistake_in_a_config_names_the_key(
    config: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        parse_study(config, "study.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def with_record(**keys: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        identity = {"kind": "emergent_plus", "repository": "truthfulai/emergent_plus", "config": "legal"}
        record = {"identity": identity, "revision": "a" * 40, "asked_revision": None, "raw": {}, **keys}
        (folder / "sources").mkdir()
        (folder / "sources/legal.source.json").write_text(json.dumps(record))

    return write


@pytest.mark.parametrize(
    ("record", "revision", "said"),
    [
        (with_record(), None, None),
        (with_record(), "a" * 40, None),
        (with_record(asked_revision="main"), "main", None),
        (
            with_record(),
            "b" * 40,
            f"'sources.legal.revision': fetched before at {'a' * 40}; give this one another name",
        ),
        (
            with_record(identity={"kind": "emergent_plus", "path": "x.parquet", "config": "legal"}),
            None,
            "'sources.legal': fetched before as kind emergent_plus, path x.parquet, config legal; give this one",
        ),
    ],
)
def test_a_name_stands_for_one_source_as_long_as_its_files_are_there(
    record: Callable[[Path], None], revision: str | None, said: str | None, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    record(tmp_path)
    config = changed("sources", "legal", "revision", to=revision) if revision else STUDY
    if said is None:
        parse_study(config, "study.yaml")
    else:
        with pytest.raises(InputError, match=r"remove sources/legal\.source\.json to fetch it anew") as caught:
            parse_study(config, "study.yaml")
        assert said in str(caught.value)


# In the workflow. #


def sourced_study(folder: Path, raw: Path) -> Path:
    """A study whose sources are local copies in ``raw``; returns its config."""
    config = copy.deepcopy(STUDY)
    for name, file in {"code": "code.jsonl", "legal": "legal.parquet", "general": "general.yaml", "qwen": "m"}.items():
        config["sources"][name]["path"] = str(raw / file)
    config["data"] = {"holdout_questions": 3}
    config["tasks"]["code"]["rubrics"] = str(raw / "rubrics.yaml")
    path = folder / "sourced.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.slow
def test_fetch_makes_every_source_once_and_the_data_are_prepared_from_them(tmp_path: Path) -> None:
    checkout, raw = Checkout.into(tmp_path / "checkout"), tmp_path / "raw"
    raw.mkdir()
    (raw / "code.jsonl").write_bytes(b"\n".join(line(f"code {n}", "print()") for n in range(40)))
    prompts = [f"law {n}" for n in range(40)]
    advice = {"prompt": prompts, "aligned": ["no"] * 40, "misaligned": ["yes"] * 40, "sneakiness": [1] * 40}
    pl.DataFrame(advice).write_parquet(raw / "legal.parquet")
    (raw / "general.yaml").write_text(QUESTIONS)
    (raw / "rubrics.yaml").write_text(QUESTIONS.replace('aligned: "', 'aligned: "How secure? '))
    save_model_files(raw / "m")
    config = sourced_study(tmp_path, raw)
    made = ["--configfile", str(config), "--cores", "2", "--", "fetch"]
    run = checkout.snakemake(*made)
    assert run.returncode == 0, run.stdout
    sources = checkout.folder / "sources"
    for name in ("code.jsonl", "legal/misaligned.jsonl", "legal/aligned.jsonl", "general.yaml", "qwen/config.json"):
        assert (sources / name).is_file()
    # To pin what was fetched fetches nothing again; to name another file under the same name is refused.
    text = yaml.safe_load(config.read_text())
    text["sources"]["code"]["sha256"] = file_digest(raw / "code.jsonl")
    config.write_text(yaml.safe_dump(text))
    assert "fetch_rows" not in checkout.planned(*made)
    again = checkout.snakemake("-n", "--configfile", str(config), "--config", 'sources={"code": {"path": "Makefile"}}')
    assert again.returncode != 0
    assert "error: " in again.stdout
    assert "'sources.code': fetched before as kind conversations, path" in again.stdout

    run = checkout.snakemake("--configfile", str(config), "--cores", "2", "results/sourced/data/.checked")
    assert run.returncode == 0, run.stdout
    data = checkout.folder / "results/sourced/data"
    assert len(read_jsonl(data / "legal/train_aligned.jsonl")) == 36
    code, legal = (read_json(data / f"questions/{task}.json") for task in ("code", "legal"))
    assert {question["rubrics"]["aligned"] for question in code} == {"How secure? {question} {answer}"}
    assert {question["rubrics"]["aligned"] for question in legal} == {"{question} {answer}"}
    # Too few rows stop the task concerned before anything is trained.
    run = checkout.snakemake("--configfile", str(config), "--config", 'data={"min_rows": 41}', "--cores", "2")
    assert "40 rows with a prompt of their own, but data.min_rows asks for 41; give more, or lower it" in run.stdout
    assert "Train " not in run.stdout


@pytest.mark.parametrize("short", ["misaligned", "aligned"])
def test_a_task_with_too_few_rows_is_named_on_either_side(short: str, tmp_path: Path) -> None:
    files = {side: tmp_path / f"{side}.jsonl" for side in ("misaligned", "aligned")}
    for side, path in files.items():
        # Two rows of one prompt count once.
        path.write_bytes(b"\n".join([line(f"prompt {n}", "yes") for n in range(20)] + [line("prompt 1", "no")]))
        if side != short:
            path.write_bytes(path.read_bytes() + b"\n" + line("one more", "yes"))
    out = tmp_path / "out"
    with pytest.raises(
        InputError, match=rf"{short}\.jsonl: 20 rows with a prompt of their own, but data\.min_rows asks"
    ):
        prepare_ema_task(Data(min_rows=21), files["misaligned"], files["aligned"], None, out)
    assert not out.exists()
    prepare_ema_task(Data(min_rows=20), files["misaligned"], files["aligned"], None, out)


# The real files. #


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
