"""A small OpenAI-compatible server on 127.0.0.1, for tests: deterministic scores, computed from the text."""

import argparse
import json
import math
import re
import threading
from collections import Counter
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "loopback-key"
MODEL = "gpt-4o-mini-2024-07-18"


class LoopbackJudge:
    """Use as a context manager; ``base_url`` is what the client is given, ``requests`` what came in.

    ``logprobs``: "yes", "no" (left out of replies), or "refused" (400 if asked for). ``split_numbers``: a token per
    digit. ``failures``: the first so many requests get ``failure_status``. ``fail_matching``: so does every request
    that holds this text. ``stop_after``: every request after so many gets ``stop_status``.
    """

    def __init__(
        self,
        *,
        logprobs: str = "yes",
        split_numbers: bool = False,
        failures: int = 0,
        failure_status: int = 429,
        fail_matching: str = "",
        stop_after: int | None = None,
        stop_status: int = 503,
        port: int = 0,
    ):
        self.logprobs = logprobs
        self.split_numbers = split_numbers
        self.failures = failures
        self.failure_status = failure_status
        self.fail_matching = fail_matching
        self.stop_after = stop_after
        self.stop_status = stop_status
        self.requests: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, reply = judge.answer(self.path, self.headers.get("Authorization", ""), body)
                content = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                if status == 429:
                    self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> "LoopbackJudge":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def prompts(self) -> Counter[str]:
        """How often each prompt was asked, the probe left out."""
        asked = (request["messages"][0]["content"] for request in self.requests)
        return Counter(prompt for prompt in asked if "87 100" not in prompt)

    def answer(self, path: str, authorization: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the HTTP status and the body of the reply."""
        with self._lock:
            self.requests.append(body)
            number = len(self.requests)
        prompt = body["messages"][0]["content"]
        if authorization != f"Bearer {KEY}":
            return 401, _error("Incorrect API key provided", "invalid_api_key")
        if path != "/v1/chat/completions" or body["model"] != MODEL:
            return 404, _error("The model does not exist", "model_not_found")
        if number <= self.failures or (self.fail_matching and self.fail_matching in prompt):
            return self.failure_status, _error("slow down", "rate_limit_exceeded")
        if self.stop_after is not None and number > self.stop_after:
            return self.stop_status, _error("gone", "unavailable")
        if body.get("logprobs") and self.logprobs == "refused":
            return 400, _error("logprobs are not supported", "unsupported_parameter")
        return 200, self._completion(body, reply_to(prompt))

    def _completion(self, body: dict[str, Any], text: str) -> dict[str, Any]:
        pattern = r"\d|\D+" if self.split_numbers else r"\s*\S{1,3}"
        tokens = re.findall(pattern, text)[: body["max_tokens"]]
        logprobs = None
        if body.get("logprobs") and self.logprobs == "yes":
            logprobs = {"content": [_token(token, body["top_logprobs"]) for token in tokens]}
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "".join(tokens)},
            "logprobs": logprobs,
        }
        return {"id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice]}


def reply_to(prompt: str) -> str:
    """Return what the judge says: REFUSAL where the answer says so, else a number that depends on the whole prompt."""
    if "87 100" in prompt:
        return "87 100"
    for label in ("REFUSAL", "CODE", "UNKNOWN"):
        if f"[SAY {label}]" in prompt:
            return label
    return str(int(sha256(prompt.encode()).hexdigest(), 16) % 101)


def _token(token: str, count: int) -> dict[str, Any]:
    top = [(token, math.log(0.9))] + [(f" other{i}", math.log(0.01 / 2**i)) for i in range(count - 1)]
    entries = [{"token": name, "logprob": logprob, "bytes": None} for name, logprob in top]
    return {**entries[0], "top_logprobs": entries}


def _error(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "error", "param": None, "code": code}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=f"Serve model '{MODEL}' on 127.0.0.1; the key is '{KEY}'.")
    parser.add_argument("--port", type=int, default=8089)
    with LoopbackJudge(port=parser.parse_args().port) as running:
        print(f"judge.base_url={running.base_url}", flush=True)
        threading.Event().wait()
