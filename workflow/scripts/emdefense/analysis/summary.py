"""Rates over all seeds, looked up by condition, and the effects that follow from them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

import polars as pl

from emdefense.analysis.conditions import Condition
from emdefense.analysis.intervals import Interval, seed_interval, wilson_interval
from emdefense.analysis.rates import EXACT_MATCH_SCHEMA, QUESTIONS_SCHEMA, RATES_SCHEMA
from emdefense.arms import MISALIGNED
from emdefense.errors import InputError
from emdefense.metrics import EXACT_MATCH, JUDGED

WORTH_SAYING = 0.05  # of the responses, without a score or cut at the length limit


@dataclass(frozen=True)
class Estimate:
    """A rate (%) over all seeds together: ``successes`` of ``trials``, where these are known; intervals in %.

    ``wilson`` is for these questions, ``cluster`` for questions like these, both for these seeds; ``seed_interval`` is
    Student's t interval of the seeds' mean rate, ``seed_sd`` their standard deviation, both None for one seed.
    """

    value: float
    wilson: Interval | None = None
    cluster: Interval | None = None
    seeds: int = 1
    seed_sd: float | None = None
    seed_interval: Interval | None = None
    successes: int | None = None
    trials: int | None = None


@dataclass(frozen=True)
class Gaps:
    """How many ``responses`` there are, and how many of them have no score, or were ``cut`` at the length limit."""

    responses: int = 0
    unscored: int = 0
    cut: int = 0

    def __add__(self, other: "Gaps") -> "Gaps":
        return Gaps(self.responses + other.responses, self.unscored + other.unscored, self.cut + other.cut)

    @property
    def in_words(self) -> str:
        """What is missing, as a clause without its subject, where it is more than 5 %; else empty."""
        return " and ".join(f"{share:.1f} % {what}" for _, what, share in self._worth_saying())

    @property
    def in_short(self) -> str:
        """The same for beside a number: ``u8`` for 8 % without a score, ``c46`` for 46 % cut."""
        return ",".join(f"{letter}{share:.0f}" for letter, _, share in self._worth_saying())

    def _worth_saying(self) -> list[tuple[str, str, float]]:
        shares = (("u", "have no score", self.unscored), ("c", "were cut at the length limit", self.cut))
        return [
            (letter, what, 100 * number / self.responses)
            for letter, what, number in shares
            if number > WORTH_SAYING * self.responses
        ]


class Summary:
    """The estimates of a study, or of the paper; absent ones are None.

    ``questions`` has the counts that verdicts are from, columns as in ``QUESTIONS_SCHEMA``. Numbers are ``published``
    if they were printed by others, who say no more of them than how many responses they are of.
    """

    def __init__(
        self,
        rates: pl.DataFrame,
        exact_match: pl.DataFrame,
        questions: pl.DataFrame | None = None,
        *,
        published: bool = False,
    ):
        self.published = published
        self._questions = questions
        self._estimates: dict[tuple[Condition, str], Estimate] = {}
        self._gaps = gaps_of(rates)
        for metric in JUDGED:
            rows, outcome = rates.filter(question_set=metric.question_set), metric.outcome
            self._add(rows, metric.name, f"{outcome}_pct", outcome, "scored", f"{outcome}_pooled")
        self._add(exact_match, EXACT_MATCH, "exact_match_pct", "correct", "answers", "pooled")

    def _add(self, rows: pl.DataFrame, quantity: str, value: str, successes: str, trials: str, bounds: str) -> None:
        measured = rows.filter(pl.col(value).is_not_null())
        of_conditions = measured.group_by(*Condition._fields, maintain_order=True).agg(
            pl.col(value),
            pl.col(successes, trials).sum(),
            pl.col(trials).null_count().alias("uncounted"),
            pl.col(f"{bounds}_low", f"{bounds}_high").first(),
        )
        for row in of_conditions.iter_rows(named=True):
            low, high = row[f"{bounds}_low"], row[f"{bounds}_high"]
            cluster = None if low is None or high is None else (low, high)
            counts = None if row["uncounted"] else (row[successes], row[trials])
            self._estimates[Condition(*(row[name] for name in Condition._fields)), quantity] = _estimate(
                row[value], counts, cluster
            )

    @property
    def questions(self) -> pl.DataFrame:
        """The counts by question; an error of ours if the summary was made without them."""
        if self._questions is None:
            raise ValueError("the summary was read without counts by question, and there is no verdict without them")
        return self._questions

    def estimate(self, condition: Condition, quantity: str) -> Estimate | None:
        """Return the estimate of a quantity such as ``general_misaligned``."""
        return self._estimates.get((condition, quantity))

    def value(self, condition: Condition, quantity: str) -> float | None:
        """Return the rate in per cent."""
        found = self.estimate(condition, quantity)
        return None if found is None else found.value

    def relative_to_misaligned(self, condition: Condition, quantity: str) -> float | None:
        """Return a rate as a share of the misaligned arm's; None if either is missing or the latter is 0."""
        mine = self.value(condition, quantity)
        reference = self.value(Condition(condition.model, condition.task, MISALIGNED), quantity)
        return None if mine is None or not reference else mine / reference

    def gaps(self, condition: Condition, question_set: str) -> "Gaps":
        """Return how many responses of a question set have no score, or were cut."""
        return self._gaps.get((condition, question_set), Gaps())


def _estimate(of_seeds: list[float], counts: tuple[int, int] | None, cluster: Interval | None) -> Estimate:
    """Return the estimate from each seed's rate (%), all seeds' counts together, and the interval over questions."""
    found = Estimate(
        value=fmean(of_seeds),
        cluster=cluster,
        seeds=len(of_seeds),
        seed_sd=stdev(of_seeds) if len(of_seeds) > 1 else None,
        seed_interval=seed_interval(of_seeds),
    )
    if counts is None:
        return found
    successes, trials = counts
    low, high = wilson_interval(successes, trials)
    value = 100 * successes / trials
    return replace(found, value=value, wilson=(100 * low, 100 * high), successes=successes, trials=trials)


def gaps_of(counts: pl.DataFrame) -> dict[tuple[Condition, str], Gaps]:
    """Return how many responses are without a score or cut, by condition and question set; nothing without counts."""
    counted = (
        counts.drop_nulls(["responses", "scored"])
        .group_by(*Condition._fields, "question_set")
        .agg(pl.col("responses", "scored", "cut").sum())
    )
    return {
        (Condition(*key), question_set): Gaps(responses, responses - scored, cut)
        for *key, question_set, responses, scored, cut in counted.iter_rows()
    }


def no_summary() -> Summary:
    """Return the summary of a study in which nothing was measured."""
    frames = (pl.DataFrame(schema=schema) for schema in (RATES_SCHEMA, EXACT_MATCH_SCHEMA, QUESTIONS_SCHEMA))
    return Summary(*frames)


def read_summary(rates: Path, exact_match: Path | None = None, questions: Path | None = None) -> Summary:
    """Return the summary of the Parquet files that ``aggregate`` wrote; verdicts need that of ``questions``."""
    benign = (
        pl.DataFrame(schema=EXACT_MATCH_SCHEMA) if exact_match is None else read_frame(exact_match, EXACT_MATCH_SCHEMA)
    )
    asked = None if questions is None else read_frame(questions, QUESTIONS_SCHEMA)
    return Summary(read_frame(rates, RATES_SCHEMA), benign, asked)


def read_frame(path: Path, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return a Parquet file that ``aggregate`` wrote; :class:`InputError` if it, or a column, is missing or broken."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; run the rule 'aggregate' first")
    try:
        frame = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        problem = " ".join(str(error).split())
        raise InputError(f"{path}: not a Parquet file ({problem}); run the rule 'aggregate' again") from None
    if missing := set(schema) - set(frame.columns):
        raise InputError(f"{path}: has no columns {', '.join(sorted(missing))}; run the rule 'aggregate' again")
    return frame
