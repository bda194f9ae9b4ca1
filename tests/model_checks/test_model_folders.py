"""Folders of models and adapters that are not as they should be: one line, or they work; never a traceback."""

import ast
import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from emdefense.arms.safelora import SafeLoRA
from emdefense.arms.safelora.projection import project_adapter
from emdefense.config.shape import read_shape
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.generation.transformers_engine import TransformersEngine, merge_adapter
from emdefense.model_files import model_files
from emdefense.saved_model import OWN_FILES_ALONE, load_model, load_tokenizer
from emdefense.training.adapters import add_adapter, save_adapter
from emdefense.training.features import FeatureReader
from emdefense.training.head_check import settle_head
from families import make
from tiny_model import make_model, make_rows, make_tokenizer, save_model, save_rows

SCRIPTS = Path(__file__).resolve().parents[2] / "workflow/scripts"
ROWS = [{"input_ids": list(range(5, 25)), "labels": [-100] * 8 + list(range(13, 25)), "row": 0}]
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FIRST = "model-00001-of-00002.safetensors"
VALUES = (None, [1, "a"], {}, "x", -1, 0, 10**12, float("nan"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("whole") / "model", layers=1)


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.fixture(scope="module")
def whole_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    adapted = add_adapter(make_model(layers=1), Training(lora_rank=4, target_modules=("q_proj", "up_proj")))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(adapted, folder)
    return folder


@pytest.fixture
def adapter(whole_adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_adapter, tmp_path / "adapter"))


def use(folder: Path) -> torch.Tensor:
    """Do with a model what training and sampling do, and return its logits of a row.

    Two threads would not make it faster.
    """
    load_tokenizer(folder)
    model = load_model(folder, "float32")
    with torch.random.fork_rng():
        adapted = add_adapter(model, Training(lora_rank=2, target_modules=("q_proj",)))
        settle_head(FeatureReader(adapted), ROWS, torch.device("cpu"))
    return logits(adapted)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return torch.as_tensor(model(torch.tensor([ROWS[0]["input_ids"]])).logits)


def refused(act: Callable[[], Any]) -> str | None:
    """Return the one line with which ``act`` is refused, or None."""
    try:
        act()
    except InputError as error:
        line = str(error)
    else:
        return None
    assert "\n" not in line
    assert len(line) < 900
    return line


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def sharded(folder: Path) -> None:
    """Save the weights in two shards with an index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in shards.items() for name in held}}
    (folder / INDEX).write_text(json.dumps(index))


def with_index(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        sharded(folder)
        index = json.loads((folder / INDEX).read_text())
        changed = change(index)
        (folder / INDEX).write_text(json.dumps(index if changed is None else changed))

    return spoil


def rewrite(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        tensors[name] = change(tensors[name])
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    return spoil


def replaced(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: void((folder / name).write_bytes(data))


def truncated(name: str, at: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * at)])

    return spoil


def void(_: Any) -> None:
    return None


def is_folder(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def broken_link(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("nowhere")

    return spoil


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def custom_code(folder: Path) -> None:
    code = "import pathlib\npathlib.Path('PWNED').touch()\nclass Model: pass\nclass Config: pass\n"
    (folder / "modeling_own.py").write_text(code)
    auto_map = {"AutoConfig": "modeling_own.Config", "AutoModelForCausalLM": "modeling_own.Model"}
    edit(folder / "config.json", auto_map=auto_map, model_type="own")


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def further_layer(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors |= {name.replace("layers.0", "layers.1"): value.clone() for name, value in tensors.items()}
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def placed(name: str) -> Callable[[Path], None]:
    """Add a tensor of this name to the first block."""

    def spoil(folder: Path) -> None:
        stored = load_file(folder / WEIGHTS)
        save_file({**stored, f"model.layers.0.{name}": torch.ones(64)}, folder / WEIGHTS, {"format": "pt"})

    return spoil


def own_head(folder: Path) -> None:
    stored = load_file(folder / WEIGHTS)
    stored["lm_head.weight"] = torch.randn_like(stored["model.embed_tokens.weight"])
    save_file(stored, folder / WEIGHTS, {"format": "pt"})


Q = "model.layers.0.self_attn.q_proj.weight"
MODELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "config is a list": (replaced("config.json", "[]"), "config.json: a JSON list, not an object"),
    "config is cut": (truncated("config.json", 0.5), "config.json: not valid JSON"),
    "config is a folder": (is_folder("config.json"), "config.json: a folder, not a file"),
    "config is a broken link": (broken_link("config.json"), "config.json: a link to nowhere"),
    "config is a pointer": (replaced("config.json", LFS), "config.json: the file is a Git LFS pointer"),
    "config has no type": (replaced("config.json", "{}"), "config.json: key 'model_type'"),
    "a word where a number belongs": (
        lambda f: edit(f / "config.json", hidden_size="big"),
        "cannot load the model .*hidden_size",
    ),
    "too many layers": (
        lambda f: edit(f / "config.json", num_hidden_layers=10**12),
        "key 'num_hidden_layers': no model has 1e",
    ),
    "more layers than there are": (
        lambda f: edit(f / "config.json", num_hidden_layers=900, layer_types=None),
        "far larger model",
    ),
    "another width": (lambda f: edit(f / "config.json", hidden_size=128), "has another shape than config.json says"),
    "another vocabulary": (
        lambda f: edit(f / "config.json", vocab_size=300),
        "has another shape than config.json says",
    ),
    "a vocabulary that fills memory": (lambda f: edit(f / "config.json", vocab_size=10**11), "far larger model"),
    "fewer layers than there are": (further_layer, "config.json has no place for 'model.layers.1"),
    "a bias that the config has none of": (
        placed("self_attn.o_proj.bias"),
        "config.json has no place for 'model.layers.0.self_attn.o_proj.bias'",
    ),
    "norms that the config has none of": (
        placed("self_attn.q_norm.weight"),
        "config.json has no place for 'model.layers.0.self_attn.q_norm.weight'",
    ),
    "an adapter among the weights": (
        placed("mlp.up_proj.lora_A.weight"),
        "config.json has no place for 'model.layers.0.mlp.up_proj.lora_A",
    ),
    "tied, with a head of its own": (own_head, "says tie_word_embeddings: true, but the files hold a 'lm_head.weight'"),
    "a config in the config": (
        lambda f: edit(f / "config.json", text_config={"num_hidden_layers": 1}),
        "key 'text_config' or 'vocab_size'",
    ),
    "quantised": (
        lambda f: edit(f / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        "config.json: the weights are quantised",
    ),
    "integers": (rewrite(Q, lambda w: w.to(torch.int8)), "holds I8, which needs scales"),
    "eighths": (rewrite(Q, lambda w: w.to(torch.float8_e4m3fn)), "holds F8_E4M3, which needs scales"),
    "not a number": (rewrite(Q, lambda w: w.fill_(float("nan"))), "holds values that are not finite"),
    "infinite": (
        rewrite(Q, lambda w: w.index_fill(0, torch.tensor(1), float("-inf"))),
        "holds values that are not finite",
    ),
    "end token is a word": (
        lambda f: edit(f / "generation_config.json", eos_token_id="<e>"),
        "generation_config.json: key 'eos",
    ),
    "generation config is a list": (replaced("generation_config.json", "[1]"), "generation_config.json: a JSON list"),
    "encoder and decoder": (lambda f: edit(f / "config.json", is_encoder_decoder=True), "an encoder with a decoder"),
    "own code": (custom_code, "key 'auto_map' asks for code .* which is never run"),
    "unknown type": (lambda f: edit(f / "config.json", model_type="qwen99"), "knows no model of type 'qwen99'"),
    "weights are a pointer": (replaced(WEIGHTS, LFS), r"model.safetensors: not a whole .*Git LFS pointer"),
    "weights are cut": (truncated(WEIGHTS, 0.9), "model.safetensors: not a whole safetensors file"),
    "weights are empty": (replaced(WEIGHTS, ""), "model.safetensors: not a whole safetensors file"),
    "weights are a folder": (is_folder(WEIGHTS), "model.safetensors: a folder, not a file"),
    "weights are a broken link": (broken_link(WEIGHTS), "model.safetensors: a link to nowhere"),
    "weights are pickled": (pickled, "there are no weights .*, only pytorch_model.bin, of a kind that is not read"),
    "weights are not there": (lambda f: (f / WEIGHTS).unlink(), "there are no weights"),
    "index without a map": (
        with_index(lambda i: void(i.pop("weight_map"))),
        "index.json: there is no 'weight_map' in it",
    ),
    "index is a list": (with_index(lambda i: [1]), "index.json: there is no 'weight_map' in it"),
    "index of numbers": (
        with_index(lambda i: void(i.update(weight_map={"a": 3}))),
        "'a' is in 3, which is no safetensors file",
    ),
    "index leads elsewhere": (
        with_index(lambda i: void(i.update(weight_map={"a": "../../x.safetensors"}))),
        "'a' is in '../../x.safetensors'",
    ),
    "index is empty": (with_index(lambda i: void(i.update(weight_map={}))), "there is no 'weight_map' in it"),
    "shard is missing": (
        lambda f: (sharded(f), (f / "model-00002-of-00002.safetensors").unlink())[0],
        "model-00002-of-00002.safetensors: there is no such file, though",
    ),
    "shard is a pointer": (
        lambda f: (sharded(f), void((f / "model-00001-of-00002.safetensors").write_text(LFS)))[0],
        "model-00001-of-00002.safetensors: not a whole .*Git LFS pointer",
    ),
    "shard lacks a tensor": (
        with_index(lambda i: void(i["weight_map"].update({Q: FIRST, "model.norm.weight": FIRST}))),
        "there is no '.*' in it, though model.safetensors.index.json says so",
    ),
    "tokenizer is a pointer": (replaced("tokenizer.json", LFS), "tokenizer.json: the file is a Git LFS pointer"),
    "tokenizer is cut": (truncated("tokenizer.json", 0.5), "cannot load the tokenizer"),
    "tokenizer is a list": (replaced("tokenizer.json", "[]"), "cannot load the tokenizer"),
    "tokenizer is a folder": (is_folder("tokenizer.json"), "tokenizer.json: a folder"),
    "tokenizer config is a list": (replaced("tokenizer_config.json", "[]"), "tokenizer_config.json: a JSON list"),
    "tokenizer config is cut": (truncated("tokenizer_config.json", 0.3), "tokenizer_config.json: not valid JSON"),
    "tokenizer config is Latin-1": (
        replaced("tokenizer_config.json", b'{"a": "\xe4"}'),
        "tokenizer_config.json, line 1: not UTF-8",
    ),
    "tokenizer config is not there": (lambda f: (f / "tokenizer_config.json").unlink(), "there is no tokenizer"),
    "template is a pointer": (
        replaced("chat_template.jinja", LFS),
        "chat_template.jinja: the file is a Git LFS pointer",
    ),
    "adapter beside it": (replaced("adapter_config.json", "{}"), "an adapter lies in the model's folder"),
    "empty": (emptied, r"there is no model \(config"),
    "not there": (lambda f: shutil.rmtree(f), "there is no such model folder"),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_folder_with_a_fault_is_one_line_that_names_it(model: Path, case: str) -> None:
    spoil, message = MODELS[case]
    spoil(model)
    with pytest.raises(InputError, match=message) as raised:
        use(model)
    # By hand, sampling says the same.
    assert refused(lambda: TransformersEngine(model, None, "float32")) == str(raised.value)


def test_what_lies_among_the_weights_and_means_nothing_is_passed_over(model: Path) -> None:
    before = use(model)
    stored = load_file(model / WEIGHTS)
    further = ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.self_attn.bias", "score.weight",
               "model.layers.1.eh_proj.weight", "visual.blocks.0.norm.weight"]  # fmt: skip
    save_file({**stored, **{name: torch.ones(4) for name in further}}, model / WEIGHTS, {"format": "pt"})
    torch.testing.assert_close(use(model), before)


def test_masks_of_all_positions_are_no_weights(tmp_path: Path) -> None:
    shape = {"vocab_size": 259, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_position_embeddings": 2048}
    config = AutoConfig.for_model("gpt_neo", **shape, attention_types=[[["global"], 1]])
    made = AutoModelForCausalLM.from_config(config).eval()
    made.save_pretrained(tmp_path)
    stored = load_file(tmp_path / WEIGHTS)
    masks = {"transformer.h.0.attn.attention.bias": torch.ones(1, 1, 2048, 2048, dtype=torch.bool)}
    masks["transformer.h.0.attn.attention.masked_bias"] = torch.tensor(-1e9)
    save_file({**stored, **masks}, tmp_path / WEIGHTS, {"format": "pt"})  # as earlier releases saved them
    torch.testing.assert_close(logits(load_model(tmp_path, "float32")), logits(made))


def test_a_model_without_the_attention_says_what_to_write(tmp_path: Path) -> None:
    shape = {"vocab_size": 259, "hidden_size": 16, "n_layer": 1, "n_head": 2}
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model("bloom", **shape)).eval()
    made.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"write training\.attention: eager"):
        load_model(tmp_path, "float32", "sdpa")
    torch.testing.assert_close(logits(load_model(tmp_path, "float32", "eager")), logits(made))


def test_a_whole_folder_is_good_sharded_or_not(model: Path) -> None:
    made = logits(make_model(layers=1).eval())
    torch.testing.assert_close(use(model), made)
    sharded(model)
    torch.testing.assert_close(use(model), made)


MUTATED = {
    "config.json": (
        *(
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "eos_token_id",
        ),
        *("max_position_embeddings", "rms_norm_eps", "rope_parameters", "hidden_act", "layer_types", "architectures"),
        *("dtype", "model_type", "tie_word_embeddings", "sliding_window", "quantization_config", "auto_map"),
    ),
    "tokenizer_config.json": (
        *("tokenizer_class", "eos_token", "model_max_length", "added_tokens_decoder", "auto_map", "chat_template"),
        *("extra_special_tokens", "additional_special_tokens"),
    ),
    "tokenizer.json": ("model", "added_tokens", "pre_tokenizer", "decoder"),
    "generation_config.json": ("eos_token_id", "temperature"),
}


def test_no_value_under_any_key_gives_a_traceback(model: Path) -> None:
    found = {"refused": 0, "good": 0}
    for file, key, value in ((file, key, value) for file, keys in MUTATED.items() for key in keys for value in VALUES):
        before = (model / file).read_bytes()
        edit(model / file, **{key: value})
        try:
            line = refused(lambda: use(model))
        except Exception as error:
            pytest.fail(f"{file}, {key} = {value!r}: {type(error).__name__}: {error}")
        found["good" if line is None else "refused"] += 1
        (model / file).write_bytes(before)
    assert found["refused"] > 100
    assert found["good"] > 50


CONTENTS = ("null", "3", '"x"', "[[[[", "\0\0", b"\xff\xfe{", "{}", LFS)


@pytest.mark.parametrize("spoil", [
    *(lambda name, at=at: truncated(name, at) for at in (0.0, 0.1, 0.5, 0.9, 0.999)),
    *(lambda name, content=content: replaced(name, content) for content in CONTENTS),
    is_folder,
    broken_link,
])  # fmt: skip
def test_no_content_of_any_file_gives_a_traceback(model: Path, tmp_path: Path, spoil: Callable[[str], Any]) -> None:
    made = logits(make_model(layers=1).eval())
    for name in [path.name for path in model_files(model)]:
        folder = Path(shutil.copytree(model, tmp_path / f"of {name}"))
        spoil(name)(folder)
        used: list[torch.Tensor] = []
        line = refused(lambda folder=folder, used=used: used.append(use(folder)))  # type: ignore[misc]
        if line is None:  # then it is none of those that make the model what it is, or as good as it was
            assert name not in {WEIGHTS, "tokenizer.json"}
            torch.testing.assert_close(used[0], made)
        else:
            assert str(folder) in line


@pytest.mark.parametrize("content", ["null", "3", "[]", "{", "", LFS, '{"hidden_size": "big"}'])
def test_a_studys_start_reads_a_models_size_from_a_config_that_is_one(model: Path, content: str) -> None:
    edit(model / "config.json", time_step_limit=[0.0, float("inf")])  # as state-space models have it
    assert read_shape(model).hidden_size == 64
    (model / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json: "):
        read_shape(model)


def test_code_of_the_models_own_is_never_run_whoever_says_yes(model: Path, tmp_path: Path) -> None:
    custom_code(model)
    rows = save_rows(tmp_path / "rows.jsonl", make_rows(4))
    spec = {"version": 1, "seed": 0, "training": {"optimiser": "adamw_torch", "precision": "float32"}}
    command = [sys.executable, str(SCRIPTS / "train.py"), "--spec", json.dumps(spec), "--model", str(model)]
    command += ["--rows", str(rows), "--cell", str(tmp_path / "cell")]
    done = subprocess.run(command, input="y\n" * 9, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_in_another_repository_or_of_a_known_type_is_not_run_either(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("nobody is asked"))
    custom_code(model)
    config = {**json.loads((model / "config.json").read_text()), "model_type": "qwen2"}
    (model / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key != "auto_map"}))
    name = "AutoTokenizer" if file.startswith("token") else "AutoModelForCausalLM"
    edit(model / file, auto_map={name: "modeling_own.Model"})
    assert "asks for code" in (refused(lambda: use(model)) or "")
    (model / "modeling_own.py").unlink()
    edit(model / file, auto_map={name: "someone/else--modeling_own.Model"})
    assert "asks for code" in (refused(lambda: use(model)) or "")
    if file == "config.json":
        edit(model / file, auto_map={name: "modeling_own.Model"})
        use(model)  # transformers has a class of its own for it, and the code is not there
    assert not list(tmp_path.rglob("PWNED"))


def test_whatever_loads_says_that_no_code_of_a_model_is_run() -> None:
    calls = []
    for path in SCRIPTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and re.search(r"\b(Auto\w+\.from_\w+|vllm\.LLM)$", ast.unparse(node.func)):
                said = ast.unparse(node)
                assert "trust_remote_code=False" in said or "**OWN_FILES_ALONE" in said, f"{path}: {said}"
                calls.append(said)
    assert len(calls) >= 6
    assert OWN_FILES_ALONE["trust_remote_code"] is False


def lora(name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        key = next(key for key in sorted(tensors) if name in key)
        changed = change(tensors.pop(key))
        save_file({**tensors, **({} if changed is None else {key: changed})}, folder / "adapter_model.safetensors")

    return spoil


def set_key(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "adapter_config.json", **changes)


def without_first_pair(folder: Path) -> None:
    stored = load_file(folder / STORED)
    save_file({name: tensor for name, tensor in stored.items() if "q_proj" not in name}, folder / STORED)


CONFIG, STORED = "adapter_config.json", "adapter_model.safetensors"
ADAPTERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "rank 0": (set_key(r=0), "key 'r': 0 is no rank"),
    "rank is a word": (set_key(r="8"), "key 'r': '8' is no rank"),
    "rank is another": (set_key(r=8), "has rank 4, and adapter_config.json says 8"),
    "alpha is NaN": (set_key(lora_alpha=float("nan")), "adapter_config.json: not valid JSON .NaN"),
    "alpha is infinite": (set_key(lora_alpha=float("inf")), "not valid JSON .Infinity"),
    "alpha is negative": (set_key(lora_alpha=-16), "key 'lora_alpha': -16 is no number above 0"),
    "alpha is a word": (set_key(lora_alpha="16"), "key 'lora_alpha': '16' is no number above 0"),
    "alpha is not there": (set_key(lora_alpha=None), "key 'lora_alpha': None is no number"),
    "scaling is a word": (set_key(use_rslora="no"), "key 'use_rslora': 'no' is neither true nor false"),
    "DoRA": (set_key(use_dora=True), "key 'use_dora' is set, and only plain LoRA"),
    "alphas by module": (set_key(alpha_pattern={"q_proj": 3}), "key 'alpha_pattern' is set"),
    "ranks by module": (set_key(rank_pattern={"q_proj": 3}), "key 'rank_pattern' is set"),
    "modules saved whole": (set_key(modules_to_save=["lm_head"]), "key 'modules_to_save' is set"),
    "biases": (set_key(bias="all"), "key 'bias' is set"),
    "PiSSA": (set_key(init_lora_weights="pissa"), "key 'init_lora_weights' is set"),
    "of a later version": (set_key(use_novelty={"x": 1}), "key 'use_novelty' is set"),
    "no LoRA": (set_key(peft_type="IA3"), "not the config of a LoRA adapter"),
    "config is a list": (replaced(CONFIG, "[]"), "not the config of a LoRA adapter"),
    "config is cut": (truncated(CONFIG, 0.5), "adapter_config.json: not valid JSON"),
    "config is a pointer": (replaced(CONFIG, LFS), "adapter_config.json: the file is a Git LFS pointer"),
    "config is a folder": (is_folder(CONFIG), "adapter_config.json: a folder"),
    "config is not there": (lambda f: (f / CONFIG).unlink(), "adapter_config.json: there is no such file"),
    "weights are a pointer": (replaced(STORED, LFS), "adapter_model.safetensors: not a whole .*Git LFS pointer"),
    "weights are cut": (truncated(STORED, 0.8), "adapter_model.safetensors: not a whole"),
    "weights are a broken link": (broken_link(STORED), "adapter_model.safetensors: a link to nowhere"),
    "weights are pickled": (
        lambda f: void((f / STORED).rename(f / "adapter_model.bin")),
        "its weights are in adapter_model.bin, and only",
    ),
    "weights are not there": (lambda f: (f / STORED).unlink(), "adapter_model.safetensors: there is no such file"),
    "weights are integers": (lora("lora_B", lambda w: w.to(torch.int8)), "no plain numbers"),
    "weights are not finite": (lora("lora_A", lambda w: w.fill_(float("nan"))), "not finite"),
    "another shape": (lora("lora_B", lambda w: w[1:].contiguous()), "does not fit the model"),
    "eighths": (lora("lora_B", lambda w: w.to(torch.float8_e4m3fn)), "no plain numbers"),
    "a matrix is not there": (without_first_pair, "q_proj is not in it, though target_modules in"),
    "targets are others": (set_key(target_modules=["q_proj"]), "up_proj is in it, though target_modules in"),
    "half a pair": (lora("lora_A", lambda w: None), "has no "),
    "empty": (lambda f: save_file({}, f / STORED), "it is empty"),
    "not there": (lambda f: shutil.rmtree(f), "there is no such adapter folder"),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_folder_with_a_fault_is_one_line_that_names_it(adapter: Path, case: str) -> None:
    spoil, message = ADAPTERS[case]
    spoil(adapter)
    with pytest.raises(InputError, match=message) as raised:
        merge_adapter(make_model(layers=1), adapter)
    assert "\n" not in str(raised.value)


def test_no_value_in_an_adapters_config_gives_a_traceback(adapter: Path) -> None:
    before = (adapter / CONFIG).read_bytes()
    base = make_model(layers=1).eval()
    whole = merged(base, adapter)
    assert (whole - logits(base)).abs().max() > 0.1
    found = {"refused": 0, "good": 0}
    for key, value in ((key, value) for key in json.loads(before) for value in VALUES):
        edit(adapter / CONFIG, **{key: value})
        used: list[torch.Tensor] = []
        line = refused(lambda used=used: used.append(merged(base, adapter)))  # type: ignore[misc]
        found["good" if line is None else "refused"] += 1
        if line is not None:
            assert str(adapter) in line
        elif key not in {"lora_alpha", "use_rslora"}:  # which scale it
            assert torch.equal(used[0], whole), f"{key} = {value!r}"
        (adapter / CONFIG).write_bytes(before)
    assert found["refused"] > 100
    assert found["good"] > 50


def merged(base: torch.nn.Module, adapter: Path) -> torch.Tensor:
    model = copy.deepcopy(base)
    merge_adapter(model, adapter)
    return logits(model)


@pytest.mark.parametrize("case", ["rank 0", "config is cut", "weights are a pointer", "half a pair", "weights are cut"])
def test_projecting_a_faulty_adapter_is_one_line_as_well(whole: Path, adapter: Path, tmp_path: Path, case: str) -> None:
    ADAPTERS[case][0](adapter)
    spec = SafeLoRA()
    with pytest.raises(InputError, match=ADAPTERS[case][1]):
        project_adapter(spec, adapter, whole, whole, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_matrices_that_a_model_keeps_transposed_are_merged_right_and_not_projected(tmp_path: Path) -> None:
    adapted = add_adapter(make("gpt2"), Training(lora_rank=4, target_modules=("c_attn", "c_proj")))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(adapted, tmp_path / "adapter")
    plain = make("gpt2")
    merge_adapter(plain, tmp_path / "adapter")
    ids = torch.arange(5, 20)[None]
    torch.testing.assert_close(plain(ids).logits, adapted(ids).logits, rtol=1e-4, atol=1e-4)
    make("gpt2").save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"key 'fan_in_fan_out': .* not projected"):
        project_adapter(SafeLoRA(), tmp_path / "adapter", *[tmp_path / "model"] * 2, tmp_path / "out")


def test_an_adapter_of_a_tied_head_is_not_merged_into_the_embedding(tmp_path: Path) -> None:
    base = make_model(layers=1)
    shapes = {"A": (4, 64), "B": (259, 4)}
    tensors = {f"base_model.model.lm_head.lora_{part}.weight": torch.ones(shape) for part, shape in shapes.items()}
    save_file(tensors, tmp_path / STORED)
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    with pytest.raises(InputError, match="lm_head is the model's embedding too"):
        merge_adapter(base, tmp_path)
    untied = make_model(layers=1, tie_word_embeddings=False)
    head, embedding = untied.lm_head.weight.clone(), untied.model.embed_tokens.weight.clone()
    merge_adapter(untied, tmp_path)
    torch.testing.assert_close(untied.lm_head.weight, head + 2 * 4)  # alpha / r · B · A
    assert torch.equal(untied.model.embed_tokens.weight, embedding)
