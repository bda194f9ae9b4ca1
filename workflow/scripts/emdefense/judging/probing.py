"""What the first requests to a judge tell: how its scores are read, or that it is of no use as a judge."""

from emdefense.config.judges import OpenAIJudge
from emdefense.judging.cache import Cache
from emdefense.judging.protocol import Reply, ScoredBy
from emdefense.judging.requests import PROBE_NUMBERS, probes
from emdefense.judging.scoring import as_integer, rate_reply
from emdefense.judging.server_message import one_line

_SHOWN = 60  # characters of a reply


def find_scored_by(judge: OpenAIJudge, cache: Cache) -> ScoredBy | None:
    """Return how a judge's scores are read, by the replies to the probes that a cache holds; None if there are none."""
    reply = probe_reply(judge, cache)
    if reply is None:
        return None
    return "text" if why_text(reply) else "logprobs"


def probe_reply(judge: OpenAIJudge, cache: Cache) -> Reply | None:
    """Return the reply to the first of the probes that has one."""
    replies = (cache.read(probe.key) for probe in probes(judge))
    return next((reply for reply in replies if reply is not None), None)


def why_text(reply: Reply) -> str:
    """Return why scores cannot be read from log probabilities, by the reply to a probe; '' if they can."""
    tokens = [token.strip() for token in reply.get("tokens", [])]
    if "tokens" not in reply:
        return "the endpoint refuses log probabilities"
    if "garbled" in reply:
        return f"its log probabilities cannot be used ({reply['garbled']})"
    if not reply["top"]:
        return "the endpoint gives no log probabilities"
    if len(reply["top"]) < 2:
        return "the endpoint gives one alternative, not several"
    whole = set(tokens) >= set(PROBE_NUMBERS)
    if not whole or tokens[0] != PROBE_NUMBERS[0]:
        return "its first token is no number" if whole else "its tokenizer splits numbers"
    if all(as_integer(token) != int(PROBE_NUMBERS[0]) for token, _ in reply["top"]):
        return "its alternatives lack the token that it wrote"
    return ""


def why_unfit(judge: OpenAIJudge, reply: Reply, tried: ScoredBy | None) -> str:
    """Return why a judge that replies so is of no use, and what to do about it; '' if it is of use.

    ``tried`` is how its score is read, or None for a probe. A reply that tells so is not to be kept: the judge behind
    the endpoint may be another the next time.
    """
    if reply.get("refused"):
        return "refuses to repeat a number; write another judge.model, or have its filter let such requests pass"
    is_cut = tried == "text" and "cut" in reply
    if not reply["text"] or is_cut or reply["text"].lower().startswith(("<think", "<|channel|>analysis", "<reason")):
        spent = f" after {reply['usage'][1]} tokens" if "usage" in reply else ""
        return (
            f"thinks, or says nothing: a trial request has no answer{spent}; write a judge.model that does not think, "
            "or switch it off in judge.options (such as reasoning_effort: none), or raise judge.max_tokens"
        )
    if tried is not None and rate_reply(reply, tried, judge.min_number_probability).score is None:
        said = one_line(reply["text"])[:_SHOWN]
        return f"answered '{said}' where a number was asked; write another judge.model"
    return ""
