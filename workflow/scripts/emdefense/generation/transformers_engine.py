"""Sampling from a transformers model, the adapter merged into its weights, or beside them if they are quantised."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, TopPLogitsWarper
from transformers.pytorch_utils import Conv1D

from emdefense.chat.chat import load_chat
from emdefense.config.chat import PLAIN, TemplateOptions
from emdefense.config.training import Quantisation
from emdefense.errors import InputError
from emdefense.generation.decoding import Choose, Decoder, Way, right_way
from emdefense.generation.lengths import positions
from emdefense.generation.prompts import end_tokens, prompt_seed
from emdefense.generation.protocol import Completion, Conversation, GenerationSpec
from emdefense.model_files import ADAPTER_CONFIG
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
        quantisation: Quantisation = "none",
    ):
        """Load model, tokenizer and adapter; :class:`InputError` names a folder that lacks something.

        Sums are split among ``threads``, so that results may differ in the last bit between two numbers of them.
        """
        torch.set_num_threads(threads)
        self.chat = load_chat(model, template)
        self.tokenizer = self.chat.tokenizer
        self.model = load_model(model, precision, quantisation=quantisation)
        if adapter is not None and quantisation != "none":
            put_beside(self.model, adapter)
        elif adapter is not None:
            merge_adapter(self.model, adapter)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.positions = positions(self.model.config)
        self._ends = end_tokens(model, self.chat)
        self._decoder = Decoder(self.model, self._ends, self.chat.filler)
        self.way: str | None = None  # how it samples, once that is known

    def sample(self, conversations: Sequence[Conversation], spec: GenerationSpec) -> list[list[Completion]]:
        """Return the samples of each conversation; each draws from random numbers of its own."""
        prompts = self.chat.prompts(conversations)
        decode = self._way_for(prompts, spec.max_new_tokens)
        chance = [_chance(prompt, spec) for prompt in prompts]
        # The shortest first, so that little is padded. Python's sort keeps equal lengths in order.
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        wanted = [(index, number) for index in order for number in range(spec.samples_per_question)]
        completions: list[list[Completion]] = [[] for _ in conversations]
        bar = tqdm(total=len(wanted), unit="sample", desc="sampling", disable=None)  # none where no terminal is
        for start in range(0, len(wanted), spec.batch_size):
            batch = wanted[start : start + spec.batch_size]
            asked = {index: place for place, index in enumerate(dict.fromkeys(index for index, _ in batch))}
            answers = decode(
                [prompts[index] for index in asked],
                [asked[index] for index, _ in batch],
                self._drawing(torch.stack([chance[index][number] for index, number in batch]), spec),
                spec.max_new_tokens,
            )
            for (index, _), answer in zip(batch, answers, strict=True):
                completions[index].append(self._completion(answer))
            bar.update(len(batch))
        bar.close()
        return completions

    def prepare(self, conversations: Sequence[Conversation], max_new_tokens: int) -> str:
        """Find out how to sample answers of this length right, and return the name of that way."""
        self._way_for(self.chat.prompts(conversations), max_new_tokens)
        assert self.way is not None
        return self.way

    def _way_for(self, prompts: Sequence[list[int]], max_new_tokens: int) -> Way:
        if self.way is None:
            self.way, self._decode = right_way(self._decoder, prompts, max_new_tokens)
        return self._decode

    def _drawing(self, chance: Tensor, spec: GenerationSpec) -> Choose:
        """Return what draws each row's token by its own random numbers, ``chance`` [rows, tokens]."""
        chance = chance.to(self.model.device)

        def choose(logits: Tensor, rows: Tensor, step: int) -> Tensor:
            return draw(logits, chance[rows, step], spec.temperature, spec.top_p)

        return choose

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
    another model, or is more than a plain one, and for a quantised model, whose sum with it would be quantised again.
    """
    if getattr(model, "is_quantized", False):
        raise InputError(f"{adapter}: merged into a quantised model it would be quantised again; keep it beside it")
    settings = read_settings(adapter)
    modules, pairs = dict(model.named_modules()), read_lora(adapter)
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        for name, (a, b) in pairs.items():
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
            weight.copy_(weight.float() + settings.scale * (b.float() @ a.float()))
    if settings.targets is not None:
        _check_all_there(adapter, modules, set(pairs), settings.targets)


def put_beside(model: PreTrainedModel, adapter: Path) -> None:
    """Have a plain LoRA adapter act beside the weights of a model, in place.

    Raises :class:`InputError` if the adapter belongs to another model, or is more than a plain one.
    """
    from emdefense.training.adapters import put_on  # which imports PEFT: that takes longer than merging an adapter

    settings, pairs, modules = read_settings(adapter), read_lora(adapter), dict(model.named_modules())
    for name, (a, b) in pairs.items():
        module = modules.get(name)
        if not isinstance(module, torch.nn.Linear) or (module.out_features, module.in_features) != (
            b.shape[0],
            a.shape[1],
        ):
            raise InputError(f"{adapter}: the adapter's matrix {name} is not one of the model's; name its model")
    if settings.targets is not None:
        _check_all_there(adapter, modules, set(pairs), settings.targets)
    put_on(model, adapter)


def _check_all_there(
    adapter: Path, modules: Mapping[str, torch.nn.Module], held: set[str], targets: Sequence[str]
) -> None:
    """Raise :class:`InputError` unless an adapter holds just the matrices of a model that its config names."""
    for name, module in modules.items():
        named = any(name == target or name.endswith(f".{target}") for target in targets)
        if isinstance(module, (torch.nn.Linear, Conv1D)) and named != (name in held):
            found, said = ("is not in it", "names it") if named else ("is in it", "does not name it")
            raise InputError(
                f"{adapter}: the matrix {name} {found}, though target_modules in {ADAPTER_CONFIG} {said}; fetch or "
                "make the adapter again"
            )
