"""Hidden states of a saved model at the answers of conversations, with an adapter or without."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from emdefense.arms.arguments import Materials
from emdefense.chat.chat import IGNORED, load_chat
from emdefense.config.chat import PLAIN
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.files import read_jsonl
from emdefense.saved_model import load_to_train
from emdefense.training.adapter_files import read_settings
from emdefense.training.batches import Collator
from emdefense.training.data import check_row
from emdefense.training.features import FeatureReader, Features, block_count

FINAL = "final"  # what the output head takes


def after_block(block: int) -> str:
    """Return the name of the residual stream after a block (1-based), before any norm."""
    return f"block.{block}"


@dataclass(frozen=True)
class Answers:
    """Tokenised conversations, each with the place of its last answer's own tokens: without what closes it."""

    rows: list[dict[str, Any]]
    spans: list[tuple[int, int]]
    drawn: int
    too_long: int

    @property
    def counts(self) -> dict[str, int]:
        """How many there are, for the record."""
        return {"drawn": self.drawn, "longer_than_max_length": self.too_long, "used": len(self.rows)}


class Activations:
    """A saved model, in whose passes hidden states are read; nothing is trained, and no dropout acts."""

    def __init__(self, folder: Path, materials: Materials):
        """Load the model and its tokenizer as ``materials`` say; what they leave out is as in the config's defaults."""
        self.folder, self._training = folder, materials.training or Training()
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._chat = load_chat(folder, materials.chat or PLAIN)
        self._model = load_to_train(folder, self._training).requires_grad_(False).to(self._device).eval()

    @property
    def blocks(self) -> int:
        """The number of the model's transformer blocks."""
        return block_count(self._model)

    def answers(self, conversations: Sequence[list[dict[str, str]]], where: Sequence[str]) -> Answers:
        """Tokenise conversations; those longer than ``training.max_length`` are left out, and those without a word."""
        rows, spans, too_long = [], [], 0
        for row in self._chat.rows(conversations, where):
            ids, labels = row["input_ids"], row["labels"]
            start = next(place for place, label in enumerate(labels) if label != IGNORED)
            end = ids.index(self._chat.closing, start)
            if len(ids) > self._training.max_length:
                too_long += 1
            elif end > start:
                rows.append(row)
                spans.append((start, end))
        return Answers(rows, spans, len(conversations), too_long)

    def read(self, answers: Answers, names: Sequence[str]) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Yield, in some order, the place of each answer and its states {name: [its tokens, d]}."""
        for place, _, before in self._read(FeatureReader(self._model), answers, names, both=False):
            yield place, before

    def read_both(
        self, adapter: Path, answers: Answers, names: Sequence[str]
    ) -> Iterator[tuple[int, dict[str, Tensor], dict[str, Tensor]]]:
        """Yield the place of each answer, its states with a LoRA adapter, and those without."""
        read_settings(adapter)  # says in one line what is wrong with it
        adapted = PeftModel.from_pretrained(self._model, str(adapter)).eval()
        try:
            yield from self._read(FeatureReader(adapted), answers, names, both=True)
        finally:
            adapted.unload()

    def _read(
        self, reader: FeatureReader, answers: Answers, names: Sequence[str], both: bool
    ) -> Iterator[tuple[int, dict[str, Tensor], dict[str, Tensor]]]:
        blocks = [int(name.rpartition(".")[2]) for name in names if name != FINAL]
        if bad := [block for block in blocks if not 1 <= block <= reader.blocks]:
            raise InputError(f"{self.folder}: there is no block {bad[0]}; it has {reader.blocks}")
        collator = Collator(self._chat.filler, self._training.padding_free)
        order = sorted(range(len(answers.rows)), key=lambda place: len(answers.rows[place]["input_ids"]))
        size, bfloat16 = self._training.batch_size, self._training.precision == "bfloat16"
        for start in range(0, len(order), size):
            places = order[start : start + size]
            inputs = {k: v.to(self._device) for k, v in collator([answers.rows[place] for place in places]).items()}
            with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16, enabled=bfloat16):
                before = reader.reference(inputs, blocks)
                tuned = reader.policy(inputs, blocks) if both else before
            first = 0
            for place in places:
                begin, end = answers.spans[place]
                span = slice(first + begin, first + end)
                yield place, _named(tuned, names, span), _named(before, names, span)
                first += len(answers.rows[place]["input_ids"])


def _named(features: Features, names: Sequence[str], span: slice) -> dict[str, Tensor]:
    found = {FINAL: features.final} | {after_block(block): states for block, states in features.residual.items()}
    return {name: found[name][span] for name in names}


def drawn_rows(path: Path, count: int, seed: int) -> tuple[list[list[dict[str, str]]], list[str]]:
    """Return ``count`` conversations of a file, or all there are, and where each stands.

    Which ones is a matter of the seed and of what is asked, not of a row's place: of two files with answers to the same
    prompts, the same prompts are drawn.
    """
    rows = list(read_jsonl(path, validate=check_row))
    if not rows:
        raise InputError(f"{path}: there are no rows; name a file with some")

    def lot(number: int) -> str:
        asked = [(message["role"], message["content"]) for message in rows[number]["messages"][:-1]]
        return sha256(json.dumps([seed, asked]).encode()).hexdigest()

    chosen = sorted(range(len(rows)), key=lot)[:count]
    return [rows[number]["messages"] for number in chosen], [f"{path}, row {number + 1}" for number in chosen]
