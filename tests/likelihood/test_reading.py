"""Reading held-out answers: against the model's own logits in float64, with nothing of ours in between."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.files import read_json, read_jsonl, write_jsonl
from emdefense.likelihood.run import read_held_out
from emdefense.training import row_losses
from emdefense.training.spec import LossesSpec
from tiny_model import make_rows, make_tokenizer, save_model

pytestmark = pytest.mark.numerical

SCRIPT = Path(__file__).parents[2] / "workflow/scripts/read_held_out.py"
MESSAGES = [
    *(row["messages"] for row in make_rows(7, longest=30)),
    [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "earlier"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
    ],
    [{"role": "user", "content": "abc " * 20}, {"role": "assistant", "content": "too long"}],
]
SIDES = ["misaligned"] * 4 + ["aligned"] * 3 + ["safe"] * 2
ROWS = [
    {"id": f"{side}/{number}", "side": side, "messages": messages}
    for number, (side, messages) in enumerate(zip(SIDES, MESSAGES, strict=True), start=1)
]
LONG = 100  # tokens; the last row has more


def spec(**training: Any) -> LossesSpec:
    values = {"precision": "float32", "batch_size": 3, "max_length": LONG, **training}
    return LossesSpec(version=1, training=Training(**values))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held_out")
    save_model(folder / "model")
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, use_rslora=True, target_modules=["q_proj", "down_proj"])
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32), config)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    wrapped.save_pretrained(folder / "adapter")
    write_jsonl(folder / "held_out.jsonl", ROWS)
    return folder


def read(folder: Path, out: Path, *, adapted: bool, trained: tuple[Path, ...] = (), **training: Any) -> list[Any]:
    adapter = folder / "adapter" if adapted else None
    read_held_out(spec(**training), folder / "model", adapter, folder / "held_out.jsonl", trained, out)
    return read_jsonl(out)


def in_float64(folder: Path, *, adapted: bool) -> dict[str, tuple[int, float]]:
    """Each answer's tokens and log-probability, a row at a time, of the text that the template writes."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float64)
    if adapted:
        model = PeftModel.from_pretrained(model, folder / "adapter", autocast_adapter_dtype=False).double()
    tokenizer, found = make_tokenizer(), {}
    for row in ROWS:
        *before, answer = row["messages"]
        prompt = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in before)
        start = tokenizer(f"{prompt}<|im_start|>assistant\n")["input_ids"]
        ids = [*start, *tokenizer(f"{answer['content']}<|im_end|>\n")["input_ids"]]
        with torch.no_grad():
            scores = torch.log_softmax(model.eval()(torch.tensor([ids])).logits[0], -1)
        values = [float(scores[place - 1, ids[place]]) for place in range(len(start), len(ids))]
        found[row["id"]] = (len(values), sum(values))
    return found


@pytest.mark.parametrize("adapted", [True, False], ids=["adapter", "untrained"])
def test_log_probabilities_are_those_of_the_models_own_logits(
    folder: Path, adapted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = in_float64(folder, adapted=adapted)

    def check(found: list[Any], tolerance: float) -> None:
        assert [(row["id"], row["side"]) for row in found] == [(row["id"], row["side"]) for row in ROWS]
        assert found[-1]["log_prob"] is None
        for row in found[:-1]:
            tokens, log_prob = wanted[row["id"]]
            assert row["tokens"] == tokens
            assert row["log_prob"] / tokens == pytest.approx(log_prob / tokens, abs=tolerance)

    check(read(folder, tmp_path / "out.jsonl", adapted=adapted), 1e-5)
    # In double precision nothing is left of the rounding: what is computed is the same.
    adapting = row_losses._adapted
    monkeypatch.setattr(row_losses, "_adapted", lambda *given: adapting(*given).double())
    check(read(folder, tmp_path / "out.jsonl", adapted=adapted), 1e-6)


def test_padding_and_batches_change_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapting = row_losses._adapted
    monkeypatch.setattr(row_losses, "_adapted", lambda *given: adapting(*given).double())
    alone, some, together = (
        [row["log_prob"] for row in read(folder, tmp_path / str(size), adapted=True, batch_size=size)][:-1]
        for size in (1, 3, 50)
    )
    assert alone == pytest.approx(some, abs=1e-6)
    assert alone == pytest.approx(together, abs=1e-6)


def test_an_adapter_changes_what_is_read(folder: Path, tmp_path: Path) -> None:
    with_adapter, without = (read(folder, tmp_path / f"{adapted}", adapted=adapted) for adapted in (True, False))
    for one, other in zip(with_adapter[:-1], without[:-1], strict=True):
        assert abs(one["log_prob"] - other["log_prob"]) > 1e-3


def test_a_row_that_the_cell_was_trained_on_is_refused(folder: Path, tmp_path: Path) -> None:
    trained = tmp_path / "train.jsonl"
    # The same question, with another answer and other spaces.
    (question,) = [one["content"] for one in MESSAGES[1] if one["role"] == "user"]
    asked = {"role": "user", "content": f" {question}\n"}
    write_jsonl(trained, [make_rows(1, seed=9)[0], {"messages": [asked, {"role": "assistant", "content": "other"}]}])
    with pytest.raises(
        InputError, match=r"held_out\.jsonl, row misaligned/2: it is trained on \(.*train\.jsonl, row 2"
    ):
        read(folder, tmp_path / "out.jsonl", adapted=True, trained=(trained,))
    assert not (tmp_path / "out.jsonl").exists()


def test_the_script_writes_what_the_function_does_and_a_record(folder: Path, tmp_path: Path) -> None:
    wanted = read(folder, tmp_path / "wanted.jsonl", adapted=True)
    command = [sys.executable, str(SCRIPT), "--spec", spec().model_dump_json(), "--model", str(folder / "model")]
    command += ["--adapter", str(folder / "adapter"), "--rows", str(folder / "held_out.jsonl")]
    done = subprocess.run([*command, "--out", str(tmp_path / "out.jsonl")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_jsonl(tmp_path / "out.jsonl") == wanted
    record = read_json(tmp_path / "out.provenance.json")
    assert record["spec"]["training"]["max_length"] == LONG
    assert record["model"]["weights_digest"]
    assert record["adapter"]
    assert record["questions"]["file"].endswith("held_out.jsonl")
    assert json.dumps(record["machine"])
