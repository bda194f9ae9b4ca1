"""Rates averaged over seeds, looked up by condition, and the effects that follow from them."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from emdefense.analysis.conditions import Condition
from emdefense.analysis.intervals import Interval
from emdefense.analysis.rates import EXACT_MATCH_SCHEMA, RATES_SCHEMA
from emdefense.cells import GENERAL, IN_DOMAIN
from emdefense.errors import InputError

GENERAL_MISALIGNED = "general_misaligned"
GENERAL_INCOHERENT = "general_incoherent"
IN_DOMAIN_MISALIGNED = "in_domain_misaligned"
IN_DOMAIN_INCOHERENT = "in_domain_incoherent"
QUANTITIES = (GENERAL_MISALIGNED, GENERAL_INCOHERENT, IN_DOMAIN_MISALIGNED, IN_DOMAIN_INCOHERENT)
EXACT_MATCH = "exact_match"


@dataclass(frozen=True)
class Estimate:
    """A rate (%) averaged over seeds; its bounds are averaged too, ``seed_sd`` is the spread (None for one seed)."""

    value: float
    wilson: Interval | None = None
    cluster: Interval | None = None
    seeds: int = 1
    seed_sd: float | None = None


class Summary:
    """The estimates of a study, or of the paper; absent ones are None."""

    def __init__(self, rates: pl.DataFrame, exact_match: pl.DataFrame):
        self._estimates: dict[tuple[Condition, str], Estimate] = {}
        for question_set in (GENERAL, IN_DOMAIN):
            rows = rates.filter(pl.col("question_set") == question_set)
            for outcome in ("misaligned", "incoherent"):
                self._add(rows, f"{question_set}_{outcome}", f"{outcome}_pct", f"{outcome}_")
        self._add(exact_match, EXACT_MATCH, "exact_match_pct", "")

    def _add(self, rows: pl.DataFrame, quantity: str, value: str, prefix: str) -> None:
        bounds = [
            f"{prefix}{kind}_{end}"
            for kind in ("wilson", "cluster")
            for end in ("low", "high")
            if f"{prefix}{kind}_{end}" in rows.columns
        ]
        averaged = (
            rows.filter(pl.col(value).is_not_null())
            .group_by("model", "task", "arm", "setting", maintain_order=True)
            .agg(pl.col(value, *bounds).mean(), pl.col(value).std().alias("seed_sd"), pl.len().alias("seeds"))
        )
        for row in averaged.iter_rows(named=True):
            condition = Condition(row["model"], row["task"], row["arm"], row["setting"])
            intervals: dict[str, Interval | None] = {}
            for kind in ("wilson", "cluster"):
                low, high = row.get(f"{prefix}{kind}_low"), row.get(f"{prefix}{kind}_high")
                intervals[kind] = None if low is None or high is None else (low, high)
            self._estimates[condition, quantity] = Estimate(
                row[value], intervals["wilson"], intervals["cluster"], row["seeds"], row["seed_sd"]
            )

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
        reference = self.value(Condition(condition.model, condition.task, "misaligned"), quantity)
        return None if mine is None or not reference else mine / reference

    def ema_appeared(self, model: str, task: str, emergent_pct: float) -> bool | None:
        """Whether the misaligned arm reaches ``emergent_pct`` on the general questions; None if not measured."""
        rate = self.value(Condition(model, task, "misaligned"), GENERAL_MISALIGNED)
        return None if rate is None else rate >= emergent_pct


def no_summary() -> Summary:
    """Return the summary of a study in which nothing was measured."""
    return Summary(pl.DataFrame(schema=RATES_SCHEMA), pl.DataFrame(schema=EXACT_MATCH_SCHEMA))


def read_summary(rates: Path, exact_match: Path | None = None) -> Summary:
    """Return the summary of the Parquet files that ``aggregate`` wrote."""
    for path in (rates, exact_match):
        if path is not None and not path.is_file():
            raise InputError(f"{path}: there is no such file; run the rule 'aggregate' first")
    benign = pl.DataFrame(schema=EXACT_MATCH_SCHEMA) if exact_match is None else pl.read_parquet(exact_match)
    return Summary(pl.read_parquet(rates), benign)
