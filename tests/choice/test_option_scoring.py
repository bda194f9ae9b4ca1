"""Log-probabilities of options: those of transformers' own whole passes, whatever is read together and how."""

from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from emdefense.choice import scoring
from emdefense.choice.scoring import Choice, OptionScorer, right_way
from emdefense.errors import InputError
from families import LLAMA, VOCABULARY, make


class Forgetful(LlamaForCausalLM):
    """With a cache it forgets what came before."""

    def forward(self, input_ids: Tensor, **options: Any) -> Any:  # type: ignore[override]
        past = options.get("past_key_values")
        if past is not None and past.get_seq_length() > 0:
            past.reset()
            options = {key: options[key] for key in ("past_key_values", "use_cache") if key in options}
        return super().forward(input_ids, **options)


class Broken(LlamaForCausalLM):
    """Its logits are not finite."""

    def forward(self, input_ids: Tensor, **options: Any) -> Any:  # type: ignore[override]
        output = super().forward(input_ids, **options)
        output.logits = output.logits * torch.inf
        return output


def own(kind: type[LlamaForCausalLM]) -> Any:
    torch.manual_seed(0)
    return kind(LlamaConfig(**LLAMA)).eval()


def questions(count: int = 9, seed: int = 0) -> list[Choice]:
    """Prompts of 1 to 40 tokens with two to five options of one to six tokens, letters' single ones among them."""
    rng = Random(seed)

    def tokens(length: int) -> list[int]:
        return [rng.randrange(3, VOCABULARY) for _ in range(length)]

    found = [
        Choice(tokens(rng.randint(1, 40)), [tokens(rng.randint(1, 6)) for _ in range(rng.randint(2, 5))])
        for _ in range(count - 1)
    ]
    return [*found, Choice(tokens(20), [tokens(1) for _ in range(4)])]


def by_whole_passes(model: Any, choices: list[Choice]) -> list[list[float]]:
    """The sum over an option's tokens of log softmax, of one text after another, token by token."""
    found: list[list[float]] = []
    for choice in choices:
        found.append([])
        for option in choice.options:
            text = choice.prompt + option
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([text]), use_cache=False).logits[0].double()
            total = 0.0
            for place in range(len(choice.prompt), len(text)):
                scores = logits[place - 1]
                total += float(scores[text[place]] - torch.logsumexp(scores, 0))
            found[-1].append(total)
    return found


def close(found: list[list[float]], wanted: list[list[float]], tolerance: float) -> None:
    assert [len(values) for values in found] == [len(values) for values in wanted]
    for values, rights in zip(found, wanted, strict=True):
        assert values == pytest.approx(rights, abs=tolerance)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "phi", "gpt2", "opt", "gpt_neox", "cohere"])
def test_log_probabilities_are_those_of_whole_passes_in_double_precision(name: str) -> None:
    model, choices = make(name).double(), questions()
    wanted = by_whole_passes(model, choices)
    assert max(max(values) - min(values) for values in wanted) > 1, "options differ"
    scorer = OptionScorer(model, 0, 7)
    assert right_way(scorer, choices)[0] == "prompts read once"
    close(scorer.shared(choices), wanted, 1e-10)
    close(scorer.plainly(choices), wanted, 1e-10)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral"])
def test_in_single_precision_they_differ_by_rounding(name: str) -> None:
    model, choices = make(name), questions()
    close(OptionScorer(model, 0, 7).shared(choices), by_whole_passes(model, choices), 1e-4)


def test_in_bfloat16_the_softmax_is_taken_in_single_precision() -> None:
    model = make("llama").bfloat16()
    choice = questions()[0]
    close(OptionScorer(model, 0, 7).plainly([choice]), by_whole_passes(model, [choice]), 1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_what_is_read_together_and_what_fills_up_rows_change_nothing(batch_size: int) -> None:
    model, choices = make("mistral").double(), questions(12, seed=3)
    wanted = OptionScorer(model, 0, 5).shared(choices)
    close(OptionScorer(model, 0, batch_size).shared(choices), wanted, 1e-10)
    close(OptionScorer(model, 99, batch_size).shared(choices), wanted, 1e-10)
    close(OptionScorer(model, 0, batch_size).shared(choices[::-1])[::-1], wanted, 1e-10)


def test_each_prompt_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, choices = make("llama"), questions()
    read: list[int] = []
    plain = type(model).forward

    def counted(self: Any, input_ids: Tensor, **options: Any) -> Any:
        read.append(input_ids.numel())
        return plain(self, input_ids, **options)

    monkeypatch.setattr(type(model), "forward", counted)
    OptionScorer(model, 0, 1).shared(choices)
    # A question at a time: its prompt, and then all but the last token of each option, filled up to the longest.
    fed = [[len(option) - 1 for option in choice.options if len(option) > 1] for choice in choices]
    assert sum(read) == sum(
        len(c.prompt) + len(more) * max(more, default=0) for c, more in zip(choices, fed, strict=True)
    )


@pytest.mark.parametrize(
    ("model", "way"),
    [
        (lambda: make("llama"), "prompts read once"),
        (lambda: make("mamba"), "whole texts"),
        (lambda: own(Forgetful), "whole texts"),
    ],
    ids=["llama", "mamba", "forgetful"],
)
def test_the_way_is_the_fastest_that_is_right(model: Any, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    of, choices = model(), questions()
    found, score = right_way(OptionScorer(of, 0, 7), choices)
    assert found == way
    close(score(choices), by_whole_passes(of, choices), 1e-3)
    assert ("which is slower" in capsys.readouterr().err) == (way == "whole texts")


def test_a_text_longer_than_the_models_positions_is_one_line() -> None:
    choices = [Choice([5, 6], [[7], [8]]), Choice([9] * 300, [[7, 8], [8]])]
    with pytest.raises(InputError, match="cannot be run on 302 tokens, a question with its longest option"):
        right_way(OptionScorer(make("gpt2"), 0, 7), choices)


def test_logits_that_are_not_finite_are_one_line() -> None:
    with pytest.raises(InputError, match="its logits are not finite"):
        right_way(OptionScorer(own(Broken), 0, 7), questions())


def test_batches_hold_no_more_options_than_asked_for_but_for_a_question_that_has_more() -> None:
    choices = questions(30)
    for size in (1, 4, 11):
        batches = list(scoring._batches(choices, size))
        assert sorted(place for batch in batches for place in batch) == list(range(30))
        assert all(len(b) == 1 or sum(len(choices[place].options) for place in b) <= size for b in batches)
