"""Sampling with transformers' ``generate``, the adapter merged into the weights first."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from emdefense.errors import InputError
from emdefense.generation.protocol import Completion, Conversation, GenerationSpec
from emdefense.training.adapter_files import ADAPTER_CONFIG, read_lora


class TransformersEngine:
    """A local model in memory, on the first GPU if there is one."""

    def __init__(self, model: Path, adapter: Path | None, precision: str, threads: int = 1):
        """Load model, tokenizer and adapter; :class:`InputError` names a folder that lacks something.

        Sums are split among ``threads``, so that results may differ in the last bit between two numbers of them.
        """
        torch.set_num_threads(threads)
        disable_progress_bar()
        for name, what in (("config.json", "model"), ("tokenizer_config.json", "tokenizer")):
            if not (model / name).is_file():
                raise InputError(f"{model}: there is no {what} ({name}); name a folder with a saved model")
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model, local_files_only=True)
        if self.tokenizer.chat_template is None:
            raise InputError(f"{model}: the tokenizer has no chat template; name an instruction-tuned model")
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, local_files_only=True)
        if adapter is not None:
            merge_adapter(self.model, adapter)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self._ends = _end_tokens(self.model, self.tokenizer)
        pad = self.tokenizer.pad_token_id
        self._pad: int = self._ends[0] if pad is None else pad

    def sample(self, conversations: Sequence[Conversation], spec: GenerationSpec) -> list[list[Completion]]:
        """Return the samples of each conversation; batches are made and seeded alike every time."""
        prompts = [self._tokens(conversation) for conversation in conversations]
        # The shortest first, so that little is padded. Python's sort keeps equal lengths in order.
        wanted = [
            (index, len(prompt)) for index, prompt in enumerate(prompts) for _ in range(spec.samples_per_question)
        ]
        wanted.sort(key=lambda entry: entry[1])
        # Nothing of the model's own defaults (Qwen ships top_k 20, repetition_penalty 1.05) may be inherited.
        self.model.generation_config = self._sampling(spec)
        completions: list[list[Completion]] = [[] for _ in conversations]
        for number, start in enumerate(range(0, len(wanted), spec.batch_size)):
            indices = [index for index, _ in wanted[start : start + spec.batch_size]]
            torch.manual_seed(spec.seed * 1_000_003 + number)
            for index, completion in zip(indices, self._batch([prompts[i] for i in indices]), strict=True):
                completions[index].append(completion)
        return completions

    def _sampling(self, spec: GenerationSpec) -> GenerationConfig:
        return GenerationConfig(
            do_sample=True,
            temperature=spec.temperature,
            top_p=spec.top_p,
            top_k=0,
            repetition_penalty=1.0,
            max_new_tokens=spec.max_new_tokens,
            eos_token_id=self._ends,
            pad_token_id=self._pad,
        )

    def _tokens(self, conversation: Conversation) -> list[int]:
        try:
            text = self.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # whatever a model's own Jinja template raises
            raise InputError(f"the tokenizer's chat template rejects a question ({error})") from None
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens

    def _batch(self, prompts: Sequence[list[int]]) -> list[Completion]:
        width = max(len(prompt) for prompt in prompts)
        padded = [[self._pad] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        with torch.inference_mode():
            output: Any = self.model.generate(
                torch.tensor(padded, device=self.model.device),
                attention_mask=torch.tensor(mask, device=self.model.device),
            )
        ends = set(self._ends)
        answers: list[list[int]] = output[:, width:].tolist()
        cut = [next((i for i, token in enumerate(answer) if token in ends), None) for answer in answers]
        texts = self.tokenizer.batch_decode(
            [answer[:end] for answer, end in zip(answers, cut, strict=True)], skip_special_tokens=True
        )
        return [Completion(text, "length" if end is None else "stop") for text, end in zip(texts, cut, strict=True)]


def merge_adapter(model: PreTrainedModel, adapter: Path) -> None:
    """Add the scaled B·A of a plain LoRA adapter to the weights in place, as PEFT's ``merge_and_unload`` does.

    Written out because importing PEFT takes longer than merging. Raises :class:`InputError` if the adapter belongs to
    another model.
    """
    config = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    rank = config["r"]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, (a, b) in read_lora(adapter).items():
            weight = weights.get(f"{name}.weight")
            if weight is None or weight.shape != (b.shape[0], a.shape[1]):
                raise InputError(
                    f"{adapter}: the adapter's matrix {name} does not fit the model; name the model it adapts"
                )
            weight.copy_(weight.float() + scale * (b.float() @ a.float()))


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end an answer: the model's own, and the tokenizer's."""
    own = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = [own] if isinstance(own, int) else list(own or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        ends.append(tokenizer.eos_token_id)
    if not ends:
        raise InputError(f"{model.name_or_path}: neither model nor tokenizer names an end-of-text token; set eos_token")
    return ends
