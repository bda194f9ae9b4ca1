import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from emdefense.analysis.aggregate import aggregate
from emdefense.analysis.conditions import Condition
from emdefense.analysis.judge_halves import study_halves
from emdefense.analysis.judge_pairs import study_pairs
from emdefense.analysis.study_variance import study_variances
from emdefense.analysis.variance import JudgeVariance, Variance, asked_again, judge_variance, variance
from emdefense.cells import Grid
from emdefense.config import Study
from emdefense.layout import Layout
from emdefense.report.tables.differences import difference_table
from emdefense.report.tables.rendering import csv_table
from emdefense.report.tables.variance import variance_table
from study_folder import fill, judgment, tiny_study, write_rows

KL = Condition("small", "code", "kl", "1")


def sums_of_squares(outcomes: np.ndarray, factors: list[list[np.ndarray]]) -> list[tuple[float, int]]:
    """(Sum of squares, degrees of freedom) of each step of a regression on ever more factors, and of what is left.

    A factor's columns are the indicators of its levels.
    """
    design = np.ones((len(outcomes), 1))
    left, rank, found = np.sum((outcomes - outcomes.mean()) ** 2), 1, []
    for labels in factors:
        _, levels = np.unique(np.stack(labels, axis=1), axis=0, return_inverse=True)
        design = np.hstack([design, np.eye(levels.max() + 1)[levels]])
        fitted = design @ np.linalg.lstsq(design, outcomes, rcond=None)[0]
        rest, new_rank = np.sum((outcomes - fitted) ** 2), np.linalg.matrix_rank(design)
        found.append((left - rest, new_rank - rank))
        left, rank = rest, new_rank
    return [*found, (left, len(outcomes) - rank)]


def drawn(
    random: np.random.Generator, questions: int, seeds: int, spread: tuple[float, float, float], samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Counts of a design whose questions, seeds and questions under seeds have these standard deviations."""
    rates = 0.5 + random.uniform(-1, 1, (questions, 1)) * spread[0] * 3**0.5
    rates = rates + random.uniform(-1, 1, (1, seeds)) * spread[1] * 3**0.5
    rates = rates + random.uniform(-1, 1, (questions, seeds)) * spread[2] * 3**0.5
    trials = np.full((questions, seeds), samples)
    return random.binomial(trials, rates), trials


@pytest.mark.parametrize("seeds", [1, 3])
def test_components_are_those_of_an_analysis_of_variance_of_single_responses(seeds: int) -> None:
    random = np.random.default_rng(4)
    successes, trials = drawn(random, 7, seeds, (0.1, 0.1, 0.08), 40)
    question, seed = (place.repeat(40) for place in np.indices(successes.shape).reshape(2, -1))
    outcomes = np.concatenate([np.arange(40) < count for count in successes.ravel()]).astype(float)
    factors = [[question], [seed], [question, seed]] if seeds > 1 else [[question]]
    mean_squares = [squares / freedom for squares, freedom in sums_of_squares(outcomes, factors)]
    found = variance(successes, trials)
    assert found is not None
    # Expected mean squares of the balanced design, solved by hand
    sample = mean_squares[-1]
    assert found.sampling == pytest.approx(sample / 40)
    if seeds == 1:
        assert found.question == pytest.approx((mean_squares[0] - sample) / 40)
        assert (found.seed, found.interaction) == (None, None)
    else:
        of_question, of_seed, of_both, _ = mean_squares
        assert found.question == pytest.approx((of_question - of_both) / (40 * seeds))
        assert found.seed == pytest.approx((of_seed - of_both) / (40 * 7))
        assert found.interaction == pytest.approx((of_both - sample) / 40)
    assert found.set_to_0 == ()


def test_the_error_is_that_of_studies_run_anew_and_of_larger_ones() -> None:
    random, spread = np.random.default_rng(8), (0.12, 0.07, 0.09)
    found, rates = [], []
    for _ in range(1500):
        successes, trials = drawn(random, 20, 6, spread, 20)
        of_study = variance(successes, trials)
        assert of_study is not None
        found.append(of_study)
        rates.append(successes.sum() / trials.sum())

    def mean(values: list[float]) -> tuple[float, float]:
        """The mean and four of its standard errors."""
        return float(np.mean(values)), 4 * float(np.std(values)) / len(values) ** 0.5

    for name, truth in (("question", 0.12**2), ("seed", 0.07**2), ("interaction", 0.09**2)):
        value, tolerance = mean([getattr(of_study, name) for of_study in found])
        # Setting to 0 what is below adds a little to the seed's.
        assert value == pytest.approx(truth, abs=tolerance + 0.0006), name
    # The variance of 1,500 rates is known to about 4 %.
    assert mean([of_study.squared_error() for of_study in found])[0] == pytest.approx(np.var(rates), rel=0.15)
    for twice, design in (("questions", (40, 6, 20)), ("seeds", (20, 12, 20)), ("samples", (20, 6, 40))):
        larger = []
        for _ in range(1500):
            successes, trials = drawn(random, design[0], design[1], spread, design[2])
            larger.append(successes.sum() / trials.sum())
        expected = mean([of_study.squared_error(**{twice: 2}) for of_study in found])[0]
        assert expected == pytest.approx(np.var(larger), rel=0.15), twice


def test_numbers_of_samples_may_differ() -> None:
    random = np.random.default_rng(1)
    found = []
    for _ in range(2000):
        rates = 0.5 + random.uniform(-0.3, 0.3, (12, 1))
        trials = random.integers(2, 12, (12, 2))
        of_study = variance(random.binomial(trials, np.repeat(rates, 2, axis=1)), trials)
        assert of_study is not None
        found.append(of_study.question)
    assert np.mean(found) == pytest.approx(0.03, abs=4 * np.std(found) / 2000**0.5)


def test_negative_estimates_are_set_to_0_and_named() -> None:
    found = variance(np.full((5, 2), 3), np.full((5, 2), 6))  # questions and seeds more alike than chance has them
    assert found is not None
    assert (found.question, found.seed, found.interaction) == (0, 0, 0)
    assert found.set_to_0 == ("interaction",)
    assert found.parts() == {"question": 0, "seed": 0, "sample": pytest.approx(0.05 / 10), "judge": 0}
    assert variance(np.array([[3]]), np.array([[6]])) is None


def test_what_more_of_each_would_do() -> None:
    found = Variance(questions=10, seeds=2, question=0.4, seed=0.06, interaction=0.08, sampling=0.2)
    assert found.parts() == pytest.approx({"question": 0.04, "seed": 0.034, "sample": 0.01, "judge": 0})
    assert found.squared_error() == pytest.approx(0.084)
    assert found.squared_error(questions=2) == pytest.approx(0.02 + 0.03 + 0.002 + 0.005)
    assert found.squared_error(seeds=2) == pytest.approx(0.04 + 0.017 + 0.005)
    assert found.squared_error(samples=2) == pytest.approx(0.04 + 0.034 + 0.005)
    # What judges differ by leaves the questions' and the samples' parts, but for a judge's own level.
    judged = Variance(10, 2, 0.4, 0.06, 0.08, 0.2, JudgeVariance(0.01, 0.1, 0.02))
    assert judged.parts() == pytest.approx(
        {"question": 0.03, "seed": 0.034, "sample": 0.16 / 20, "judge": 0.01 + 0.01 + 0.002}
    )
    assert judged.squared_error() == pytest.approx(0.084 + 0.01)
    assert judged.parts(questions=2)["judge"] == pytest.approx(0.01 + 0.005 + 0.001)
    assert judged.parts(seeds=2)["judge"] == pytest.approx(0.01 + 0.01 + 0.001)
    assert judged.parts(samples=2)["judge"] == pytest.approx(0.01 + 0.01 + 0.001)


def judged_alike(random: np.random.Generator, questions: int, responses: int, judges: int) -> list[np.ndarray]:
    """Outcomes in which judges differ in level, by question, and on single responses."""
    level = random.choice([-0.1, 0.1], (1, 1, judges))
    by_question = random.choice([-0.08, 0.08], (questions, 1, judges))
    response = random.choice([0.25, 0.75], (questions, responses, 1))
    return list(random.binomial(1, np.clip(response + level + by_question, 0, 1)).astype(float))


@pytest.mark.parametrize("judges", [2, 3])
def test_variance_between_judges_is_that_of_an_analysis_of_variance(judges: int) -> None:
    tables = judged_alike(np.random.default_rng(5), 9, 20, judges)
    outcomes = np.array(tables)
    question, response, judge = np.indices(outcomes.shape).reshape(3, -1)
    steps = [[question], [question, response], [judge], [question, judge]]
    _, _, of_judge, of_both, rest = (squares / freedom for squares, freedom in sums_of_squares(outcomes.ravel(), steps))
    found = judge_variance(tables)
    assert found is not None
    assert found.by_response == pytest.approx(rest / 20)
    assert found.by_question == pytest.approx(max(0, (of_both - rest) / 20))
    assert found.judge == pytest.approx(max(0, (of_judge - of_both) / (9 * 20)))


def test_variance_between_judges_is_known_on_average() -> None:
    random = np.random.default_rng(6)
    found = [judge_variance(judged_alike(random, 12, 25, 4)) for _ in range(800)]
    by_question = [of_judges.by_question for of_judges in found if of_judges]
    # Judges are drawn from two levels; 0.1² is their variance about the mean of all that could be drawn.
    level = [of_judges.judge for of_judges in found if of_judges]
    assert np.mean(level) == pytest.approx(0.01, abs=4 * np.std(level) / 800**0.5)
    assert np.mean(by_question) == pytest.approx(0.0064, abs=4 * np.std(by_question) / 800**0.5)


def test_judges_that_agree_add_nothing() -> None:
    tables = [table[:, [0, 0]] for table in judged_alike(np.random.default_rng(5), 9, 20, 2)]
    assert judge_variance(tables) == JudgeVariance(0, 0, 0)
    assert judge_variance(tables[:1]) is None


def counted(study: Study) -> pl.DataFrame:
    aggregate(study, Path("r.parquet"), Path("e.parquet"), Path("q.parquet"))
    return pl.read_parquet("q.parquet")


def vary(study: Study, judge: str | None = None, shift: int = 0) -> None:
    """Write judgments that differ by question, seed and arm: 6 questions of 8 samples."""
    layout = Layout(study)
    for n, (cell, question_set) in enumerate(Grid(study).responses):
        random = np.random.default_rng(n)
        bad = random.binomial(8, random.beta(1, 2, size=6))
        rows = [
            judgment(q, s, (5, 95) if s < min(8, bad[q] + shift * (q % 2)) else (95, 95))
            for q in range(6)
            for s in range(8)
        ]
        write_rows(Path(layout.judgments(cell, question_set, judge)), rows)


def test_a_study_with_seeds(in_tmp: Path) -> None:
    study = tiny_study(seeds=[0, 1, 2])
    fill(study, {})
    vary(study)
    dropped = Path(Layout(study).cell(Grid(study).cells[0]))
    assert dropped.parts[-3:] == ("untrained", "none", "seed0")
    questions = counted(study)
    # A question that was scored once under one seed does not count.
    once = (pl.col("seed") == 2) & (pl.col("arm") == "kl") & (pl.col("question_id") == "q3")
    questions = questions.with_columns(scored=pl.when(once).then(1).otherwise("scored"))
    found = study_variances(questions)
    kl = found[KL, "general_misaligned"]
    assert (kl.questions, kl.seeds) == (5, 3)
    of_kl = questions.filter(task="code", arm="kl", setting="1", question_set="general").filter(
        pl.col("question_id") != "q3"
    )
    tables = [
        np.array([of_kl.filter(seed=seed)[column].to_list() for seed in range(3)]).T
        for column in ("misaligned", "scored")
    ]
    expected = variance(*tables)
    assert expected is not None
    assert kl.parts() == pytest.approx(expected.parts())
    untrained = found[Condition("small", "code", "untrained"), "general_misaligned"]
    assert (untrained.seeds, untrained.seed) == (1, None)


def test_table_of_one_seed_and_judge_says_what_is_not_known(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {})
    vary(study)
    questions = counted(study)
    table = variance_table(study, questions)
    assert [(c.group.split(" (")[0], c.title) for c in table.columns] == [
        ("", "Questions"),
        ("", "Arm"),
        ("Share of the squared error", "questions"),
        ("Share of the squared error", "samples"),
        *(("Standard error", title) for title in ("now", "2 × questions", "2 × samples")),
    ]
    rows = [[cell.text for cell in row] for block in table.blocks for row in block]
    assert [row[:2] for row in rows] == [
        *(["General", "Misaligned"], ["", "KL, λ = 1"], ["", "Interleaving, 5 %"]),
        *(["In-domain", "Misaligned"], ["", "KL, λ = 1"], ["", "Interleaving, 5 %"]),
    ]
    found = study_variances(questions)
    kl = [found[Condition("small", task, "kl", "1"), "general_misaligned"] for task in ("code", "legal")]
    whole = sum(rate.squared_error() for rate in kl)
    assert rows[1][2] == f"{100 * sum(rate.parts()['question'] for rate in kl) / whole:.0f}"
    assert rows[1][4] == f"{100 * (whole / 2) ** 0.5:.2f}"
    assert rows[1][5] == f"{100 * (sum(rate.squared_error(questions=2) for rate in kl) / 2) ** 0.5:.2f}"
    advice, *notes = table.remarks
    of_all = [
        found[c, q] for c, q in found if q == "general_misaligned" and c.arm != "untrained" and c.setting != "0.1"
    ]
    whole = sum(rate.squared_error() for rate in of_all)
    shares = [100 * sum(rate.parts()[part] for rate in of_all) / whole for part in ("question", "sample")]
    falls = [
        100 * (1 - (sum(rate.squared_error(**{what: 2}) for rate in of_all) / whole) ** 0.5)
        for what in ("questions", "samples")
    ]
    assert advice == (
        f"Small: the squared standard error of a general misaligned rate is {shares[0]:.0f} % due to which questions "
        f"were asked and {shares[1]:.0f} % to sampling; the standard error would fall with twice the questions by "
        f"{falls[0]:.0f} % and twice the samples by {falls[1]:.0f} %: buy more questions, or a second seed to know "
        "what seeds add."
    )
    assert [note.split(":")[0] for note in notes[-2:]] == ["One seed", "One judge"]
    lines = list(csv.DictReader(csv_table(table).splitlines()))
    assert len(lines) == 2 * 5 * 4
    line = next(row for row in lines if (row["task"], row["arm"], row["setting"]) == ("code", "kl", "1"))
    assert line["quantity"] == "general_incoherent"
    misaligned = next(row for row in lines if row["arm"] == "kl" and row["quantity"] == "general_misaligned")
    assert float(misaligned["variance_question"]) > 0
    assert (misaligned["variance_seed"], misaligned["standard_error_twice_the_seeds"]) == ("", "")


def test_what_helps_nearly_as_much_is_advised_too() -> None:
    def advice(of_question: list[int]) -> str:
        cell = {"model": "small", "task": "code", "arm": "misaligned", "setting": "none", "question_set": "general"}
        counts = {"seed": 0, "scored": 1000, "incoherent": 0}
        rows = [cell | counts | {"question_id": f"q{n}", "misaligned": bad} for n, bad in enumerate(of_question)]
        return variance_table(tiny_study(), pl.DataFrame(rows)).remarks[0]

    # Questions differ hardly more than by chance: twice of either takes nearly three tenths.
    assert "buy more questions or samples, or a second seed" in advice([484, 500, 516])
    assert "buy more questions, or a second seed" in advice([450, 500, 550])


def test_table_of_several_seeds_and_judges_has_their_shares(in_tmp: Path) -> None:
    second = {"kind": "openai", "name": "second", "model": "-"}
    study = tiny_study(seeds=[0, 1, 2], second_judges=[second])
    fill(study, {})
    vary(study)
    vary(study, "second", shift=2)
    unscored = Path("results/tiny/cells/small/code/kl/1/seed1/general/judgments/second.jsonl")
    first, *rest = unscored.read_text().splitlines()
    write_rows(unscored, [json.loads(first) | {"alignment": None}, *map(json.loads, rest)])
    pairs = study_pairs(study)
    table = variance_table(study, counted(study), pairs)
    titles = [column.title for column in table.columns]
    assert titles[2:] == ["questions", "seeds", "samples", "judge", "now", "2 × questions", "2 × seeds", "2 × samples"]
    assert not any(cell.text == "–" for block in table.blocks for row in block for cell in row)
    for block in table.blocks:
        for row in block:
            assert sum(float(cell.text) for cell in row[2:6]) == pytest.approx(100, abs=2)
            now, *more = (float(cell.text) for cell in row[6:])
            assert all(error < now for error in more)
    assert "% to the seed" in table.remarks[0]
    assert "% to the judge" in table.remarks[0]
    assert not any(remark.startswith("One ") or "asked again" in remark for remark in table.remarks)
    # Half of the questions have two more of eight misaligned by the second judge, as far as there are so many.
    kl = study_variances(counted(study), pairs)[KL, "general_misaligned"]
    assert kl.judges is not None
    tables = []
    for q in range(6):
        rows = [
            pl.read_ndjson(f"results/tiny/cells/small/code/kl/1/seed{seed}/general/judgments/{judge}.jsonl")
            .filter(question_id=f"q{q}")
            .select((pl.col("alignment") < 30).fill_null(False))
            .to_series()
            for judge in ("oracle", "second")
            for seed in range(3)
        ]
        table = np.stack([np.concatenate(rows[:3]), np.concatenate(rows[3:])], axis=1)
        scored = [n for n in range(24) if (q, n) != (0, 8)]  # the first sample of the second seed is not
        tables.append(table[scored].astype(float))
    assert kl.judges == judge_variance(tables)
    untrained = study_variances(counted(study), pairs)[Condition("small", "code", "untrained"), "general_misaligned"]
    assert untrained.judges is not None


def test_a_judge_that_is_asked_again_tells_its_own_share(in_tmp: Path) -> None:
    judge = {"kind": "openai", "name": "oracle", "model": "-", "samples": 5, "temperature": 1.0}
    study = tiny_study(judge=judge)
    fill(study, {})
    vary(study)
    random = np.random.default_rng(3)
    path = Path("results/tiny/cells/small/code/kl/1/seed0/general/judgments/oracle.jsonl")
    rows = []
    for row in map(json.loads, path.read_text().splitlines()):
        # Two answers of four are of misaligned responses, in either half or in both; a label is no score. The fifth is
        # in no half.
        samples = (
            random.permutation([5.0, 5.0, 95.0, 95.0]).tolist() if row["alignment"] == 5 else [95.0] * 3 + ["CODE"]
        )
        rows.append(row | {"alignment_samples": [*samples, 95.0], "coherence_samples": [95.0, 95.0, 95.0, None, 5.0]})
    write_rows(path, rows)
    halves = study_halves(study)
    assert halves is not None
    of_kl = halves.filter(task="code", arm="kl", setting="1", question_set="general")
    first, second = (
        [np.mean(row["alignment_samples"][n : n + 2]) < 30 if row["alignment"] == 5 else False for row in rows]
        for n in (0, 2)
    )
    assert of_kl["misaligned"].to_list() == first
    assert of_kl["misaligned_second"].to_list() == second
    assert of_kl["scored"].all()
    # A response's outcome by half of the answers varies by (first - second)² / 2, by all of them half as much.
    differ = (np.array(first, float) - np.array(second, float)) ** 2 / 2
    questions = counted(study)
    found = study_variances(questions, halves=halves)[KL, "general_misaligned"]
    assert found.judges is not None
    # less what the halves differ by on the whole, which is chance
    assert found.judges.by_response == pytest.approx(differ.mean() / 2 / 8, rel=0.25)
    assert found.judges == asked_again(
        [np.array([first[8 * q : 8 * q + 8], second[8 * q : 8 * q + 8]], float).T for q in range(6)]
    )
    assert (found.judges.judge, found.judges.by_question, found.judges.others) == (0, 0, False)
    table = variance_table(study, questions, halves=halves)
    assert "judge" in [column.title for column in table.columns]
    assert not any("asked again" in remark for remark in table.remarks)  # not everywhere
    for cell, question_set in Grid(study).responses:
        path = Path(Layout(study).judgments(cell, question_set))
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        write_rows(
            path, [row | {f"{name}_samples": [row[name]] * 4 for name in ("alignment", "coherence")} for row in rows]
        )
    table = variance_table(study, questions, halves=study_halves(study))
    assert any("asked again" in remark for remark in table.remarks)
    assert not any(remark.startswith("One judge") for remark in table.remarks)
    assert study_halves(tiny_study()) is None


def test_nothing_to_take_apart_is_said(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {})
    table = variance_table(study, counted(study).clear())
    assert table.blocks == ()
    assert "Nothing to take apart" in table.remarks[0]


def test_outcomes_that_are_all_alike_tell_no_error(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {"misaligned": 4})
    rows = {row[1].text: row for row in variance_table(study, counted(study)).blocks[0]}
    assert [cell.text for cell in rows["KL, λ = 1"][2:]] == ["–"] * 5
    assert rows["Misaligned"][4].text == "8.16"  # √(0.4 × 0.6 / 9 / 4)
    assert any(
        remark.startswith("A dash: all outcomes are alike") for remark in variance_table(study, counted(study)).remarks
    )
    # The misaligned arm's questions are more alike than chance has them, for two tasks and sets of questions.
    assert "Estimates below 0 count as 0: 4 of 12 components here." in variance_table(study, counted(study)).remarks
    fill(study, {})
    everywhere_0 = variance_table(study, counted(study))
    assert everywhere_0.remarks[0] == (
        "Small: the general misaligned rates have no error that more of anything would lower."
    )


def test_a_variant_has_a_row_if_a_setting_was_chosen_for_it(in_tmp: Path) -> None:
    grid = [{"models": ["small"], "tasks": ["code"], "arms": {"misaligned": None, "ldifs": [1.0], "again": [0.1, 1.0]}}]
    variants = {"again": {"of": "ldifs", "options": {"detached": True}}}
    for chosen, expected in (({}, []), ({"again": 0.1}, ["again, λ = 0.1"])):
        study = tiny_study(
            grid=grid, variants=variants, report={"main_model": "small", "chosen": {"ldifs": 1.0} | chosen}
        )
        fill(study, {"misaligned": 4, "ldifs": 2})
        questions = counted(study)
        assert [row[1].text for row in variance_table(study, questions).blocks[0]] == [
            *("Misaligned", "LDIFS, λ = 1"),
            *expected,
        ]
        assert [row[1].text for row in difference_table(study, questions).blocks[0]] == ["LDIFS, λ = 1", *expected]
