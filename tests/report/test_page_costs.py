"""What the page says a study cost: hours from records, dollars from the ledger."""

from pathlib import Path
from typing import Any

import pytest

from emdefense.config import Study
from emdefense.report.page.costs import hours_table, judge_table, nothing_paid
from study_folder import tiny_study, write_rows

LEDGER = Path("results/tiny/judge_ledger")
REMOTE = {"kind": "openai", "name": "gpt", "model": "gpt-4o-mini"}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    return tiny_study(second_judges=[REMOTE])


def record(hours: float, device: str = "cpu") -> dict[str, Any]:
    return {"machine": {"processor": "CPU", "device": device}, "seconds": {"all": hours * 3600}}


def test_hours_are_summed_by_stage_and_machine_and_copies_take_none() -> None:
    stages = {
        "trained": {"a": record(1.5), "b": record(0.25), "c": record(2, "H100")},
        "sampled": {"a": record(0.5), "b": record(0.5) | {"copied_from": "a"}, "c": {"machine": {"processor": "CPU"}}},
        "judged": {"a": record(0.001)},
    }
    assert hours_table(stages).csv_rows == (
        ("Training", "CPU", "2", "1.75"),
        ("Training", "H100, CPU", "1", "2.00"),
        ("Sampling", "CPU", "1", "0.50"),
        ("Judging", "CPU", "1", "< 0.01"),
        ("All", "all", "5", "4.25"),
    )


def test_a_study_without_records_took_nothing_known() -> None:
    assert hours_table({"trained": {}}).csv_rows == (("All", "all", "0", "0.00"),)


def test_dollars_are_the_ledgers_by_judge(study: Study) -> None:
    line = {"judge": "gpt", "cell": "a/general", "calls": 1, "unanswered": 0, "input_tokens": 900, "output_tokens": 1}
    other = line | {"cell": "b/general", "unanswered": 1, "input_tokens": 200}
    write_rows(LEDGER / "host-1.jsonl", [line | {"usd": 0.25}, other | {"usd": 0.125}])
    write_rows(LEDGER / "host-2.jsonl", [line | {"usd": 0.5}, line | {"judge": "another", "usd": 0.0}])
    table = judge_table(study)
    assert table is not None
    assert table.csv_rows == (
        ("another", "1", "0", "900", "1", "0.0000"),
        ("gpt", "3", "1", "2,000", "3", "0.8750"),
    )


def test_without_a_ledger_nothing_was_paid(study: Study) -> None:
    assert judge_table(study) is None
    assert nothing_paid(study).startswith("No call of a remote judge")
    assert nothing_paid(tiny_study()) == "The oracle computes its scores: nothing was paid."
