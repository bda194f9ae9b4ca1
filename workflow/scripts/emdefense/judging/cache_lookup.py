"""How much of what a judge is to be asked was answered before, without a client or a network."""

from collections.abc import Sequence
from pathlib import Path

from emdefense.config.judges import OpenAIJudge
from emdefense.judging.cache import Cache
from emdefense.judging.probing import find_scored_by
from emdefense.judging.requests import all_requests, probes
from emdefense.judging.responses import ResponseFile


def count_cached(judge: OpenAIJudge, folder: Path, files: Sequence[tuple[Path, Path]]) -> dict[Path, int]:
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
