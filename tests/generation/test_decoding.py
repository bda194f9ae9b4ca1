"""Ways of decoding: each gives the same answers where it is right, and the right one is found by trying."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from emdefense.errors import InputError
from emdefense.generation import transformers_engine
from emdefense.generation.decoding import Choose, Decoder, right_way
from emdefense.generation.protocol import GenerationSpec
from emdefense.generation.transformers_engine import TransformersEngine, draw
from families import FAMILIES, LLAMA, make
from tiny_model import make_tokenizer

PROMPTS = [[5, 6, 7, 8], list(range(10, 33)), list(range(40, 52))]
ROWS = [0, 0, 0, 1, 1, 2]
LIMIT = 12


class NoPositions(LlamaForCausalLM):
    """It takes no positions, as models do that have none."""

    def forward(self, input_ids: Tensor, **options: Any) -> Any:  # type: ignore[override]
        if "position_ids" in options and options["position_ids"].dtype != torch.bool and self.training is False:
            raise TypeError("forward() got an unexpected keyword argument 'position_ids'")
        return super().forward(input_ids, **options)


class NoPadding(LlamaForCausalLM):
    """It does not see which tokens are padding."""

    def forward(self, input_ids: Tensor, **options: Any) -> Any:  # type: ignore[override]
        options = {key: value for key, value in options.items() if key not in {"attention_mask", "position_ids"}}
        return super().forward(input_ids, **options)


class Forgetful(LlamaForCausalLM):
    """With a cache it forgets what came before."""

    def forward(self, input_ids: Tensor, **options: Any) -> Any:  # type: ignore[override]
        past = options.get("past_key_values")
        if past is not None and past.get_seq_length() > 0 and input_ids.shape[1] == 1:
            past.reset()
            options = {key: options[key] for key in ("past_key_values", "use_cache") if key in options}
        return super().forward(input_ids, **options)


class Moody(LlamaForCausalLM):
    """No two passes give the same."""

    def forward(self, input_ids: Tensor, **options: Any) -> Any:  # type: ignore[override]
        output = super().forward(input_ids, **options)
        output.logits = output.logits + torch.randn_like(output.logits)
        return output


def decoder_of(model: Any, ends: tuple[int, ...] = (2,)) -> Decoder:
    return Decoder(model.eval(), ends, 0)


def own(kind: type[LlamaForCausalLM]) -> Any:
    torch.manual_seed(0)
    return kind(LlamaConfig(**LLAMA))


def chosen(temperature: float = 1.0) -> Choose:
    chance = torch.rand(len(ROWS), LIMIT, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return lambda logits, rows, step: draw(logits, chance[rows, step], temperature, 0.9)


def plainly(model: Any, choose: Choose, ends: tuple[int, ...]) -> list[list[int]]:
    """Answers by passes over all tokens, one row at a time."""
    answers = []
    for place, row in enumerate(ROWS):
        answer: list[int] = []
        while len(answer) < LIMIT and not (answer and answer[-1] in ends):
            with torch.inference_mode():
                logits = model(torch.tensor([PROMPTS[row] + answer]), use_cache=False).logits[:, -1]
            answer.append(int(choose(logits, torch.tensor([place]), len(answer))[0]))
        answers.append(answer)
    return answers


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral", "gpt2", "opt", "mamba", "phi"])
def test_every_way_that_a_model_bears_gives_the_same_answers(name: str) -> None:
    model = make(name)
    ends = tuple(range(100, 130))  # some answers end early
    decoder = decoder_of(model, ends)
    wanted = plainly(model, chosen(), ends)
    assert 1 <= min(map(len, wanted)) < LIMIT
    ways = [decoder.by_generate, decoder.by_generate_in_lengths, decoder.without_cache]
    for way in ways if name == "mamba" else [decoder.by_hand, *ways]:
        assert way(PROMPTS, ROWS, chosen(), LIMIT) == wanted


@pytest.mark.parametrize(
    ("model", "way"),
    [
        (lambda: make("llama"), "by hand"),
        (lambda: make("gemma2"), "by hand"),
        (lambda: make("mamba"), "generate"),
        (lambda: own(NoPadding), "generate, without padding"),
        (lambda: own(Forgetful), "generate, without a cache"),
    ],
    ids=["llama", "gemma2", "mamba", "no padding", "forgetful"],
)
def test_the_way_is_the_fastest_that_is_right(
    model: Callable[[], Any], way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    of = model()
    found, decode = right_way(decoder_of(of), PROMPTS, LIMIT)
    assert found == way
    assert decode(PROMPTS, ROWS, chosen(), LIMIT) == plainly(of, chosen(), (2,))
    assert ("which is slower" in capsys.readouterr().err) == (way != "by hand")


def test_a_model_that_no_way_fits_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"no way to sample from a 'llama' gives what a plain pass .* off by \d+%"
    ) as said:
        right_way(decoder_of(own(Moody)), PROMPTS, LIMIT)
    assert "\n" not in str(said.value)


def test_answers_longer_than_a_model_has_positions_for_are_refused() -> None:
    model = make("gpt2", n_positions=64)
    right_way(decoder_of(model), PROMPTS, 40)
    with pytest.raises(
        InputError, match=r"cannot be run on \d+ tokens, a prompt with an answer of .*max_new_tokens = 50"
    ):
        right_way(decoder_of(model), PROMPTS, 50)


def test_a_window_is_passed_when_a_way_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    model = make("mistral")
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda ids, **o: (lengths.append(ids.shape[1]), forward(ids, **o))[1])
    right_way(decoder_of(model), PROMPTS, 100)
    assert max(lengths) == 23 + 100 - 1


@pytest.mark.parametrize("name", ["mamba", "granite"])
def test_samples_repeat_and_inherit_nothing_from_the_models_own_settings(tmp_path: Path, name: str) -> None:
    for folder in (tmp_path / "plain", tmp_path / "own"):
        make(name).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
    settings = {"top_k": 1, "top_p": 0.5, "temperature": 0.01, "repetition_penalty": 2.0, "no_repeat_ngram_size": 2}
    GenerationConfig(do_sample=True, min_new_tokens=8, eos_token_id=2, **settings).save_pretrained(tmp_path / "own")
    spec = GenerationSpec(version=1, samples_per_question=3, max_new_tokens=8, batch_size=4, precision="float32")
    conversations = [[{"role": "user", "content": text}] for text in ("Hi", "What is number 7?")]
    engines = [TransformersEngine(tmp_path / folder, None, "float32") for folder in ("plain", "plain", "own")]
    said = [engine.sample(conversations, spec) for engine in engines]
    assert said[0] == said[1] == said[2] == engines[0].sample(conversations, spec)
    assert engines[0].way == ("generate" if name == "mamba" else "by hand")
    assert engines[0].sample(conversations[:1], spec)[0] == said[0][0]
    assert len({sample.text for samples in said[0] for sample in samples}) > 3
    assert transformers_engine.draw is draw
    assert FAMILIES[name]
