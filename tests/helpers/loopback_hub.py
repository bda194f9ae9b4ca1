"""A small Hugging Face hub on 127.0.0.1, for tests: repositories out of folders, some of them gated."""

import json
import threading
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

TOKEN = "hf_loopback"


class LoopbackHub:
    """Use as a context manager; ``endpoint`` goes into HF_ENDPOINT.

    ``repositories``: the folder of each, by ``datasets/org/name`` or ``org/name``. Those in ``gated`` want ``TOKEN``.
    ``truncated``: files, by their name, of which half is sent.
    """

    def __init__(self, repositories: dict[str, Path], gated: tuple[str, ...] = (), truncated: tuple[str, ...] = ()):
        self.repositories = repositories
        self.gated = gated
        self.truncated = truncated
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def commit(self, repository: str) -> str:
        """A commit's hash: it changes with the repository's content."""
        folder = self.repositories[repository]
        content = b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
        return sha1(content).hexdigest()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = urlparse(request.path).path
        self.requests.append(f"{request.command} {path}")
        api = path.startswith("/api/")
        parts = path.removeprefix("/api").strip("/").split("/")
        if api and parts[0] == "models":
            parts = parts[1:]
        length = 3 if parts[0] == "datasets" else 2
        repository, what = "/".join(parts[:length]), parts[length:]
        if repository not in self.repositories:
            return self.send(request, 404, b"", {"X-Error-Code": "RepoNotFound"})
        commit = self.commit(repository)
        if len(what) > 1 and what[1] not in ("main", commit):
            return self.send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
        files = {
            file.relative_to(self.repositories[repository]).as_posix(): file
            for file in sorted(self.repositories[repository].rglob("*"))
            if file.is_file()
        }
        if api and what[0] == "revision":
            siblings = [{"rfilename": name} for name in files]
            return self.send_json(request, {"id": repository, "sha": commit, "siblings": siblings})
        if api and what[0] == "tree":
            return self.send_json(request, [self.entry(name, file) for name, file in files.items()])
        file = files.get("/".join(what[2:]))
        if api or what[0] != "resolve" or file is None:
            return self.send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
        # As on the real hub, the list of files and the README are open to all.
        allowed = request.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository in self.gated and file.name != "README.md" and not allowed:
            return self.send(request, 401, b"", {"X-Error-Code": "GatedRepo"})
        content = file.read_bytes()
        headers = {"ETag": f'"{sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
        return self.send(request, 200, content, headers, truncate=file.name in self.truncated)

    @staticmethod
    def entry(name: str, file: Path) -> dict[str, Any]:
        content = file.read_bytes()
        digest, size = sha256(content).hexdigest(), len(content)
        lfs = {"oid": digest, "size": size, "pointerSize": 130}
        return {"type": "file", "path": name, "size": size, "oid": sha1(content).hexdigest(), "lfs": lfs}

    def send_json(self, request: BaseHTTPRequestHandler, value: Any) -> None:
        self.send(request, 200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    @staticmethod
    def send(
        request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str], truncate: bool = False
    ) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content[: len(content) // 2] if truncate else content)
        if truncate:
            request.close_connection = True
