"""The files and batches of the server on 127.0.0.1: a batch ends after so many looks at it."""

import json
import re
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

ENDED = {"completed", "failed", "expired", "cancelled"}


class LoopbackBatches:
    """``answer`` is asked for each line of a batch, by its body, once the batch completes: status and reply.

    ``looks``: how often a batch is looked at before it has ended. ``endings``: the status in which the first batches
    end, ``completed`` without; one that is ``expired`` or ``cancelled`` has answered half of its requests, ``failed``
    none. ``queue``: a batch of more requests than this, all that has not ended counted, fails.

    ``fail_first``: the status of the first call of each kind.

    ``batches`` are all that were created, by id; ``names`` counts them by their metadata.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], tuple[int, dict[str, Any]]], looks: int):
        self.answer, self.looks = answer, looks
        self.endings: list[str] = []
        self.queue: int | None = None
        self.fail_first = 0
        self._failed: set[tuple[str, str, int]] = set()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.names: Counter[str] = Counter()
        self.lines: list[int] = []  # of each batch
        self._seen: Counter[str] = Counter()
        self._ids = count()

    def reply(self, method: str, path: str, headers: dict[str, str], content: bytes) -> tuple[int, bytes]:
        """Return the status and the body of an answer."""
        what, *rest = path.split("?")[0].removeprefix("/v1/").split("/")
        if self.fail_first and (call := (method, what, len(rest))) not in self._failed:
            self._failed.add(call)
            return self.fail_first, b'{"error": {"message": "try again", "code": "unavailable"}}'
        if method == "POST" and what == "files":
            found: Any = self._upload(headers["content-type"], content)
        elif what == "files" and rest[-1] == "content":
            return 200, self.files[rest[0]]
        elif method == "POST" and rest[-1:] == ["cancel"]:
            self._end(self.batches[rest[0]], "cancelled")
            found = self.batches[rest[0]]
        elif method == "POST":
            found = self._create(json.loads(content))
        elif rest:
            if rest[0] not in self.batches:
                return 404, b'{"error": {"message": "no such batch", "code": "not_found"}}'
            found = self._look(self.batches[rest[0]])
        else:
            found = self._list(re.search("after=([^&]+)", path))
        return 200, json.dumps(found).encode()

    def _list(self, after: re.Match[str] | None) -> dict[str, Any]:
        """Return a page of batches, the newest first; it has one."""
        every = list(self.batches.values())[::-1]
        start = 0 if after is None else 1 + [batch["id"] for batch in every].index(after[1])
        return {"object": "list", "data": every[start : start + 1], "has_more": start + 1 < len(every)}

    def _upload(self, content_type: str, content: bytes) -> dict[str, Any]:
        boundary = re.search("boundary=([^;]+)", content_type)[1].encode()
        parts = dict(part.split(b"\r\n\r\n", 1) for part in content.split(b"--" + boundary) if b"\r\n\r\n" in part)
        (body,) = (body for head, body in parts.items() if b'name="file"' in head)
        assert any(b'name="purpose"' in head and body == b"batch\r\n" for head, body in parts.items())
        name = self._keep(body.removesuffix(b"\r\n"))
        return {"id": name, "object": "file", "bytes": len(body), "created_at": 0, "filename": "f", "purpose": "batch"}

    def _keep(self, content: bytes) -> str:
        name = f"file-{next(self._ids)}"
        self.files[name] = content
        return name

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        lines = self.files[body["input_file_id"]].splitlines()
        assert (body["endpoint"], body["completion_window"]) == ("/v1/chat/completions", "24h")
        assert 0 < len(lines) <= 50_000
        assert len({json.loads(line)["custom_id"] for line in lines}) == len(lines)
        batch = {"id": f"batch_{next(self._ids)}", "object": "batch", "status": "validating", "created_at": 0, **body}
        earlier = zip(self.batches.values(), self.lines, strict=True)
        queued = sum(lines for other, lines in earlier if other["status"] not in ENDED)
        self.batches[batch["id"]] = batch
        self.lines.append(len(lines))
        self.names.update(body["metadata"].values())
        if self.queue is not None and queued + len(lines) > self.queue:
            self._fail(batch, "token_limit_exceeded")
        return batch

    def _fail(self, batch: dict[str, Any], code: str) -> None:
        batch["status"] = "failed"
        batch["errors"] = {"object": "list", "data": [{"code": code, "message": "Enqueued too much.", "line": None}]}

    def _look(self, batch: dict[str, Any]) -> dict[str, Any]:
        if batch["status"] not in ENDED:
            self._seen[batch["id"]] += 1
            if self._seen[batch["id"]] < self.looks:
                batch["status"] = "in_progress"
            else:
                self._end(batch, self.endings.pop(0) if self.endings else "completed")
        return batch

    def _end(self, batch: dict[str, Any], status: str) -> None:
        if status == "failed":
            return self._fail(batch, "invalid_json_line")
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        answered = lines if status == "completed" else lines[: len(lines) // 2]
        good, bad = [], []
        for number, line in enumerate(lines):
            result = {"id": f"batch_req_{number}", "custom_id": line["custom_id"], "response": None, "error": None}
            if number >= len(answered):
                code = f"batch_{status}"
                bad.append({**result, "error": {"code": code, "message": "This request could not be executed."}})
                continue
            code, reply = self.answer(line["body"])
            result["response"] = {"status_code": code, "request_id": "r", "body": reply}
            (good if code == 200 else bad).append(result)
        batch["status"] = status
        for field, results in (("output_file_id", good[::-1]), ("error_file_id", bad)):  # in no particular order
            if results:
                batch[field] = self._keep(b"".join(json.dumps(result).encode() + b"\n" for result in results))
        return None
