"""Have a model, or one of its adapters, read the held-out answers of a task, and write down how likely each is."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from emdefense.chat.chat import load_chat
from emdefense.files import read_jsonl, write_json, write_jsonl
from emdefense.generation.engines import device_name
from emdefense.generation.record import check_folders, read_by
from emdefense.likelihood.rows import check_held_out
from emdefense.provenance import made_by, record_beside
from emdefense.training.row_losses import file_losses
from emdefense.training.spec import LossesSpec

PACKAGES = ("torch", "transformers", "peft")


def read_held_out(
    spec: LossesSpec,
    model: Path,
    adapter: Path | None,
    rows: Path,
    trained: Sequence[Path],
    out: Path,
    threads: int = 1,
) -> None:
    """Write ``{"id", "side", "tokens", "log_prob"}`` a row: of its answer's tokens, that which ends it included.

    ``log_prob`` is their sum in nats, None for a row longer than ``max_length``. Raises :class:`InputError` if the
    model or the adapter is not there, or a row is one of those ``trained`` on.
    """
    check_folders(model, adapter)
    held_out = read_jsonl(rows)
    check_held_out(rows, held_out, trained)
    started = datetime.now(UTC)
    found = file_losses(spec, model, rows, adapter, threads)
    write_jsonl(
        out,
        (
            {
                "id": row["id"],
                "side": row["side"],
                "tokens": one.tokens,
                "log_prob": None if one.loss is None else -one.loss * one.tokens,
            }
            for row, one in zip(held_out, found, strict=True)
        ),
    )
    chat = load_chat(model, spec.chat)
    made = made_by(started, PACKAGES, __name__, device=device_name())
    write_json(record_beside(out), {**read_by(spec, threads, rows, model, adapter, chat), **made})
