"""An endpoint's answer, checked as a whole: a small record that scores are read from, or a failure of a known kind.

The one way in for replies of single requests and of batches, and, by :func:`kept_reply`, of what lies in a cache.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from emdefense.judging.alternatives import most_given
from emdefense.judging.failures import TOO_MANY_ALTERNATIVES, Failure, by_status
from emdefense.judging.protocol import Reply
from emdefense.judging.requests import is_weighed
from emdefense.judging.scoring import as_integer
from emdefense.judging.server_message import NOTHING, ServerMessage, read_message

LONGEST_TEXT = 2000  # characters that are kept; a score or label stands in the first line
LONGEST_TOKEN = 100
MOST_ALTERNATIVES = 1000  # 20 are asked for
MOST_TOKENS = 10**8  # of one call
ROUNDING = 1e-3  # of a log probability above 0
MARGIN = 0.05  # of a log probability over another, to be more than rounding
MOST_PROBABILITY = 1.05  # of all alternatives together; more are no probabilities
_HALF_SURROGATE = re.compile("[\ud800-\udfff]")


def understand(
    status: int, content: Any, headers: Mapping[str, str], fields: Mapping[str, Any], key: str = ""
) -> Reply:
    """Return the reply to the request of these ``fields``; raises :class:`Failure`.

    ``content`` is the body, as bytes or as parsed JSON. ``key`` never stands in what a failure says.
    """
    if status != 200:
        failure = by_status(status, read_message(content, asked(fields), key), headers)
        if failure.kind == "filtered":
            return filtered_reply()
        if failure.kind == "content" and (given := most_given(failure.said, fields)):
            raise Failure("fatal", TOO_MANY_ALTERNATIVES, status=status, said=failure.said, most_alternatives=given)
        raise failure
    body = _parse(content, fields, key) if isinstance(content, bytes) else content
    if not isinstance(body, dict):
        raise Failure("unusable", "a reply that is no object", may_be_paid=True, is_chat=False)
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    if error := body.get("error") or choice.get("error"):
        return _error_within(error, fields, key)
    usage = _usage(body.get("usage"))
    message = choice.get("message")
    if choice.get("finish_reason") == "error":
        raise Failure("unusable", "a reply that ends in an error", usage=usage, may_be_paid=True)
    if not isinstance(message, dict):
        raise Failure("unusable", "a reply without a message", usage=usage, may_be_paid=True, is_chat=False)
    reply = _reply(choice, message, fields)
    if _is_cut(choice, message, fields):
        reply["cut"] = True
    if usage is not None:
        reply["usage"] = usage
    expected = is_weighed(fields) and reply["text"] and not {"refused", "garbled"} & reply.keys()
    if expected and not reply["top"]:
        raise Failure("unusable", "no log probabilities", usage=usage, may_be_paid=True)
    return reply


def asked(fields: Mapping[str, Any]) -> str:
    """Return the text of a request, which no message of an error is to repeat."""
    return "\n".join(str(message["content"]) for message in fields.get("messages", ()))


def filtered_reply() -> Reply:
    """Return what it is kept as that the endpoint's filter refused a request."""
    return {"text": "", "top": [], "refused": True, "filtered": True}


def json_value(content: bytes | str) -> Any:
    """Return a JSON value; ValueError if it is none. Integers of any length are read."""
    try:
        return json.loads(content, parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def kept_reply(value: Any) -> Reply | None:
    """Return a reply as it lies in a cache, checked like one that comes in; None if it is none."""
    if not isinstance(value, dict) or not isinstance(value.get("text"), str) or not isinstance(value.get("top"), list):
        return None
    pairs = [entry if isinstance(entry, list) and len(entry) == 2 else (None, None) for entry in value["top"]]
    top, garbled = _alternatives(pairs)
    reply: Reply = {"text": value["text"], "top": top}
    if garbled or isinstance(value.get("garbled"), str):
        reply["garbled"] = garbled or value["garbled"]
    usage, tokens = value.get("usage"), value.get("tokens")
    if isinstance(usage, list) and len(usage) == 2 and _is_count(usage[0]) and _is_count(usage[1]):
        reply["usage"] = (int(usage[0]), int(usage[1]))
    if isinstance(tokens, list):
        reply["tokens"] = [token if isinstance(token, str) else "" for token in tokens]
    if _is_count(value.get("passed_over")):
        reply["passed_over"] = int(value["passed_over"])
    if value.get("refused"):
        reply["refused"] = True
    if value.get("filtered"):
        reply["filtered"] = True
    if value.get("cut"):
        reply["cut"] = True
    if isinstance(value.get("limit"), str):
        reply["limit"] = value["limit"]
    return reply


def _parse(content: bytes, fields: Mapping[str, Any], key: str) -> Any:
    try:
        return json_value(content)
    except ValueError:
        said = read_message(content, asked(fields), key) if content.lstrip()[:1] == b"<" else NOTHING
        reason = "a reply that is no JSON" if content.strip() else "an empty reply"
        raise Failure("unusable", reason, may_be_paid=True, said=said, is_chat=False) from None


def _error_within(error: Any, fields: Mapping[str, Any], key: str) -> Reply:
    """Return or raise what an error means that came with status 200, as gateways send those of other endpoints."""
    said = read_message({"error": error}, asked(fields), key)
    code = re.fullmatch(r"[45]\d\d", str(error.get("code"))) if isinstance(error, dict) else None
    if said.is_filter:
        return filtered_reply()
    status = int(code[0]) if code else 403 if said.shuts_out else 400 if said.is_too_long else None
    failure = by_status(status, said, {}) if status else Failure("unusable", "an error for a reply", said=said)
    failure.may_be_paid = True
    raise failure


def _reply(choice: Mapping[str, Any], message: Mapping[str, Any], fields: Mapping[str, Any]) -> Reply:
    logprobs = choice.get("logprobs")
    entries = logprobs.get("content") if isinstance(logprobs, dict) else None
    tokens = (
        [e if isinstance(e, dict) else {} for e in entries[:MOST_ALTERNATIVES]] if isinstance(entries, list) else []
    )
    first = tokens[0].get("top_logprobs") if tokens else None
    pairs = [
        (e.get("token"), e.get("logprob")) if isinstance(e, dict) else (None, None)
        for e in (first if isinstance(first, list) else [])
    ]
    top, garbled = _alternatives(pairs)
    refusal = message.get("refusal")
    text = _text(message.get("content")) or _text(refusal)
    reply: Reply = {"text": text, "top": top}
    ending = choice.get("finish_reason")
    filtered = isinstance(ending, str) and (ending.lower() in _FILTERED or ServerMessage(ending).is_filter)
    if filtered or refusal or (isinstance(ending, str) and ending.lower() == "refusal"):
        reply["refused"] = True
    if filtered:
        reply["filtered"] = True
    if garbled:
        reply["garbled"] = garbled
    if fields.get("logprobs") and not is_weighed(fields) and "refused" not in reply:
        reply["tokens"] = [_token(entry.get("token")) or "" for entry in tokens]
        if fields.get("temperature") == 0 and (passed_over := sum(map(_is_passed_over, tokens))):
            reply["passed_over"] = passed_over
    return reply


def _is_cut(choice: Mapping[str, Any], message: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    """Whether a text broke off at the limit of tokens within its first line: an 8 may have been the start of 85."""
    ending, content = choice.get("finish_reason"), _joined(message.get("content"))
    if is_weighed(fields) or not isinstance(ending, str):
        return False
    within = content.rstrip() == content and len(content.lstrip().splitlines()) == 1
    return within and ending.lower() in {"length", "max_tokens"}


_FILTERED = {"safety", "blocklist", "prohibited_content", "sensitive"}  # how gateways name it beside "content_filter"


def _text(content: Any) -> str:
    """Return what was said, without white space around it, as far as it is kept."""
    return _HALF_SURROGATE.sub("\ufffd", _joined(content).strip()[:LONGEST_TEXT])


def _joined(content: Any) -> str:
    """Return a content: a string, or the texts among the parts of a list, of which thoughts are none."""
    if isinstance(content, list):
        parts = (part for part in content if isinstance(part, dict) and part.get("type", "text") in _TEXTS)
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return content if isinstance(content, str) else ""


_TEXTS = ("text", "output_text")


def _is_passed_over(entry: Mapping[str, Any]) -> bool:
    """Whether one of the alternatives to a token is likelier than it is."""
    beside = entry.get("top_logprobs")
    others = [other.get("logprob") for other in beside if isinstance(other, dict)] if isinstance(beside, list) else []
    told = [logprob for logprob in map(_log_probability, others) if logprob is not None]
    own = _log_probability(entry.get("logprob"))
    return own is not None and max(told, default=own) - own > MARGIN


def _token(token: Any) -> str | None:
    """Return a token that can be written; what is cut off a long one makes no number of it."""
    return _HALF_SURROGATE.sub("\ufffd", token[:LONGEST_TOKEN]) if isinstance(token, str) else None


def _alternatives(pairs: list[Any]) -> tuple[list[tuple[str, float]], str]:
    """Return the alternatives that can be read, and why no score can be read from them, or ''.

    A text that is no number enters no score, so its probability may be missing; one that may be a number must have its.
    """
    found: list[tuple[str, float]] = []
    if len(pairs) > MOST_ALTERNATIVES:
        return found, f"{len(pairs)} alternatives"
    garbled = ""
    for name, value in pairs:
        token, logprob = _token(name), _log_probability(value)
        if token is not None and logprob is not None and (token, logprob) in found:
            continue  # listed twice by the endpoint, as by those that add the token that was drawn
        if token is None:
            garbled = garbled or "an alternative that is no text"
        elif logprob is None:
            if as_integer(token) is not None:
                garbled = garbled or f"the number {token.strip()} without a probability"
        elif logprob > -math.inf:
            found.append((token, logprob))
    total = sum(math.exp(logprob) for _, logprob in found)
    if total > MOST_PROBABILITY:
        garbled = garbled or f"probabilities that sum to {total:.2f}"
    return found, garbled


def _log_probability(value: Any) -> float | None:
    """Return a natural log probability, -inf among them, or None."""
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value or value > ROUNDING:
        return None
    return max(-math.inf, min(0.0, float(value) if value > -1e300 else -math.inf))


def _usage(usage: Any) -> tuple[int, int] | None:
    """Return input and output tokens, where the endpoint says both and they can be."""
    if not isinstance(usage, dict):
        return None
    told, written = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    written = 0 if written is None else written
    return (int(told), int(written)) if _is_count(told) and _is_count(written) else None


def _is_count(value: Any) -> TypeGuard[float]:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 <= value <= MOST_TOKENS and value == int(value)


def _integer(digits: str) -> int | float:
    """Return an integer of JSON; beyond what Python reads, the infinity that it is as good as."""
    return int(digits) if len(digits) < 1000 else float(f"{digits[0] if digits[0] == '-' else ''}inf")
