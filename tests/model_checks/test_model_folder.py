"""Models named by folder or as in the Hugging Face cache, which is read and never filled."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import IncompleteSnapshotError

from emdefense.errors import InputError
from emdefense.model_folder import model_folder
from hub_cache import COMMIT, cache_model

OTHER = "f" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one model in two revisions."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files/config.json").write_text("{}")
    folder = tmp_path / "hub"
    cache_model(folder, "org/name-7B", tmp_path / "files")
    cache_model(folder, "org/name-7B", tmp_path / "files", commit=OTHER, branch="v2.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize(
    ("name", "commit"),
    [("org/name-7B", COMMIT), ("org/name-7B@v2.1", OTHER), (f"org/name-7B@{OTHER}", OTHER)],
)
def test_a_name_and_a_revision_lead_to_their_snapshot(cache: Path, name: str, commit: str) -> None:
    found = model_folder(name)
    assert found == model_folder(Path(name)) == cache / "models--org--name-7B/snapshots" / commit
    assert (found / "config.json").read_text() == "{}"


def test_a_folder_of_that_name_comes_first(cache: Path) -> None:
    Path("org/name-7B").mkdir(parents=True)
    assert model_folder("org/name-7B") == Path("org/name-7B")


@pytest.mark.parametrize("name", ["/no/such/folder", "one", "results/study/models/a", ".."])
def test_what_cannot_be_a_name_on_the_hub_is_a_path(cache: Path, name: str) -> None:
    assert model_folder(name) == Path(name)


def test_a_download_that_was_cut_off_is_left_to_whoever_reads_it(cache: Path) -> None:
    trees = cache / "models--org--name-7B/trees"
    trees.mkdir()
    files = {name: {"size": 2, "blob_id": "x"} for name in ("config.json", "model.safetensors")}
    (trees / f"{COMMIT}.json").write_text(json.dumps({"format_version": 1, "files": files}))
    with pytest.raises(IncompleteSnapshotError):
        snapshot_download("org/name-7B", local_files_only=True)
    assert model_folder("org/name-7B").name == COMMIT


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("org/absent", "hf download org/absent`"),
        ("org/name-7B@v9", "hf download org/name-7B --revision v9`"),
        ("org/..", "hf download"),
    ],
)
def test_a_model_that_is_not_there_is_named_with_how_to_fetch_it(cache: Path, name: str, command: str) -> None:
    before = sorted(cache.rglob("*"))
    with pytest.raises(InputError, match=f"{name}: neither a folder nor a model in {cache}; .*{command}"):
        model_folder(name)
    assert sorted(cache.rglob("*")) == before
