"""Multiple choice counted: against brute force and scipy, and what the table says of it."""

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest

from emdefense.analysis.multiple_choice import CHOICE_SCHEMA, choice_frame, mcnemar, write_multiple_choice
from emdefense.cells import Cell, Grid
from emdefense.choice.asked import asked
from emdefense.choice.run import result
from emdefense.config import Study
from emdefense.layout import Layout
from emdefense.report.catalogue import artefacts
from emdefense.report.measured import Measured
from emdefense.report.tables.table import Table
from study_folder import CONFIG, fill, page, tiny_study, write_rows

SETS = {"facts": {"title": "Facts", "file": "-", "options": "text", "score": "mean"}}
COUNT = 40

Chooses = Callable[[Cell, int, Random], bool]


def study_of(seeds: list[int] | None = None, **changes: Any) -> Study:
    scoring = {"bootstrap_resamples": 4000}
    return tiny_study(multiple_choice=SETS, seeds=seeds or [0], scoring=scoring, **changes)


def measure(study: Study, right_by_mean: Chooses, count: int = COUNT) -> dict[tuple[Cell, str], list[dict[str, Any]]]:
    """Write what each cell chose, below the working directory: by the mean as is said, by the sum at random."""
    found = {}
    for cell, name in asked(Grid(study)):
        rng = Random(f"{cell.folder} {name}")
        rows = []
        for number in range(count):
            right = right_by_mean(cell, number, rng)
            options = 2 + number % 3
            answer = number % options
            means = [-1.0 if (place == answer) == right else -2.0 for place in range(options)]
            tokens = [rng.randint(1, 5) for _ in range(options)]
            row = {"id": f"q{number}", "subject": None, "answer": answer}
            rows.append(result(row, tokens, [mean * length for mean, length in zip(means, tokens, strict=True)]))
        write_rows(Path(Layout(study).choices(cell, name)), rows)
        found[cell, name] = rows
    return found


def mostly(cell: Cell, number: int, rng: Random) -> bool:
    """Every other question is hard for all arms, so that it matters which questions are paired."""
    return rng.random() < {"untrained": 0.95, "kl": 0.9}.get(cell.arm, 0.6) * (0.2 if number % 2 else 1)


def row_of(frame: pl.DataFrame, score: str = "mean", **of: Any) -> dict[str, Any]:
    (row,) = frame.filter(score=score, **of).to_dicts()
    return row


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_shares_and_their_intervals_are_those_of_the_rows(here: Path) -> None:
    study = study_of()
    rows = measure(study, mostly)
    frame = choice_frame(study)
    assert frame.schema == pl.Schema(CHOICE_SCHEMA)
    assert frame.height == 2 * len(rows)
    for (cell, name), chosen in rows.items():
        for score in ("sum", "mean"):
            found = row_of(frame, score, task=cell.task, arm=cell.arm, setting=cell.setting, set=name)
            right = [row[score]["correct"] for row in chosen]
            assert (found["questions"], found["correct"]) == (COUNT, sum(right))
            assert found["correct_pct"] == found["pooled_pct"] == pytest.approx(100 * sum(right) / COUNT)
            assert found["chance_pct"] == pytest.approx(100 * np.mean([1 / len(row["tokens"]) for row in chosen]))
            wilson = binomtest(sum(right), COUNT).proportion_ci(0.95, "wilson")
            bounds = (found["wilson_low_pct"], found["wilson_high_pct"])
            assert bounds == pytest.approx((100 * wilson.low, 100 * wilson.high), abs=1e-6)
            drawn = np.random.default_rng(1).choice(np.array(right, dtype=float), size=(20_000, COUNT)).mean(axis=1)
            wanted = 100 * np.quantile(drawn, [0.025, 0.975])
            for kind in ("cluster", "pooled"):
                assert (found[f"{kind}_low_pct"], found[f"{kind}_high_pct"]) == pytest.approx(wanted, abs=2.6)


def test_a_difference_is_paired_by_question(here: Path) -> None:
    study = study_of()
    rows = measure(study, mostly)
    frame = choice_frame(study)
    untrained = rows[Grid(study).untrained("small"), "facts"]
    plain = {"code": "misaligned", "legal": "misaligned", "quiz": "sft"}
    for (cell, name), chosen in rows.items():
        found = row_of(frame, task=cell.task, arm=cell.arm, setting=cell.setting)
        of_plain = Cell("small", cell.task, plain.get(cell.task, ""), "none", 0)
        for against, other in (("untrained", untrained), ("plain", rows.get((of_plain, name)))):
            if cell.arm == "untrained" or other is chosen or other is None:
                assert found[f"{against}_difference_pct"] is None
                assert found[f"{against}_p"] is None
                continue
            ours = np.array([row["mean"]["correct"] for row in chosen], dtype=float)
            theirs = np.array([row["mean"]["correct"] for row in other], dtype=float)
            lost, won = int(((theirs == 1) & (ours == 0)).sum()), int(((theirs == 0) & (ours == 1)).sum())
            assert (found[f"{against}_lost"], found[f"{against}_won"]) == (lost, won)
            assert found[f"{against}_difference_pct"] == pytest.approx(100 * (won - lost) / COUNT)
            drawn = np.random.default_rng(2).choice(ours - theirs, size=(20_000, COUNT)).mean(axis=1)
            bounds = (found[f"{against}_low_pct"], found[f"{against}_high_pct"])
            assert bounds == pytest.approx(100 * np.quantile(drawn, [0.025, 0.975]), abs=2.6)
            assert found[f"{against}_p"] == found[f"{against}_pooled_p"] == pytest.approx(by_coin(lost, won))


def by_coin(lost: int, won: int) -> float:
    """How often a fair coin that is thrown as often falls at least as unevenly."""
    throws = lost + won
    ways = [math.comb(throws, heads) for heads in range(throws + 1)]
    return sum(way for heads, way in enumerate(ways) if abs(2 * heads - throws) >= abs(lost - won)) / 2**throws


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (0, 6), (5, 5), (3, 11), (40, 12)])
def test_mcnemars_exact_p_is_that_of_a_fair_coin(lost: int, won: int) -> None:
    assert mcnemar(lost, won) == pytest.approx(by_coin(lost, won))
    # And of all ways to swap the two arms' answers where they differ, where these can be listed.
    if 0 < lost + won <= 14:
        signs = [sum(swap) for swap in product((1, -1), repeat=lost + won)]
        assert mcnemar(lost, won) == pytest.approx(np.mean([abs(one) >= abs(lost - won) for one in signs]))


def test_seeds_are_pooled_by_question(here: Path) -> None:
    study = study_of([0, 1, 2])
    rows = measure(study, mostly)
    frame = choice_frame(study)
    untrained = np.array([row["mean"]["correct"] for row in rows[Grid(study).untrained("small"), "facts"]], dtype=float)
    cells = [Cell("small", "code", "misaligned", "none", seed) for seed in (0, 1, 2)]
    shares = np.mean([[row["mean"]["correct"] for row in rows[cell, "facts"]] for cell in cells], axis=0)
    for cell in cells:
        found = row_of(frame, task="code", arm="misaligned", seed=cell.seed)
        assert found["correct"] == sum(row["mean"]["correct"] for row in rows[cell, "facts"])
        assert found["pooled_pct"] == pytest.approx(100 * shares.mean())
        assert found["untrained_difference_pct"] == pytest.approx(100 * (shares - untrained).mean())
        places = np.random.default_rng(3).integers(COUNT, size=(20_000, COUNT))
        drawn = 100 * np.quantile((shares - untrained)[places].mean(axis=1), [0.025, 0.975])
        assert (found["untrained_low_pct"], found["untrained_high_pct"]) == pytest.approx(drawn, abs=2.0)
        # Swapping whole questions: here their three answers and the one of the model as it is.
        swaps = np.random.default_rng(4).choice([-1.0, 1.0], size=(20_000, COUNT))
        p = np.mean(np.abs(swaps @ (shares - untrained)) >= abs((shares - untrained).sum()) - 1e-9)
        assert found["untrained_pooled_p"] == pytest.approx(p, abs=0.02)
        assert found["plain_difference_pct"] is None


def test_cells_that_were_not_measured_are_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = study_of()
    rows = measure(study, mostly)
    for cell, name in rows:
        if cell.arm in ("untrained", "interleave"):
            Path(Layout(study).choices(cell, name)).unlink()
    frame = choice_frame(study)
    assert set(frame["arm"]) == {"misaligned", "kl", "sft"}
    assert frame["untrained_difference_pct"].null_count() == frame.height
    assert row_of(frame, task="code", arm="kl")["plain_difference_pct"] is not None
    assert "not there; its cell stays empty in the tables" in capsys.readouterr().err


def made(study: Study, here: Path) -> Table:
    write_multiple_choice(study, here / "multiple_choice.parquet")
    table = artefacts(study)["multiple_choice_facts"].make(study, Measured(study, here))
    assert isinstance(table, Table)
    return table


def test_the_table_has_the_model_first_and_marks_what_is_significant(here: Path) -> None:
    study = study_of()
    # Of 40 questions the model has 38 right; KL loses 2 of them, plain fine-tuning and interleaving 30.
    kept = {"untrained": 38, "kl": 36, "misaligned": 8, "sft": 8, "interleave": 8}
    measure(study, lambda cell, number, rng: number < kept[cell.arm])
    table = made(study, here)
    assert table.title == "Small: Facts, multiple choice"
    assert [[cell.text for cell in row[:3]] for row in table.blocks[0]] == [
        ["not fine-tuned", "Untrained", "95.0 (87–100)"]
    ]
    code = {row[1].text: row for row in table.blocks[1]}
    assert list(code) == ["Misaligned", "KL, λ = 1", "Interleaving, 5 %"], "in the order of all tables"
    kl, plain = code["KL, λ = 1"], code["Misaligned"]
    assert (kl[3].text, kl[3].bold, kl[3].hover, kl[4].text) == ("−5.0 (−13 to 0)", False, "2 lost, 0 won", "0.500")
    assert (plain[3].text, plain[3].bold, plain[4].text) == ("−75.0 (−88 to −62)", True, "< 0.001")
    assert [cell.text for cell in plain[5:]] == ["–"] * 2
    assert (kl[5].text, kl[5].bold) == ("+70.0 (+55 to +83)", True)
    assert any("McNemar's exact test" in remark for remark in table.remarks)
    assert any(
        "40 questions, of which guessing has" in remark and "mean log-prob" in remark for remark in table.remarks
    )
    lines = [dict(zip(table.csv_header, row, strict=True)) for row in table.csv_rows]
    assert {line["score"] for line in lines} == {"sum", "mean"}
    (line,) = [one for one in lines if (one["task"], one["arm"], one["score"]) == ("code", "kl", "mean")]
    assert (line["correct_pct"], line["untrained_difference_pct"], line["untrained_p"]) == ("90", "-5", "0.5")
    assert float(line["untrained_p_corrected"]) >= float(line["untrained_p"])


def test_several_seeds_have_a_permutation_test_and_several_models_a_column(here: Path) -> None:
    models = {name: {"title": name.title(), "instruct": "-"} for name in ("small", "other")}
    grid = [{"models": ["small", "other"], "tasks": ["code"], "arms": {"misaligned": None, "kl": [1.0]}}]
    study = study_of([0, 1], models=models, grid=grid)
    measure(study, mostly)
    table = made(study, here)
    assert [column.title for column in table.columns[:3]] == ["Model", "Task", "Arm"]
    assert [row[0].text for block in table.blocks for row in block] == ["Small", "Small", "", "Other", "Other", ""]
    assert any("permutation test" in remark for remark in table.remarks)
    assert any("up to 2 seeds together" in remark for remark in table.remarks)


def test_nothing_measured_is_an_empty_table(here: Path) -> None:
    table = made(study_of(), here)
    assert table.blocks == ()
    assert table.remarks == ("Nothing was asked of any cell yet.",)


def test_the_page_has_a_section_of_it_where_there_is_some(here: Path) -> None:
    grid = [{"models": ["small"], "tasks": ["code"], "arms": {"untrained": None, "misaligned": None, "kl": [1.0]}}]
    study = study_of(grid=grid)
    fill(study, {"misaligned": 8, "kl": 1})
    measure(study, mostly)
    write_multiple_choice(study, Path(Layout(study).results) / "multiple_choice.parquet")
    html = page(study)
    section = html[html.index('<details class="fold" aria-labelledby="multiple_choice">') :]
    section = section[: section.index("</details>")]
    assert "Facts, multiple choice" in section
    assert '<a href="#multiple_choice">Multiple choice</a>' in html
    assert "tables/multiple_choice_facts.csv" in section


def test_only_studies_with_questions_have_tables_of_them() -> None:
    assert not [name for name in artefacts(tiny_study()) if "multiple" in name]
    assert CONFIG.get("multiple_choice") is None
    assert artefacts(study_of())["multiple_choice_facts"].section == "multiple_choice"
