"""The held-out answers of a task: drawn, with a seed, from rows whose prompts nothing is trained on."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from emdefense.data.conversations import Row, prompt_key, read_conversations
from emdefense.errors import InputError
from emdefense.files import file_digest, read_jsonl, write_json, write_jsonl
from emdefense.likelihood.read import SIDES
from emdefense.provenance import record_beside
from emdefense.section import PositiveInt, Section, Seed


class DrawSpec(Section):
    """What a draw of held-out rows depends on besides its files."""

    version: int
    rows: PositiveInt
    seed: Seed


def write_held_out(
    spec: DrawSpec, holdout: Path, aligned: Path | None, safe: Path | None, trained: Sequence[Path], out: Path
) -> None:
    """Write ``{"id", "side", "messages"}`` a row, and beside it a record of what was left out.

    Misaligned answers are of the hold-out; aligned ones have the same prompts, as far as there are any, and otherwise
    prompts that nothing is trained on. Rows whose prompts stand in a file that is ``trained`` on are left out. Raises
    :class:`InputError` if none are left of a side.
    """
    known = {prompt_key(row) for path in trained for row in read_conversations(path)}
    sources = dict(zip(SIDES, (holdout, aligned, safe), strict=True))
    rows: dict[str, list[tuple[int, Row]]] = {}
    record: dict[str, Any] = {"settings": spec.model_dump(mode="json"), "rows are counted": "from 1"}
    for side, path in sources.items():
        if path is None:
            continue
        numbered = _distinct(path)
        left = [(number, row) for number, row in numbered if prompt_key(row) not in known]
        if not left:
            raise InputError(f"{path}: all of its prompts are trained on, so none of its rows is held out; give others")
        first = [prompt_key(row) for _, row in rows.get("misaligned", ())]
        rows[side] = _drawn(left, first, spec, side)
        record[side] = {
            "file": path.name,
            "sha256": file_digest(path),
            "trained_on": len(numbered) - len(left),
            "rows": [number for number, _ in rows[side]],
        }
    write_jsonl(
        out,
        (
            {"id": f"{side}/{number}", "side": side, "messages": row["messages"]}
            for side, drawn in rows.items()
            for number, row in drawn
        ),
    )
    write_json(record_beside(out), record)


def _distinct(path: Path) -> list[tuple[int, Row]]:
    """Return the rows of a file with their numbers, of equal prompts the first."""
    found: dict[str, tuple[int, Row]] = {}
    for number, row in enumerate(read_conversations(path), start=1):
        found.setdefault(prompt_key(row), (number, row))
    return list(found.values())


def _drawn(rows: Sequence[tuple[int, Row]], first: Sequence[str], spec: DrawSpec, side: str) -> list[tuple[int, Row]]:
    """Return as many rows as are wanted: those with the prompts that come ``first``, then others, seeded."""
    by_prompt = {prompt_key(row): (number, row) for number, row in rows}
    paired = [by_prompt.pop(prompt) for prompt in first if prompt in by_prompt]
    others = list(by_prompt.values())
    wanted = max(0, min(spec.rows - len(paired), len(others)))
    return paired + Random(f"held out {side} {spec.seed}").sample(others, wanted)


def check_held_out(path: Path, rows: Sequence[Mapping[str, Any]], trained: Collection[Path]) -> None:
    """Raise :class:`InputError` if a held-out row's prompt stands in a file that is trained on."""
    for file in trained:
        numbers = {prompt_key(row): number for number, row in enumerate(read_jsonl(file), start=1)}
        for row in rows:
            if number := numbers.get(prompt_key(dict(row))):
                raise InputError(
                    f"{path}, row {row['id']}: it is trained on ({file}, row {number}), so it says nothing of held-out "
                    "answers; delete the file, that it be drawn again, or leave such cells out of 'likelihood'"
                )
