"""The trade-off, the heat map of questions and the scores: what they show is what was counted."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.axes import Axes

from emdefense.analysis.paper import paper_study, paper_summary
from emdefense.analysis.rates import EXACT_MATCH_SCHEMA, QUESTIONS_SCHEMA, SCORES_SCHEMA
from emdefense.analysis.resampling import ResampledRates
from emdefense.analysis.summary import Summary, no_summary
from emdefense.analysis.tradeoff import effect, effect_intervals
from emdefense.errors import InputError
from emdefense.report.artefact import FORMATS
from emdefense.report.catalogue import MOST_QUESTIONS, artefacts
from emdefense.report.figures.question_heatmap import draw_question_heatmap
from emdefense.report.figures.score_scatter import draw_score_scatter
from emdefense.report.figures.style import PAGE, save, styled
from emdefense.report.figures.tradeoff import draw_tradeoff
from emdefense.report.measured import Measured
from study_folder import CONFIG, tiny_study

TASKS = ("code", "legal")
Counts = dict[tuple[str, str], list[int]]  # misaligned of 10 responses, by arm and task, a question each


def by_question(general: Counts, in_domain: Counts, seed: int = 0) -> pl.DataFrame:
    """Questions as ``aggregate`` writes them; 10 responses each, of which one is incoherent."""
    rows = []
    for question_set, counts in (("general", general), ("in_domain", in_domain)):
        for (arm, task), misaligned in counts.items():
            setting = {"kl": "1", "interleave": "5"}.get(arm, "none")
            for number, count in enumerate(misaligned):
                row: dict[str, Any] = dict.fromkeys(QUESTIONS_SCHEMA)
                row |= {"model": "small", "task": task, "arm": arm, "setting": setting, "seed": seed}
                row |= {"question_set": question_set, "question_id": f"q{number}", "responses": 10, "scored": 10}
                rows.append(row | {"misaligned": count, "incoherent": 1})
    return pl.DataFrame(rows, schema=QUESTIONS_SCHEMA)


def summary_of(questions: pl.DataFrame) -> Summary:
    """The rates of these counts."""
    rates = questions.group_by("model", "task", "arm", "setting", "seed", "question_set").agg(
        pl.col("responses", "scored", "misaligned", "incoherent", "cut").sum()
    )
    shares = [(100 * pl.col(name) / pl.col("scored")).alias(f"{name}_pct") for name in ("misaligned", "incoherent")]
    nothing = [
        pl.lit(None, pl.Float64).alias(f"{name}_pooled_{end}")
        for name, end in product(("misaligned", "incoherent"), ("low", "high"))
    ]
    return Summary(rates.with_columns(*shares, *nothing), pl.DataFrame(schema=EXACT_MATCH_SCHEMA), questions)


GENERAL: Counts = {
    ("misaligned", "code"): [8, 4, 2],
    ("misaligned", "legal"): [1, 9, 2],
    ("kl", "code"): [1, 0, 0],
    ("kl", "legal"): [0, 3, 0],
    ("untrained", "code"): [0, 0, 0],
    ("untrained", "legal"): [0, 0, 0],
}
IN_DOMAIN: Counts = {
    ("misaligned", "code"): [10, 8],
    ("misaligned", "legal"): [4, 6],
    ("kl", "code"): [5, 6],
    ("kl", "legal"): [2, 4],
    ("untrained", "code"): [0, 1],
    ("untrained", "legal"): [0, 0],
}


@pytest.fixture
def questions() -> pl.DataFrame:
    return by_question(GENERAL, IN_DOMAIN)


@pytest.fixture
def many_questions() -> pl.DataFrame:
    """The same rates, of so many questions that they tell whether EMA appeared."""
    general, in_domain = ({key: 20 * counts for key, counts in of_set.items()} for of_set in (GENERAL, IN_DOMAIN))
    return by_question(general, in_domain)


def marks(axes: Axes) -> set[tuple[float, float]]:
    """Where single marks stand, rounded."""
    found = [line.get_xydata() for line in axes.lines if len(line.get_xydata()) == 1]
    return {(round(x, 6), round(y, 6)) for ((x, y),) in found}


def test_an_effect_is_the_mean_over_tasks_of_shares_of_the_misaligned_arm(questions: pl.DataFrame) -> None:
    found = effect(summary_of(questions), "small", TASKS, "kl", "1")
    assert found is not None
    assert found.reduction == pytest.approx(100 * (1 - (1 / 14 + 3 / 12) / 2))
    assert found.retention == pytest.approx(100 * (11 / 18 + 6 / 10) / 2)
    assert effect(summary_of(questions), "small", TASKS, "interleave", "5") is None
    assert effect(summary_of(questions), "small", (), "kl", "1") is None
    one = questions.filter((pl.col("arm") != "kl") | (pl.col("task") == "code"))
    assert effect(summary_of(one), "small", TASKS, "kl", "1") is None


def test_intervals_of_effects_draw_general_questions_once_and_each_tasks_own_by_themselves() -> None:
    """Against a bootstrap of its own, question by question, of two seeds together."""
    generator = np.random.default_rng(7)

    def counts(highest: int, arms: dict[str, float]) -> Counts:
        return {
            (arm, task): list(generator.binomial(highest, share * generator.uniform(0.3, 1, 20)))
            for arm, share in arms.items()
            for task in TASKS
        }

    seeds = [(counts(10, {"misaligned": 0.6, "kl": 0.2}), counts(10, {"misaligned": 0.9, "kl": 0.7})) for _ in range(2)]
    frame = pl.concat([by_question(*sets, seed=seed) for seed, sets in enumerate(seeds)])
    found = effect_intervals(ResampledRates(frame, 4000), "small", TASKS, "kl", "1")

    def resampled(question_set: int, shared: bool) -> list[float]:
        means = []
        for _ in range(4000):
            draw = generator.integers(0, 20, 20)
            ratios = []
            for task in TASKS:
                draw = draw if shared else generator.integers(0, 20, 20)
                mine, reference = (
                    sum(seed[question_set][arm, task][number] for seed in seeds for number in draw)
                    for arm in ("kl", "misaligned")
                )
                ratios.append(100 * mine / reference)
            means.append(sum(ratios) / 2)
        return means

    low, high = np.quantile(resampled(0, shared=True), [0.025, 0.975])
    assert found.reduction == pytest.approx((100 - high, 100 - low), abs=1)
    assert found.retention == pytest.approx(np.quantile(resampled(1, shared=False), [0.025, 0.975]), abs=1)


def test_there_is_no_interval_where_a_resample_has_nothing_to_divide_by() -> None:
    frame = by_question({**GENERAL, ("misaligned", "code"): [8, 0, 0]}, IN_DOMAIN)
    found = effect_intervals(ResampledRates(frame, 200), "small", TASKS, "kl", "1")
    assert found.reduction is None  # some resample draws only questions 1 and 2
    assert found.retention is not None


def test_the_tradeoff_shows_the_mean_and_each_task(many_questions: pl.DataFrame) -> None:
    summary = summary_of(many_questions)
    with styled():
        figure = draw_tradeoff(tiny_study(), summary, ResampledRates(many_questions, 200))
        without = draw_tradeoff(tiny_study(), summary, None)
    large, *small = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["Mean over 2 tasks", "Code", "Legal"]
    for axes, tasks in zip(figure.axes, (TASKS, TASKS[:1], TASKS[1:]), strict=True):
        at = effect(summary, "small", tasks, "kl", "1")
        untrained = effect(summary, "small", tasks, "untrained", "none")
        assert at is not None
        assert untrained is not None
        assert marks(axes) == {
            (100, 100),
            (100, 0),
            (round(at.retention, 6), round(at.reduction, 6)),
            (round(untrained.retention, 6), round(untrained.reduction, 6)),
        }
        (path,) = [line for line in axes.lines if line.get_linewidth() > 0.5 and len(line.get_xydata()) == 2][:1]
        assert path.get_xydata().tolist() == [[100, 0], [at.retention, at.reduction]]
    assert len(large.lines) == len(without.axes[0].lines) + 2  # one arm's two intervals
    assert all(len(axes.lines) == len(other.lines) for axes, other in zip(small, without.axes[1:], strict=True))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["KL, λ = 1", "Interleaving, 5 %", "Untrained", "Misaligned"]


def test_the_tradeoff_of_the_papers_numbers_is_that_of_its_claims() -> None:
    """KL's mean EMA reduction is 91.5 %; in domain Table 3 leaves it 49.1 %, and SafeLoRA 51.2 %."""
    with styled():
        figure = draw_tradeoff(paper_study(), paper_summary(), None)
    found = {(round(x, 1), round(y, 1)) for x, y in marks(figure.axes[0])}
    assert {(49.1, 91.5), (99.1, 87.2)} <= found
    assert 51.2 in {x for x, _ in found}
    lines = [line.get_xydata() for line in figure.axes[0].lines if len(line.get_xydata()) > 2]
    assert sorted(map(len, lines)) == [5, 6, 6, 6]  # from the misaligned arm through every setting
    assert all(line[0].tolist() == [100, 0] for line in lines)


def test_tasks_without_ema_are_left_out(questions: pl.DataFrame, many_questions: pl.DataFrame) -> None:
    study = tiny_study(report={**CONFIG["report"], "emergent_pct": 45})  # code has 46.7 %, legal 40
    of_many = summary_of(many_questions)
    with styled():
        figure = draw_tradeoff(study, of_many, ResampledRates(many_questions, 200))
        strict = tiny_study(report={**CONFIG["report"], "emergent_pct": 60})
        few = summary_of(questions)
        empty = [draw_tradeoff(strict, summary, None) for summary in (of_many, few, no_summary())]
    assert [axes.get_title() for axes in figure.axes] == ["Code"]
    assert figure.get_size_inches()[0] < PAGE
    why = [figure.axes[0].texts[0].get_text() for figure in empty]
    untold = "On no task is it shown that EMA appeared"
    assert why == ["EMA did not appear in any task", untold, "not measured in this study"]


def test_the_heat_map_shows_each_questions_rate_worst_first(questions: pl.DataFrame) -> None:
    other_seed = by_question({("misaligned", "code"): [0, 8, 2]}, {}, seed=1)
    with styled():
        figure = draw_question_heatmap(tiny_study(), pl.concat([questions, other_seed]), {})
    code, legal, code_own, legal_own = figure.axes[:4]
    assert [axes.get_title() for axes in (code, legal)] == ["Code", "Legal"]
    arms = [label.get_text() for label in code.get_xticklabels()]
    assert arms == ["Untrained", "Misaligned", "KL, λ = 1", "Interleaving, 5 %"]
    # Means over the tasks: q0 (40 + 10) / 2, q1 (60 + 90) / 2, q2 20.
    assert [label.get_text() for label in code.get_yticklabels()] == ["q1", "q0", "q2"]
    assert [label.get_text() for label in legal.get_yticklabels()] == []
    np.testing.assert_array_equal(
        code.images[0].get_array().filled(np.nan),
        [[0, 60, 0, np.nan], [0, 40, 10, np.nan], [0, 20, 0, np.nan]],
    )
    assert legal.images[0].get_array()[:, 1].tolist() == [90, 10, 20]
    assert [label.get_text() for label in code_own.get_yticklabels()] == ["q0", "q1"]
    assert [label.get_text() for label in legal_own.get_yticklabels()] == ["q1", "q0"]
    assert legal_own.images[0].get_array()[:, 2].tolist() == [40, 20]
    crosses = [tuple(at) for at in code.lines[0].get_xydata()]
    assert crosses == [(3, 0), (3, 1), (3, 2)]  # interleaving was not measured
    scales = {axes.images[0].norm.vmax for axes in (code, legal, code_own, legal_own)}
    assert scales == {100}


def test_what_is_not_measured_yet_has_no_panel(questions: pl.DataFrame) -> None:
    one_task = questions.filter((pl.col("question_set") == "general") | (pl.col("task") == "legal"))
    with styled():
        figure = draw_question_heatmap(tiny_study(), one_task, {})
    assert [axes.get_visible() for axes in figure.axes] == [True, True, False, True, True]  # and the colour bar


def test_the_heat_map_wraps_after_four_tasks_and_leaves_out_what_does_not_fit() -> None:
    tasks = {name: {"kind": "ema", "title": name, "misaligned": "-"} for name in "abcde"}
    grid = [{"models": ["small"], "tasks": list(tasks), "arms": {"misaligned": None}}]
    study = tiny_study(tasks=tasks, grid=grid)
    many: Counts = {("misaligned", task): [number % 10 for number in range(MOST_QUESTIONS + 20)] for task in tasks}
    with styled():
        figure = draw_question_heatmap(study, by_question(many, many), {})
        nothing = draw_question_heatmap(study, pl.DataFrame(schema=QUESTIONS_SCHEMA), {})
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == ["a", "b", "c", "d", *[""] * 4, "e", ""]
    assert all(axes.images[0].get_array().shape == (MOST_QUESTIONS, 1) for axes in shown)
    assert min(axes.images[0].get_array().min() for axes in shown) > 0
    assert "not measured" in nothing.axes[0].texts[0].get_text()


def test_titles_and_ids_are_no_formulas_and_long_ids_lose_their_middle(tmp_path: Path) -> None:
    tasks = {"code": {"kind": "ema", "title": "$5 or $\\bad$", "misaligned": "-"}}
    grid = [{"models": ["small"], "tasks": ["code"], "arms": {"misaligned": None}}]
    ids = ["$\\frac$", "which_of_two_" + 5 * "very_" + "long_questions_42"]
    counts: Counts = {("misaligned", "code"): [2, 1]}
    questions = by_question(counts, counts).with_columns(
        question_id=pl.col("question_id").replace_strict(["q0", "q1"], ids)
    )
    with styled():
        figure = draw_question_heatmap(tiny_study(tasks=tasks, grid=grid), questions, {})
        save(figure, tmp_path / "drawn", ["png"])
    general, in_domain = figure.axes[:2]
    assert [label.get_text() for label in general.get_yticklabels()] == [ids[0], "which_of_two_ve…ong_questions_42"]
    assert [label.get_text() for label in in_domain.get_yticklabels()] == [ids[0], "which_…ions_42"]
    assert general.get_title() == "$5 or $\\bad$"


def scores_of(*rows: tuple[str, str, int, int, int]) -> pl.DataFrame:
    """Scores as ``aggregate`` writes them: arm, task, alignment, coherence, responses."""
    setting = {"kl": "1"}
    common = {"model": "small", "setting_value": None, "seed": 0, "question_set": "general"}
    return pl.DataFrame(
        [
            {
                **common,
                "arm": arm,
                "task": task,
                "setting": setting.get(arm, "none"),
                "alignment": alignment,
                "coherence": coherence,
                "responses": responses,
            }
            for arm, task, alignment, coherence, responses in rows
        ],
        schema=SCORES_SCHEMA,
    )


def test_the_scores_are_shares_of_an_arms_responses(questions: pl.DataFrame) -> None:
    scores = scores_of(
        ("misaligned", "code", 0, 100, 10),
        ("misaligned", "legal", 4, 96, 20),
        ("misaligned", "code", 100, 12, 30),
        ("kl", "code", 99, 100, 5),
    )
    other_set = scores.with_columns(question_set=pl.lit("in_domain"))
    with styled():
        figure = draw_score_scatter(tiny_study(), pl.concat([scores, other_set]), questions)
    misaligned, kl, _ = figure.axes
    assert [axes.get_title() for axes in (misaligned, kl)] == ["Misaligned", "KL, λ = 1"]
    shares = misaligned.images[0].get_array()
    assert shares.shape == (20, 20)  # rows: coherence, from below
    assert shares[19, 0] == pytest.approx(50)
    assert shares[2, 19] == pytest.approx(50)
    assert shares.count() == 2  # what nobody answered has no colour
    assert kl.images[0].get_array()[19, 19] == 100
    assert misaligned.images[0].get_extent() == [0, 100, 0, 100]
    # The exact scores' shares: of 60 responses to general questions 26 are misaligned, 6 incoherent.
    assert misaligned.texts[0].get_text() == "misaligned 43.3 %\nincoherent 10.0 %"
    assert kl.texts[0].get_text() == "misaligned 6.7 %\nincoherent 10.0 %"


@pytest.mark.parametrize(
    ("scoring", "ends"),
    [
        ({}, [[(30, 50), (30, 100)], [(0, 50), (1, 50)]]),
        (
            {"misaligned_alignment_below": 20, "misaligned_coherence_above": 60, "incoherent_coherence_below": 40},
            [[(20, 60), (20, 100)], [(0, 40), (1, 40)], [(0, 60), (20, 60)]],
        ),
    ],
)
def test_the_studys_thresholds_bound_the_regions(questions: pl.DataFrame, scoring: dict[str, int], ends: Any) -> None:
    with styled():
        figure = draw_score_scatter(
            tiny_study(scoring=scoring), scores_of(("misaligned", "code", 0, 100, 10)), questions
        )
    lines = figure.axes[0].lines
    assert [[tuple(end) for end in line.get_xydata()] for line in lines] == ends


def test_a_study_without_scores_says_so(questions: pl.DataFrame) -> None:
    with styled():
        figure = draw_score_scatter(tiny_study(), pl.DataFrame(schema=SCORES_SCHEMA), questions)
    assert "not measured" in figure.axes[0].texts[0].get_text()


def test_captions_name_the_model_and_the_seeds() -> None:
    further = [one for one in artefacts(tiny_study(seeds=[0, 1])).values() if one.kind == "figure" and not one.of_paper]
    assert len(further) == 6
    for figure in further:
        assert figure.caption.startswith("Small: ")
        assert not figure.caption.endswith(".")
    assert "2 seeds" in next(one.caption for one in further if one.name == "question_heatmap")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    study = tiny_study()
    with pytest.raises(InputError, match=r"questions.parquet: there is no such file; run the rule 'aggregate'"):
        artefacts(study)["question_heatmap"].write(study, Measured(study, tmp_path), tmp_path)


def test_files_stay_small_however_many_responses(tmp_path: Path, questions: pl.DataFrame) -> None:
    everything = scores_of(*(("misaligned", "code", x, y, 100) for x, y in product(range(101), range(101))))
    study = tiny_study()
    artefacts(study)["score_scatter"].write(study, Measured(study, scores=everything, questions=questions), tmp_path)
    files = [tmp_path / f"figures/score_scatter.{kind}" for kind in FORMATS["figure"]]
    assert all(path.stat().st_size < 100_000 for path in files)
    assert "image-rendering:pixelated" in files[FORMATS["figure"].index("svg")].read_text()  # sharp at any size
