"""Forms of one question are drawn as one: by every interval, test and component of a study that says so."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from scipy.stats import permutation_test

from emdefense.analysis.aggregate import Counted
from emdefense.analysis.conditions import Condition
from emdefense.analysis.differences import against_misaligned
from emdefense.analysis.paired import Pair, smallest_p
from emdefense.analysis.question_counts import QuestionCounts
from emdefense.analysis.question_groups import groups_of
from emdefense.analysis.resampling import ResampledRates
from emdefense.analysis.study_variance import study_variances
from emdefense.analysis.variance import variance
from emdefense.config import Study
from emdefense.config.checks import check_study
from emdefense.data.questions import read_questions
from emdefense.errors import InputError
from emdefense.metrics import GENERAL_MISALIGNED
from emdefense.report.tables.differences import difference_table
from emdefense.report.tables.variance import variance_table
from real_data import REAL, needs_real_data
from study_folder import fill, judgment, tiny_study, write_rows

ROOT = Path(__file__).parents[2]
KL = Condition("small", "code", "kl", "1")
KL_ROW = (
    (pl.col("task") == "code")
    & (pl.col("arm") == "kl")
    & (pl.col("setting") == "1")
    & (pl.col("question_set") == "general")
)
PATTERN = "^(q[0-3])_"
NAMED = {f"q{topic}": [f"q{topic}_{form}" for form in range(3)] for topic in range(4)}
BAD = {f"q{topic}_{form}": 2 * topic + form for topic in range(5) for form in range(3)}  # of 10 answers


def forms(study: Study) -> pl.DataFrame:
    """Return the counts of a study whose general questions are five topics in three forms each."""
    fill(study, {"misaligned": 6})
    rows = [
        {**judgment(0, sample, (5, 95) if sample < bad else (95, 95)), "id": f"{name}/{sample}", "question_id": name}
        for name, bad in BAD.items()
        for sample in range(10)
    ]
    for arm in ("kl/1", "misaligned/none"):
        write_rows(Path(f"results/tiny/cells/small/code/{arm}/seed0/general/judgments/oracle.jsonl"), rows)
    return Counted.of(study).questions


@pytest.mark.parametrize("groups", [PATTERN, NAMED])
def test_rates_and_claims_draw_whole_groups(in_tmp: Path, groups: object) -> None:
    study = tiny_study(scoring={"question_groups": groups, "bootstrap_resamples": 20_000})
    questions = forms(study)
    rate = Counted.of(study).rates(study.scoring).row(by_predicate=KL_ROW, named=True)

    # By brute force: seven things are drawn, four topics of three questions each and three single questions.
    drawn = [[BAD[f"q{topic}_{form}"] for form in range(3)] for topic in range(4)] + [
        [BAD[f"q4_{f}"]] for f in range(3)
    ]
    random = np.random.default_rng(5)
    shares = []
    for _ in range(20_000):
        chosen = [drawn[n] for n in random.integers(0, 7, 7)]
        shares.append(100 * sum(map(sum, chosen)) / (10 * sum(map(len, chosen))))
    expected = np.quantile(shares, [0.025, 0.975])
    for kind in ("cluster", "pooled"):
        assert [rate[f"misaligned_{kind}_low"], rate[f"misaligned_{kind}_high"]] == pytest.approx(expected, abs=0.8)
    ungrouped = Counted.of(study).rates(tiny_study(scoring={"bootstrap_resamples": 20_000}).scoring)
    alone = ungrouped.row(by_predicate=KL_ROW, named=True)
    assert rate["misaligned_pct"] == alone["misaligned_pct"]
    assert rate["misaligned_cluster_high"] > alone["misaligned_cluster_high"] + 2, "topics differ more than forms"

    resampled = ResampledRates(questions, 20_000, study.scoring.question_groups)(KL, GENERAL_MISALIGNED)
    assert np.quantile(resampled, [0.025, 0.975]) == pytest.approx(expected, abs=0.8)


def test_a_group_of_one_question_each_changes_nothing(in_tmp: Path) -> None:
    questions = forms(tiny_study())
    alone = ResampledRates(questions, 300)(KL, GENERAL_MISALIGNED)
    named = {name: [name] for name in BAD}
    assert ResampledRates(questions, 300, named)(KL, GENERAL_MISALIGNED).mean() == pytest.approx(alone.mean(), abs=1.5)
    assert study_variances(questions, groups=named) == study_variances(questions)
    scoring = tiny_study(scoring={"question_groups": named}).scoring
    assert Counted.of(tiny_study()).rates(scoring).equals(Counted.of(tiny_study()).rates(tiny_study().scoring))


def test_components_are_those_of_the_topics(in_tmp: Path) -> None:
    study = tiny_study(scoring={"question_groups": NAMED})
    questions = forms(study).filter(pl.col("question_id").str.contains("^q[0-3]"))
    found = study_variances(questions, groups=study.scoring.question_groups)[KL, GENERAL_MISALIGNED]
    rates = np.array([[BAD[f"q{topic}_{form}"] / 10 for form in range(3)] for topic in range(4)])
    # The mean of three forms, each sampled ten times: the unbiased variance of a share is r (1 - r) / 9.
    sampling = np.mean([sum(r * (1 - r) / 9 for r in forms) / 9 for forms in rates])
    assert (found.questions, found.sampling) == (4, pytest.approx(sampling))
    assert found.question == pytest.approx(rates.mean(axis=1).var(ddof=1) - sampling)
    assert found.squared_error() == pytest.approx(rates.mean(axis=1).var(ddof=1) / 4), "of four independent topics"
    note = "Questions: groups of them are drawn (scoring.question_groups), and each counts as one."
    assert note in variance_table(study, questions).remarks
    assert note not in variance_table(tiny_study(), questions).remarks


def test_components_of_simulated_topics_are_found_again() -> None:
    random = np.random.default_rng(2)
    groups = np.repeat(np.arange(8), 3)
    found = []
    for _ in range(400):
        topic, seed = random.normal(0, 0.10, (8, 1)), random.normal(0, 0.05, (1, 4))
        chance = np.clip(0.5 + topic[groups] + seed + random.normal(0, 0.06, (24, 1)), 0, 1)
        found.append(variance(random.binomial(50, chance), np.full((24, 4), 50), groups))
    # A topic's variance, and that of the mean of its three forms.
    assert np.mean([one.question for one in found]) == pytest.approx(0.10**2 + 0.06**2 / 3, rel=0.08)
    assert np.mean([one.seed for one in found]) == pytest.approx(0.05**2, rel=0.15)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_smallest_p_is_that_of_the_test(count: int) -> None:
    ten = np.full(count, 10)
    largest = Pair(ten, ten, np.zeros(count, dtype=np.int64), ten)
    scipys = permutation_test(
        (np.ones(count), np.zeros(count)), lambda x, y: np.mean(x) - np.mean(y), permutation_type="samples"
    )
    assert smallest_p(count) == largest.p_value() == pytest.approx(scipys.pvalue)


def test_a_table_says_where_no_difference_could_be_significant(in_tmp: Path) -> None:
    study = tiny_study(scoring={"question_groups": "^(q[0-9])_"})
    questions = forms(study)
    compared = sum(
        d.p_corrected is not None for d in against_misaligned(study, questions) if d.quantity == GENERAL_MISALIGNED
    )
    said = " ".join(difference_table(study, questions).remarks)
    assert f"general misaligned, general incoherent: with 5 groups of questions and {compared} comparisons" in said
    assert f"the smallest that the test allows is {compared * 2 / 2**5:.2g}" in said
    many = tiny_study()
    fill(many, {"misaligned": 6}, questions=24)
    assert "No p can be" not in " ".join(difference_table(many, Counted.of(many).questions).remarks)


@needs_real_data
@pytest.mark.parametrize("study", ["paper", "paper-v3", "sweep-ldifs"])
def test_the_papers_questions_are_eight_in_three_forms(study: str) -> None:
    raw = yaml.safe_load((ROOT / f"config/{study}.yaml").read_text())["scoring"]["question_groups"]
    ids = [question["id"] for question in read_questions(REAL / "questions/general.yaml")]
    assert Counter(Counter(groups_of(ids, raw)).values()) == {3: 8}


def test_named_groups() -> None:
    assert groups_of(["a", "b", "c", "d"], {"x": ["a", "c"], "d": ["b"]}) == ["x\n", "d\n", "x\n", "d"]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"x": ["a", "b"], "y": ["a"]}, "key 'scoring.question_groups': 'a' stands there twice"),
        ({"x": []}, "key 'scoring.question_groups.x': it has no question"),
    ],
)
def test_named_groups_that_cannot_be(groups: dict[str, list[str]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_study(tiny_study(scoring={"question_groups": groups}))


def test_a_named_question_that_is_none(in_tmp: Path) -> None:
    with pytest.raises(InputError, match=r"key 'scoring.question_groups.topic': no question has the id 'q9_9'"):
        QuestionCounts.of(forms(tiny_study()), {"topic": ["q1_1", "q9_9"]})
