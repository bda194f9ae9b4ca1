"""Batches cost half, and nothing is asked twice, whenever the job is killed."""

import json
import signal
import time

import pytest

from emdefense.errors import InputError
from emdefense.files import read_jsonl
from emdefense.judging import batch, batch_endpoint
from emdefense.judging.budget import Account, BudgetSpent
from emdefense.judging.judge_file import judge_file
from emdefense.judging.ledger import read_ledger
from emdefense.judging.scoring import fill_rubric
from judge_runs import RUBRICS, judge_settings, start_job, write_input
from loopback_judge import KEY, Faults, LoopbackJudge, prompt_tokens, reply_to

PRICES = {"input": 100.0, "output": 400.0}  # USD for a million tokens: no rounding hides a call
ANSWERS = [f"answer {n} " + "x" * (n % 50) for n in range(58)] + ["[SAY CODE]", "answer 0 "]
DISTINCT = 2 * (len(ANSWERS) - 1)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return write_input(tmp_path, ANSWERS)


def settings(server, **changes):
    return judge_settings(server, **{"mode": "batch", "batch_poll_seconds": 0.05, "prices": PRICES, **changes})


def judge(server, files, limit=None, **changes):
    folder = files[0].parent
    judge_file(
        settings(server, **changes), *files, cache=folder / "cache", account=Account(folder / "ledger", limit, "cell")
    )


def start(server, files, **changes):
    options = ("--ledger", files[0].parent / "ledger", "--cell", "cell")
    return start_job(settings(server, **changes), files, *options)


def spent(files):
    return read_ledger(files[0].parent / "ledger")["loop", "cell"]


def billed(server):
    """What the server would charge, in USD: half, but for the probe."""
    tokens = {
        prompt: times * (prompt_tokens(prompt) * PRICES["input"] + (2 if "87 100" in prompt else 1) * PRICES["output"])
        for prompt, times in server.answered.items()
    }
    return sum(usd if "87 100" in prompt else usd / 2 for prompt, usd in tokens.items()) / 1e6


def check(server, files):
    """Every response has its scores, every request was answered once, the ledger is the bill, nothing is left open."""
    rows = read_jsonl(files[2])
    assert len(rows) == len(ANSWERS)
    for row, answer in zip(rows, ANSWERS, strict=True):
        for rubric, name in (("aligned", "alignment"), ("coherent", "coherence")):
            said = reply_to(fill_rubric(RUBRICS[rubric], "Why?", answer))
            assert (row[f"{name}_label"] or round(row[name])) == (said if said == "CODE" else int(said))
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == DISTINCT + 1
    assert set(server.batches.names.values()) == {1}
    assert list((files[0].parent / "cache/batches").glob("*")) == []
    assert spent(files).usd == pytest.approx(billed(server))
    assert spent(files).unanswered == 0


def kill_when(condition, job):
    while not condition():
        assert job.poll() is None, job.communicate()
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.communicate()


def records(files):
    return [json.loads(path.read_text()) for path in (files[0].parent / "cache/batches").glob("*.json")]


def cached(files):
    return [row["key"] for shard in (files[0].parent / "cache").glob("*.jsonl") for row in read_jsonl(shard)]


def die(*_):
    raise InputError("killed")


def test_a_batch_gives_the_same_judgments_at_half_the_price(files):
    with LoopbackJudge() as server:
        judge(server, files)
        check(server, files)
        assert server.batches.lines == [DISTINCT]
        assert spent(files).calls == DISTINCT + 1
        together = files[2].read_bytes()
        judge(server, files, mode="synchronous")
        check(server, files)
    assert files[2].read_bytes() == together


def test_a_killed_job_attaches_to_its_batch(files):
    with LoopbackJudge(batch_looks=10**9) as server:
        kill_when(lambda: any(record["batch"] for record in records(files)), start(server, files))
        (record,) = records(files)
        assert (len(record["keys"]), record["batch"]) == (DISTINCT, next(iter(server.batches.batches)))
        assert KEY not in json.dumps(record)
        assert spent(files).unanswered == DISTINCT, "what is under way is in the ledger"
        server.batches.looks = 2
        judge(server, files)
        check(server, files)
    assert server.batches.lines == [DISTINCT]


@pytest.mark.parametrize("mode", ["batch", "synchronous"])
def test_a_batch_whose_id_was_never_told_is_found_again(files, mode):
    with LoopbackJudge() as server:
        server.hold_created = True
        kill_when(lambda: server.batches.batches, start(server, files))
        assert records(files)[0]["batch"] is None
        for other in ("another", "third"):  # of the same account, and on earlier pages of the list
            server.batches.batches[other] = {
                **next(iter(server.batches.batches.values())),
                "id": other,
                "metadata": None,
            }
        server.hold_created = False
        judge(server, files, mode=mode)
        check(server, files)
    assert server.batches.lines == [DISTINCT]


def test_an_upload_without_a_batch_is_submitted_anew(files, monkeypatch):
    with LoopbackJudge() as server:
        with monkeypatch.context() as broken:
            broken.setattr(batch_endpoint.BatchEndpoint, "create", die)
            with pytest.raises(InputError, match="killed"):
                judge(server, files)
        assert len(server.batches.files) == len(records(files)) == 1
        judge(server, files)
        check(server, files)


@pytest.mark.parametrize("last", [(batch.BatchClient, "_finish"), (batch.Records, "remove")])
def test_a_kill_while_results_are_taken_in_charges_them_once(files, monkeypatch, last):
    with LoopbackJudge() as server:
        with monkeypatch.context() as broken:
            broken.setattr(*last, die)
            with pytest.raises(InputError, match="killed"):
                judge(server, files)
        judge(server, files)
        check(server, files)
    assert len(cached(files)) == len(set(cached(files))) == DISTINCT + 1


def test_an_answer_to_the_creation_that_is_lost_creates_no_second_batch(files):
    with LoopbackJudge() as server:
        server.hold_created = True
        job = start(server, files, timeout_seconds=1)
        while not server.batches.batches:
            time.sleep(0.01)
        server.hold_created = False
        assert job.wait(timeout=60) == 0, job.communicate()
        check(server, files)
    assert len(server.batches.batches) == 1


@pytest.mark.parametrize(("endings", "lines"), [(["expired"], [118, 59]), (["cancelled", "expired"], [118, 59, 30])])
def test_what_a_batch_did_not_answer_is_submitted_again(files, endings, lines):
    with LoopbackJudge() as server:
        server.batches.endings = list(endings)
        judge(server, files)
        check(server, files)
    assert server.batches.lines == lines


def test_failed_requests_are_submitted_again_and_in_the_end_given_up(files):
    with LoopbackJudge(faults=Faults(0.3)) as server:
        judge(server, files, max_retries=20)
        assert len(server.batches.lines) > 2
        assert set(server.answered.values()) == {1}
        assert len(server.answered) == DISTINCT + 1
        assert spent(files).calls == DISTINCT + 1 + server.faulty["no log probabilities"]
    assert all(row["coherence"] is not None or row["coherence_label"] for row in read_jsonl(files[2]))


def test_a_request_that_never_goes_well_is_counted(files, capsys):
    with LoopbackJudge(fail_matching="coherent? Why? -> answer 7 ", failure_status=500) as server:
        with pytest.raises(InputError, match="failed on 1 of 60"):
            judge(server, files, max_retries=2)
        assert server.batches.lines == [DISTINCT, 1, 1]
        judge(server, files, max_retries=0, max_error_rate=0.1)
    assert "1 of 60 responses stay without scores" in capsys.readouterr().err


def test_a_refused_batch_is_one_line_and_costs_nothing(files):
    with LoopbackJudge() as server:
        server.batches.endings = ["failed"]
        with pytest.raises(InputError, match=r"refused batch batch_\d+ \(invalid_json_line: ") as error:
            judge(server, files)
        assert "\n" not in str(error.value)
        assert spent(files).usd == pytest.approx(billed(server))
        judge(server, files)
        check(server, files)


@pytest.mark.parametrize(("requests", "size"), [(50, 10**9), (10**9, 12_000)])
def test_files_stay_within_the_limits(files, monkeypatch, requests, size):
    with LoopbackJudge() as server:
        monkeypatch.setattr(batch, "MOST_REQUESTS", requests)
        monkeypatch.setattr(batch, "MOST_BYTES", size)
        judge(server, files)
        check(server, files)
        sizes = [len(server.batches.files[found["input_file_id"]]) for found in server.batches.batches.values()]
    assert len(sizes) > 2
    assert max(server.batches.lines) <= requests
    assert max(sizes) <= size


def test_an_account_that_may_queue_less_gets_less_at_a_time(files):
    with LoopbackJudge() as server:
        server.batches.queue = 40
        judge(server, files)
        check(server, files)


def test_calls_that_fail_are_made_again(files):
    with LoopbackJudge() as server:
        server.batches.fail_first = 503
        judge(server, files)
        check(server, files)
    assert len(server.batches.batches) == 1


def test_an_endpoint_without_batches_is_one_line(files):
    with LoopbackJudge() as server:
        server.batches.fail_first = 404
        with pytest.raises(InputError, match="has no Batch API; set"):
            judge(server, files)


def test_what_could_pass_the_budget_is_not_submitted(files):
    with LoopbackJudge() as server:
        with pytest.raises(BudgetSpent, match=r"^max_usd: of 0\.1 USD, 0\.\d+ are spent.* raise it and run again"):
            judge(server, files, limit=0.1)
        assert 0.05 < billed(server) <= 0.1
        assert spent(files).usd == pytest.approx(billed(server))
        assert 0 < sum(server.batches.lines) < DISTINCT
        judge(server, files, limit=10.0)
        check(server, files)


def test_a_batch_under_way_counts_against_the_budget(files):
    with LoopbackJudge(batch_looks=10**9) as server:
        kill_when(lambda: any(record["batch"] for record in records(files)), start(server, files))
        others = write_input(files[0].parent, [f"other {text}" for text in ANSWERS], "others")
        most = records(files)[0]["most_usd"]
        server.batches.looks = 2
        with pytest.raises(BudgetSpent):
            judge(server, others, limit=most + 0.03)
    assert len(server.batches.lines) == 1


def test_two_jobs_at_once_share_what_both_ask(files):
    texts = [f"answer {n}" for n in range(90)]
    every = [write_input(files[0].parent, part, name) for name, part in (("a", texts[:60]), ("b", texts[30:]))]
    with LoopbackJudge(batch_looks=20) as server:
        jobs = [start(server, each) for each in every]
        messages = [job.communicate(timeout=120)[1] for job in jobs]
        assert [job.returncode for job in jobs] == [0, 0], messages
        assert all("requests is submitted" in message for message in messages)
        assert set(server.answered.values()) == {1}
        assert len(server.answered) == 2 * 90 + 1
        assert len(cached(files)) == len(set(cached(files))) == 2 * 90 + 1
        assert spent(files).usd == pytest.approx(billed(server))


def test_a_batch_that_the_endpoint_has_lost_is_named(files):
    with LoopbackJudge(batch_looks=10**9) as server:
        kill_when(lambda: any(record["batch"] for record in records(files)), start(server, files))
        server.batches.batches.clear()
        with pytest.raises(InputError, match=r"cache/batches/\w+\.json: the endpoint does not know batch .*delete"):
            judge(server, files)
