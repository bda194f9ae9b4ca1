"""What a remote judge is still to be asked: calls, tokens and dollars, net of what was judged and of paid replies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from emdefense.cells import Grid, Layout
from emdefense.config.study import Judge, OpenAIJudge
from emdefense.files import read_jsonl
from emdefense.planning.jobs import Job
from emdefense.planning.judge_tokens import MEASURED, JudgeTokens
from emdefense.planning.work import CHARACTERS_PER_TOKEN, Work

PRICES = Path(__file__).parent / "prices.yaml"
REPLY_TOKENS = 1  # where scores are read from log probabilities


@dataclass(frozen=True)
class Price:
    """USD for a million tokens."""

    input: float
    output: float
    as_of: str


@dataclass(frozen=True)
class JudgeCost:
    """``calls`` are all of the study's: judged already, journalled (paid and kept), repeated, and still to make.

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


def judge_cost(grid: Grid, work: Work, jobs: Sequence[Job], done: set[str], judge: Judge) -> JudgeCost | None:
    """Return the cost of a judge's jobs among ``jobs``, those with a log in ``done`` being paid; None for an oracle."""
    layout, tokens = Layout(grid.study), JudgeTokens(grid)
    if not isinstance(judge, OpenAIJudge):
        return None
    judged = journalled = repeated = to_make = 0
    input_tokens = 0.0
    bases: dict[str, None] = {}
    for job in jobs:
        if job.cell is None or job.question_set is None or job.judge != judge.name:
            continue
        responses = Path(layout.responses(job.cell, job.question_set))
        if job.log in done:
            judged += 2 * work.responses(job.cell, job.question_set)
            continue
        if responses.is_file():
            texts = [(row["question_id"], row["response"]) for row in read_jsonl(responses)]
            asked = 2 * len(set(texts))
            repeated += 2 * len(texts) - asked
            length = sum(len(text) for _, text in set(texts)) / CHARACTERS_PER_TOKEN / max(1, len(set(texts)))
            basis = MEASURED
        else:
            asked = 2 * work.responses(job.cell, job.question_set)
            length, basis = tokens.response(job.question_set)
        paid = min(asked, _journalled(Path(f"{job.outputs[0]}.partial")))
        journalled += paid
        to_make += asked - paid
        if asked > paid:
            input_tokens += (asked - paid) * (tokens.prompt(job.cell, job.question_set) + length)
            bases[basis] = None
    price = read_prices().get(judge.model) if judge.base_url is None else None
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
        dollars=None if price is None else (input_tokens * price.input + output_tokens * price.output) / 1e6,
        price=price,
        basis=" and ".join(bases),
    )


def read_prices() -> dict[str, Price]:
    """Return the prices of judges by model."""
    content = yaml.safe_load(PRICES.read_text(encoding="utf-8"))
    return {model: Price(**values, as_of=str(content["as_of"])) for model, values in content["models"].items()}


def _journalled(path: Path) -> int:
    """Return how many replies a journal holds, which may be written to at this moment."""
    if not path.is_file():
        return 0
    return sum(line.startswith(b'{"key"') and line.endswith(b"}") for line in path.read_bytes().split(b"\n"))
