import csv
from itertools import chain, combinations, product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import permutation_test

from emdefense.analysis.aggregate import aggregate
from emdefense.analysis.conditions import Condition
from emdefense.analysis.differences import Difference, against_misaligned, among_defences
from emdefense.analysis.paired import SWAPS, Pair, holm
from emdefense.config import Study
from emdefense.report.tables.differences import defence_table, difference_table
from emdefense.report.tables.rendering import csv_table
from study_folder import SURE_OF_NONE, fill, judgment, tiny_study, write_rows

RATE = "general_misaligned"
MISALIGNED = Condition("small", "code", "misaligned")


def counts(seed: int, questions: int, shares: tuple[float, float], trials: tuple[int, int] = (5, 12)) -> Pair:
    random = np.random.default_rng(seed)
    mine, other = (random.integers(*trials, size=questions) for _ in range(2))
    return Pair(random.binomial(mine, shares[0]), mine, random.binomial(other, shares[1]), other)


def test_interval_equals_a_bootstrap_written_as_a_loop() -> None:
    pair = counts(3, 9, (0.3, 0.6))
    random = np.random.default_rng(4)
    found = []
    for _ in range(20_000):
        drawn = random.integers(0, 9, size=9)
        mine = pair.successes[drawn].sum() / pair.trials[drawn].sum()
        found.append(mine - pair.other_successes[drawn].sum() / pair.other_trials[drawn].sum())
    assert pair.interval(20_000) == pytest.approx(tuple(np.quantile(found, [0.025, 0.975])), abs=0.005)


def test_interval_is_narrow_where_questions_differ_but_arms_differ_alike() -> None:
    trials, successes = np.full(20, 100), np.linspace(10, 90, 20).astype(int)
    pair = Pair(successes, trials, successes + 5, trials)
    assert pair.interval(1000) == pytest.approx((-0.05, -0.05))


def test_interval_covers_the_difference_of_the_population_of_questions() -> None:
    # Question effects are shared by the arms; the true difference of the population is 0.1 in the mean.
    random = np.random.default_rng(7)
    covered, runs = 0, 400
    trials = np.full(24, 20)
    for _ in range(runs):
        of_question = random.beta(1, 3, size=24) * 0.8
        pair = Pair(random.binomial(20, of_question), trials, random.binomial(20, of_question + 0.1), trials)
        low, high = pair.interval(400)
        covered += low <= -0.1 <= high
    # A percentile bootstrap of 24 clusters covers a little less than 95 %; the error of 400 runs is about 1.1 points.
    assert 0.90 <= covered / runs <= 0.98


@pytest.mark.parametrize(("seed", "shares"), [(0, (0.5, 0.5)), (1, (0.3, 0.6)), (2, (0.9, 0.2)), (3, (0.0, 0.0))])
def test_p_value_equals_scipy_where_all_swaps_are_tried(seed: int, shares: tuple[float, float]) -> None:
    pair = counts(seed, 8, shares)
    successes, trials = np.concatenate([pair.successes, pair.other_successes]), np.concatenate(
        [pair.trials, pair.other_trials]
    )  # fmt: skip

    def difference(mine: np.ndarray, other: np.ndarray) -> float:
        mine, other = mine.astype(int), other.astype(int)
        return abs(successes[mine].sum() / trials[mine].sum() - successes[other].sum() / trials[other].sum())

    # scipy swaps which responses are whose, so the samples are their places
    expected = permutation_test(
        (np.arange(8), np.arange(8) + 8),
        difference,
        permutation_type="samples",
        vectorized=False,
        n_resamples=np.inf,
        alternative="greater",
    )
    assert pair.is_exact
    assert pair.p_value() == pytest.approx(expected.pvalue, abs=1e-12)


def test_p_value_of_random_swaps_is_near_that_of_all() -> None:
    pair = counts(11, 15, (0.38, 0.52))
    assert not pair.is_exact
    signs = np.array(list(product([0, 1], repeat=15)))
    successes = pair.successes + signs * (pair.other_successes - pair.successes)
    trials = pair.trials + signs * (pair.other_trials - pair.trials)
    rest = (pair.successes + pair.other_successes - successes).sum(axis=1)
    left = (pair.trials + pair.other_trials - trials).sum(axis=1)
    shares = successes.sum(axis=1) / trials.sum(axis=1) - rest / left
    exact = np.mean(np.abs(shares) >= abs(shares[0]) - 1e-12)
    assert 0.01 < exact < 0.5
    assert pair.p_value() == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / SWAPS))
    assert pair.p_value() == pair.p_value()


def test_p_value_is_never_0() -> None:
    trials = np.full(30, 100)
    pair = Pair(np.zeros(30, int), trials, trials, trials)
    assert pair.p_value() == 1 / SWAPS


def test_p_value_is_small_as_often_as_it_says_where_arms_do_not_differ() -> None:
    random = np.random.default_rng(0)
    trials = np.full(12, 10)
    below = 0
    for _ in range(1000):
        of_question = random.beta(1, 2, size=12)
        below += Pair(*chain(*((random.binomial(10, of_question), trials) for _ in "ab"))).p_value() <= 0.05
    # The error of 1,000 runs is 0.7 points; discrete differences make the test a little conservative.
    assert 0.025 <= below / 1000 <= 0.07


def test_holm_is_closed_testing_with_bonferroni() -> None:
    random = np.random.default_rng(2)
    for size in (1, 2, 5, 6):
        p_values = random.beta(0.5, 3, size=size).tolist()
        expected = []
        for place in range(size):
            # A hypothesis falls at the level at which every intersection with it falls.
            others = [n for n in range(size) if n != place]
            sets = chain.from_iterable(combinations(others, k) for k in range(size))
            expected.append(max(min(1.0, (1 + len(s)) * min(p_values[n] for n in (place, *s))) for s in sets))
        assert holm(p_values) == pytest.approx(expected)
    assert holm([0.01, 0.01]) == [0.02, 0.02]
    assert holm([]) == []


def counted(study: Study) -> pl.DataFrame:
    aggregate(study, Path("r.parquet"), Path("e.parquet"), Path("q.parquet"))
    return pl.read_parquet("q.parquet")


def of(found: list[Difference], condition: Condition, against: Condition, quantity: str) -> Difference:
    (one,) = [d for d in found if (d.condition, d.against, d.quantity) == (condition, against, quantity)]
    return one


def test_differences_of_a_study(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {"misaligned": 6, "kl": 1, "interleave": 4})
    found, pairs = against_misaligned(study, counted(study)), among_defences(study, counted(study))
    # Each task: untrained, two KL and interleaving against misaligned; KL against interleaving; four quantities.
    assert (len(found), len(pairs)) == (2 * 4 * 4, 2 * 4)
    kl, interleave = (Condition("small", "code", arm, setting) for arm, setting in (("kl", "1"), ("interleave", "5")))
    of_kl = of(found, kl, MISALIGNED, "general_misaligned")
    assert of_kl.value == pytest.approx(-50)
    assert of_kl.interval == pytest.approx((-50, -50))
    assert (of_kl.questions, of_kl.is_exact) == (4, True)
    assert of_kl.p == 2 / 16  # no swap, and all four, are as large
    # A family of 2 tasks × 2 defences, all with the same p; and one of 2 tasks with one pair of defences.
    assert of_kl.p_corrected == 4 * 2 / 16
    among = of(pairs, kl, interleave, "in_domain_misaligned")
    assert among.value == pytest.approx(-30)
    assert among.p_corrected == 2 * 2 / 16
    # Nothing was chosen of these, so they are in no family.
    for condition in (Condition("small", "code", "kl", "0.1"), Condition("small", "code", "untrained")):
        assert of(found, condition, MISALIGNED, "general_misaligned").p_corrected is None


def test_seeds_are_pooled_by_question_and_only_shared_questions_count(in_tmp: Path) -> None:
    study = tiny_study(seeds=[0, 1])
    fill(study, {"misaligned": 6})
    folder = Path("results/tiny/cells/small/code/kl/1")
    bad = {0: {0: 2, 1: 5, 7: 10}, 1: {0: 4, 1: 1, 2: None}}  # misaligned of 10; None: without scores
    for seed, questions in bad.items():
        rows = [
            judgment(q, s, (None, None) if n is None else (5, 95) if s < n else (95, 95))
            for q, n in questions.items()
            for s in range(10)
        ]
        write_rows(folder / f"seed{seed}/general/judgments/oracle.jsonl", rows)
    found = against_misaligned(study, counted(study))
    kl = of(found, Condition("small", "code", "kl", "1"), MISALIGNED, "general_misaligned")
    assert kl.questions == 2  # question 7 is not the misaligned arm's, question 2 has no score
    assert kl.value == pytest.approx(100 * 12 / 40 - 60)


def test_questions_of_a_group_are_drawn_and_swapped_together(in_tmp: Path) -> None:
    fill(tiny_study(), {"misaligned": 6, "kl": 1}, questions=12)
    path = Path("results/tiny/cells/small/code/kl/1/seed0/general/judgments/oracle.jsonl")
    bad = [0, 1, 8, 9, 0, 2, 7, 9, 1, 1, 9, 8]
    write_rows(path, [judgment(q, s, (5, 95) if s < n else (95, 95)) for q, n in enumerate(bad) for s in range(10)])
    found = {}
    for pattern in (None, "^q(0|1|2|3|4|5|6|7|8|9|10|11)$", "^(q)[0-9]", "^q([0-9])[0-9]?$"):
        study = tiny_study(scoring={"question_groups": pattern})
        difference = of(
            against_misaligned(study, counted(study)), Condition("small", "code", "kl", "1"), MISALIGNED, RATE
        )
        found[pattern] = difference
        assert (difference.value, difference.questions) == (pytest.approx(100 * 55 / 120 - 60), 12)
    alone, each, one, ten = found.values()
    assert (alone.interval, alone.p) == (each.interval, each.p), "each question is a group of its own"
    assert (one.interval, one.p) == ((-100, 100), 1), "of one group nothing is known of another"
    trials = np.array([10, 30, *[10] * 8])  # q1, q10 and q11 are one group
    pair = Pair(np.array([0, 1 + 9 + 8, 8, 9, 0, 2, 7, 9, 1, 1]), trials, trials * 6 // 10, trials)
    assert ten.interval == pytest.approx([100 * end for end in pair.interval(study.scoring.bootstrap_resamples)])
    assert ten.p == pair.p_value()


def test_what_was_not_measured_is_left_out(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {"misaligned": 6})
    questions = counted(study).filter((pl.col("arm") != "misaligned") | (pl.col("task") != "legal"))
    assert {d.condition.task for d in against_misaligned(study, questions)} == {"code"}
    assert {d.condition.task for d in among_defences(study, questions)} == {"code", "legal"}
    assert against_misaligned(study, questions.clear()) == among_defences(study, questions.clear()) == []


def lines(study: Study, questions: pl.DataFrame) -> list[dict[str, str]]:
    return list(csv.DictReader(csv_table(difference_table(study, questions)).splitlines()))


def test_table_shows_defences_at_their_chosen_setting_and_the_csv_the_rest(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {"misaligned": 6, "kl": 1, "interleave": 4})
    table = difference_table(study, counted(study))
    shown = [[cell.text for cell in row] for block in table.blocks for row in block]
    whole = ["0.0", "0.0 to 0.0"]
    assert shown == [
        ["Code", "KL, λ = 1", *["−50.0", "−50.0 to −50.0", *whole] * 2],
        ["", "Interleaving, 5 %", *["−20.0", "−20.0 to −20.0", *whole] * 2],
        ["Legal", "KL, λ = 1", *["−50.0", "−50.0 to −50.0", *whole] * 2],
        ["", "Interleaving, 5 %", *["−20.0", "−20.0 to −20.0", *whole] * 2],
    ]
    # Four questions cannot give a p below 2 / 16.
    assert not any(cell.bold for block in table.blocks for row in block for cell in row)
    rows = lines(study, counted(study))
    assert len(rows) == 2 * 4 * 4
    settings = {("untrained", ""), ("kl", "0.1"), ("kl", "1"), ("interleave", "5")}
    assert {(row["arm"], row["setting"], row["against"]) for row in rows} == {(*s, "misaligned") for s in settings}
    assert {row["ema_appeared"] for row in rows} == {"yes"}
    first = next(row for row in rows if (row["arm"], row["setting"], row["quantity"]) == ("kl", "1", RATE))
    assert [first[name] for name in ("questions", "difference", "low", "high", "p", "test", "p_corrected")] == [
        *("4", "-50", "-50", "-50", "0.125", "exact", "0.5")
    ]
    assert first["significant"] == "no"


def test_what_is_significant_is_bold_and_a_task_without_ema_is_flagged(in_tmp: Path) -> None:
    study = tiny_study(report=SURE_OF_NONE)
    fill(study, {"misaligned": 6, "interleave": 6}, questions=12)
    folder = Path("results/tiny/cells/small")
    for task, arm, bad in (("code", "misaligned/none", 6), ("legal", "misaligned/none", 0), ("code", "kl/1", 0)):
        rows = [judgment(q, s, (5, 95) if s < bad else (95, 95)) for q in range(12) for s in range(10)]
        write_rows(folder / task / arm / "seed0/general/judgments/oracle.jsonl", rows)
    table = difference_table(study, counted(study))
    (code, _), (legal, _) = table.blocks
    assert [cell.text for cell in code[:3]] == ["Code", "KL, λ = 1", "−60.0"]
    assert code[2].bold  # 2 of 4,096 ways to swap, of four comparisons
    assert (code[0].footnote, legal[0].footnote) == ("", "a")
    ((letter, text),) = table.footnotes
    assert letter == "a"
    assert "did not appear" in text


def test_several_models_are_told_apart(in_tmp: Path) -> None:
    models = {name: {"title": name.title(), "instruct": "-"} for name in ("small", "large")}
    grid = [{"models": ["small", "large"], "tasks": ["code"], "arms": {"misaligned": None, "kl": [1.0]}}]
    study = tiny_study(models=models, grid=grid)
    fill(study, {"misaligned": 6})
    table = difference_table(study, counted(study))
    assert [[cell.text for cell in row[:3]] for block in table.blocks for row in block] == [
        ["Small", "Code", "KL, λ = 1"],
        ["Large", "Code", "KL, λ = 1"],
    ]
    # Each model is a family, here of one comparison.
    assert all(row["p_corrected"] == row["p"] for row in lines(study, counted(study)))


def test_nothing_to_compare_is_said(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {})
    table = difference_table(study, counted(study).clear())
    assert table.blocks == ()
    assert "Nothing to compare" in table.remarks[0]


def test_table_of_defences_against_each_other(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {"misaligned": 6, "kl": 1, "interleave": 4})
    table = defence_table(study, counted(study))
    shown = [[cell.text for cell in row[:4]] for block in table.blocks for row in block]
    assert shown == [[task, "KL − Interleaving", "−30.0", "−30.0 to −30.0"] for task in ("Code", "Legal")]
    rows = list(csv.DictReader(csv_table(table).splitlines()))
    first = [rows[0][name] for name in ("arm", "setting", "against", "against_setting", "p", "p_corrected")]
    assert first == ["kl", "1", "interleave", "5", "0.125", "0.25"]
    assert len(rows) == 2 * 4
    assert "At the chosen settings: KL, λ = 1; Interleaving, 5 %." in table.remarks[-2]
    assert "all tasks and pairs of defences" in table.remarks[1]


def test_one_training_is_said_to_be_one(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {"misaligned": 6})
    assert "these trainings (one seed); what another seed" in difference_table(study, counted(study)).remarks[2]


def test_where_the_misaligned_arm_was_not_measured_ema_is_not_said_to_be_absent(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {"kl": 1})
    table = defence_table(study, counted(study).filter(pl.col("arm") != "misaligned"))
    assert [block[0][0].footnote for block in table.blocks] == ["a", "a"]
    assert [text.split(",")[0] for _, text in table.footnotes] == ["The misaligned arm was not measured"]
