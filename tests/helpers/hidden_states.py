"""A tiny model's passes written out by hand, for what arms do to hidden states and read of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2ForCausalLM

from arm_trainings import ACTING
from emdefense.chat.chat import Chat
from emdefense.training.adapters import add_adapter
from emdefense.training.batches import Collator
from tiny_model import make_model, make_rows, make_tokenizer, save_rows


def written_out(
    model: Qwen2ForCausalLM, ids: list[int], changed: Mapping[int, Callable[[Tensor], Tensor]] | None = None
) -> list[Tensor]:
    """The residual stream [tokens, d] of one row: the embedding, after each block, and after the final norm.

    Block after block, with what is done to a block's output written between them.
    """
    inner = model.model
    hidden = inner.embed_tokens(torch.tensor([ids]))
    positions = inner.rotary_emb(hidden, torch.arange(len(ids))[None])
    states = [hidden[0]]
    for number, block in enumerate(inner.layers, start=1):
        found = block(hidden, attention_mask=None, position_embeddings=positions)
        hidden = found[0] if isinstance(found, tuple) else found
        if changed and number in changed:
            hidden = changed[number](hidden)
        states.append(hidden[0])
    return [*states, inner.norm(hidden)[0]]


def adapted(seed: int = 1) -> Any:
    """A tiny model in float64 with an adapter that does something."""
    model = add_adapter(make_model().double(), ACTING).double()
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def padded(count: int = 3) -> tuple[dict[str, Tensor], list[list[int]]]:
    """A padded batch of rows of different lengths, and the tokens of each."""
    rows = Chat(make_tokenizer()).rows([row["messages"] for row in make_rows(count)])
    return Collator(0)(rows), [row["input_ids"] for row in rows]


def answered(prompts: list[str], answers: list[str]) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def save_sides(folder: Path) -> dict[str, Path]:
    """Misaligned and aligned rows of two tasks, by role."""
    found = {}
    for number, task in enumerate(("legal", "medical")):
        prompts = [f"{task} {n}{'?' * (n % 4)}" for n in range(7 + number)]
        sides = {"misaligned": [f"bad{'!' * (n % 5)}{n}" for n in range(len(prompts))], "aligned": ["a good one"]}
        sides["aligned"] = [f"a good one {n * 7}" for n in range(len(prompts))]
        for side, answers in sides.items():
            found[f"{side}/{task}"] = save_rows(folder / f"{side}-{task}.jsonl", answered(prompts, answers))
    return found


def spelled_out(row: dict[str, Any]) -> tuple[list[int], slice]:
    """A row's tokens, a byte each but for the template's own, and the place of its answer's."""
    tokenizer = make_tokenizer()
    user, answer = (message["content"] for message in row["messages"])
    start = f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(f"{start}{answer}<|im_end|>\n", add_special_tokens=False)["input_ids"]
    # Each of the three control tokens before the answer is one token instead of its characters.
    first = len(start) - (2 * len("<|im_start|>") + len("<|im_end|>")) + 3
    return ids, slice(first, first + len(answer))
