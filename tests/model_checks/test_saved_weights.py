"""Single tensors of saved models, and what is said of files that are broken."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from emdefense.errors import InputError
from emdefense.training.weights import SavedWeights

Q, UP = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"


def save(folder: Path, shards: list[dict[str, Tensor]]) -> Path:
    """Write tensors as ``save_pretrained`` does, indexed if there is more than one shard."""
    folder.mkdir()
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors")
        return folder
    names = [f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors" for number in range(len(shards))]
    for name, tensors in zip(names, shards, strict=True):
        save_file(tensors, folder / name)
    index = {"weight_map": {key: name for name, tensors in zip(names, shards, strict=True) for key in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    first = {f"{Q}.weight": torch.randn(6, 4).bfloat16(), f"{Q}.bias": torch.randn(6).bfloat16()}
    return save(tmp_path / "model", [first, {f"{UP}.weight": torch.randn(8, 4)}])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_matrix_comes_in_fp32_and_its_file_stays_as_it_is(tmp_path: Path, dtype: torch.dtype) -> None:
    stored = torch.randn(5, 3).to(dtype)
    folder = save(tmp_path / "model", [{f"{Q}.weight": stored}])
    before = (folder / "model.safetensors").read_bytes()
    weights = SavedWeights(folder)
    found = weights.matrix(Q)
    assert found.dtype == torch.float32
    assert torch.equal(found, stored.float())
    assert weights.shape(Q) == (5, 3)
    found.zero_()  # the file is mapped into memory
    assert torch.equal(weights.matrix(Q), stored.float())
    assert (folder / "model.safetensors").read_bytes() == before


def test_each_tensor_is_read_from_its_own_shard_and_a_bias_is_no_matrix(sharded: Path) -> None:
    weights = SavedWeights(sharded)
    assert weights.shape(Q) == (6, 4)
    assert weights.matrix(UP).shape == (8, 4)
    with pytest.raises(InputError, match=r"the model has no 'model\.layers\.0\.self_attn\.k_proj\.weight'"):
        weights.shape("model.layers.0.self_attn.k_proj")


def test_a_tied_head_is_the_embedding_and_an_untied_one_is_not(tmp_path: Path) -> None:
    embedding, head = torch.randn(7, 4), torch.randn(7, 4)
    tied = save(tmp_path / "tied", [{"model.embed_tokens.weight": embedding}])
    untied = save(tmp_path / "untied", [{"model.embed_tokens.weight": embedding, "lm_head.weight": head}])
    assert torch.equal(SavedWeights(tied).matrix("lm_head"), embedding)
    assert torch.equal(SavedWeights(untied).matrix("lm_head"), head)


def test_a_shard_that_the_index_names_and_that_is_not_there(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    weights = SavedWeights(sharded)
    assert weights.shape(Q) == (6, 4)
    with pytest.raises(InputError, match=r"model-00002-of-00002\.safetensors: there is no such file, though .* names"):
        weights.shape(UP)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", None])
def test_a_shard_that_is_not_whole(sharded: Path, content: bytes | None) -> None:
    shard = sharded / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] if content is None else content)
    with pytest.raises(InputError, match=r"model-00001-of-00002\.safetensors: not a whole safetensors file"):
        SavedWeights(sharded).shape(Q)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ('{"metadata": {}}', "there is no 'weight_map'"),
        ("[]", "there is no 'weight_map'"),
        ("{", "not valid JSON"),
        (f'{{"weight_map": {{"{Q}.weight": "model-00002-of-00002.safetensors"}}}}', f"there is no '{Q}.weight' in it"),
    ],
)
def test_an_index_that_is_broken_or_wrong(sharded: Path, index: str, message: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=message) as raised:
        SavedWeights(sharded).shape(Q)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    broken = torch.zeros(4, 4)
    broken[3, 3] = value
    with pytest.raises(InputError, match=f"'{Q}.weight' holds values that are not finite"):
        SavedWeights(save(tmp_path / "model", [{f"{Q}.weight": broken}])).matrix(Q)


def test_quantised_weights_are_not_taken_for_numbers(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", [{f"{Q}.weight": torch.ones(4, 4, dtype=torch.uint8)}])
    with pytest.raises(InputError, match=f"'{Q}.weight' holds U8"):
        SavedWeights(folder).matrix(Q)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"there are no weights \(model\.safetensors or"):
        SavedWeights(tmp_path)
