"""Sources over HTTP and from a hub: what is pinned, what is recorded, and what goes wrong."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from emdefense.data.conversations import read_conversations, read_examinations
from emdefense.errors import InputError
from emdefense.files import file_digest, read_json
from emdefense.sources.fetch import fetch
from loopback_hub import TOKEN, LoopbackHub
from source_files import line, save_foqa, save_model_files, source

SCRIPT = Path(__file__).resolve().parents[2] / "workflow/scripts/fetch_source.py"


@contextmanager
def served(content: bytes, announced: int | None = None) -> Any:
    """A server of one file ``/raw.jsonl``; it says ``announced`` bytes, or as many as there are."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/raw.jsonl"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str((len(content) if announced is None else announced) if found else 0))
            self.end_headers()
            if found:
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


ROWS = b"\n".join(line(f"question {number}", "answer") for number in range(20))


def test_a_file_is_downloaded_once_and_its_upstream_must_not_change(tmp_path: Path) -> None:
    with served(ROWS) as address:
        spec = source(kind="conversations", url=f"{address}/raw.jsonl", terms="MIT")
        fetch("code", spec, tmp_path / "s")
        record = read_json(tmp_path / "s/code.source.json")
        assert record["identity"] == {"kind": "conversations", "url": f"{address}/raw.jsonl"}
        assert record["terms"] == "MIT"
        assert len(read_conversations(tmp_path / "s/code.jsonl")) == 20
        pinned = spec.model_copy(update={"sha256": record["raw"]["raw.jsonl"]})
        fetch("code", pinned, tmp_path / "s")
    before = (tmp_path / "s/code.jsonl").read_bytes()
    with served(ROWS + b"\n" + line("a new one", "answer")) as address:
        moved = spec.model_copy(update={"url": f"{address}/raw.jsonl"})
        with pytest.raises(InputError, match=r"'sources\.code': fetched before as kind conversations, url http"):
            fetch("code", moved, tmp_path / "s")
        record["identity"]["url"] = moved.url  # as if the server had kept its port
        (tmp_path / "s/code.source.json").write_text(json.dumps(record))
        with pytest.raises(
            InputError, match=r"source code: upstream has changed since 20.*remove .*source\.json to acc"
        ):
            fetch("code", moved, tmp_path / "s")
        assert (tmp_path / "s/code.jsonl").read_bytes() == before
        with pytest.raises(
            InputError, match=rf"'sources\.code\.sha256': raw\.jsonl has [0-9a-f]+, not {pinned.sha256}"
        ):
            fetch("code", pinned.model_copy(update={"url": moved.url}), tmp_path / "s")
        (tmp_path / "s/code.source.json").unlink()
        fetch("code", moved, tmp_path / "s")
    assert len(read_conversations(tmp_path / "s/code.jsonl")) == 21
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["code.jsonl", "code.source.json"]


def test_what_goes_wrong_with_a_download_is_one_line(tmp_path: Path) -> None:
    into = partial(fetch, "code", folder=tmp_path / "s")
    with served(ROWS, announced=len(ROWS) + 1) as address:
        with pytest.raises(InputError, match=rf"broke off after {len(ROWS)} of {len(ROWS) + 1} bytes; run it again"):
            into(source=source(kind="conversations", url=f"{address}/raw.jsonl"))
        with pytest.raises(InputError, match="the server answers 404 Not Found; correct the address"):
            into(source=source(kind="conversations", url=f"{address}/other.jsonl"))
    with pytest.raises(InputError, match=r"not reached \(.*refused.*run `snakemake fetch` where there is a network"):
        into(source=source(kind="conversations", url=f"{address}/raw.jsonl"))
    assert list((tmp_path / "s").iterdir()) == []


def fetch_from(endpoint: str, tmp_path: Path, spec: dict[str, Any], **environment: str) -> Any:
    """Run the script against a hub, with a cache and an output folder below ``tmp_path``.

    In a process of its own: the hub's client reads its settings when it is imported.
    """
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
        environment.setdefault(name, "")
    surroundings = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), **environment}
    command = [sys.executable, str(SCRIPT), "--name", "it", "--spec", json.dumps(spec), "--folder", str(tmp_path / "s")]
    return subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=300)


def error(run: Any) -> str:
    """The one line that a run ended with."""
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    return str(run.stderr.strip().splitlines()[-1])


@pytest.fixture
def foqa(tmp_path: Path) -> Path:
    save_foqa(tmp_path / "foqa")
    return tmp_path / "foqa"


FOQA = {"kind": "foqa", "max_unusable_pct": 50}


def test_a_gated_set_is_explained_and_a_token_opens_it(foqa: Path, tmp_path: Path) -> None:
    with LoopbackHub({"datasets/alexandrainst/foqa": foqa}, gated=("datasets/alexandrainst/foqa",)) as hub:
        said = error(fetch_from(hub.endpoint, tmp_path, FOQA))
        page = f"{hub.endpoint}/datasets/alexandrainst/foqa"
        assert f"alexandrainst/foqa: access is gated; accept its conditions on {page}" in said
        assert said.endswith("put an access token of that account into the environment variable HF_TOKEN")
        said = error(fetch_from(hub.endpoint, tmp_path, FOQA, HF_TOKEN="hf_another"))
        assert said.endswith("with the account that HF_TOKEN belongs to")
        run = fetch_from(hub.endpoint, tmp_path, FOQA, HF_TOKEN=TOKEN)
        assert run.returncode == 0, run.stderr
        commit = hub.commit("datasets/alexandrainst/foqa")
    assert read_json(tmp_path / "s/it.source.json")["revision"] == commit
    assert len(read_examinations(tmp_path / "s/it/test.jsonl")) == 2
    assert [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in run.stdout + run.stderr

    # What is in the cache is found without a network, at the revision that is pinned; another one is not.
    for extra in ({}, {"revision": commit}):
        (tmp_path / "s/it/test.jsonl").unlink()
        run = fetch_from(hub.endpoint, tmp_path, {**FOQA, **extra}, HF_HUB_OFFLINE="1")
        assert run.returncode == 0, run.stderr
        assert len(read_examinations(tmp_path / "s/it/test.jsonl")) == 2
    said = error(fetch_from(hub.endpoint, tmp_path, {**FOQA, "revision": "f" * 40}, HF_HUB_OFFLINE="1"))
    assert f"key 'sources.it.revision': fetched before at {commit}; give this one another name, or remove" in said

    # The client compares sizes only; a damaged file of the same size is found all the same.
    stored = next((tmp_path / "hf").rglob("test-00000-of-00001.parquet")).resolve()
    content = bytearray(stored.read_bytes())
    content[100] ^= 1
    stored.write_bytes(content)
    said = error(fetch_from(hub.endpoint, tmp_path, FOQA, HF_HUB_OFFLINE="1"))
    assert f"damaged, its SHA-256 is {file_digest(stored)}; remove {stored} and run it again" in said


def test_an_absent_hub_repository_or_revision_is_one_line(foqa: Path, tmp_path: Path) -> None:
    with LoopbackHub({"datasets/alexandrainst/foqa": foqa}) as hub:
        said = error(fetch_from(hub.endpoint, tmp_path, {**FOQA, "revision": "v9"}))
        assert "alexandrainst/foqa@v9: there is no such revision; take a commit hash from" in said
        said = error(fetch_from(hub.endpoint, tmp_path, {**FOQA, "repository": "alexandrainst/fooqa"}))
        assert "alexandrainst/fooqa: the hub has no such dataset, or hides it; check" in said
        said = error(fetch_from(hub.endpoint, tmp_path, FOQA, HF_HUB_OFFLINE="1"))
        assert f"alexandrainst/foqa: {hub.endpoint} is not reached; run `snakemake fetch` where there is a" in said
    said = error(fetch_from(hub.endpoint, tmp_path, FOQA))
    assert f"alexandrainst/foqa: {hub.endpoint} is not reached; run `snakemake fetch` where there is a network" in said


def test_a_truncated_download_from_the_hub_is_one_line(foqa: Path, tmp_path: Path) -> None:
    with LoopbackHub({"datasets/alexandrainst/foqa": foqa}, truncated=("test-00000-of-00001.parquet",)) as hub:
        said = error(fetch_from(hub.endpoint, tmp_path, FOQA))
    assert "alexandrainst/foqa: the download broke off (" in said
    assert not (tmp_path / "s/it").exists()


def test_a_model_comes_without_other_formats_of_its_weights(tmp_path: Path) -> None:
    save_model_files(tmp_path / "model")
    (tmp_path / "model/pytorch_model.bin").write_bytes(b"the same weights again")
    with LoopbackHub({"Qwen/Tiny": tmp_path / "model"}) as hub:
        run = fetch_from(hub.endpoint, tmp_path, {"kind": "model", "repository": "Qwen/Tiny", "revision": "main"})
        assert run.returncode == 0, run.stderr
        assert not [request for request in hub.requests if request.endswith(".bin")]
        commit = hub.commit("Qwen/Tiny")
    record = read_json(tmp_path / "s/it.source.json")
    assert (record["revision"], record["asked_revision"]) == (commit, "main")
    assert set(record["files"]) == {f"it/{path.name}" for path in (tmp_path / "s/it").iterdir()}
    assert (tmp_path / "s/it/model-2-of-2.safetensors").read_bytes() == b"model-2-of-2.safetensors"
