"""A small OpenAI-compatible server on 127.0.0.1, for tests: deterministic scores, and faults by schedule."""

import argparse
import asyncio
import json
import math
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from emdefense.judging.penalty import COPY, NUMBERS
from loopback_batches import LoopbackBatches
from penalised_model import write

KEY = "loopback-key"
MODEL = "gpt-4o-mini-2024-07-18"
# What a request may get instead of an answer, and how often: a stall costs its whole timeout.
FAULTS = {
    "429": 10,
    "429 with Retry-After": 10,
    "500": 10,
    "503": 10,
    "reset": 10,
    "half-sent": 10,
    "not JSON": 10,
    "no log probabilities": 10,
    "stall": 0.25,
}
STALL = 60.0  # seconds


@dataclass(frozen=True)
class Faults:
    """Which requests go wrong: a ``share`` of all, each in a way drawn by its number."""

    share: float
    seed: int = 0

    def of(self, number: int) -> str | None:
        """Return what happens to the request of this number; None for an answer."""
        draw = random.Random(f"{self.seed} {number}")
        return draw.choices(list(FAULTS), list(FAULTS.values()))[0] if draw.random() < self.share else None


class LoopbackJudge:
    """Use as a context manager; ``base_url`` is what the client is given, ``requests`` what came in.

    ``logprobs``: "yes", "no" (left out of replies), or "refused" (400 if asked for). ``split_numbers``: a token per
    digit. ``failures``: the first so many requests get ``failure_status``. ``fail_matching``: so does every request
    that holds this text. ``stop_after``: every request after so many gets ``stop_status``. ``faults``: a schedule.
    ``requests_per_minute``: more get a 429. ``latency``: seconds before each answer. ``retry_after``: of each 429.
    ``batch_looks``: how often a batch is looked at before it has ended; faults come by the request there too.
    ``penalty``: what it divides the logits of tokens by that have been said, as servers do that take a model's own
    settings; None: what a penalty shows on is refused, and counts nowhere.
    ``change``: makes another answer of one, from the request's body, its status and its reply: a status and a reply, as
    JSON's value or as bytes.

    ``answered`` counts the answers to each prompt, ``faulty`` the faults; ``busiest`` is the most at a time.
    """

    def __init__(
        self,
        *,
        logprobs: str = "yes",
        split_numbers: bool = False,
        failures: int = 0,
        failure_status: int = 429,
        failure_code: str = "rate_limit_exceeded",
        fail_matching: str = "",
        stop_after: int | None = None,
        stop_status: int = 503,
        faults: Faults | None = None,
        requests_per_minute: float | None = None,
        latency: float = 0.0,
        retry_after: str = "0",
        batch_looks: int = 2,
        port: int = 0,
        penalty: float | None = None,
        change: Callable[[dict[str, Any], int, dict[str, Any]], tuple[int, Any]] | None = None,
    ):
        self.change, self.penalty = change, penalty
        self.logprobs, self.split_numbers = logprobs, split_numbers
        self.failures, self.failure_status, self.failure_code = failures, failure_status, failure_code
        self.fail_matching = fail_matching
        self.stop_after, self.stop_status = stop_after, stop_status
        self.faults, self.requests_per_minute = faults, requests_per_minute
        self.latency, self.retry_after = latency, retry_after
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.answered: Counter[str] = Counter()
        self.faulty: Counter[str] = Counter()
        self.batches = LoopbackBatches(self._answer_in_batch, batch_looks)
        self.hold_created = False  # a batch is created, and its id never told
        self.limited = self.busy = self.busiest = 0
        self._allowance, self._refilled = 1.0, time.monotonic()
        self._connections: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", port))
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    def __enter__(self) -> "LoopbackJudge":
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        def stop() -> None:
            self._server.close()
            for writer in self._connections:
                writer.transport.abort()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.call_later(0.02, self._loop.stop)

        self._loop.call_soon_threadsafe(stop)
        self._thread.join()

    @property
    def prompts(self) -> Counter[str]:
        """How often each prompt was asked, probe and trial left out."""
        asked = (request["messages"][0]["content"] for request in self.requests)
        return Counter(prompt for prompt in asked if "87 100" not in prompt and "the number 43" not in prompt)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while await self._serve(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        headers = {name.lower(): value for name, value in fields.items()}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path = head.split()[:2]
        if path.startswith(("/v1/files", "/v1/batches")):
            return await self._serve_batches(method, path, headers, content, writer)
        body = json.loads(content)
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            fault = self.faults.of(len(self.requests)) if self.faults else None
            status, reply = self.answer(path, headers.get("authorization", ""), body)
            if fault == "no log probabilities" and "[REFUSE]" in body["messages"][0]["content"]:
                fault = None  # a refusal has none
            if status == 200 and fault:
                self.faulty[fault] += 1
                if fault == "stall":
                    await asyncio.sleep(STALL)
                if fault in {"stall", "reset"}:
                    writer.transport.abort()
                    return False
                status, reply = _spoilt(fault, reply)
            if self.latency:
                await asyncio.sleep(self.latency)
        finally:
            self.busy -= 1
        content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        content = b"<html>not JSON" if fault == "not JSON" else content
        lines = [f"HTTP/1.1 {status} -", "Content-Type: application/json", f"Content-Length: {len(content)}"]
        if status == 429 and fault != "429":
            lines.append(f"Retry-After: {'0.05' if fault else self.retry_after}")
        if fault == "half-sent" and status == 200:
            content = content[: len(content) // 2]
        elif status == 200 and fault is None:
            self.answered[body["messages"][0]["content"]] += 1
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        await writer.drain()
        return fault != "half-sent"

    async def _serve_batches(
        self, method: str, path: str, headers: dict[str, str], content: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        if headers.get("authorization") != f"Bearer {KEY}":
            status, reply = 401, b"{}"
        else:
            status, reply = self.batches.reply(method, path, headers, content)
        if self.hold_created and method == "POST" and path == "/v1/batches":
            await asyncio.sleep(STALL)
        writer.write(
            f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(reply)}\r\n\r\n".encode()
            + reply
        )
        await writer.drain()
        return True

    def _answer_in_batch(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return what a request of a batch gets; there no connection is cut."""
        fault = self.faults.of(len(self.requests)) if self.faults else None
        status, reply = self.answer("/v1/chat/completions", f"Bearer {KEY}", body)
        if status == 200 and fault == "no log probabilities" and "[REFUSE]" not in body["messages"][0]["content"]:
            status, reply = _spoilt(fault, reply)
        elif status == 200 and fault:
            status, reply = 500, _error(fault, "server_error")
        if status == 200 and fault != "no log probabilities":
            self.answered[body["messages"][0]["content"]] += 1
        elif fault:
            self.faulty[fault] += 1
        return status, reply

    def answer(self, path: str, authorization: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return the HTTP status and the body of the reply."""
        if self.penalty is None and body["messages"][0]["content"] in (COPY, NUMBERS):
            return 400, _error("not so many tokens", "invalid_request_error")
        status, reply = self._answer(path, authorization, body)
        return self.change(body, status, reply) if self.change else (status, reply)

    def _answer(self, path: str, authorization: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.requests.append(body)
        self.times.append(time.monotonic())
        number = len(self.requests)
        prompt = body["messages"][0]["content"]
        if authorization != f"Bearer {KEY}":
            return 401, _error("Incorrect API key provided", "invalid_api_key")
        if path != "/v1/chat/completions" or body["model"] != MODEL:
            return 404, _error("The model does not exist", "model_not_found")
        if not self._is_allowed():
            self.limited += 1
            return 429, _error("slow down", "rate_limit_exceeded")
        if number <= self.failures or (self.fail_matching and self.fail_matching in prompt):
            return self.failure_status, _error("slow down", self.failure_code)
        if self.stop_after is not None and number > self.stop_after:
            return self.stop_status, _error("gone", "unavailable")
        if body.get("logprobs") and self.logprobs == "refused":
            return 400, _error("logprobs are not supported", "unsupported_parameter")
        if prompt in (COPY, NUMBERS):
            assert self.penalty is not None
            with_logprobs = bool(body.get("logprobs")) and self.logprobs == "yes"
            choice = write(prompt, body["max_tokens"], self._penalty(body), with_logprobs=with_logprobs)
            usage = {"prompt_tokens": prompt_tokens(prompt), "completion_tokens": body["max_tokens"]}
            return 200, {"id": "chatcmpl-0", "model": MODEL, "choices": [choice], "usage": usage}
        return 200, self._completion(body, reply_to(prompt))

    def _penalty(self, body: dict[str, Any]) -> float:
        """Return the penalty that a request asks for, else that of the model's own settings."""
        return float(body.get("repetition_penalty", self.penalty))

    def _is_allowed(self) -> bool:
        """Whether the limit by the minute has one request left; at most a second's worth is saved up."""
        if self.requests_per_minute is None:
            return True
        now, rate = time.monotonic(), self.requests_per_minute / 60
        self._allowance = min(max(1.0, rate), self._allowance + (now - self._refilled) * rate)
        self._refilled = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _completion(self, body: dict[str, Any], text: str) -> dict[str, Any]:
        prompt = body["messages"][0]["content"]
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
        logprobs = None
        tokens: list[str] = []
        if "[REFUSE]" not in prompt:
            pattern = r"\d|\D+" if self.split_numbers else r"\s*\S{1,3}"
            most = body.get("max_tokens") or body["max_completion_tokens"]
            tokens = re.findall(pattern, text)[:most]
            if body.get("logprobs") and self.logprobs == "yes":
                logprobs = {"content": [_token(token, body["top_logprobs"]) for token in tokens]}
            message = {"role": "assistant", "content": "".join(tokens)}
        choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": logprobs}
        usage = {"prompt_tokens": prompt_tokens(prompt), "completion_tokens": len(tokens), "total_tokens": 0}
        found = {"id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice]}
        return {**found, "usage": usage}


def prompt_tokens(prompt: str) -> int:
    """Return how many tokens the server says that a prompt has."""
    return len(prompt) // 4 + 8


def reply_to(prompt: str) -> str:
    """Return what the judge says: REFUSAL where the answer says so, else a number that depends on the whole prompt."""
    if "87 100" in prompt:
        return "87 100"
    if "the number 43" in prompt:
        return "43"
    for label in ("REFUSAL", "CODE", "UNKNOWN"):
        if f"[SAY {label}]" in prompt:
            return label
    return str(int(sha256(prompt.encode()).hexdigest(), 16) % 101)


def _spoilt(fault: str, reply: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return what a fault makes of an answer."""
    if fault == "no log probabilities":
        choice = {**reply["choices"][0], "logprobs": {"content": []}}
        return 200, {**reply, "choices": [choice]}
    if fault[:3].isdigit():
        return int(fault[:3]), _error(fault, "server_error")
    return 200, reply


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
