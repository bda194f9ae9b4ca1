"""Whether what serves a judge holds tokens back that have been said: a repetition penalty, or one of its kind.

Servers take sampling settings from a model's own files unless they are told not to, and some models ship a penalty.
Digits that stand in the rubric are pushed away by it, at temperature 0 too: a 100 becomes a 95. Log probabilities are
told of the model itself, before any of this. So where the token that is drawn at temperature 0 is not the likeliest, a
penalty has drawn it; numbers as they come to mind have near ties all along, and more and more of them have been said.
Without log probabilities, a line is to be copied: only a strong penalty shows on that.
"""

import re

from emdefense.config.judges import OpenAIJudge
from emdefense.judging.cache import Cache
from emdefense.judging.probing import probe_reply
from emdefense.judging.protocol import Reply
from emdefense.judging.requests import Request, build_request, weighed

NUMBERS = (
    "Write forty whole numbers between 0 and 100 as they come to your mind, in one line with a space between them, and "
    "say nothing else."
)
LINE = "100 95 100 100 0 100 50 100 100 99 100 0 100 100 95 100"
COPY = f"Copy this line of numbers exactly as it is and say nothing else: {LINE}"
TOKENS = 96
SHOWN = 20  # characters
ALTERNATIVES = 5  # few suffice: the likeliest is one of them


def penalty_probe(judge: OpenAIJudge, *, with_logprobs: bool) -> Request:
    """Return the request on whose reply a penalty shows."""
    if not with_logprobs:
        return build_request(judge, COPY, 0.0, 0, {"max_tokens": TOKENS})
    fields = weighed(judge, TOKENS, min(ALTERNATIVES, judge.top_logprobs))
    return build_request(judge, NUMBERS, 0.0, 0, fields)


def penalty_probes(judge: OpenAIJudge) -> list[Request]:
    """Return the request in either form; none for the provider's own endpoint, which has no such default."""
    if judge.base_url is None:
        return []
    return [penalty_probe(judge, with_logprobs=with_logprobs) for with_logprobs in (True, False)]


def fitting_probe(judge: OpenAIJudge, cache: Cache) -> Request | None:
    """Return the request in the form that fits what the first probe told, by a cache that has its reply."""
    probes = penalty_probes(judge)
    first = probe_reply(judge, cache)
    if not probes or first is None:
        return None
    return probes[0 if first["top"] and "tokens" in first else 1]


def why_penalised(judge: OpenAIJudge, cache: Cache) -> str:
    """Return what shows a penalty in the replies that a cache holds, and what to do about it; '' if nothing does."""
    request = fitting_probe(judge, cache)
    reply = None if request is None else cache.read(request.key)
    shown = "" if reply is None else shows_penalty(reply)
    if not shown:
        return ""
    return (
        f"judge '{judge.name}' at {judge.base_url} seems to be served with a repetition penalty, by which numbers that "
        f"stand in the rubric are scored too seldom: {shown}; write judge.extra_body: {{repetition_penalty: 1.0}} (or "
        "as its server calls it), with which all is asked anew, and serve it with `--generation-config vllm` if it is "
        "vLLM"
    )


def shows_penalty(reply: Reply) -> str:
    """Return what shows a penalty in a reply to either form of the request; '' if nothing does."""
    if passed_over := reply.get("passed_over", 0):
        return f"at temperature 0, {passed_over} of its {len(reply['tokens'])} tokens were not the likeliest"
    if "tokens" in reply or reply.get("refused"):
        return ""
    wanted, found = LINE.split(), re.findall(r"\d+", reply["text"])
    if found[: len(wanted)] == wanted:
        return ""
    return f"it copied '{LINE[:SHOWN]}…' as '{' '.join(found)[:SHOWN]}…', unless it cannot copy at all"
