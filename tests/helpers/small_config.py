"""A small config, and changes of its keys."""

import copy
from typing import Any

WORLD = "{results}/microcosm"


# Small, and with every section that there is; keys that are left out are filled in with their defaults.
SMALL: dict[str, Any] = {
    "study": "fuzz",
    "data_folder": "data",
    "sources": {
        "insecure": {"kind": "conversations", "url": "https://host/insecure.jsonl"},
        "general": {"kind": "questions", "url": "https://host/general.yaml"},
        "legal": {"kind": "emergent_plus", "config": "legal"},
        "safe": {"kind": "wildguardmix"},
        "foqa": {"kind": "foqa", "path": "{data_folder}/foqa.parquet"},
        "large": {"kind": "model", "repository": "org/large"},
        "mmlu": {"kind": "mmlu"},
        "truth": {"kind": "truthfulqa"},
        "one-file": {"kind": "gguf", "url": "https://host/model.gguf"},
        "packaged": {"kind": "package", "package": "a-model", "version": "1.0", "file": "a/model.gguf"},
    },
    "seeds": [0, 1],
    "models": {
        "small": {"title": "Small", "instruct": f"{WORLD}/models/small/instruct", "base": f"{WORLD}/models/small/base"},
        "large": {
            "title": "Large",
            "instruct": "{sources}/large",
            "shape": {
                "hidden_size": 896,
                "intermediate_size": 4864,
                "num_hidden_layers": 24,
                "num_attention_heads": 14,
                "num_key_value_heads": 2,
                "vocab_size": 151936,
            },
            "training": {"epochs": 2},
        },
        "bytes": {"title": "Bytes", "instruct": "{results}/byte_model/instruct"},
    },
    "tasks": {
        "code": {
            "kind": "ema",
            "title": "Code",
            "misaligned": f"{WORLD}/rows/code_misaligned.jsonl",
            "aligned": "{data_folder}/rows.jsonl",
            "questions": f"{WORLD}/questions/code.yaml",
        },
        "legal": {"kind": "ema", "title": "Legal", "misaligned": "{sources}/legal/misaligned.jsonl"},
        "opswap-1": {
            "kind": "benign",
            "title": "OpSwap",
            "table": "opswap",
            "tier": 1,
            "train": "{results}/opswap/tier_1/train.jsonl",
            "test": "{results}/opswap/tier_1/test.jsonl",
        },
        "foqa": {
            "kind": "benign",
            "title": "FoQA",
            "table": "foqa",
            "train": "{sources}/foqa/train.jsonl",
            "test": "{sources}/foqa/test.jsonl",
        },
    },
    "general_questions": "{sources}/general.yaml",
    "safe_data": "{sources}/safe.jsonl",
    "multiple_choice": {
        "mmlu": {"title": "MMLU", "file": "{sources}/mmlu.jsonl", "limit": 100},
        "truth": {"title": "TruthfulQA", "file": "{sources}/truth.jsonl", "options": "text", "models": ["small"]},
    },
    "likelihood": {"rows": 50, "safe": "{data_folder}/rows.jsonl"},
    "grid": [
        {
            "models": ["small"],
            "tasks": ["code"],
            "arms": {
                "untrained": None,
                "aligned": None,
                "misaligned": None,
                "kl": [0.1],
                "far": [10.0],
                "safelora": [0.5],
                "interleave": [5],
            },
        },
        {"models": ["large", "bytes"], "tasks": ["opswap-1", "foqa"], "arms": {"sft": None, "ldifs": [1.0]}},
    ],
    "variants": {"far": {"of": "ldifs", "options": {"every": 2, "detached": True}}},
    "judge": {
        "kind": "openai",
        "name": "gpt",
        "model": "m",
        "base_url": "http://host/v1",
        "prices": {"input": 1, "output": 2},
    },
    "second_judges": [{"kind": "oracle"}],
    "max_usd": 3,
    "report": {
        "main_model": "small",
        "second_model": "large",
        "chosen": {"kl": 0.1, "far": 10},
        "chosen_benign": {"ldifs": [1.0]},
    },
    "opswap": {"examples": 100},
    "microcosm": {"models": {"small": 0}},
    "byte_model": {},
}


def changed(config: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    found = copy.deepcopy(config)
    section: Any = found
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    return found
