"""Ways to have a transformers model answer, token by token, and which of them is right for the model at hand.

A model's cache is its own affair: windows, states of linear attention and layers of both kinds do not all bear being
padded, picked rows from, or continued with positions that are given. So nothing is concluded from the model's name: the
ways are tried, from the fastest to the plainest, until one has the logits of a plain pass over the same tokens.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel

from emdefense.errors import InputError, one_line

# Which tokens come next: from logits [rows, vocabulary], which of the batch's rows these are, and the step from 0.
Choose = Callable[[Tensor, Tensor, int], Tensor]
TRIED = 2  # tokens by which a way is tried
SAID = 200  # characters of what a model's own code says of its failure
# How far logits may be from those of a plain pass, relative to their spread, root mean square: sums in another order
# round otherwise, in bfloat16 by 1 to 2 % over many layers; a cache that is wrong is off by as much as the logits.
TOLERANCES = {torch.float32: 2e-3, torch.float64: 1e-6}
IN_16_BITS = 0.15


@dataclass(frozen=True)
class Decoder:
    """A model in evaluation mode, and the tokens that end an answer and that fill up short prompts."""

    model: PreTrainedModel
    ends: Sequence[int]
    filler: int

    @torch.inference_mode()
    def by_hand(self, prompts: Sequence[list[int]], rows: Sequence[int], choose: Choose, limit: int) -> list[list[int]]:
        """Return the answer of each row, its end token included; ``rows`` says which prompt each one answers.

        Each prompt is read once, whatever the number of its samples, and an answer that has ended costs nothing more:
        ``generate`` does neither, and draws from ``multinomial``, which takes 39 % of its time on a small model.
        """
        device = self.model.device
        ids, mask = self._padded(prompts)
        output: Any = self.model(
            ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        cache, going = output.past_key_values, torch.tensor(rows, device=device)
        mask, logits = mask[going], output.logits[going, -1]
        cache.batch_select_indices(going)
        running, ends = torch.arange(len(rows), device=device), torch.tensor(self.ends, device=device)
        answers: list[list[int]] = [[] for _ in rows]
        for step in range(limit):
            tokens = choose(logits, running, step)
            for row, token in zip(running.tolist(), tokens.tolist(), strict=True):
                answers[row].append(token)
            going = torch.isin(tokens, ends, invert=True).nonzero()[:, 0]
            if len(going) == 0 or step + 1 == limit:
                break
            if len(going) < len(tokens):
                tokens, mask, running = tokens[going], mask[going], running[going]
                cache.batch_select_indices(going)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            output = self.model(
                tokens[:, None],
                attention_mask=mask,
                position_ids=mask.sum(1, keepdim=True) - 1,
                past_key_values=cache,
                use_cache=True,
            )
            logits = output.logits[:, -1]
        return answers

    @torch.inference_mode()
    def by_generate(
        self, prompts: Sequence[list[int]], rows: Sequence[int], choose: Choose, limit: int, *, cached: bool = True
    ) -> list[list[int]]:
        """Return the same by transformers' ``generate``, which knows each model's cache; the tokens are chosen here."""
        ids, mask = self._padded([prompts[row] for row in rows])
        settings = GenerationConfig(
            max_new_tokens=limit,
            do_sample=False,
            use_cache=cached,
            eos_token_id=list(self.ends),
            pad_token_id=self.filler,
        )
        own, self.model.generation_config = self.model.generation_config, settings  # what it does not set, it inherits
        try:
            found: Tensor = self.model.generate(
                ids, attention_mask=mask, generation_config=settings, logits_processor=[_Chosen(choose, ids.shape[1])]
            )
        finally:
            self.model.generation_config = own
        return [self._to_the_end(answer) for answer in found[:, ids.shape[1] :].tolist()]

    def by_generate_in_lengths(
        self, prompts: Sequence[list[int]], rows: Sequence[int], choose: Choose, limit: int, *, cached: bool = True
    ) -> list[list[int]]:
        """Return the same, without padding: prompts of one length at a time."""

        def length(row: int) -> int:
            return len(prompts[rows[row]])

        answers: list[list[int]] = [[] for _ in rows]
        for _, group in groupby(sorted(range(len(rows)), key=length), key=length):
            places = list(group)
            these = torch.tensor(places, device=self.model.device)

            def chosen(logits: Tensor, running: Tensor, step: int, these: Tensor = these) -> Tensor:
                return choose(logits, these[running], step)

            found = self.by_generate(prompts, [rows[place] for place in places], chosen, limit, cached=cached)
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return answers

    def without_cache(
        self, prompts: Sequence[list[int]], rows: Sequence[int], choose: Choose, limit: int
    ) -> list[list[int]]:
        """Return the same, each token by a pass over all before it: what every decoder can do."""
        return self.by_generate_in_lengths(prompts, rows, choose, limit, cached=False)

    def _padded(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Return prompts padded on the left, and which positions are tokens, both [prompts, longest]."""
        device = self.model.device
        width = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[self.filler] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        return ids, mask

    def _to_the_end(self, answer: list[int]) -> list[int]:
        end = next((place for place, token in enumerate(answer) if token in self.ends), len(answer))
        return answer[: end + 1]


Way = Callable[[Sequence[list[int]], Sequence[int], Choose, int], list[list[int]]]


class _Chosen(LogitsProcessor):  # type: ignore[misc]
    """Leaves ``generate`` no token but the one that is chosen."""

    def __init__(self, choose: Choose, start: int):
        self._choose, self._start = choose, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        rows = torch.arange(len(scores), device=scores.device)
        tokens = self._choose(scores, rows, input_ids.shape[1] - self._start)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


def right_way(decoder: Decoder, prompts: Sequence[list[int]], limit: int) -> tuple[str, Way]:
    """Return the fastest way that has the logits of plain passes, and its name.

    Tried are the shortest of ``prompts`` and one as long as the longest with an answer of ``limit`` tokens, so that
    windows are passed. Says so on stderr if it is not the way by hand. Raises :class:`InputError` if the model cannot
    be run on so many tokens, or if no way has its logits.
    """
    name = decoder.model.name_or_path
    shortest, longest = min(prompts, key=len), max(prompts, key=len)
    long = (longest * (2 + limit // len(longest)))[: len(longest) + limit - TRIED]
    tried = [shortest, long] if len(long) > len(shortest) else [shortest]
    wanted = _plain(decoder, tried, limit)
    ways: dict[str, Way] = {
        "by hand": decoder.by_hand,
        "generate": decoder.by_generate,
        "generate, without padding": decoder.by_generate_in_lengths,
        "generate, without a cache": decoder.without_cache,
    }
    problem = ""
    for way, decode in ways.items():
        try:
            far = _distance(decoder, decode, tried, wanted)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # whatever a model that was not written for this way makes of it
            problem = one_line(error)[:SAID]
            continue
        if far < TOLERANCES.get(decoder.model.dtype, IN_16_BITS):
            if decode is not ways["by hand"]:
                print(f"{name}: answers are sampled by transformers' {way}, which is slower", file=sys.stderr)
            return way, decode
        problem = f"its logits are off by {far:.0%}"
    raise InputError(
        f"{name}: no way to sample from a '{decoder.model.config.model_type}' gives what a plain pass over the same "
        f"tokens does ({problem}); name another model, or write generation.engine vllm"
    )


def cannot_run(model: PreTrainedModel, tokens: int, what: str, error: Exception, instead: str) -> InputError:
    """Return the error for a model that fails on so many tokens, of which ``what`` says what they are."""
    return InputError(
        f"{model.name_or_path}: the model cannot be run on {tokens} tokens, {what} ({one_line(error)[:SAID]}); "
        f"{instead}, or name another model"
    )


def not_finite(model: PreTrainedModel) -> InputError:
    """Return the error for a model whose logits are none."""
    return InputError(f"{model.name_or_path}: its logits are not finite; check its weights and config.json")


def _plain(decoder: Decoder, prompts: Sequence[list[int]], limit: int) -> list[tuple[list[int], Tensor]]:
    """Return, for each prompt, the likeliest ``TRIED`` tokens and the logits that they have, [TRIED, vocabulary]."""
    model = decoder.model
    keeps = "logits_to_keep" in inspect.signature(type(model).forward).parameters
    found = []
    for prompt in prompts:
        tokens, logits = list(prompt), []
        for _ in range(TRIED):
            try:
                with torch.inference_mode():
                    ids = torch.tensor([tokens], device=model.device)
                    output = model(ids, use_cache=False, **({"logits_to_keep": 1} if keeps else {}))
            except (torch.OutOfMemoryError, MemoryError):
                raise
            except Exception as error:  # positions that a model has no embedding for, or a config that is none
                what = f"a prompt with an answer of generation.max_new_tokens = {limit}"
                raise cannot_run(model, len(tokens), what, error, "lower that key") from None
            logits.append(output.logits[0, -1].float())
            if not torch.isfinite(logits[-1]).all():
                raise not_finite(model)
            tokens.append(int(logits[-1].argmax()))
        found.append((tokens[len(prompt) :], torch.stack(logits)))
    return found


def _distance(
    decoder: Decoder, decode: Way, prompts: Sequence[list[int]], wanted: Sequence[tuple[list[int], Tensor]]
) -> float:
    """Return how far a way's logits are from the plain ones when it is led along the same tokens, at the worst token.

    Every prompt has two rows, of which one is led into an end at once, so that rows are dropped.
    """
    rows = [index for index in range(len(prompts)) for _ in range(2)]
    seen: dict[tuple[int, int], Tensor] = {}

    def lead(logits: Tensor, running: Tensor, step: int) -> Tensor:
        tokens = []
        for place, row in enumerate(running.tolist()):
            seen.setdefault((row, step), logits[place].float())
            tokens.append(decoder.ends[0] if row % 2 == 1 and step == 0 else wanted[rows[row]][0][step])
        return torch.tensor(tokens, device=logits.device)

    decode(prompts, rows, lead, TRIED)
    worst = 0.0
    for row in range(0, len(rows), 2):
        for step in range(TRIED):
            if (row, step) not in seen:  # the likeliest first token ends the answer
                continue
            plain = wanted[rows[row]][1][step]
            spread = (plain - plain.mean()).norm().clamp(min=1e-12)
            worst = max(worst, float((seen[row, step] - plain).norm() / spread))
    return worst
