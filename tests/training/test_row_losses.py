"""The loss of single rows, against plain loops over the model's own logits in float64."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.files import read_jsonl
from emdefense.training import row_losses
from emdefense.training.adapters import add_adapter, save_adapter
from emdefense.training.row_losses import write_losses
from emdefense.training.spec import LossesSpec
from families import FAMILIES, make
from tiny_model import make_model, make_rows, make_tokenizer, save_model, save_rows

pytestmark = pytest.mark.numerical

MAX_LENGTH = 60
ROWS = [
    *make_rows(9, longest=15),
    {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "earlier"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "c"},
        ]
    },
    {"messages": [{"role": "user", "content": "abc " * 20}, {"role": "assistant", "content": "too long"}]},
    *make_rows(4, seed=1),
]
LONG = 100  # the row with the system message has more than 60 tokens


def spec(**training: Any) -> LossesSpec:
    values = {"precision": "float32", "batch_size": 4, "max_length": LONG, **training}
    return LossesSpec(version=1, training=Training(**values))


def save_random_adapter(folder: Path, model: PreTrainedModel, modules: tuple[str, ...] | None = None) -> Path:
    """An adapter as training saves it, with numbers in place of zeros."""
    training = Training(lora_rank=4, **({"target_modules": modules} if modules else {}))
    save_adapter(add_adapter(model, training), folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    torch.manual_seed(3)
    tensors = {name: 0.2 * torch.randn_like(tensor) for name, tensor in tensors.items()}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("losses")
    save_model(folder / "model")
    save_random_adapter(folder / "adapter", make_model())
    save_rows(folder / "pool.jsonl", ROWS)
    return folder


def by_hand(model: Any, messages: list[dict[str, str]]) -> tuple[int, float]:
    """The answer's tokens and the mean of −log p over them, a row and a token at a time."""
    tokenizer = make_tokenizer()
    prompt = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages[:-1])
    prompt += "<|im_start|>assistant\n"
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = tokenizer(prompt + messages[-1]["content"] + "<|im_end|>\n", add_special_tokens=False)["input_ids"]
    logits = model(input_ids=torch.tensor([ids])).logits[0].tolist()
    total = 0.0
    for place in range(len(before), len(ids)):
        row = logits[place - 1]
        highest = max(row)
        total += highest + math.log(sum(math.exp(value - highest) for value in row)) - row[ids[place]]
    return len(ids) - len(before), total / (len(ids) - len(before))


@pytest.mark.parametrize("adapter", [True, False], ids=["adapter", "untrained"])
def test_losses_are_those_of_the_models_own_logits(folder: Path, adapter: bool, tmp_path: Path) -> None:
    given = folder / "adapter" if adapter else None
    write_losses(spec(), folder / "model", folder / "pool.jsonl", tmp_path / "losses.jsonl", given)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float64)
    if adapter:
        model = PeftModel.from_pretrained(model, str(folder / "adapter"), autocast_adapter_dtype=False).double()
    found = read_jsonl(tmp_path / "losses.jsonl")
    assert [row["row"] for row in found] == list(range(1, len(ROWS) + 1))
    with torch.no_grad():
        for row, source in zip(found, ROWS, strict=True):
            if row["row"] == 11:  # 80 letters and what is around them
                assert row["loss"] is None
                continue
            tokens, loss = by_hand(model.eval(), source["messages"])
            assert row["tokens"] == tokens
            assert row["loss"] == pytest.approx(loss, rel=2e-5)


def test_an_adapter_changes_losses_and_leaves_those_of_the_model_alone(folder: Path, tmp_path: Path) -> None:
    found = {}
    for name, adapter in (("with", folder / "adapter"), ("without", None)):
        write_losses(spec(), folder / "model", folder / "pool.jsonl", tmp_path / name, adapter)
        found[name] = [row["loss"] for row in read_jsonl(tmp_path / name) if row["loss"] is not None]
    assert all(abs(a - b) > 1e-3 for a, b in zip(found["with"], found["without"], strict=True))


def test_batches_change_nothing_but_rounding_and_the_same_job_no_byte(folder: Path, tmp_path: Path) -> None:
    given = (folder / "model", folder / "pool.jsonl")
    for name, batch_size in (("one", 1), ("four", 4), ("again", 4)):
        write_losses(spec(batch_size=batch_size), *given, tmp_path / name, folder / "adapter")
    assert (tmp_path / "four").read_bytes() == (tmp_path / "again").read_bytes()
    one, four = ([row["loss"] or 0.0 for row in read_jsonl(tmp_path / name)] for name in ("one", "four"))
    assert one == pytest.approx(four, rel=1e-5)


def test_batches_hold_all_rows_once_and_no_more_tokens_than_a_trainings() -> None:
    rows = [{"input_ids": [0] * length, "row": row} for row, length in enumerate([7, 3, 30, 3, 12, 5, 9])]
    batches = list(row_losses._batches(rows, 20))
    assert sorted(row["row"] for batch in batches for row in batch) == list(range(7))
    padded = [len(batch) * max(len(row["input_ids"]) for row in batch) for batch in batches]
    assert max(size for size, batch in zip(padded, batches, strict=True) if len(batch) > 1) <= 20
    assert len(batches) < 7


def test_a_shorter_limit_leaves_out_more_and_none_at_all_is_an_error(folder: Path, tmp_path: Path) -> None:
    given = (folder / "model", folder / "pool.jsonl", tmp_path / "losses.jsonl")
    write_losses(spec(max_length=40), *given)
    missing = [row["row"] for row in read_jsonl(given[2]) if row["loss"] is None]
    assert {10, 11} < set(missing)
    with pytest.raises(InputError, match=r"pool\.jsonl: no row is as short as training\.max_length = 3 tokens"):
        write_losses(spec(max_length=3), *given)


@pytest.mark.parametrize("family", ["granite", "gemma2"])
def test_a_head_that_scales_or_caps_is_followed(family: str, tmp_path: Path) -> None:
    model = make(family)
    model.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    modules = FAMILIES[family][2]
    save_random_adapter(tmp_path / "adapter", make(family), modules)
    save_rows(tmp_path / "pool.jsonl", ROWS[:4])
    given = (tmp_path / "model", tmp_path / "pool.jsonl", tmp_path / "losses.jsonl")
    write_losses(spec(target_modules=modules, attention="eager"), *given, tmp_path / "adapter")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float64, attn_implementation="eager")
    again = PeftModel.from_pretrained(again, str(tmp_path / "adapter"), autocast_adapter_dtype=False).double().eval()
    with torch.no_grad():
        for row, source in zip(read_jsonl(given[2]), ROWS, strict=False):
            assert row["loss"] == pytest.approx(by_hand(again, source["messages"])[1], rel=1e-4)


def test_an_adapter_that_is_broken_or_of_another_model_is_one_line(folder: Path, tmp_path: Path) -> None:
    given = (spec(), folder / "model", folder / "pool.jsonl", tmp_path / "losses.jsonl")
    with pytest.raises(InputError, match=r"nowhere: it has no adapter_config\.json; train it again"):
        write_losses(*given, tmp_path / "nowhere")
    save_random_adapter(tmp_path / "other", make_model(hidden_size=32))
    with pytest.raises(InputError, match="other: cannot put the adapter on the model") as error:
        write_losses(*given, tmp_path / "other")
    assert "\n" not in str(error.value)
