"""How likely a model, or one of its adapters, finds the answer of each row of a file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from emdefense.chat.chat import load_chat
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.files import read_jsonl, write_jsonl
from emdefense.saved_model import load_to_train
from emdefense.training.adapter_files import check_adapter, read_lora
from emdefense.training.adapters import add_adapter, put_on
from emdefense.training.batches import Collator, next_tokens, sequence_lengths
from emdefense.training.data import check_row
from emdefense.training.features import FeatureReader
from emdefense.training.fused_loss import token_losses
from emdefense.training.head_check import settle_head
from emdefense.training.spec import LossesSpec

AT_ONCE = 1000  # rows that are tokenised together


def write_losses(
    spec: LossesSpec, model_folder: Path, rows_file: Path, out: Path, adapter: Path | None = None, threads: int = 1
) -> None:
    """Write ``{"row", "tokens", "loss"}`` of every row: its number from 1, its answer's tokens, and their mean loss.

    The loss is −log p in nats, None for a row longer than ``max_length``. Without an adapter it is the model's own.
    """
    found = file_losses(spec, model_folder, rows_file, adapter, threads)
    write_jsonl(out, ({"row": n, "tokens": one.tokens, "loss": one.loss} for n, one in enumerate(found, start=1)))


@dataclass(frozen=True)
class RowLoss:
    """An answer's tokens, and the mean of their −log p in nats; None for a row that is too long."""

    tokens: int
    loss: float | None


def file_losses(
    spec: LossesSpec, model_folder: Path, rows_file: Path, adapter: Path | None = None, threads: int = 1
) -> list[RowLoss]:
    """Return the loss of each row of a file, in its order; without an adapter it is the model's own."""
    torch.set_num_threads(threads)
    chat = load_chat(model_folder, spec.chat)
    found = read_jsonl(rows_file, validate=check_row)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(found), AT_ONCE):
        part = [row["messages"] for row in found[start : start + AT_ONCE]]
        named = [f"{rows_file}, row {number}" for number in range(start + 1, start + len(part) + 1)]
        rows += [{**row, "row": start + place} for place, row in enumerate(chat.rows(part, named))]
    short = [row for row in rows if len(row["input_ids"]) <= spec.training.max_length]
    if not short:
        raise InputError(
            f"{rows_file}: no row is as short as training.max_length = {spec.training.max_length} tokens; raise it, or "
            "give shorter rows"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=spec.training.precision == "bfloat16")
    with autocast, torch.no_grad():
        reader = FeatureReader(_adapted(model_folder, adapter, spec.training).to(device).eval())
        settle_head(reader, short, device, say=False)
        losses = row_losses(reader, short, spec.training, chat.filler, device, policy=adapter is not None)
    _check_finite(losses, rows_file, adapter or model_folder)
    return [RowLoss(sum(label >= 0 for label in row["labels"]), losses.get(n)) for n, row in enumerate(rows)]


def row_losses(
    reader: FeatureReader,
    rows: Sequence[dict[str, Any]],
    training: Training,
    filler: int,
    device: torch.device,
    *,
    policy: bool,
) -> dict[int, float]:
    """Return the mean loss of each row's labelled tokens by its ``row``, summed in float64.

    ``policy``: with the adapter on; otherwise off. The model is taken to be in evaluation mode.
    """
    collator = Collator(filler)
    found: dict[int, float] = {}
    for batch in _batches(rows, training.batch_size * training.max_length):
        inputs = {key: value.to(device) for key, value in collator(batch).items()}
        features = (reader.policy if policy else reader.reference)(inputs)
        targets = next_tokens(inputs)
        losses = token_losses(features.final, reader.head, targets).double().cpu()
        lengths = sequence_lengths(inputs)
        parts = zip(batch, torch.split(losses, lengths), torch.split(targets.cpu(), lengths), strict=True)
        found |= {row["row"]: _mean(values, labels) for row, values, labels in parts}
    return found


def _mean(losses: Tensor, targets: Tensor) -> float:
    return float(losses.sum() / (targets >= 0).sum())


def _batches(rows: Sequence[dict[str, Any]], tokens: int) -> Iterator[list[dict[str, Any]]]:
    """Yield rows of similar length together, as many as padded have at most so many tokens, but at least one."""
    batch: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: len(row["input_ids"])):
        if batch and (len(batch) + 1) * len(row["input_ids"]) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _adapted(model_folder: Path, adapter: Path | None, training: Training) -> PeftModel:
    """Return the model with the adapter, or with a fresh one, which is to be off so that the same kernels run."""
    model = load_to_train(model_folder, training)
    if adapter is None:
        with torch.random.fork_rng():
            return add_adapter(model, training)
    check_adapter(adapter, "train it again")
    read_lora(adapter)
    return put_on(model, adapter)


def _check_finite(losses: dict[int, float], rows_file: Path, model: Path) -> None:
    for row, loss in losses.items():
        if not torch.isfinite(torch.tensor(loss)):
            raise InputError(f"{model}: its loss of {rows_file}, row {row + 1}, is {loss}; check its weights")
