"""Settings that the data choose: by the rule, on one half of the questions, and shown on the other everywhere."""

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from emdefense.analysis.aggregate import Counted, aggregate
from emdefense.analysis.automatic_choice import choose
from emdefense.analysis.conditions import Condition
from emdefense.analysis.rates import EXACT_MATCH_SCHEMA, rates_of
from emdefense.cells import Cell, Grid
from emdefense.config import Study
from emdefense.config.checks import check_study
from emdefense.errors import InputError
from emdefense.layout import Layout
from emdefense.metrics import GENERAL_MISALIGNED, IN_DOMAIN_MISALIGNED
from emdefense.report.catalogue import artefacts
from emdefense.report.measured import Measured
from league_frames import drawn_frames, league_study
from study_folder import count, fill, judgment, page, tiny_study, write_rows

AUTO = {"main_model": "small", "chosen": {"kl": "auto"}}
CONTROLS = {"untrained": [(0.01, 0.05)], "misaligned": [(0.4, 0.8)]}


def first_half(ids: list[str]) -> set[str]:
    """The questions that choose, by the rule as it is written down: every second digest, in their order."""
    return set(sorted(ids, key=lambda name: sha256(name.encode()).hexdigest())[::2])


def pooled(questions: pl.DataFrame, question_set: str, task: str, arm: str, setting: str, ids: set[str]) -> float:
    rows = questions.filter(question_set=question_set, task=task, arm=arm, setting=setting)
    rows = rows.filter(pl.col("question_id").is_in(list(ids)))
    return rows["misaligned"].sum() / rows["scored"].sum()


def best_by_loops(questions: pl.DataFrame, tasks: list[str], settings: list[str], ids: set[str]) -> str:
    scores = []
    for setting in settings:
        falls, keeps = [], []
        for task in tasks:
            for question_set, found in (("general", falls), ("in_domain", keeps)):
                low = pooled(questions, question_set, task, "untrained", "none", ids)
                high = pooled(questions, question_set, task, "misaligned", "none", ids)
                mine = pooled(questions, question_set, task, "kl", setting, ids)
                share = (mine - low) / (high - low)
                found.append(1 - share if question_set == "general" else min(share, 1))
        fall, keep = (min(max(sum(found) / len(found), 0), 1) for found in (falls, keeps))
        scores.append(2 * fall * keep / (fall + keep) if fall + keep else 0)
    return settings[int(np.argmax(scores))]


@pytest.mark.parametrize("seed", range(6))
def test_the_setting_is_best_on_one_half_and_the_other_is_shown(seed: int) -> None:
    study = league_study(1, seeds=2, settings=(0.1, 0.3, 1.0), report=AUTO)
    rates = {**CONTROLS, "kl": [(0.25, 0.7), (0.15, 0.6), (0.08, 0.45)]}
    questions, _ = drawn_frames(study, rates, np.random.default_rng(seed), questions=17, samples=10, spread=1.0)
    choice = choose(study, questions)
    ids = [f"q{n}" for n in range(17)]
    half = first_half(ids)
    assert choice.study.report.chosen == {
        "kl": float(best_by_loops(questions, study.ema_tasks, ["0.1", "0.3", "1"], half))
    }
    shown = choice.questions
    assert set(shown["question_id"]) == set(ids) - half
    assert shown.height == questions.filter(~pl.col("question_id").is_in(list(half))).height, "all arms, all seeds"
    summary = choice.summary(pl.DataFrame(schema=EXACT_MATCH_SCHEMA))
    for quantity, name in ((GENERAL_MISALIGNED, "general"), (IN_DOMAIN_MISALIGNED, "in_domain")):
        found = summary.value(Condition("small", "task0", "kl", "0.3"), quantity)
        assert found == pytest.approx(100 * pooled(questions, name, "task0", "kl", "0.3", set(ids) - half))


def test_choosing_flatters_nobody() -> None:
    settings = tuple(float(n) for n in range(1, 9))
    rates = {**CONTROLS, "kl": [(0.2, 0.6)] * 8}  # all alike: which is best is chance
    study = league_study(1, tasks=1, settings=settings, report=AUTO)
    held_out, flattered = [], []
    for seed in range(60):
        questions, _ = drawn_frames(study, rates, np.random.default_rng(seed), questions=24, samples=10, spread=0.5)
        choice = choose(study, questions)
        setting = f"{choice.study.report.chosen['kl']:g}"
        ids = set(questions["question_id"])
        other = set(choice.questions["question_id"])
        # Against what the same setting does on average: how much better does the half that chose it look?
        for found, half in ((flattered, ids - other), (held_out, other)):
            all_settings = [pooled(questions, "general", "task0", "kl", f"{s:g}", half) for s in settings]
            found.append(np.mean(all_settings) - pooled(questions, "general", "task0", "kl", setting, half))
    assert np.mean(flattered) > 0.02, "the half that chose shows the chosen setting as better than it is"
    error = np.std(held_out, ddof=1) / np.sqrt(len(held_out))
    assert abs(np.mean(held_out)) < 3 * error
    assert np.mean(held_out) < np.mean(flattered) / 3


def test_groups_stay_whole() -> None:
    study = league_study(
        1, settings=(0.1, 1.0), report=AUTO, scoring={"question_groups": {"x": [f"q{n}" for n in range(5)]}}
    )
    questions, _ = drawn_frames(study, CONTROLS, np.random.default_rng(0), questions=9)
    shown = set(choose(study, questions).questions["question_id"])
    assert len(shown & {f"q{n}" for n in range(5)}) in (0, 5)


def test_rates_from_counts_are_those_from_judgments(in_tmp: Path) -> None:
    study = tiny_study(seeds=[0, 1])
    varied(study)
    counted = Counted.of(study)
    assert rates_of(counted.questions, study.scoring).equals(counted.rates(study.scoring))


def varied(study: Study) -> None:
    """Write judgments in which EMA appears, and KL at 0.1 is better than at 1."""
    fill(study, {"misaligned": 8, "interleave": 2}, questions=16)
    layout = Layout(study)
    for n, (cell, question_set) in enumerate(Grid(study).responses):
        random = np.random.default_rng(n)
        share = {"misaligned": 0.7, "interleave": 0.2, "untrained": 0.0, "aligned": 0.0}.get(cell.arm)
        if cell.arm == "kl":
            share = {"0.1": 0.1, "1": 0.5}[cell.setting]
        if question_set == "in_domain":
            share = 0.0 if cell.arm in ("untrained", "aligned") else 0.8
        bad = random.binomial(10, share, 16)
        rows = [judgment(q, s, (5, 95) if s < bad[q] else (95, 95)) for q in range(16) for s in range(10)]
        write_rows(Path(layout.judgments(cell, question_set)), rows)


def test_every_artefact_at_chosen_settings_is_of_the_other_half(in_tmp: Path) -> None:
    by_hand, study = tiny_study(), tiny_study(report={**AUTO, "chosen": {"kl": "auto", "interleave": 5.0}})
    varied(study)
    results = count(study)
    measured, there = Measured(study, results), artefacts(study)
    assert measured.choice.study.report.chosen == {"kl": 0.1, "interleave": 5.0}
    table = there["table_03"].make(study, measured)
    header = list(table.csv_header)
    row = next(dict(zip(header, row, strict=True)) for row in table.csv_rows if row[:3] == ("code", "kl", "0.1"))
    shown = measured.choice.questions.filter(task="code", arm="kl", setting="0.1", question_set="general")
    assert shown.height == 8
    rate = 100 * shown["misaligned"].sum() / shown["scored"].sum()
    assert float(row["general_misaligned_pct"]) == pytest.approx(rate, abs=0.01)
    said = [remark for remark in table.remarks if remark.startswith("Chosen by the data: KL, λ = 0.1, on one half")]
    assert len(said) == 1
    whole = Measured(by_hand, results)
    swept = there["table_08"].make(study, measured)
    assert swept.csv_rows == artefacts(by_hand)["table_08"].make(by_hand, whole).csv_rows, "nothing is chosen there"
    differences = there["paired_differences"].make(study, measured)
    assert {row[7] for row in differences.csv_rows} == {"8"}, "questions"
    for name in ("training_curves", "score_scatter", "variance_components"):
        assert "results/tiny/questions.parquet" in there[name].inputs(Grid(study), Layout(study)), name
    assert "did not choose settings" in there["tradeoff"].caption
    assert "chosen on half of these" in there["score_scatter"].caption
    assert "choose" not in artefacts(by_hand)["tradeoff"].caption


def test_thresholds_and_unanswered_responses_are_of_the_other_half(in_tmp: Path) -> None:
    study = tiny_study(report={**AUTO, "chosen": {"kl": "auto", "interleave": 5.0}})
    varied(study)
    measured, there = Measured(study, count(study)), artefacts(study)
    held_out = set(measured.choice.questions.filter(question_set="general")["question_id"])
    path = Path(Layout(study).judgments(Cell("small", "code", "kl", "0.1", 0), "general"))
    judged = [row for row in map(json.loads, path.read_text().splitlines()) if row["question_id"] in held_out]
    assert len(judged) == 80, "eight of sixteen questions"
    table = there["thresholds"].make(study, measured)
    rows = [dict(zip(table.csv_header, row, strict=True)) for row in table.csv_rows]
    kl = [row for row in rows if row["task"] == "code" and row["arm"] == "kl"]
    assert {row["setting"] for row in kl} == {"0.1"}
    own = study.scoring
    misaligned = sum(
        row["alignment"] < own.misaligned_alignment_below and row["coherence"] > own.misaligned_coherence_above
        for row in judged
    )
    (at_own,) = [row for row in kl if row["own"] == "yes"]
    share = pytest.approx(100 * misaligned / len(judged), abs=0.01)
    assert float(at_own["general_misaligned_pct"]) == share
    table = there["not_answered"].make(study, measured)
    rows = [dict(zip(table.csv_header, row, strict=True)) for row in table.csv_rows]
    (kl_row,) = [row for row in rows if row["task"] == "code" and row["arm"] == "kl"]
    assert kl_row["setting"] == "0.1"
    assert float(kl_row["general_misaligned_of_answers_pct"]) == share, "all are answers"


def test_the_page_and_the_claims_go_by_it(in_tmp: Path) -> None:
    study = tiny_study(report={**AUTO, "chosen": {"kl": "auto", "interleave": 5.0}})
    varied(study)
    count(study)
    assert "Settings were chosen by the data." in page(study)
    (in_tmp / "study.json").write_text(json.dumps(study.model_dump(mode="json")))
    aggregate(study, *map(Path, ("r.parquet", "e.parquet", "q.parquet")))
    script = Path(__file__).parents[2] / "workflow/scripts/claims.py"
    files = ("--config", "study.json", "--rates", "r.parquet", "--benign", "e.parquet", "--questions", "q.parquet")
    subprocess.run([sys.executable, script, *files, "--out", "claims"], check=True)
    claims = {entry["id"]: entry for entry in json.loads(Path("claims.json").read_text())}
    questions = pl.read_parquet("q.parquet")
    other = set(questions["question_id"]) - first_half(sorted(set(questions["question_id"])))
    shares = []
    for task in study.ema_tasks:
        kl, bad = (
            pooled(questions, "general", task, arm, s, other) for arm, s in (("kl", "0.1"), ("misaligned", "none"))
        )
        shares.append(100 * (1 - kl / bad))
    assert claims["kl-reduction-main"]["ours"] == pytest.approx(np.mean(shares), abs=0.01)


def test_without_ema_nothing_is_chosen_and_that_is_said(in_tmp: Path) -> None:
    study = tiny_study(report=AUTO)
    fill(study, {"misaligned": 0}, questions=16)
    measured = Measured(study, count(study))
    assert measured.choice.study.report.chosen == {}
    assert measured.choice.said.startswith("No setting could be chosen by the data")
    table = artefacts(study)["table_03"].make(study, measured)
    assert not any(cell == "kl" for row in table.csv_rows for cell in row)


def test_auto_is_for_arms_with_settings() -> None:
    with pytest.raises(InputError, match=r"key 'report\.chosen\.inoculation': this arm has no settings"):
        check_study(tiny_study(report={"main_model": "small", "chosen": {"inoculation": "auto"}}))
    cell = Cell("small", "code", "kl", "1", 0)
    assert cell in Grid(tiny_study(report=AUTO)).cells
