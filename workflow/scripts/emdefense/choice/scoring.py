"""The log-probability of each option as the answer to its question, by a transformers model.

A question's prompt is read once, and its options are read on from its keys and values, side by side. As in sampling
(:mod:`emdefense.generation.decoding`), whether a model bears that is found out by trying: if the log-probabilities are
not those of plain passes over whole texts, the plain passes are made.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from emdefense.errors import one_line
from emdefense.generation.decoding import SAID, cannot_run, not_finite

# How far the log-probability of a token may be from that of a plain pass: sums in another order round otherwise, in
# bfloat16 by a few hundredths; a cache that is wrong is off by whole units.
TOLERANCES = {torch.float32: 2e-3, torch.float64: 1e-6}
IN_16_BITS = 0.25


@dataclass(frozen=True)
class Choice:
    """A question's tokens up to where its answer starts, and the tokens of each option, at least one each."""

    prompt: list[int]
    options: list[list[int]]

    @property
    def length(self) -> int:
        """The tokens of the question with its longest option."""
        return len(self.prompt) + max(map(len, self.options))


Way = Callable[[Sequence[Choice]], list[list[float]]]


class OptionScorer:
    """A model in evaluation mode.

    ``filler`` is the token that fills up short rows; at most ``batch_size`` options are read at once, but for a
    question that has more.
    """

    def __init__(self, model: PreTrainedModel, filler: int, batch_size: int):
        self.model, self._filler, self._batch_size = model, filler, batch_size

    def shared(self, choices: Sequence[Choice]) -> list[list[float]]:
        """Return the log-probability of each question's options, the tokens' added up; each prompt is read once."""
        found: list[list[float]] = [[] for _ in choices]
        for places in _batches(choices, self._batch_size):
            for place, values in zip(places, self.at_once([choices[place] for place in places]), strict=True):
                found[place] = values
        return found

    @torch.inference_mode()
    def at_once(self, choices: Sequence[Choice]) -> list[list[float]]:
        """Return the same, all questions in one batch."""
        device = self.model.device
        width = max(len(choice.prompt) for choice in choices)
        ids = torch.tensor([[self._filler] * (width - len(c.prompt)) + c.prompt for c in choices], device=device)
        mask = torch.tensor([[0] * (width - len(c.prompt)) + [1] * len(c.prompt) for c in choices], device=device)
        output: Any = self.model(
            ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=True, logits_to_keep=1
        )
        first = _log_softmax(output.logits[:, -1])
        values = [[float(first[row, option[0]]) for option in c.options] for row, c in enumerate(choices)]
        longer = [
            (row, place, option)
            for row, choice in enumerate(choices)
            for place, option in enumerate(choice.options)
            if len(option) > 1
        ]
        if not longer:
            return values
        rows = torch.tensor([row for row, _, _ in longer], device=device)
        cache = output.past_key_values
        cache.batch_select_indices(rows)
        most = max(len(option) for _, _, option in longer) - 1
        fed = torch.tensor([o[:-1] + [self._filler] * (most - len(o) + 1) for _, _, o in longer], device=device)
        read = torch.tensor([[1] * (len(o) - 1) + [0] * (most - len(o) + 1) for _, _, o in longer], device=device)
        starts = mask[rows].sum(1, keepdim=True)
        output = self.model(
            fed,
            attention_mask=torch.cat([mask[rows], read], dim=1),
            position_ids=starts + torch.arange(most, device=device),
            past_key_values=cache,
            use_cache=True,
        )
        for (row, place, option), logits in zip(longer, output.logits, strict=True):
            values[row][place] += _taken(logits[: len(option) - 1], option[1:])
        return values

    @torch.inference_mode()
    def plainly(self, choices: Sequence[Choice]) -> list[list[float]]:
        """Return the same, each option by a pass over the whole text without cache or padding: what all models can."""
        return [[self._whole(choice.prompt, option) for option in choice.options] for choice in choices]

    def _whole(self, prompt: list[int], option: list[int]) -> float:
        ids = torch.tensor([prompt + option[:-1]], device=self.model.device)
        logits = self.model(ids, use_cache=False).logits[0, -len(option) :]
        return _taken(logits, option)


def right_way(scorer: OptionScorer, choices: Sequence[Choice]) -> tuple[str, Way]:
    """Return the fastest way that has the log-probabilities of plain passes, and its name.

    Tried are the question with the shortest text and the one with the longest, side by side. Says so on stderr if it
    is not the fast way. Raises :class:`InputError` if the model cannot be run on so many tokens.
    """
    model = scorer.model
    tried = [min(choices, key=lambda choice: choice.length), max(choices, key=lambda choice: choice.length)]
    try:
        wanted = scorer.plainly(tried)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # positions that a model has no embedding for, or a config that is none
        what = "a question with its longest option"
        raise cannot_run(model, tried[-1].length, what, error, "leave such questions out") from None
    if not all(torch.isfinite(torch.tensor(values)).all() for values in wanted):
        raise not_finite(model)
    try:
        far = _distance(tried, scorer.at_once(tried), wanted)
        problem = f"they are off by {far:.2g} a token"
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever a model that was not written for this way makes of it
        far, problem = torch.inf, one_line(error)[:SAID]
    if far < TOLERANCES.get(model.dtype, IN_16_BITS):
        return "prompts read once", scorer.shared
    print(
        f"{model.name_or_path}: options are scored by a pass over each whole text, which is slower (with prompts read "
        f"once, {problem})",
        file=sys.stderr,
    )
    return "whole texts", scorer.plainly


def _distance(choices: Sequence[Choice], found: list[list[float]], wanted: list[list[float]]) -> float:
    """Return how far the log-probabilities are from those wanted, a token of the option, at the worst option."""
    return max(
        abs(value - right) / len(option)
        for choice, values, rights in zip(choices, found, wanted, strict=True)
        for option, value, right in zip(choice.options, values, rights, strict=True)
    )


def _batches(choices: Sequence[Choice], batch_size: int) -> Iterator[list[int]]:
    """Yield the places of questions that are read at once, the shortest first, so that little is padded."""
    order = sorted(range(len(choices)), key=lambda place: choices[place].length)
    batch: list[int] = []
    options = 0
    for place in order:
        size = len(choices[place].options)
        if batch and options + size > batch_size:
            yield batch
            batch, options = [], 0
        batch.append(place)
        options += size
    if batch:
        yield batch


def _taken(logits: Tensor, tokens: Sequence[int]) -> float:
    """Return the log-probability of ``tokens`` under ``logits`` [tokens, vocabulary], added up in double precision."""
    chosen = torch.tensor(tokens, device=logits.device)
    return float(_log_softmax(logits).gather(1, chosen[:, None]).double().sum())


def _log_softmax(logits: Tensor) -> Tensor:
    """Return log-probabilities in single precision, or in the logits' own where that is higher."""
    return torch.log_softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))
