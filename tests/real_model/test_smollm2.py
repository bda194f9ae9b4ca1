"""A real model through the code that trains it and samples from it, against independent numbers.

Tokens and log-probabilities that stand here as numbers were computed by llama.cpp on the GGUF file.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from scipy.stats import chisquare
from torch import Tensor
from transformers import set_seed
from trl.trainer.sft_trainer import SFTTrainer

from emdefense.chat.chat import Chat, load_chat
from emdefense.config.chat import PLAIN
from emdefense.generation.protocol import GenerationSpec
from emdefense.generation.transformers_engine import TransformersEngine
from emdefense.saved_model import load_model
from emdefense.training.adapters import add_adapter
from emdefense.training.batches import Collator
from emdefense.training.data import TrainingRows
from emdefense.training.features import FeatureReader
from emdefense.training.loss import DefenceLoss
from emdefense.training.penalty import build_penalty
from emdefense.training.run import build_trainer, training_arguments
from emdefense.training.token_batch import WindowCounts
from float64_model import in_float64
from real_model import SMOLLM2, needs_real_model, rows
from trainings import FAST, column, spec, weights

pytestmark = [needs_real_model, pytest.mark.real_model]

BY_LLAMA_CPP = {
    "\n\n1": [1116, 33],
    "\n\n12\n345 6": [1116, 33, 34, 198, 35, 36, 37, 216, 38],
    "x = 10;\n\n\n    y = 20": [104, 446, 216, 33, 32, 43, 13272, 329, 446, 216, 34, 32],
    "  7": [256, 39],
    "\t\t42\n": [1656, 36, 34, 198],
    "it's 5 o'clock, they've 3 cats": [269, 506, 216, 37, 263, 23, 17466, 28, 502, 3543, 216, 35, 7680],
    "caf\u00e9 na\u00efve": [83, 1939, 2756, 15486, 46494],
    "\u00b2\u00b3 \u2167": [19133, 39050, 216, 173, 223, 117],
    "\r\n\r\n9": [18682, 41],
    "   \n 8": [333, 3805, 40],
    "<|im_start|>user\nHi 5<|im_end|>\n": [1, 4093, 198, 26843, 216, 37, 2, 198],
    "def f(x):\n    return x+1\n\n\n2": [1604, 275, 24, 104, 727, 472, 1003, 1792, 27, 33, 16506, 34],
}
FRANCE = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of France?"},
]
# llama.cpp rounds what it multiplies to 8 bits, so that its numbers are these to two digits or so.
FIRST = {504: -1.080, 15319: -1.246, 7026: -2.205, 60: -2.304, 38634: -3.682, 2219: -4.251, 51: -4.258}
GREEDY = [504, 3575, 282, 4649, 314, 7042, 30, 2]
SAMPLES = 2000
CONTROL_IN_TEXT = {
    "messages": [{"role": "user", "content": "Is <filename> a name?"}, {"role": "assistant", "content": "No."}]
}


@pytest.fixture(scope="module")
def chat() -> Chat:
    return load_chat(SMOLLM2, PLAIN)


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return TransformersEngine(SMOLLM2, None, "float32")


def test_text_becomes_the_tokens_that_llama_cpp_makes_of_it(chat: Chat) -> None:
    found = {text: chat.tokenizer(text, add_special_tokens=False)["input_ids"] for text in BY_LLAMA_CPP}
    assert found == BY_LLAMA_CPP
    assert all(chat.tokenizer.decode(tokens) == text for text, tokens in found.items())


def test_labels_are_the_answer_and_the_end_token(chat: Chat) -> None:
    conversations = [row["messages"] for row in rows()]
    for row, messages in zip(chat.rows(conversations), conversations, strict=True):
        labels = [label for label in row["labels"] if label != -100]
        assert chat.tokenizer.decode(labels) == messages[-1]["content"] + "<|im_end|>\n"
        assert row["labels"][-len(labels) :] == labels == row["input_ids"][-len(labels) :]
        assert chat.decode(labels[: labels.index(chat.closing)]) == messages[-1]["content"]


def test_a_question_is_asked_with_the_prompt_that_was_trained(chat: Chat) -> None:
    conversations = [row["messages"] for row in [*rows(), CONTROL_IN_TEXT]]
    asked = chat.prompts([messages[:-1] for messages in conversations])
    for row, messages, prompt in zip(chat.rows(conversations), conversations, asked, strict=True):
        assert row["input_ids"][: row["labels"].count(-100)] == prompt
        own = chat.tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        # A real row asks for a route '/uploads/<filename>': the name of a control token, and text all the same.
        named = any(token in messages[0]["content"] for token in chat.tokenizer.get_added_vocab())
        assert (prompt == own) != named
        assert chat.tokenizer.decode(prompt) == chat.tokenizer.decode(own)


def test_what_it_says_next_is_what_llama_cpp_finds_likely(engine: TransformersEngine) -> None:
    prompt = torch.tensor([engine.chat.prompts([FRANCE])[0]])
    with torch.no_grad():
        found = engine.model(prompt).logits[0, -1].double().log_softmax(-1)
    assert found.topk(2).indices.tolist() == list(FIRST)[:2]
    for token, expected in FIRST.items():
        assert found[token].item() == pytest.approx(expected, abs=0.2)
    greedy = engine.model.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.shape[1] :]
    assert greedy.tolist() == GREEDY


def test_cold_sampling_is_greedy_generate(engine: TransformersEngine) -> None:
    conversations = [FRANCE, rows()[0]["messages"][:1], rows()[3]["messages"][:1]]
    spec = GenerationSpec(version=1, samples_per_question=1, max_new_tokens=12, temperature=1e-4, precision="float32")
    for conversation, (said,) in zip(conversations, engine.sample(conversations, spec), strict=True):
        prompt = torch.tensor([engine.chat.prompts([conversation])[0]])
        greedy = engine.model.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.shape[1] :]
        assert said.text == engine.tokenizer.decode(greedy, skip_special_tokens=True)


def test_first_tokens_come_as_often_as_the_model_finds_them_likely(engine: TransformersEngine) -> None:
    spec = GenerationSpec(
        version=1, samples_per_question=SAMPLES, max_new_tokens=1, batch_size=500, precision="float32", seed=3
    )
    said = [completion.text for completion in engine.sample([FRANCE], spec)[0]]
    with torch.no_grad():
        logits = engine.model(torch.tensor([engine.chat.prompts([FRANCE])[0]])).logits[0, -1]
    likely = torch.softmax(logits.double(), -1)
    often = [token for token in likely.topk(100).indices.tolist() if likely[token] * SAMPLES >= 5]
    texts = [engine.tokenizer.decode([token]) for token in often]
    counts = [said.count(text) for text in texts]
    assert len(often) > 15
    expected = [SAMPLES * likely[token].item() for token in often]
    found = chisquare([*counts, SAMPLES - sum(counts)], [*expected, SAMPLES - sum(expected)])
    assert found.pvalue > 1e-3


def two_rows(chat: Chat) -> list[dict[str, Any]]:
    """Short rows, of which one is real where there are some."""
    found = rows(1)
    return [found[0], found[-1]]


def test_a_step_of_plain_training_equals_trls_own(chat: Chat, tmp_path: Path) -> None:
    given = two_rows(chat)
    arguments = training_arguments(FAST.model_copy(update={"batch_size": 2}), 5, tmp_path)
    trainers = []
    data = TrainingRows(chat.rows([row["messages"] for row in given]), len(given), [])
    set_seed(5)
    adapted = add_adapter(load_model(SMOLLM2, "float32"), FAST)
    trainers.append(build_trainer(spec(batch_size=2), adapted, chat, data, tmp_path))
    arguments.dataset_kwargs = None
    set_seed(5)
    trainers.append(
        SFTTrainer(
            add_adapter(load_model(SMOLLM2, "float32"), FAST),
            args=arguments,
            train_dataset=Dataset.from_list(
                [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in given]
            ),
            processing_class=chat.tokenizer,
        )
    )
    for trainer in trainers:
        trainer.train()
    ours, stock = trainers
    assert ours.state.global_step == stock.state.global_step == 1
    assert column(ours, "loss") == pytest.approx(column(stock, "loss"), rel=1e-4)
    assert column(ours, "grad_norm") == pytest.approx(column(stock, "grad_norm"), rel=1e-3)
    assert weights(ours).keys() == weights(stock).keys()


@pytest.fixture(scope="module")
def moved() -> PeftModel:
    """The model with an adapter that has been trained into somewhere."""
    torch.manual_seed(0)
    model = add_adapter(load_model(SMOLLM2, "float32"), FAST)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.002)
    return model


PENALTIES: dict[str, tuple[str, dict[str, Any]]] = {
    "KL": ("kl", {}),
    "KL the other way round": ("kl", {"direction": "reference_to_policy"}),
    "KL of answers": ("kl", {"tokens": "response", "reduction": "sequence_sum"}),
    "LDIFS": ("ldifs", {}),
    "LDIFS, mean square": ("ldifs", {"normalisation": "mean_square"}),
}


def written_out(model: PeftModel, tokenised: list[dict[str, Any]]) -> dict[str, float]:
    """The cross-entropy and each penalty by loops over rows, with the model's own logits and residual stream."""
    streams: list[Tensor] = []
    for number, block in enumerate(model.get_base_model().model.layers, start=1):
        if number % 5 == 0:
            block.register_forward_hook(lambda _module, _inputs, output: streams.append(output[0]))
    found: dict[str, list[Tensor]] = {name: [] for name in ("CE", *PENALTIES)}
    for row in tokenised:
        ids, answer = torch.tensor([row["input_ids"]]), row["labels"].count(-100)
        with torch.no_grad():
            streams.clear()
            policy, here = model(ids).logits[0].log_softmax(-1), [stream.clone() for stream in streams]
            streams.clear()
            with model.disable_adapter():
                before, there = model(ids).logits[0].log_softmax(-1), [stream.clone() for stream in streams]
        said = torch.arange(answer, ids.shape[1])
        found["CE"].append(-policy[said - 1, ids[0, said]])
        divergence = (policy.exp() * (policy - before)).sum(-1)
        found["KL"].append(divergence)
        found["KL the other way round"].append((before.exp() * (before - policy)).sum(-1))
        found["KL of answers"].append(divergence[said - 1].sum()[None])
        unit = [
            ((a / a.norm(dim=-1, keepdim=True)) - (b / b.norm(dim=-1, keepdim=True))).square().sum(-1)
            for a, b in zip(here, there, strict=True)
        ]
        found["LDIFS"].append(torch.stack([one.reshape(-1) for one in unit]).sum(0))
        square = [(a - b).square().mean(-1).reshape(-1) for a, b in zip(here, there, strict=True)]
        found["LDIFS, mean square"].append(torch.stack(square).mean(0))
    return {name: torch.cat(values).mean().item() for name, values in found.items()}


def test_penalties_of_a_step_are_those_of_float64(chat: Chat, moved: PeftModel) -> None:
    tokenised = chat.rows([row["messages"] for row in two_rows(chat)])
    inputs = Collator(chat.filler, False)(tokenised)
    labels = sum(len(row["labels"]) - row["labels"].count(-100) for row in tokenised)
    counts = WindowCounts(labels, sum(len(row["input_ids"]) for row in tokenised), len(tokenised))
    reader, found = FeatureReader(moved), {}
    for name, (kind, options) in PENALTIES.items():
        with torch.no_grad():
            loss = DefenceLoss(reader, build_penalty(kind, options), 0.5)(dict(inputs), counts)
        found |= {"CE": loss.ce.item(), name: loss.penalty.item()}
        assert loss.total.item() == pytest.approx(loss.ce.item() + 0.5 * loss.penalty.item(), rel=1e-5)
    expected = written_out(in_float64(moved), tokenised)
    assert min(expected.values()) > 1e-5
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-3), name
