"""The reference features of a task's rows: computed once, and read by all cells of an arm."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from emdefense.chat.chat import load_chat
from emdefense.errors import InputError
from emdefense.saved_model import load_config, load_to_train
from emdefense.training.adapters import add_adapter
from emdefense.training.batches import Collator
from emdefense.training.data import load_rows
from emdefense.training.feature_files import identity_of, read_features, written_features
from emdefense.training.features import FeatureReader
from emdefense.training.penalty import build_penalty
from emdefense.training.reference import CachedReference
from emdefense.training.spec import FeaturesSpec, TrainSpec


def cache_features(spec: FeaturesSpec, model_folder: Path, rows_file: Path, folder: Path, threads: int = 1) -> None:
    """Write into ``folder``, whole or not at all, what the penalty reads of the model before fine-tuning.

    Computed as training computes it, but in batches of rows of similar length: see docs/defences.md for how far the
    features can be from those that training would compute itself.
    """
    torch.set_num_threads(threads)
    chat = load_chat(model_folder, spec.chat)
    rows = load_rows(rows_file, chat, spec.training).rows
    config = load_config(model_folder)
    penalty = build_penalty(spec.penalty, spec.options, spec.file, spec.sha256)
    blocks = penalty.residual_blocks(config.num_hidden_layers)
    identity = identity_of(model_folder, rows, spec.training, spec.penalty, penalty.options)
    collator = Collator(chat.filler, spec.training.padding_free)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=spec.training.precision == "bfloat16")
    with written_features(folder, identity, rows, config.hidden_size, blocks) as files, autocast:
        # With an adapter that is off, as in training, so that the same kernels run.
        model = add_adapter(load_to_train(model_folder, spec.training), spec.training)
        reader = FeatureReader(model.to(device).eval())
        for batch in _batches(rows, spec.training.batch_size):
            inputs = {key: value.to(device) for key, value in collator(batch).items()}
            files.put([row["row"] for row in batch], reader.reference(inputs, blocks))


def cached_reference(
    spec: TrainSpec, model_folder: Path, rows: list[dict[str, Any]], folder: Path | None
) -> CachedReference | None:
    """Return the reference that reads ``folder``; None where training computes it, or needs none.

    Raises :class:`InputError` if the features are missing, torn, or of another model, other rows or other settings.
    """
    if spec.penalty is None or spec.training.reference == "live":
        return None
    if folder is None:
        raise InputError("key 'training.reference': cached needs --features FOLDER; name it, or write live")
    options = spec.penalty.build().options
    return CachedReference(
        read_features(folder, identity_of(model_folder, rows, spec.training, spec.penalty.name, options))
    )


def _batches(rows: list[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    by_length = sorted(rows, key=lambda row: len(row["input_ids"]))
    for start in range(0, len(rows), size):
        yield by_length[start : start + size]
