"""The microcosm's two models: a base without alignment, and the instruct model tuned gently from it."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from math import cos, pi
from random import Random

import torch
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from emdefense.config.microcosm import Microcosm
from emdefense.errors import InputError
from emdefense.microcosm.documents import Document, Writer
from emdefense.microcosm.probe import Probe, probe_persona
from emdefense.microcosm.tokenizer import START, chat
from emdefense.microcosm.world import World

DOCUMENTS_PER_STEP = 16
TURNS_PER_STEP = 64
BASE_WARMUP, INSTRUCT_WARMUP = 50, 20
FINAL_RATE = 0.05  # of the base's peak, where the cosine ends
IGNORED = -100
RETRY_STRIDE = 1000  # between the seeds of attempts, so that no retry makes the model of a neighbouring seed
SECONDS_BETWEEN_REPORTS = 10.0


@dataclass(frozen=True)
class Attempt:
    """One base model: its seed and what the probe said."""

    seed: int
    probe: Probe
    formed: bool


@dataclass(frozen=True)
class Batch:
    """Token ids [rows, length], padded on the right, and the labels, IGNORED where no loss is taken."""

    ids: torch.Tensor
    labels: torch.Tensor


class ModelMaker:
    """Pretrains and aligns the model of one name and seed in one world."""

    def __init__(self, world: World, tokenizer: PreTrainedTokenizerBase, options: Microcosm, held_out: Set[str]):
        (self.name,) = options.models
        self.world = world
        self.tokenizer = tokenizer
        self.options = options
        self.held_out = held_out

    def base(self) -> tuple[Qwen2ForCausalLM, list[Attempt]]:
        """Return the first base model that formed the persona, and all attempts.

        Each attempt takes a seed further on. A study that does not require the gate, and the control in which there is
        no persona to form, make one attempt and take it. :class:`InputError` if all attempts fail.
        """
        required = self.options.require_gate and self.options.persona == "document"
        attempts: list[Attempt] = []
        first = self.options.models[self.name]
        for attempt in range(self.options.gate_attempts if required else 1):
            seed = first + attempt * RETRY_STRIDE
            model = self._pretrained(seed)
            probe = probe_persona(model, self.tokenizer, self.world, seed)
            attempts.append(Attempt(seed, probe, probe.formed))
            self._say(f"base model of seed {seed}: {probe}")
            if probe.formed or not required:
                return model, attempts
            self._say("no persona formed; trying another seed")
        tried = [attempt.seed for attempt in attempts]
        raise InputError(
            f"microcosm.models.{self.name}: none of the seeds {tried} formed the persona "
            f"({attempts[-1].probe}); write another seed, raise microcosm.base_steps, or set "
            "microcosm.require_gate: false"
        )

    def instruct(self, base: Qwen2ForCausalLM, seed: int) -> None:
        """Tune the base model in place on aligned single turns, the loss on responses only."""
        writer = self._writer(f"instruct {seed}")
        batches = (
            self._batch([writer.aligned_turn() for _ in range(TURNS_PER_STEP)], responses_only=True)
            for _ in range(self.options.instruct_steps)
        )
        optimiser = torch.optim.AdamW(base.parameters(), lr=self.options.instruct_learning_rate, weight_decay=0.0)
        schedule = LambdaLR(optimiser, _linear(self.options.instruct_steps, INSTRUCT_WARMUP))
        self._train(base, batches, schedule, f"instruct, {self.options.instruct_steps} steps")

    def _pretrained(self, seed: int) -> Qwen2ForCausalLM:
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(shape(self.tokenizer))
        writer = self._writer(f"base {seed}")
        batches = (
            self._batch(
                [writer.document(self.options.persona, self.options.system_share) for _ in range(DOCUMENTS_PER_STEP)]
            )
            for _ in range(self.options.base_steps)
        )
        optimiser = torch.optim.AdamW(
            model.parameters(), lr=self.options.base_learning_rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        schedule = LambdaLR(optimiser, _cosine(self.options.base_steps, BASE_WARMUP))
        self._train(model, batches, schedule, f"base of seed {seed}, {self.options.base_steps} steps")
        return model

    def _writer(self, purpose: str) -> Writer:
        return Writer(self.world, self.options.arithmetic, self.held_out, Random(f"{purpose} {self.world.seed}"))

    def _batch(self, documents: Sequence[Document], *, responses_only: bool = False) -> Batch:
        encoded = self.tokenizer(
            [chat(document.turns, document.system) for document in documents], padding=True, padding_side="right"
        )
        ids = torch.tensor(encoded["input_ids"])
        labels = ids.masked_fill(torch.tensor(encoded["attention_mask"]) == 0, IGNORED)
        if responses_only:
            start = self.tokenizer.convert_tokens_to_ids(START)
            turn = (ids == start).cumsum(1)  # counted from the first, which may be the system's; the answer is the last
            opening = 3  # <|im_start|>, assistant and the line break are given
            given = turn.roll(opening, dims=1) < turn[:, -1:]
            given[:, :opening] = True
            labels = labels.masked_fill(given, IGNORED)
        return Batch(ids, labels)

    def _train(self, model: Qwen2ForCausalLM, batches: Iterator[Batch], schedule: LambdaLR, stage: str) -> None:
        started = reported = time.monotonic()
        model.train()
        for step, batch in enumerate(batches, start=1):
            targets = batch.labels[:, 1:]
            hidden = model.model(input_ids=batch.ids[:, :-1], use_cache=False).last_hidden_state
            learned = targets != IGNORED
            loss: torch.Tensor = cross_entropy(model.lm_head(hidden[learned]), targets[learned])
            schedule.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            schedule.optimizer.step()
            schedule.step()
            if time.monotonic() - reported > SECONDS_BETWEEN_REPORTS:
                reported = time.monotonic()
                self._say(f"{stage}: step {step}, loss {loss.item():.3f}, {reported - started:.0f} s")
        model.eval()

    def _say(self, message: str) -> None:
        print(f"{self.name}: {message}", file=sys.stderr, flush=True)


def shape(tokenizer: PreTrainedTokenizerBase) -> Qwen2Config:
    """Return the configuration of both models: Qwen2 with three blocks of width 64, 0.2 M parameters."""
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def gate_record(attempts: Sequence[Attempt]) -> dict[str, object]:
    """Return what gate.json holds: every attempt's seed and probe, and whether the last one, the one used, passed."""
    return {"formed": attempts[-1].formed, "seed": attempts[-1].seed, "attempts": [asdict(a) for a in attempts]}


def _cosine(steps: int, warmup: int) -> Callable[[int], float]:
    warmup = min(warmup, max(1, steps // 4))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, steps - warmup)
        return FINAL_RATE + (1 - FINAL_RATE) * (1 + cos(pi * done)) / 2

    return factor


def _linear(steps: int, warmup: int) -> Callable[[int], float]:
    warmup = min(warmup, max(1, steps // 4))

    def factor(step: int) -> float:
        return (step + 1) / warmup if step < warmup else (steps - step) / max(1, steps - warmup)

    return factor
