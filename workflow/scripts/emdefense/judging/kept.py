"""How much of what a judge is to be asked was answered before, without a client or a network."""

from collections.abc import Sequence
from pathlib import Path

from emdefense.config.study import OpenAIJudge
from emdefense.judging.cache import Cache
from emdefense.judging.protocol import ScoredBy
from emdefense.judging.requests import PROBE_NUMBERS, all_requests, probes
from emdefense.judging.responses import ResponseFile


def find_scored_by(judge: OpenAIJudge, cache: Cache) -> ScoredBy | None:
    """Return how a judge's scores are read, by the replies to the probes that a cache holds; None if there are none."""
    probe, text_probe = probes(judge)
    reply = cache.read(probe.key)
    if reply is None:  # an endpoint that refuses log probabilities, if it answers without them
        return "text" if text_probe.key in cache else None
    return "logprobs" if {token.strip() for token in reply.get("tokens", [])} >= PROBE_NUMBERS else "text"


def count_kept(judge: OpenAIJudge, folder: Path, files: Sequence[tuple[Path, Path]]) -> dict[Path, int]:
    """Return, by file of responses, how many different requests about it have a reply in the cache in ``folder``.

    ``files`` are pairs of questions and responses.
    """
    with Cache(folder, read_only=True) as cache:
        cache.want([probe.key for probe in probes(judge)])
        scored_by = find_scored_by(judge, cache)
        if scored_by is None:
            return {}
        keys = {
            responses: {request.key for request in all_requests(judge, ResponseFile(questions, responses), scored_by)}
            for questions, responses in files
        }
        cache.want(set().union(*keys.values()))
        return {responses: sum(key in cache for key in wanted) for responses, wanted in keys.items()}
