"""Rates on further sets and differences between conditions, against a recount and a bootstrap of their own."""

import random
from typing import Any

import polars as pl
import pytest

from emdefense.analysis.conditions import Condition
from emdefense.analysis.further_sets import SetRates, in_place_of_general
from emdefense.analysis.rates import QUESTIONS_SCHEMA
from emdefense.config import Study
from study_folder import tiny_study

HERE = Condition("small", "code", "kl", "1")
QUESTIONS, SEEDS = 12, (0, 1)
RESAMPLES = 5_000
NEAR = 1.5  # points: of two bootstraps of so many resamples, each end

Row = dict[str, Any]


def study(groups: str | None = None) -> Study:
    scoring = {"bootstrap_resamples": RESAMPLES, "question_groups": groups}
    return tiny_study(scoring=scoring, seeds=list(SEEDS))


def rows(seed: int = 5) -> list[Row]:
    """Counts of two sets that share all but one question each; one question has no score, and one a seed less."""
    rng = random.Random(seed)
    found = []
    for question_set, samples in (("general", 30), ("evil", 20)):
        for name in [f"q{n // 3}_{n % 3}" for n in range(QUESTIONS)] + [f"only_{question_set}"]:
            for run in SEEDS:
                if (question_set, name, run) == ("evil", "q1_1", 1):
                    continue
                scored = 0 if (question_set, name) == ("evil", "q1_0") else samples - rng.randrange(4)
                misaligned = sum(rng.random() < rng.random() for _ in range(scored))
                incoherent = rng.randrange(scored - misaligned + 1)
                place = {"model": "small", "task": "code", "arm": "kl", "setting": "1", "seed": run}
                counts = {"responses": samples, "scored": scored, "misaligned": misaligned, "incoherent": incoherent}
                found.append({**place, **counts, "question_set": question_set, "question_id": name, "cut": 1})
    return found


def frame(of: list[Row]) -> pl.DataFrame:
    full = [
        {name: row.get(name, 0 if kind == pl.Int64() else None) for name, kind in QUESTIONS_SCHEMA.items()}
        for row in of
    ]
    return pl.DataFrame(full, schema=QUESTIONS_SCHEMA)


def counted(of: list[Row], question_set: str, outcome: str) -> dict[str, tuple[int, int]]:
    """Successes and trials by question, seeds together, of questions with a score."""
    found: dict[str, tuple[int, int]] = {}
    for row in of:
        if row["question_set"] == question_set:
            hits, trials = found.get(row["question_id"], (0, 0))
            found[row["question_id"]] = (hits + row[outcome], trials + row["scored"])
    return {name: pair for name, pair in found.items() if pair[1]}


def middle(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[round(0.025 * len(ordered))], ordered[round(0.975 * len(ordered)) - 1]


def share(pairs: list[tuple[int, int]]) -> float:
    return 100 * sum(hits for hits, _ in pairs) / sum(trials for _, trials in pairs)


def grouped(names: list[str], by_form: bool) -> list[list[str]]:
    of: dict[str, list[str]] = {}
    for name in names:
        of.setdefault(name.split("_")[0] if by_form and name[0] == "q" else name, []).append(name)
    return list(of.values())


@pytest.mark.parametrize("by_form", [False, True])
@pytest.mark.parametrize("outcome", ["misaligned", "incoherent"])
@pytest.mark.parametrize("question_set", ["general", "evil"])
def test_a_rate_and_its_interval_are_those_of_a_recount(question_set: str, outcome: str, by_form: bool) -> None:
    of = rows()
    found = SetRates(study("^(q[0-9]+)_" if by_form else None), frame(of)).rate(HERE, question_set, outcome)
    assert found is not None
    counts = counted(of, question_set, outcome)
    assert found.value == pytest.approx(share(list(counts.values())))
    assert (found.successes, found.trials) == tuple(map(sum, zip(*counts.values(), strict=True)))
    units = grouped(list(counts), by_form)
    assert (found.questions, found.groups) == (len(counts), len(units))
    assert found.groups == {False: {"general": 13, "evil": 12}, True: {"general": 5, "evil": 5}}[by_form][question_set]
    rng = random.Random(1)
    drawn = [rng.choices(units, k=len(units)) for _ in range(RESAMPLES)]
    wanted = middle([share([counts[name] for unit in units for name in unit]) for units in drawn])
    assert found.interval == pytest.approx(wanted, abs=NEAR)


@pytest.mark.parametrize("by_form", [False, True])
def test_a_change_is_paired_by_question_at_those_that_both_sets_have(by_form: bool) -> None:
    of = rows()
    found = SetRates(study("^(q[0-9]+)_" if by_form else None), frame(of)).change(HERE, "evil", "general", "misaligned")
    assert found is not None
    mine, other = (counted(of, name, "misaligned") for name in ("evil", "general"))
    both = [name for name in other if name in mine]
    assert found.questions == len(both) == QUESTIONS - 1
    value = share([mine[name] for name in both]) - share([other[name] for name in both])
    assert found.value == pytest.approx(value)
    units, rng = grouped(both, by_form), random.Random(2)
    differences = []
    for _ in range(RESAMPLES):
        names = [name for unit in rng.choices(units, k=len(units)) for name in unit]
        differences.append(share([mine[name] for name in names]) - share([other[name] for name in names]))
    assert found.interval == pytest.approx(middle(differences), abs=NEAR)


def test_pairing_narrows_the_interval_of_questions_that_differ_much() -> None:
    """The same change at every question, of which some are always answered badly: paired, there is no doubt of it."""
    of = [
        {
            **{"model": "small", "task": "code", "arm": "kl", "setting": "1", "seed": 0, "question_set": name},
            **{
                "question_id": f"q{n}",
                "responses": 20,
                "scored": 20,
                "misaligned": 10 * (n % 2) + more,
                "incoherent": 0,
            },
        }
        for n in range(QUESTIONS)
        for name, more in (("general", 0), ("evil", 5))
    ]
    rates = SetRates(study(), frame(of))
    change, rate = rates.change(HERE, "evil", "general", "misaligned"), rates.rate(HERE, "evil", "misaligned")
    assert change is not None
    assert rate is not None
    assert change.interval == pytest.approx((25, 25))
    assert rate.interval[1] - rate.interval[0] > 20


def test_what_was_not_measured_is_none_and_one_group_says_nothing() -> None:
    of = [row for row in rows() if row["question_id"] in ("q0_0", "q0_1") and row["seed"] == 0]
    rates = SetRates(study("^(q[0-9]+)_"), frame(of))
    assert rates.rate(HERE._replace(arm="misaligned"), "general", "misaligned") is None
    assert rates.rate(HERE, "more", "misaligned") is None
    assert rates.change(HERE, "evil", "more", "misaligned") is None
    one, moved = rates.rate(HERE, "general", "misaligned"), rates.change(HERE, "evil", "general", "misaligned")
    assert one is not None
    assert moved is not None
    assert (one.groups, one.interval, moved.interval) == (1, (0.0, 100.0), (-100.0, 100.0))


def test_gaps_count_all_seeds_of_the_set_alone() -> None:
    of = rows()
    found = SetRates(study(), frame(of)).gaps(HERE, "evil")
    mine = [row for row in of if row["question_set"] == "evil"]
    assert found.responses == sum(row["responses"] for row in mine)
    assert found.unscored == found.responses - sum(row["scored"] for row in mine)
    assert found.cut == len(mine)


def test_a_set_takes_the_place_of_the_general_questions() -> None:
    of = [{**row, "question_set": name} for row in rows()[:1] for name in ("general", "in_domain", "evil")]
    found = in_place_of_general(frame([{**row, "misaligned": n} for n, row in enumerate(of)]), "evil")
    assert dict(found.select("question_set", "misaligned").iter_rows()) == {"in_domain": 1, "general": 2}
