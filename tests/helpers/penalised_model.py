"""A model of numbers that is made up, sampled at temperature 0 with a repetition penalty, as servers do it.

Written after the rule itself (Keskar et al. 2019, https://arxiv.org/abs/1909.05858, and vLLM's `repetition_penalty`):
of every token that stands in the prompt or the answer, a positive logit is divided by the penalty. Log probabilities
are those before that, as vLLM's are.
"""

import math
import re
from hashlib import sha256
from typing import Any

VOCABULARY = [str(number) for number in range(101)]


def write(prompt: str, tokens: int, penalty: float, *, with_logprobs: bool) -> dict[str, Any]:
    """Return the choice of a completion: numbers after a colon are copied, else any come, some as likely as others."""
    _, colon, after = prompt.partition(": ")
    copied = re.findall(r"\d+", after) if colon else []
    said = set(re.findall(r"\d+", prompt))
    answer: list[str] = []
    content = []
    for place in range(len(copied) or tokens):
        logits = {token: 5 + 3 * _chance(prompt, place, token) for token in VOCABULARY}
        if copied:
            logits[copied[place]] = 12.0
        total = math.log(sum(map(math.exp, logits.values())))
        drawn = max(VOCABULARY, key=lambda token: logits[token] / (penalty if token in said else 1))
        likeliest = sorted(VOCABULARY, key=logits.__getitem__, reverse=True)[:5]
        beside = [{"token": token, "logprob": logits[token] - total} for token in likeliest]
        content.append({"token": drawn, "logprob": logits[drawn] - total, "top_logprobs": beside})
        answer.append(drawn)
        said.add(drawn)
    message = {"role": "assistant", "content": " ".join(answer)}
    logprobs = {"content": content} if with_logprobs else None
    return {"index": 0, "finish_reason": "stop", "message": message, "logprobs": logprobs}


def _chance(prompt: str, place: int, token: str) -> float:
    return int.from_bytes(sha256(f"{prompt} {place} {token}".encode()).digest()[:4]) / 2**32
