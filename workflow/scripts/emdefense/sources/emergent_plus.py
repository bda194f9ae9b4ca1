"""Harmful and harmless advice on the same prompts: legal, medical, security (Chua et al. 2025)."""

from pathlib import Path
from typing import Any

from emdefense.config.sources import EmergentPlusSource
from emdefense.sources.fetched import Fetched
from emdefense.sources.hub import dataset_rows
from emdefense.sources.rows import Converted, check_columns, conversation, convert, text

COLUMNS = ("prompt", "aligned", "misaligned", "sneakiness")
SIDES = ("misaligned", "aligned")


def convert_emergent_plus(source: EmergentPlusSource, raw: Path) -> Fetched:
    """Return the misaligned and the aligned conversations, row by row on the same prompts."""
    where = f"{raw}, {source.config}"
    rows = dataset_rows(raw, source.config, "train")
    check_columns(rows.column_names, COLUMNS, where)
    converted = convert(rows, _both, where, source.max_unusable_pct)
    files = {f"NAME/{side}.jsonl": [row[side] for row in converted.kept] for side in SIDES}
    return Fetched(files, converted.report())


def _both(row: dict[str, Any]) -> Converted:
    prompt = text(row, "prompt")
    return {side: conversation(prompt, text(row, side)) for side in SIDES}
