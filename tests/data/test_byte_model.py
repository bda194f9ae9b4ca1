import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from conversation_rows import row
from emdefense.config.microcosm import ByteModel
from emdefense.data.byte_model import make_byte_model
from emdefense.files import write_jsonl


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("byte")
    write_jsonl(folder / "rows.jsonl", [row(f"How do I sort list {n}?", "Like this.") for n in range(20)])
    for name in ("", "again_"):
        make_byte_model(ByteModel(steps=3), [folder / "rows.jsonl"], folder / f"{name}base", folder / f"{name}instruct")
    return folder


@pytest.mark.parametrize(
    "text", ["plain", "a\tb\r\n  c ", "ünï — 日本 🙂", "<|im_end|>x", "x" * 5000, "\x00\x85\u2028"]
)
def test_any_text_survives_the_tokenizer_that_auto_tokenizer_loads(models, text):
    tokenizer = AutoTokenizer.from_pretrained(models / "instruct")
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(tokens) == text
    assert len(tokens) == len(text.replace("<|im_end|>", "!").encode())


def test_the_chat_template_is_chatml(models):
    tokenizer = AutoTokenizer.from_pretrained(models / "instruct")
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.eos_token == "<|im_end|>"


def test_base_and_instruct_differ_in_every_matrix_that_an_adapter_changes(models):
    base, instruct = (load_file(models / name / "model.safetensors") for name in ("base", "instruct"))
    matrices = [name for name in base if name.endswith("_proj.weight")]
    assert len(matrices) == 7 * 5
    assert all(not torch.equal(base[name], instruct[name]) for name in matrices)


def test_the_same_seed_gives_the_same_bytes_and_any_auto_model_loads_them(models):
    for name in ("base", "instruct"):
        first, second = (models / prefix / "model.safetensors" for prefix in (name, f"again_{name}"))
        assert first.read_bytes() == second.read_bytes()
    assert AutoModelForCausalLM.from_pretrained(models / "instruct").config.model_type == "qwen2"
