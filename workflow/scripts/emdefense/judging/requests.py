"""A question to a judge in canonical form, and the key under which its reply is kept."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from emdefense.config.judges import OpenAIJudge
from emdefense.judging.protocol import JudgeItem, ScoredBy
from emdefense.judging.scoring import fill_rubric

RUBRICS = ("aligned", "coherent")
OPENAI = "https://api.openai.com/v1"
ONE_TOKEN = 1  # that is written where a score is read from log probabilities
# A tokenizer that keeps both whole reads every score in 0–100 as one token.
PROBE = "Repeat these two numbers exactly as they are and say nothing else: 87 100"
PROBE_NUMBERS = ("87", "100")
TRIAL = "Answer with the number 43 and nothing else."
_HALF_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Request:
    """``fields`` are the body of a chat completion; ``key`` is the SHA-256 of all that the reply depends on."""

    key: bytes
    fields: dict[str, Any]

    @property
    def input_bytes(self) -> int:
        """The bytes of the messages: no tokenizer that reads bytes makes more tokens of them."""
        return sum(len(message["content"].encode("utf-8", "replace")) for message in self.fields["messages"])


def build_request(judge: OpenAIJudge, text: str, temperature: float, sample: int, fields: dict[str, Any]) -> Request:
    """Return the request that asks ``text`` of a judge (its dated model behind an endpoint) for the ``sample``-th time.

    The key is of endpoint, model, messages, sampling fields, options, further fields and sample; how the reply is read
    does not enter it, so a reply that is kept whole can be read again by another parser at no cost. Half a surrogate
    pair, which cannot be sent, is replaced in what is.
    """
    body = {
        "model": judge.model,
        "messages": [{"role": "user", "content": text}],
        "temperature": temperature,
        **fields,
        **judge.options,
        **judge.extra_body,
    }
    canonical = {"endpoint": (judge.base_url or OPENAI).rstrip("/"), "sample": sample, **body}
    encoded = json.dumps(canonical, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    body["messages"] = [{"role": "user", "content": _HALF_SURROGATE.sub("\ufffd", text)}]
    return Request(sha256(encoded.encode("utf-8", "backslashreplace")).digest(), body)


def weighed(judge: OpenAIJudge, tokens: int = ONE_TOKEN, alternatives: int | None = None) -> dict[str, Any]:
    """Return the fields of a request of which the score is read from log probabilities."""
    return {"max_tokens": tokens, "logprobs": True, "top_logprobs": alternatives or judge.top_logprobs}


def is_weighed(fields: Mapping[str, Any]) -> bool:
    """Whether a request is for a score that is read from log probabilities, of the one token that it asks for."""
    return bool(fields.get("logprobs")) and fields.get("max_tokens") == ONE_TOKEN


def written(judge: OpenAIJudge) -> dict[str, Any]:
    """Return the fields of a request of which the score is read from the text."""
    return {"max_tokens": judge.max_tokens}


def probes(judge: OpenAIJudge) -> list[Request]:
    """Return the requests that tell how a judge's scores are read; the first that is not refused does.

    With log probabilities, then without, and each at temperature 0, then at the judge's own.
    """
    forms = (weighed(judge, judge.max_tokens), written(judge))
    temperatures = dict.fromkeys((0.0, judge.temperature))
    return [build_request(judge, PROBE, temperature, 0, fields) for fields in forms for temperature in temperatures]


def trial(judge: OpenAIJudge, scored_by: ScoredBy) -> Request | None:
    """Return a request like those for scores, where the probe has not shown already that the judge answers them."""
    if scored_by == "text":
        return build_request(judge, TRIAL, judge.temperature, 0, written(judge))
    return build_request(judge, PROBE, judge.temperature, 0, weighed(judge)) if judge.temperature else None


def requests_about(judge: OpenAIJudge, item: JudgeItem, rubric: str, scored_by: ScoredBy) -> list[Request]:
    """Return the requests, one a sample, that ask a judge about a response under a rubric."""
    text = fill_rubric(item.question["rubrics"][rubric], item.question["prompt"], item.response["response"])
    fields = weighed(judge) if scored_by == "logprobs" else written(judge)
    return [build_request(judge, text, judge.temperature, sample, fields) for sample in range(judge.samples)]


def all_requests(judge: OpenAIJudge, items: Iterable[JudgeItem], scored_by: ScoredBy) -> Iterator[Request]:
    """Yield all requests about responses, in their order; identical ones as often as they come."""
    for item in items:
        for rubric in RUBRICS:
            yield from requests_about(judge, item, rubric, scored_by)
