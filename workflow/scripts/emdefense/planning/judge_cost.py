"""What a remote judge is still to be asked: calls, tokens and dollars, net of what was judged and of paid replies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emdefense.cells import Grid
from emdefense.config.judges import Judge, OpenAIJudge
from emdefense.files import read_jsonl
from emdefense.judging.cache_lookup import count_cached
from emdefense.judging.prices import Price, price_of
from emdefense.layout import Layout
from emdefense.planning.job import Job
from emdefense.planning.judge_tokens import MEASURED, JudgeTokens
from emdefense.planning.work import CHARACTERS_PER_TOKEN, Work

REPLY_TOKENS = 1  # where scores are read from log probabilities


@dataclass(frozen=True)
class JudgeCost:
    """``calls`` are all: judged already, journalled (paid for and in the cache), repeated, and still to make.

    Two calls a response; equal responses to a question in one file are asked about once, the others are ``repeated``.
    ``dollars`` is None where no price is known, ``basis`` says what the tokens are from.
    """

    model: str
    calls: int
    judged: int
    journalled: int
    repeated: int
    to_make: int
    input_tokens: int
    output_tokens: int
    dollars: float | None
    price: Price | None
    basis: str


def judge_cost(grid: Grid, work: Work, jobs: Sequence[Job], done: set[str], judge: Judge | None) -> JudgeCost | None:
    """Return the cost of a judge's jobs among ``jobs``, those with a log in ``done`` being paid.

    None for an oracle, and for no judge.
    """
    layout, tokens = Layout(grid.study), JudgeTokens(grid, work)
    if not isinstance(judge, OpenAIJudge):
        return None
    judged = journalled = repeated = to_make = 0
    input_tokens = 0.0
    bases: dict[str, None] = {}
    kept = _kept(grid, work, jobs, done, judge)
    for job in jobs:
        if job.cell is None or job.question_set is None or job.judge != judge.name:
            continue
        responses = layout.responses(job.cell, job.question_set)
        if job.log in done:
            judged += 2 * judge.samples * work.responses(job.cell, job.question_set)
            continue
        if work.has(responses):
            texts = [(row["question_id"], row["response"]) for row in read_jsonl(Path(responses))]
            asked = 2 * judge.samples * len(set(texts))
            repeated += 2 * judge.samples * len(texts) - asked
            length = sum(len(text) for _, text in set(texts)) / CHARACTERS_PER_TOKEN / max(1, len(set(texts)))
            basis = MEASURED
        else:
            asked = 2 * judge.samples * work.responses(job.cell, job.question_set)
            length, basis = tokens.response(job.question_set)
        paid = kept.get(Path(responses), 0)
        journalled += paid
        to_make += asked - paid
        if asked > paid:
            input_tokens += (asked - paid) * (tokens.prompt(job.cell, job.question_set) + length)
            bases[basis] = None
    price = price_of(judge)
    output_tokens = to_make * REPLY_TOKENS
    return JudgeCost(
        model=judge.model,
        calls=judged + journalled + repeated + to_make,
        judged=judged,
        journalled=journalled,
        repeated=repeated,
        to_make=to_make,
        input_tokens=round(input_tokens),
        output_tokens=output_tokens,
        dollars=None if price is None else price.of(input_tokens, output_tokens),
        price=price,
        basis=" and ".join(bases),
    )


def _kept(grid: Grid, work: Work, jobs: Sequence[Job], done: set[str], judge: OpenAIJudge) -> dict[Path, int]:
    """Return, by file of responses that is still to be judged, how many replies about it are in the cache."""
    layout, files = Layout(grid.study), []
    for job in jobs:
        if job.cell is not None and job.question_set is not None and job.judge == judge.name and job.log not in done:
            questions = layout.asked(job.cell, job.question_set)
            files.append((questions, layout.responses(job.cell, job.question_set)))
    there = [(Path(asked), Path(said)) for asked, said in files if work.has(asked) and work.has(said)]
    return count_cached(judge, Path(grid.study.judge_cache), there)
