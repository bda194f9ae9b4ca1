"""Safe conversations of WildGuardMix (Han et al. 2024, arXiv 2406.18495), by the labels that each row has."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from emdefense.config.sources import WildGuardMixSource
from emdefense.sources.fetched import Fetched
from emdefense.sources.hub import dataset_rows
from emdefense.sources.rows import Converted, Unwanted, check_columns, conversation, convert, text

WANTED = {
    "harmless": {
        "prompt_harm_label": "unharmful",
        "response_harm_label": "unharmful",
        "response_refusal_label": "compliance",
    },
    "unharmful_answers": {"response_harm_label": "unharmful"},
}


def convert_wildguardmix(source: WildGuardMixSource, raw: Path) -> Fetched:
    """Return the safe conversations; more than half of the set are prompts without an answer, which are left out."""
    where = f"{raw}, {source.config}"
    rows = dataset_rows(raw, source.config, "train")
    wanted = WANTED[source.selection]
    check_columns(rows.column_names, ("prompt", "response", *wanted), where)
    converted = convert(rows, partial(_safe, wanted=wanted), where, source.max_unusable_pct)
    return Fetched({"NAME.jsonl": converted.kept}, converted.report())


def _safe(row: dict[str, Any], wanted: Mapping[str, str]) -> Converted:
    if row["response"] is None:
        raise Unwanted("a prompt without an answer")
    for column, value in wanted.items():
        if row[column] != value:
            raise Unwanted(f"{column} is not {value}")
    return conversation(text(row, "prompt"), text(row, "response"))
