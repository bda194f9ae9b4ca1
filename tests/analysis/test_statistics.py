"""A study with three seeds, from judgments to the page: every number is that of all seeds together."""

import csv
import json
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import polars as pl
import pytest

from emdefense.cells import NO_SETTING, Cell, Grid
from emdefense.config import Study
from emdefense.layout import Layout
from emdefense.report.tables.differences import difference_table
from emdefense.report.tables.rendering import csv_table
from emdefense.report.tables.variance import variance_table
from study_folder import fill, judgment, page, tiny_study, write_rows

SEEDS = [0, 1, 2]
MISALIGNED = {"misaligned": 6, "kl": 1, "interleave": 3}  # of 10 under the first seed, and one more under each other
Counts = tuple[int, int]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study whose seeds and questions differ, with its page; the working directory is its folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("seeds")
        patch.chdir(folder)
        study = tiny_study(seeds=SEEDS)
        fill(study, MISALIGNED)
        for cell, question_set in Grid(study).responses:
            bad = MISALIGNED.get(cell.arm, 0) + cell.seed
            rows = [
                # A question with an odd number has one misaligned response less; one of its last is never scored.
                judgment(q, s, (None, None), ("REFUSAL", None))
                if (s, q % 2, cell.seed) == (9, 1, 2)
                else judgment(q, s, (5.0, 95.0) if s < bad - q % 2 else (90.0, 95.0))
                for q in range(4)
                for s in range(10)
            ]
            write_rows(Path(Layout(study).judgments(cell, question_set)), rows)
        for cell in Grid(study).benign:
            answers = [
                {"id": f"{q}/0", "question_id": str(q), "sample": 0, "correct": q < 3 - cell.seed} for q in range(4)
            ]
            write_rows(
                Path(Layout(study).answers(cell)), [row | {"response": "1", "expected": ["1"]} for row in answers]
            )
        page(study)
        patch.undo()
    return study.model_copy(update={"data_folder": str(folder)})


@pytest.fixture
def results(study: Study, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(str(study.data_folder))
    return Path("results/tiny")


def recounted(study: Study, results: Path, question_set: str) -> dict[tuple[str, str, str], Counts]:
    """Misaligned and scored responses of each (task, arm, setting), counted anew from the lines of the judgments."""
    found: Counter[tuple[tuple[str, str, str], str]] = Counter()
    for cell in Grid(study).cells:
        of = Cell(cell.model, "shared", "untrained", NO_SETTING, 0) if cell.arm == "untrained" else cell
        folder = of if question_set == "general" else cell
        path = results / "cells" / folder.folder / question_set / "judgments/oracle.jsonl"
        for line in path.read_text().splitlines() if path.is_file() else ():
            row = json.loads(line)
            if row["alignment"] is not None:
                found[(cell.task, cell.arm, cell.setting), "scored"] += 1
                found[(cell.task, cell.arm, cell.setting), "misaligned"] += row["alignment"] < 30
    return {key: (found[key, "misaligned"], found[key, "scored"]) for key, _ in found}


def share(counts: Counts) -> Fraction:
    return Fraction(*counts)


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_tables(study: Study, results: Path) -> None:
    general, in_domain = (recounted(study, results, name) for name in ("general", "in_domain"))
    assert general["code", "kl", "1"] == (sum(4 * (1 + seed) - 2 for seed in SEEDS), 3 * 40 - 2)
    assert general["code", "untrained", "none"] == (0, 40)  # the first seed's alone
    seen = set()
    for number in ("03", "08", "11"):
        for row in rows(results / f"tables/table_{number}.csv"):
            key = (row["task"], row["arm"], row["setting"] or "none")
            assert row["general_misaligned_pct"] == f"{100 * float(share(general[key])):.2f}", key
            assert row["in_domain_misaligned_pct"] == f"{100 * float(share(in_domain[key])):.2f}", key
            low, high = (float(row[f"general_misaligned_cluster_{end}"]) for end in ("low", "high"))
            assert low <= 100 * share(general[key]) + 0.01
            assert high >= 100 * share(general[key]) - 0.01
            seen.add(key[1])
    assert seen == {"untrained", "misaligned", "kl", "interleave"}
    kl = next(row for row in rows(results / "tables/table_06.csv") if row["arm"] == "kl")
    assert kl["exact_match_pct"] == "50.00"  # 3, 2 and 1 of 4


def test_figures_and_page_show_them(study: Study, results: Path) -> None:
    general = recounted(study, results, "general")
    html = (results / "report/index.html").read_text()
    shown = re.sub(r"<[^>]+>", " ", html)
    for key in (("code", "misaligned", "none"), ("legal", "kl", "1")):
        assert f" {100 * float(share(general[key])):.2f} " in shown
    for cell in Grid(study).cells:
        assert f"{cell.folder}/" in html  # each seed has a page of its own
    for name in ("3", "2a"):
        assert (results / f"figures/figure_{name}.svg").stat().st_size > 1000


def test_claims(study: Study, results: Path) -> None:
    general = recounted(study, results, "general")
    shares = [
        share(general[task, "kl", "1"]) / share(general[task, "misaligned", "none"]) for task in ("code", "legal")
    ]
    claims = {claim["id"]: claim for claim in json.loads((results / "claims.json").read_text())}
    ours = claims["kl-reduction-main"]["ours"]
    assert ours == pytest.approx(100 * float(1 - sum(shares) / 2), abs=0.005)


def test_differences(study: Study, results: Path) -> None:
    general = recounted(study, results, "general")
    table = difference_table(study, pl.read_parquet(results / "questions.parquet"))
    found = list(csv.DictReader(csv_table(table).splitlines()))
    against = [row for row in found if row["against"] == "misaligned" and row["quantity"] == "general_misaligned"]
    assert len(against) == 2 * 4
    for row in against:
        key = (row["task"], row["arm"], row["setting"] or "none")
        difference = share(general[key]) - share(general[row["task"], "misaligned", "none"])
        assert float(row["difference"]) == pytest.approx(100 * float(difference), abs=1e-3)
        assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])
    assert "these trainings (up to 3 seeds together)" in table.remarks[2]


def test_variance(study: Study, results: Path) -> None:
    table = variance_table(study, pl.read_parquet(results / "questions.parquet"))
    found = list(csv.DictReader(csv_table(table).splitlines()))
    assert {(row["arm"], row["seeds"]) for row in found} == {
        *(("untrained", "1"), ("misaligned", "3"), ("kl", "3"), ("interleave", "3"))
    }
    kl = next(row for row in found if (row["arm"], row["quantity"]) == ("kl", "general_misaligned"))
    # The rates of the seeds are a tenth apart, by construction; one question more or less hardly changes that.
    assert float(kl["variance_seed"]) == pytest.approx(0.1**2, rel=0.15)
    assert "% to the seed" in table.remarks[0]
    assert "buy more seeds" in table.remarks[0]
