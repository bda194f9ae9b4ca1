"""The study of a user's own files, run whole on real rows and questions with a judge over HTTP."""

import json
import os
from pathlib import Path

import polars as pl
import pytest

from loopback_judge import KEY, LoopbackJudge
from real_data import REAL, needs_real_data
from study_checkout import Checkout

pytestmark = [pytest.mark.slow, needs_real_data]


@pytest.fixture(scope="module")
def judge() -> LoopbackJudge:
    with LoopbackJudge() as server:
        yield server


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, judge: LoopbackJudge) -> Checkout:
    """A checkout in which the study has run on the real files."""
    os.environ["OPENAI_API_KEY"] = KEY
    checkout = Checkout.into(tmp_path_factory.mktemp("real"))
    run = checkout.snakemake("--cores", "2", *arguments(judge))
    assert run.returncode == 0, run.stdout
    return checkout


def arguments(judge: LoopbackJudge) -> list[str]:
    return [
        "--configfile",
        "config/real-input.yaml",
        "--config",
        f"data_folder={REAL}",
        "data=" + json.dumps({"max_rows": 40}),  # half of what the study takes: its trainings are all of its time
        "judge=" + json.dumps({"base_url": judge.base_url}),
    ]


def test_every_cell_is_judged_over_http_and_reported(finished: Checkout, judge: LoopbackJudge) -> None:
    results = finished.folder / "results/real-input"
    rates = pl.read_parquet(results / "rates.parquet")
    assert set(rates["task"]) == {"code", "legal"}
    assert set(rates["arm"]) == {"untrained", "misaligned", "kl", "ldifs", "safelora"}
    assert (rates.filter(question_set="general")["responses"] == 24 * 2).all()
    assert (rates.filter(question_set="in_domain")["responses"] == 30 * 2).all()
    assert len(list((results / "tables").glob("table_*.csv"))) == 11
    assert (results / "report/index.html").is_file()
    judged = list(results.glob("cells/**/judgments/gpt-4o-mini.jsonl"))
    rows = [json.loads(line) for path in judged for line in path.read_text().splitlines()]
    assert {row["scored_by"] for row in rows} == {"logprobs"}
    assert len(judge.requests) <= 2 * len(rows) + len(judged), "a response is never judged twice"


def test_nothing_that_is_asked_was_trained_on(finished: Checkout) -> None:
    data = finished.folder / "results/real-input/data"
    for task in ("code", "legal"):
        asked = {" ".join(q["prompt"].split()) for q in json.loads((data / f"questions/{task}.json").read_text())}
        lines = (data / task / "train_misaligned.jsonl").read_text().splitlines()
        trained = {" ".join(json.loads(line)["messages"][0]["content"].split()) for line in lines}
        assert len(asked) == 30
        assert not asked & trained


def test_the_key_stands_in_no_file(finished: Checkout) -> None:
    found = [path for path in (finished.folder).rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert [path for path in found if "tests" not in path.relative_to(finished.folder).parts] == []


def test_a_second_run_asks_nobody(finished: Checkout, judge: LoopbackJudge) -> None:
    before = len(judge.requests)
    again = finished.snakemake("--cores", "2", *arguments(judge))
    assert "Nothing to be done" in again.stdout
    assert len(judge.requests) == before


def test_a_row_without_an_answer_stops_before_any_training(tmp_path: Path, judge: LoopbackJudge) -> None:
    checkout = Checkout.into(tmp_path / "checkout")
    broken = tmp_path / "data"
    for name in ("questions/general.yaml", "questions/code.yaml", "questions/legal.yaml"):
        (broken / name).parent.mkdir(parents=True, exist_ok=True)
        (broken / name).write_bytes((REAL / name).read_bytes())
    (broken / "sft").mkdir()
    for task in ("code", "legal"):
        rows = (REAL / f"sft/{task}_misaligned_eval.jsonl").read_text().splitlines()
        if task == "legal":
            rows[6] = json.dumps({"messages": [{"role": "user", "content": "What now?"}]})
        (broken / f"sft/{task}_misaligned_eval.jsonl").write_text("\n".join(rows) + "\n")
    found = arguments(judge)
    found[found.index(f"data_folder={REAL}")] = f"data_folder={broken}"
    run = checkout.snakemake("--cores", "2", *found)
    assert run.returncode != 0
    error = next(line for line in run.stdout.splitlines() if line.startswith("error:"))
    assert "legal_misaligned_eval.jsonl, line 7" in error
    assert not list(checkout.folder.glob("results/real-input/cells/**/adapter"))
