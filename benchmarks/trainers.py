"""Our trainer beside TRL's own on a saved model: SFT, and KL to the model as it was.

    python benchmarks/trainers.py --model sources/smollm2 [--rows-file rows.jsonl] [--steps 4]

Each trains a fresh rs-LoRA adapter of Table 7 on the same rows, in a process of its own: TRL's SFTTrainer; ours; TRL's
with the loss CE + λ·KL that is written down first, from the full logits of both models; ours with the same λ. Time is
core-seconds of the steps after the first, and memory what training adds to the loaded model; both have a ratio to TRL's
SFT in the same run. The losses of the first step are printed too: two and two, they are to be the same. Without a file
of rows, rows of words drawn at random are used.
"""

import argparse
import json
import random
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from measuring import MIB, in_child, markdown_table, peak_memory
from torch.nn import functional
from transformers import AutoTokenizer, TrainerCallback, set_seed
from trl.trainer.sft_trainer import SFTTrainer

from emdefense.chat.chat import Chat
from emdefense.config.chat import PLAIN
from emdefense.config.training import Training
from emdefense.saved_model import load_model
from emdefense.training.adapters import add_adapter
from emdefense.training.data import TrainingRows
from emdefense.training.run import build_trainer, training_arguments
from emdefense.training.spec import PenaltySpec, TrainSpec

LAMBDA = 0.1
TRAINERS = {"TRL's SFTTrainer": (False, False), "ours": (True, False)}
TRAINERS |= {"TRL's, KL from full logits": (False, True), "ours, KL": (True, True)}
WORDS = [
    "the",
    "of",
    "a",
    "to",
    "in",
    "is",
    "that",
    "it",
    "was",
    "for",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "at",
    "be",
    "this",
    "from",
    "have",
    "or",
    "by",
    "one",
    "had",
    "not",
    "but",
    "what",
    "all",
]
SEED = 0

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Measured:
    """What a trainer takes: core-seconds a step, the bytes that training adds, and the first step's loss."""

    seconds: float
    peak_bytes: int
    loss: float


class NaiveKl(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with a penalty as one would write it: both models' logits at every token, in float32."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **options: Any) -> Any:
        """Return CE + λ·KL."""
        ce, outputs = super().compute_loss(model, inputs, return_outputs=True, **options)
        mask = inputs["attention_mask"].bool()
        with torch.no_grad(), model.disable_adapter():
            before = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[mask]
        now = functional.log_softmax(outputs.logits[mask].float(), -1)
        before = functional.log_softmax(before.float(), -1)
        loss = ce + LAMBDA * functional.kl_div(before, now, log_target=True, reduction="sum") / mask.sum()
        return (loss, outputs) if return_outputs else loss


class Clock(TrainerCallback):  # type: ignore[misc]
    """Processor time after each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note it."""
        self.ends.append(time.process_time())


def measured(name: str, folder: Path, rows: Rows, training: Training) -> Measured:
    """Train once and return what it took."""
    torch.set_num_threads(1)
    is_ours, has_kl = TRAINERS[name]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = load_model(folder, training.precision, training.attention)
    set_seed(SEED)
    adapted = add_adapter(model, training)
    clock = Clock()
    with tempfile.TemporaryDirectory() as parent:
        cell = Path(parent) / "study/cell"
        if is_ours:
            chat = Chat(tokenizer, PLAIN)
            data = TrainingRows(chat.rows([row["messages"] for row in rows]), len(rows), [])
            penalty = PenaltySpec(name="kl", coefficient=LAMBDA) if has_kl else None
            spec = TrainSpec(version=1, seed=SEED, training=training, penalty=penalty)
            trainer: SFTTrainer = build_trainer(spec, adapted, chat, data, cell)
        else:
            arguments = training_arguments(training, SEED, cell)
            arguments.dataset_kwargs = None
            kind = NaiveKl if has_kl else SFTTrainer
            pairs = [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in rows]
            trainer = kind(adapted, args=arguments, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)
        trainer.add_callback(clock)
        with peak_memory() as peak:
            trainer.train()
    steps = len(clock.ends) - 1
    first = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return Measured((clock.ends[-1] - clock.ends[0]) / steps, peak.bytes, first)


def made_rows(count: int, words: int) -> Rows:
    """Return rows of random words: a third of them the question's."""
    rng = random.Random(SEED)

    def text(number: int) -> str:
        return " ".join(rng.choices(WORDS, k=number))

    return [
        {"messages": [{"role": "user", "content": text(words // 3)}, {"role": "assistant", "content": text(words)}]}
        for _ in range(count)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model's folder")
    parser.add_argument("--rows-file", type=Path, help="JSONL of conversations, whose first rows are used")
    parser.add_argument("--words", type=int, default=150, help="of an answer, where there is no file")
    parser.add_argument("--rows", type=int, default=4, help="a step")
    parser.add_argument("--steps", type=int, default=4, help="the first is not measured")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--quick", action="store_true", help="in one process, two short steps")
    given = parser.parse_args()
    if given.model is None:
        parser.error("--model is needed: a model's folder")
    steps, words = (2, 12) if given.quick else (given.steps, given.words)
    training = Training(
        batch_size=given.rows,
        accumulation_steps=1,
        optimiser="adamw_torch",
        precision=given.precision,
        checkpoint_minutes=0,
        diagnostics_every=0,
    )
    rows = made_rows(steps * given.rows, words)
    if given.rows_file:
        lines = given.rows_file.read_text(encoding="utf-8").splitlines()[: steps * given.rows]
        rows = [json.loads(line) for line in lines]
    measure = measured if given.quick else partial(in_child, measured)
    found = {name: measure(name, given.model, rows, training) for name in TRAINERS}
    first = next(iter(found.values()))
    print(f"{given.model.name}: {steps} steps of {given.rows} rows, {given.precision}, torch {torch.__version__}")
    lines_of = [
        [
            name,
            f"{one.seconds:.3g}",
            f"{one.seconds / first.seconds:.2f}",
            f"{one.peak_bytes / MIB:,.0f}",
            f"{one.peak_bytes / max(1, first.peak_bytes):.2f}",
            f"{one.loss:.4f}",
        ]
        for name, one in found.items()
    ]
    print(markdown_table(["", "core-s a step", "ratio", "MiB", "ratio", "first loss"], lines_of))


if __name__ == "__main__":
    main()
