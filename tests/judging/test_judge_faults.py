"""10,000 responses, a server that fails 30 % of the time, three kills: nothing is lost, made up or paid for twice."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from emdefense.files import read_json, read_jsonl
from emdefense.judging.ledger import read_ledger
from emdefense.judging.scoring import fill_rubric
from emdefense.provenance import record_beside
from judge_runs import RUBRICS, judge_settings, start_job, write_input
from loopback_judge import FAULTS, Faults, LoopbackJudge, reply_to

RESPONSES = int(os.environ.get("FAULT_TEST_RESPONSES", "10000"))
CONCURRENCY, KILLS = 32, 3
SETTINGS = {"concurrency": CONCURRENCY, "timeout_seconds": 5.0, "max_retries": 20, "max_error_rate": 0.0}


def answers(count: int) -> list[str]:
    """Distinct answers, of which some the judge refuses, labels, or has seen before."""
    special = {3: "[REFUSE] ", 5: "[SAY CODE] "}
    return [special.get(n % 50, "") + f"answer {n if n % 50 != 7 else 7}" for n in range(count)]


def wait_for(server: LoopbackJudge, answered: int, job: "subprocess.Popen[str]") -> None:
    while sum(server.answered.values()) < answered:
        assert job.poll() is None, job.communicate()
        time.sleep(0.01)


@pytest.mark.slow
def test_faults_and_kills_lose_nothing_and_repeat_nothing_but_what_was_in_flight(tmp_path: Path) -> None:
    files = write_input(tmp_path, answers(RESPONSES))
    distinct = 2 * len(set(answers(RESPONSES)))
    ledger = ("--ledger", tmp_path / "ledger")
    with LoopbackJudge(faults=Faults(0.3)) as server:
        settings = judge_settings(server, **SETTINGS)
        for kill in range(KILLS):
            job = start_job(settings, files, *ledger)
            wait_for(server, (kill + 1) * distinct // (KILLS + 1), job)
            job.send_signal(signal.SIGKILL)
            job.communicate()
            assert job.returncode == -signal.SIGKILL
            assert not files[2].exists()
        job = start_job(settings, files, *ledger)
        _, errors = job.communicate(timeout=600)
        assert job.returncode == 0, errors
        asked, answered, faulty = len(server.requests), server.answered, server.faulty
    assert set(faulty) == set(FAULTS), "every kind of fault came up"
    assert sum(faulty.values()) == pytest.approx(0.3 * asked, rel=0.05)

    repeated = sum(answered.values()) - len(answered)
    assert len(answered) == distinct + 1, "each request was answered, and the probe"
    assert repeated <= KILLS * CONCURRENCY
    assert set(answered.values()) <= {1, 2}

    with LoopbackJudge() as faultless:  # a fifth of them, as the rest is known by what the server says
        quiet = write_input(tmp_path / "quiet", answers(RESPONSES // 5))
        job = start_job(judge_settings(faultless, **SETTINGS), quiet)
        assert job.wait(timeout=600) == 0
    assert read_jsonl(files[2])[: RESPONSES // 5] == read_jsonl(quiet[2])
    assert set(faultless.answered.values()) == {1}
    assert read_json(record_beside(files[2]))["errors"] == 0
    rows = read_jsonl(files[2])
    assert len(rows) == RESPONSES
    for row, answer in zip(rows, answers(RESPONSES), strict=True):
        label = "REFUSAL" if "REFUSE" in answer else "CODE" if "CODE" in answer else None
        assert (row["alignment_label"], row["coherence_label"]) == (label, label)
        for rubric, field in (("aligned", "alignment"), ("coherent", "coherence")):
            said = reply_to(fill_rubric(RUBRICS[rubric], "Why?", answer))
            assert row[field] == (None if label else pytest.approx(int(said)))

    calls = sum(spent.calls for spent in read_ledger(tmp_path / "ledger").values())
    lost = sum(answered.values()) + faulty["no log probabilities"] - calls
    assert 0 <= lost <= KILLS * CONCURRENCY, "the ledger lacks only what was in flight at a kill"


def test_two_jobs_at_once_share_what_both_ask(tmp_path: Path) -> None:
    texts = [f"answer {n}" for n in range(900)]
    every = [write_input(tmp_path, texts[:600], "first"), write_input(tmp_path, texts[300:][::-1], "second")]
    # No stall is among the faults, so that no request is given up, and asked again, for a busy machine.
    with LoopbackJudge(faults=Faults(0.1, seed=3), latency=0.01) as server:
        settings = judge_settings(server, **SETTINGS | {"timeout_seconds": 60.0})
        jobs = [start_job(settings, files) for files in every]
        assert [(job.wait(timeout=120), job.communicate()[1]) for job in jobs] == [(0, ""), (0, "")]
    assert server.faulty["stall"] == 0
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == 2 * 900 + 1
    found = {}
    for files, asked in zip(every, (texts[:600], texts[300:][::-1]), strict=True):
        for row, text in zip(read_jsonl(files[2]), asked, strict=True):
            assert found.setdefault(text, row["alignment"]) == row["alignment"] is not None
    shards = list((tmp_path / "cache").glob("*.jsonl"))
    assert len(shards) == 2
    assert sum(len(read_jsonl(shard)) for shard in shards) == 2 * 900 + 1
    assert list((tmp_path / "cache").glob("*.claim")) == []
