"""Replies in words of which one token is known: asked for in full, as they may turn out to be a refusal or a label.

A judge with log probabilities writes one token, and a sentence that refuses is cut to its first word. Where that can
be the beginning of a refusal or of a label, the same question is asked once more with room for the text, from which a
label is read and never a score. Replies that are numbers are left as they are.
"""

from collections.abc import Iterable, Iterator

from emdefense.config.judges import OpenAIJudge
from emdefense.judging.cache import Cache
from emdefense.judging.protocol import JudgeItem, Rating, Reply, ScoredBy
from emdefense.judging.requests import RUBRICS, Request, requests_about
from emdefense.judging.scoring import may_begin_label, rate_reply, read_label


def request_in_full(
    judge: OpenAIJudge, item: JudgeItem, rubric: str, scored_by: ScoredBy, sample: int, reply: Reply
) -> Request | None:
    """Return the request that asks the same as the one of this ``sample`` in full; None if its ``reply`` suffices."""
    if scored_by != "logprobs" or not is_cut(judge, reply):
        return None
    return requests_about(judge, item, rubric, "text")[sample]


def requests_in_full(
    judge: OpenAIJudge, items: Iterable[JudgeItem], scored_by: ScoredBy, cache: Cache
) -> Iterator[Request]:
    """Yield, in the order of ``items``, what is to be asked in full by the replies that are in ``cache``."""
    for item in items if scored_by == "logprobs" else ():
        for rubric in RUBRICS:
            for sample, request in enumerate(requests_about(judge, item, rubric, scored_by)):
                if (reply := cache.read(request.key)) is not None:
                    in_full = request_in_full(judge, item, rubric, scored_by, sample, reply)
                    if in_full is not None:
                        yield in_full


def is_cut(judge: OpenAIJudge, reply: Reply) -> bool:
    """Whether the one token of a reply with log probabilities tells neither score nor label, and more of it may."""
    if "garbled" in reply or rate_reply(reply, "logprobs", judge.min_number_probability).label != "UNPARSED":
        return False
    return may_begin_label(reply["text"])


def settle(rating: Rating, in_full: Reply) -> Rating:
    """Return the rating of a reply that is cut, by its whole text."""
    return Rating(None, "REFUSAL" if in_full.get("refused") else read_label(in_full["text"]), rating.top)
