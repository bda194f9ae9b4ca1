"""What judging costs is entered to the cent, and never more than was allowed."""

import json

import pytest

from emdefense.errors import InputError
from emdefense.files import read_jsonl
from emdefense.judging.budget import Account, BudgetSpent
from emdefense.judging.judge_file import judge_file
from emdefense.judging.ledger import Spending, read_ledger
from judge_runs import judge_settings, start_job, write_input
from loopback_judge import KEY, STALL, Faults, LoopbackJudge, prompt_tokens

PRICES = {"input": 100.0, "output": 400.0}  # USD for a million tokens: no rounding hides a call
ANSWERS = [f"answer {n} " + "x" * (n % 50) for n in range(60)]


@pytest.fixture
def account(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return Account(tmp_path / "ledger", cell="m/t/general")


def settings(server, **changes):
    return judge_settings(server, prices=PRICES, concurrency=4, **changes)


def billed(server):
    """What the server would charge, in USD."""
    tokens = sum(prompt_tokens(prompt) * times for prompt, times in server.answered.items())
    written = sum((2 if "87 100" in prompt else 1) * times for prompt, times in server.answered.items())
    return (tokens * PRICES["input"] + written * PRICES["output"]) / 1e6


def judge(server, files, account, **changes):
    judge_file(settings(server, **changes), *files, cache=files[0].parent / "cache", account=account)


def test_the_ledger_is_what_the_server_charges_and_has_a_line_a_process(tmp_path, account):
    files = write_input(tmp_path, ANSWERS)
    with LoopbackJudge() as server:
        judge(server, files, account)
        judge(server, files, account)
    spent = read_ledger(account.ledger)[("loop", "m/t/general")]
    assert spent.usd == pytest.approx(billed(server))
    assert (spent.calls, spent.unanswered) == (2 * 60 + 1, 0)
    assert sum(len(read_jsonl(path)) for path in account.ledger.iterdir()) == 1


def test_asking_stops_before_the_limit_and_a_higher_one_goes_on(tmp_path, account):
    files = write_input(tmp_path, ANSWERS)
    limit = Account(account.ledger, 0.1, account.cell)
    with LoopbackJudge() as server:
        with pytest.raises(BudgetSpent, match=r"^max_usd: of 0\.1 USD, 0\.0\d+ are spent.* raise it and run again"):
            judge(server, files, limit)
        first = dict(server.answered)
        assert 0.08 < billed(server) <= 0.1
        assert read_ledger(account.ledger)["loop", account.cell].usd == pytest.approx(billed(server))
        asked = len(server.requests)
        with pytest.raises(BudgetSpent):
            judge(server, files, limit)
        assert len(server.requests) == asked
        judge(server, files, Account(account.ledger, 10.0, account.cell))
    assert set(server.answered.values()) == {1}
    assert len(first) < len(server.answered) == 121
    assert len(read_jsonl(files[2])) == 60


def test_two_jobs_share_the_limit_and_stop_with_a_status_of_its_own(tmp_path, account):
    every = [write_input(tmp_path, [f"{name} {text}" for text in ANSWERS], name) for name in ("one", "two")]
    with LoopbackJudge(latency=0.02) as server:
        options = ("--ledger", account.ledger, "--max-usd", "0.15", "--cell")
        jobs = [start_job(settings(server), files, *options, files[1].stem) for files in every]
        messages = [job.communicate(timeout=60)[1] for job in jobs]
        assert [job.returncode for job in jobs] == [3, 3], messages
        assert 0.12 < billed(server) <= 0.15
    assert all(message.count("\n") == 1 and "max_usd" in message for message in messages)
    ledger = read_ledger(account.ledger)
    assert {cell for _, cell in ledger} == {"one", "two"}
    assert sum(spent.usd for spent in ledger.values()) == pytest.approx(billed(server))


def test_a_call_that_may_have_been_charged_counts(tmp_path, account):
    files = write_input(tmp_path, ANSWERS[:10])
    with LoopbackJudge(faults=Faults(0.5, 1)) as server:
        judge(server, files, account, timeout_seconds=2, max_retries=20)
    spent = read_ledger(account.ledger)["loop", account.cell]
    unsure = sum(server.faulty[fault] for fault in ("reset", "half-sent", "not JSON", "stall"))
    assert unsure > 3
    assert spent.unanswered == unsure
    assert spent.calls == sum(server.answered.values()) + server.faulty["no log probabilities"]
    assert STALL > 2


def test_a_limit_without_a_price_is_an_error_before_any_call(tmp_path, account):
    files = write_input(tmp_path, ANSWERS)
    with LoopbackJudge() as server, pytest.raises(InputError, match=r"judge\.prices: max_usd is set"):
        judge_file(judge_settings(server), *files, cache=tmp_path / "cache", account=Account(account.ledger, 1.0))
    assert server.requests == []


def test_a_line_torn_by_a_kill_is_left_out(tmp_path, account):
    account.ledger.mkdir()
    line = {
        "judge": "loop",
        "cell": "c",
        "calls": 1,
        "unanswered": 0,
        "input_tokens": 5,
        "output_tokens": 1,
        "usd": 0.5,
    }
    (account.ledger / "a.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line)[:30])
    assert read_ledger(account.ledger) == {("loop", "c"): Spending(1, 0, 5, 1, 0.5)}
