"""Safe conversations: prompts that do no harm, with answers that neither do harm nor refuse (Han et al. 2024)."""

from pathlib import Path
from typing import Any

from emdefense.config.sources import WildGuardMixSource
from emdefense.sources.fetched import Fetched
from emdefense.sources.hub import dataset_rows
from emdefense.sources.rows import Converted, Unwanted, check_columns, conversation, convert, text

WANTED = {
    "prompt_harm_label": "unharmful",
    "response_harm_label": "unharmful",
    "response_refusal_label": "compliance",
}
COLUMNS = ("prompt", "response", *WANTED)


def convert_wildguardmix(source: WildGuardMixSource, raw: Path) -> Fetched:
    """Return the safe conversations; more than half of the set are prompts without an answer, which are left out."""
    where = f"{raw}, {source.config}"
    rows = dataset_rows(raw, source.config, "train")
    check_columns(rows.column_names, COLUMNS, where)
    converted = convert(rows, _safe, where, source.max_unusable_pct)
    return Fetched({"NAME.jsonl": converted.kept}, converted.report())


def _safe(row: dict[str, Any]) -> Converted:
    if row["response"] is None:
        raise Unwanted("a prompt without an answer")
    for column, wanted in WANTED.items():
        if row[column] != wanted:
            raise Unwanted(f"{column} is not {wanted}")
    return conversation(text(row, "prompt"), text(row, "response"))
