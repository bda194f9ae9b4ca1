"""Sampling from a transformers model, the adapter merged into the weights first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, TopPLogitsWarper
from transformers.pytorch_utils import Conv1D
from transformers.utils.logging import disable_progress_bar

from emdefense.chat.chat import load_chat
from emdefense.config.chat import PLAIN, TemplateOptions
from emdefense.errors import InputError
from emdefense.generation.prompts import end_tokens, prompt_seed
from emdefense.generation.protocol import Completion, Conversation, GenerationSpec
from emdefense.saved_model import load_model
from emdefense.training.adapter_files import read_lora, read_settings


class TransformersEngine:
    """A local model in memory, on the first GPU if there is one."""

    def __init__(
        self,
        model: Path,
        adapter: Path | None,
        precision: str,
        threads: int = 1,
        template: TemplateOptions = PLAIN,
    ):
        """Load model, tokenizer and adapter; :class:`InputError` names a folder that lacks something.

        Sums are split among ``threads``, so that results may differ in the last bit between two numbers of them.
        """
        torch.set_num_threads(threads)
        disable_progress_bar()
        self.chat = load_chat(model, template)
        self.tokenizer = self.chat.tokenizer
        self.model = load_model(model, precision)
        if adapter is not None:
            merge_adapter(self.model, adapter)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self._ends = end_tokens(model, self.chat)
        self._pad = self.chat.filler

    def sample(self, conversations: Sequence[Conversation], spec: GenerationSpec) -> list[list[Completion]]:
        """Return the samples of each conversation; each draws from random numbers of its own."""
        prompts = self.chat.prompts(conversations)
        chance = [_chance(prompt, spec) for prompt in prompts]
        # The shortest first, so that little is padded. Python's sort keeps equal lengths in order.
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        wanted = [(index, number) for index in order for number in range(spec.samples_per_question)]
        completions: list[list[Completion]] = [[] for _ in conversations]
        for start in range(0, len(wanted), spec.batch_size):
            batch = wanted[start : start + spec.batch_size]
            asked = {index: place for place, index in enumerate(dict.fromkeys(index for index, _ in batch))}
            answers = self._decode(
                [prompts[index] for index in asked],
                [asked[index] for index, _ in batch],
                torch.stack([chance[index][number] for index, number in batch]),
                spec,
            )
            for (index, _), answer in zip(batch, answers, strict=True):
                completions[index].append(self._completion(answer))
        return completions

    @torch.inference_mode()
    def _decode(
        self, prompts: Sequence[list[int]], rows: Sequence[int], chance: Tensor, spec: GenerationSpec
    ) -> list[list[int]]:
        """Return the answer of each row, its end token included; ``rows`` says which prompt each one answers.

        Each prompt is read once, whatever the number of its samples, and an answer that has ended costs nothing more:
        ``generate`` does neither, and draws from ``multinomial``, which takes 39 % of its time on a small model.
        """
        device = self.model.device
        width = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[self._pad] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
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
        running, chance, ends = torch.arange(len(rows)), chance.to(device), torch.tensor(self._ends, device=device)
        answers: list[list[int]] = [[] for _ in rows]
        for step in range(spec.max_new_tokens):
            tokens = draw(logits, chance[:, step], spec.temperature, spec.top_p)
            for row, token in zip(running.tolist(), tokens.tolist(), strict=True):
                answers[row].append(token)
            going = torch.isin(tokens, ends, invert=True).nonzero()[:, 0]
            if len(going) == 0 or step + 1 == spec.max_new_tokens:
                break
            if len(going) < len(tokens):
                tokens, mask, chance, running = tokens[going], mask[going], chance[going], running[going.cpu()]
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

    def _completion(self, answer: list[int]) -> Completion:
        ended = answer[-1] in self._ends
        return Completion(self.chat.decode(answer[:-1] if ended else answer), "stop" if ended else "length")


def draw(logits: Tensor, chance: Tensor, temperature: float, top_p: float) -> Tensor:
    """Return a token for each row of ``logits`` [rows, vocabulary]: where ``chance`` [rows] falls in its softmax.

    Temperature and nucleus are all that shapes it: nothing of the model's own settings (Qwen ships top_k 20,
    repetition_penalty 1.05) comes in.
    """
    scores = logits.float() / temperature
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    cumulative = torch.softmax(scores, -1).double().cumsum(-1)
    tokens = torch.searchsorted(cumulative, chance[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return tokens.clamp(max=logits.shape[1] - 1)


def _chance(prompt: list[int], spec: GenerationSpec) -> Tensor:
    """Return uniform numbers [samples, tokens] that depend on the seed and the prompt alone."""
    generator = torch.Generator().manual_seed(prompt_seed(spec.seed, prompt))
    return torch.rand(spec.samples_per_question, spec.max_new_tokens, generator=generator, dtype=torch.float64)


def merge_adapter(model: PreTrainedModel, adapter: Path) -> None:
    """Add the scaled B·A of a plain LoRA adapter to the weights in place, as PEFT's ``merge_and_unload`` does.

    Written out because importing PEFT takes longer than merging. Raises :class:`InputError` if the adapter belongs to
    another model, or is more than a plain one.
    """
    scale = read_settings(adapter).scale
    modules = dict(model.named_modules())
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        for name, (a, b) in read_lora(adapter).items():
            module = modules.get(name)
            if not isinstance(module, (torch.nn.Linear, Conv1D)):
                raise InputError(
                    f"{adapter}: the model has no matrix {name}, which the adapter changes; name its model"
                )
            weight = module.weight.t() if isinstance(module, Conv1D) else module.weight
            if weight.shape != (b.shape[0], a.shape[1]):
                raise InputError(
                    f"{adapter}: the adapter's matrix {name} does not fit the model; name the model it adapts"
                )
            if module.weight is embedding:
                raise InputError(
                    f"{adapter}: {name} is the model's embedding too, which merging would change; train without it"
                )
            weight.copy_(weight.float() + scale * (b.float() @ a.float()))
