"""Sources in their own formats, small enough for tests."""

import json
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter

from emdefense.config.sources import Source

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
