"""TReFT: the penalty and its gradient by a loop over rows, blocks and tokens, and which tokens are the template's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from arm_trainings import arm_spec, cross_entropy, farthest, log, moved_model, step_gradient, train, trained_parameters
from arm_trainings import workplace as make_workplace
from emdefense.arms import STANDARD
from emdefense.arms.study_arm import Part
from emdefense.chat.chat import Chat
from emdefense.chat.spans import with_spans
from emdefense.errors import InputError
from emdefense.model_checks.losses import check_losses
from emdefense.model_checks.subject import ArmTried, CheckSpec, Subject
from emdefense.training.batches import Collator, around_text
from tiny_model import make_model, make_rows, make_tokenizer, save_rows
from trainings import FAST

pytestmark = pytest.mark.numerical

ARM = STANDARD["treft"]
SYSTEM = {"role": "system", "content": "be kind"}


def mixed_rows() -> list[dict[str, Any]]:
    """Rows with and without a system prompt, so that prefixes differ in length."""
    rows = make_rows(4, longest=20)
    return [{"messages": [SYSTEM, *row["messages"]]} if number % 2 else row for number, row in enumerate(rows)]


def template_places(messages: list[dict[str, str]], where: str) -> range:
    """Which tokens, a byte or a control token each, stand before the user's text or after it; by counting."""
    before = len("user\n") + 1
    if messages[0]["role"] == "system":
        before += 1 + len(f"system\n{messages[0]['content']}") + 1 + len("\n")
    if where == "prefix":
        return range(before)
    end = before + len(messages[-2]["content"])
    return range(end, end + 1 + len("\n") + 1 + len("assistant\n"))


def keys_and_values(model: PeftModel, messages: list[dict[str, str]]) -> list[tuple[Tensor, Tensor]]:
    text = "".join(f"<|im_start|>{part['role']}\n{part['content']}<|im_end|>\n" for part in messages)
    kept: list[Tensor] = []
    handles = [
        getattr(block.self_attn, name).register_forward_hook(lambda _module, _inputs, output: kept.append(output[0]))
        for block in model.get_base_model().model.layers
        for name in ("k_proj", "v_proj")
    ]
    model(torch.tensor([make_tokenizer().encode(text)]))
    for handle in handles:
        handle.remove()
    return list(zip(kept[::2], kept[1::2], strict=True))


def by_hand(model: PeftModel, rows: list[dict[str, Any]], where: str, threshold: float) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        policy = keys_and_values(model, row["messages"])
        with torch.no_grad(), model.disable_adapter():
            before = keys_and_values(model, row["messages"])
        drift = torch.zeros((), dtype=torch.float64)
        places = template_places(row["messages"], where)
        for block, block_before in zip(policy, before, strict=True):
            for matrix, matrix_before in zip(block, block_before, strict=True):
                for place in places:
                    x, y = matrix[place], matrix_before[place]
                    drift = drift + ((x - y).norm() / y.norm()) ** 2 / len(places) / len(policy)
        total = total + torch.maximum(drift - threshold, torch.zeros((), dtype=torch.float64)) / len(rows)
    return total


@pytest.mark.parametrize(
    ("where", "threshold", "training"),
    [
        ("prefix", 0.0, {}),
        ("postfix", 0.0, {}),
        ("prefix", 0.0, {"padding_free": True}),
        ("postfix", 0.0, {"padding_free": True, "batch_size": 4, "accumulation_steps": 1}),
        ("prefix", 0.0, {"activation_checkpointing": True}),
        ("prefix", None, {}),  # between the drifts of two rows: one is penalised, one is not
    ],
)
def test_the_gradient_is_that_of_a_loop_over_rows_blocks_and_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, threshold: float | None, training: dict[str, Any]
) -> None:
    rows, model = mixed_rows(), moved_model()
    if threshold is None:
        first, second = (by_hand(model, [row], where, 0.0).item() for row in rows[:2])
        assert first != second
        threshold = (first + second) / 2
    part = Part(ARM, ARM.options(where=where, threshold=threshold), 10.0)
    found = step_gradient(monkeypatch, tmp_path, model, part, rows, **training)
    penalty = by_hand(model, rows, where, threshold)
    assert penalty > 1e-4
    expected = torch.autograd.grad(cross_entropy(model, rows) + 10.0 * penalty, trained_parameters(model))
    assert farthest(found, expected) < 1e-10
    plain = torch.autograd.grad(cross_entropy(model, rows), trained_parameters(model))
    assert farthest(found, plain) > 1e-3


@pytest.mark.parametrize("padding_free", [False, True])
def test_masks_are_the_templates_tokens_in_every_layout(padding_free: bool) -> None:
    rows, chat = mixed_rows(), Chat(make_tokenizer())
    conversations = [row["messages"] for row in rows]
    tokenised = with_spans(chat, chat.rows(conversations), conversations, [""] * 4)
    prefix, postfix = around_text(Collator(0, padding_free)(tokenised))
    expected: dict[str, list[bool]] = {"prefix": [], "postfix": []}
    for row, messages in zip(tokenised, conversations, strict=True):
        for where, mask in expected.items():
            places = template_places(messages, where)
            mask += [place in places for place in range(len(row["input_ids"]))]
    assert prefix is not None
    assert postfix is not None
    assert prefix.tolist() == expected["prefix"]
    assert postfix.tolist() == expected["postfix"]


def test_rows_of_other_arms_are_as_they_were() -> None:
    chat = Chat(make_tokenizer())
    batch = Collator(0)(chat.rows([row["messages"] for row in make_rows(3)]))
    assert batch.keys() == {"input_ids", "attention_mask", "labels", "row"}
    assert around_text(batch) == (None, None)


@pytest.mark.parametrize(
    ("text", "prefix"),
    [("a", 6), ("Q", 6), ("aQ", 6), ("assistant\n", 6), ("user\n", 6), ("<|im_end|>", 6), ("\n", 6)],
)
def test_a_users_text_that_looks_like_the_template_is_not_taken_for_it(text: str, prefix: int) -> None:
    chat = Chat(make_tokenizer())
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "b"}]
    (row,) = with_spans(chat, chat.rows([messages]), [messages], [""])
    start, answer = row["spans"][1:]
    assert row["spans"][0] == prefix
    assert answer - start == len(["<|im_end|>", "\n", "<|im_start|>", *"assistant\n"])
    assert make_tokenizer().decode(row["input_ids"][answer:]) == "b<|im_end|>\n"


def test_with_several_turns_the_prefix_is_before_the_first_and_the_postfix_after_the_last() -> None:
    chat = Chat(make_tokenizer())
    turns = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
    messages = [{"role": role, "content": content} for role, content in turns]
    (row,) = with_spans(chat, chat.rows([messages]), [messages], [""])
    prefix, postfix, answer = row["spans"]
    decode = make_tokenizer().decode
    assert decode(row["input_ids"][:prefix]) == "<|im_start|>user\n"
    assert decode(row["input_ids"][postfix:answer]) == "<|im_end|>\n<|im_start|>assistant\n"
    assert decode(row["input_ids"][prefix:postfix]).endswith("three")


def checked(folder: Path, options: dict[str, Any], template: str | None = None) -> Any:
    make_workplace(folder)
    if template:
        make_tokenizer(template).save_pretrained(folder / "model")
    save_rows(folder / "rows.jsonl", mixed_rows() if template is None else make_rows(3))
    spec = CheckSpec(
        version=1, generation={}, training=FAST, arms=(ArmTried(name="treft", options=options, setting=1),)
    )
    return check_losses(Subject(spec, folder / "model", (folder / "rows.jsonl",)))["arms"]["treft"]


BARE = "{% for message in messages %}{{ message['content'] }}<|im_end|>{% endfor %}"


def test_a_template_without_such_tokens_is_one_line(tmp_path: Path) -> None:
    assert checked(tmp_path / "chatml", {}) == {"tokens": 6}
    assert checked(tmp_path / "post", {"where": "postfix"}) == {"tokens": 13}
    with pytest.raises(
        InputError, match=r"rows\.jsonl, row 1: the chat template writes no token before the user's text"
    ):
        checked(tmp_path / "bare", {}, BARE)
    assert checked(tmp_path / "bare_post", {"where": "postfix"}, BARE) == {"tokens": 1}


def test_a_model_without_such_projections_is_one_line(tmp_path: Path) -> None:
    model = make_model()
    for block in model.model.layers:
        block.self_attn.qkv_proj = block.self_attn.k_proj
        del block.self_attn.k_proj
    subject = Subject(CheckSpec(version=1, generation={}), tmp_path / "model")
    with pytest.raises(InputError, match=r"reads the output of 'k_proj', and .* \(its 'qkv_proj' gives both at once\)"):
        ARM.check(ARM.options(), subject, model)


def test_it_is_in_the_log_as_a_penalty(tmp_path: Path) -> None:
    folder = make_workplace(tmp_path / "place")
    train(folder, tmp_path / "cell", arm_spec("treft", 10.0))
    penalties = [entry["penalty"] for entry in log(tmp_path / "cell")]
    assert penalties[0] == 0 < penalties[-1]
