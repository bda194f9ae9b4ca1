"""How fast an endpoint is asked, and what is done about each kind of failure."""

import asyncio
import time
from itertools import pairwise

import httpx2
import openai
import pytest

from emdefense.errors import InputError
from emdefense.files import read_jsonl
from emdefense.judging.failures import classify
from emdefense.judging.judge_file import judge_file
from emdefense.judging.limits import BURST, Gate, Pace
from judge_runs import judge_settings, write_input
from loopback_judge import KEY, LoopbackJudge, prompt_tokens

ANSWERS = [f"answer {n}" for n in range(30)]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    return write_input(tmp_path, ANSWERS)


def response(status, code=None, **headers):
    request = httpx2.Request("POST", "http://judge/v1/chat/completions")
    body = {"error": {"message": "no", "code": code}}
    answer = httpx2.Response(status, headers={k.replace("_", "-"): v for k, v in headers.items()}, request=request)
    return openai.APIStatusError("no", response=answer, body=body["error"])


@pytest.mark.parametrize(
    ("error", "kind", "wait"),
    [
        (response(401), "fatal", None),
        (response(403), "fatal", None),
        (response(404), "fatal", None),
        (response(400, "model_not_found"), "fatal", None),
        (response(429, "insufficient_quota"), "fatal", None),
        (response(429, retry_after="86400"), "fatal", 86400),
        (response(429), "limit", None),
        (response(429, retry_after="2.5"), "limit", 2.5),
        (response(429, retry_after="9", retry_after_ms="20"), "limit", 0.02),
        (response(429, retry_after="soon"), "limit", None),
        (response(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"), "limit", 0),
        (response(500), "transient", None),
        (response(503, retry_after="1"), "transient", 1),
        (response(408), "transient", None),
        (response(400, "context_length_exceeded"), "content", None),
        (response(422), "content", None),
        (TimeoutError(), "transient", None),
    ],
)
def test_each_failure_has_its_kind(error, kind, wait):
    failure = classify(error)
    assert (failure.kind, failure.retry_after) == (kind, wait)


def test_errors_of_our_own_are_not_taken_for_the_endpoints():
    with pytest.raises(KeyError):
        classify(KeyError("bug"))


def test_a_pace_is_even_and_makes_up_for_a_second_at_most():
    async def run():
        pace = Pace(6000)
        start = time.monotonic()
        for _ in range(100):
            await pace.wait()
        even = time.monotonic() - start
        await asyncio.sleep(2 * BURST)
        for _ in range(250):
            await pace.wait()
        return even, time.monotonic() - start

    even, whole = asyncio.run(run())
    assert even >= 99 / 100 - 0.02
    assert whole - even - 2 * BURST >= 250 / 100 - BURST - 0.05


def test_sharers_divide_a_pace_and_a_correction_delays_it():
    async def run():
        pace = Pace(6000)
        pace.sharers = 2
        start = time.monotonic()
        await pace.wait(10)  # at 50 a second
        pace.correct(10)
        await pace.wait()
        return time.monotonic() - start

    assert asyncio.run(run()) >= 20 / 50 - 0.02


def test_a_gate_narrows_once_for_many_429s_and_widens_with_replies():
    async def run():
        gate = Gate(16)
        for _ in range(10):
            gate.too_fast(None)
        narrow = gate.limit
        for _ in range(40):
            gate.answered()
        return narrow, gate.limit, gate.most

    narrow, wide, most = asyncio.run(run())
    assert narrow == 12
    assert 14 < wide <= most


def test_a_gate_lets_in_as_many_as_it_has_places():
    async def run():
        gate, inside, most = Gate(3), 0, 0

        async def visit():
            nonlocal inside, most
            async with gate.place():
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.001)
                inside -= 1

        await asyncio.gather(*(visit() for _ in range(50)))
        return most

    assert asyncio.run(run()) == 3


def test_requests_by_the_minute_are_kept(files):
    with LoopbackJudge(requests_per_minute=1200) as server:
        judge_file(judge_settings(server, requests_per_minute=1200), *files)
    assert server.times[-1] - server.times[0] > 60 / 20 - BURST - 0.5
    assert server.limited <= 1


def test_tokens_by_the_minute_are_kept(files):
    tokens = sum(prompt_tokens("coherent? Why? -> " + text) + 1 for text in ANSWERS) * 2
    with LoopbackJudge() as server:
        judge_file(judge_settings(server, tokens_per_minute=30 * tokens), *files)
    assert server.times[-1] - server.times[0] > 60 / 30 - BURST - 0.5


def test_nobody_asks_while_the_endpoint_wants_to_rest(files, tmp_path):
    with LoopbackJudge() as server:
        judge_file(judge_settings(server), *write_input(tmp_path / "probe", ["one"]))
    port = int(server.base_url.split(":")[2].split("/")[0])
    with LoopbackJudge(failures=1, retry_after="1.5", latency=0.01, port=port) as server:
        judge_file(judge_settings(server, concurrency=4), *files)
    gaps = [later - earlier for earlier, later in pairwise(server.times)]
    assert max(gaps) >= 1.4
    assert gaps.index(max(gaps)) <= 4, "only what was in flight with the 429 came before the rest"


def test_an_endpoint_without_a_known_limit_is_asked_by_fewer_at_a_time(files):
    with LoopbackJudge(requests_per_minute=1800, latency=0.01) as server:
        judge_file(judge_settings(server, concurrency=16, max_retries=2), *files)
    assert [row["alignment"] is not None for row in read_jsonl(files[2])] == [True] * 30
    assert 16 < server.limited < 4 * len(ANSWERS), "a 429 is no failed try while others are answered"


def test_no_more_are_in_flight_than_the_config_says(files):
    with LoopbackJudge(latency=0.02) as server:
        judge_file(judge_settings(server, concurrency=3), *files)
    assert server.busiest == 3


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ({"failures": 9, "failure_status": 429, "failure_code": "insufficient_quota"}, "the quota is used up"),
        ({"failures": 9, "failure_status": 429, "retry_after": "7200"}, "wants 7200 s of rest"),
        ({"failures": 9, "failure_status": 404}, "knows no model"),
        ({"failures": 9, "failure_status": 403}, r"forbids this \(HTTP 403\).*It said: slow down"),
    ],
)
def test_what_no_retry_mends_stops_at_the_first_request(files, server, message):
    start = time.monotonic()
    with LoopbackJudge(**server) as running, pytest.raises(InputError, match=message) as error:
        judge_file(judge_settings(running), *files)
    assert "\n" not in str(error.value)
    assert len(running.requests) == 1
    assert time.monotonic() - start < 10


def test_an_endpoint_that_goes_down_is_given_up_on_and_all_replies_are_kept(files):
    with LoopbackJudge(stop_after=20) as server, pytest.raises(InputError, match=r"HTTP 503.*max_error_rate = 0\.1"):
        judge_file(judge_settings(server, max_retries=0, max_error_rate=0.1, concurrency=4), *files)
    assert len(server.requests) < 40, "not every response is tried once it is clear that too many fail"
    with LoopbackJudge(port=int(server.base_url.split(":")[2].split("/")[0])) as server:
        judge_file(judge_settings(server), *files)
    assert len(server.requests) == 61 - 20


def test_one_request_that_can_never_go_well_costs_one_call_and_one_score(files, capsys):
    settings = {"fail_matching": "aligned? Why? -> answer 7", "failure_status": 400, "failure_code": "too_long"}
    with LoopbackJudge(**settings) as server:
        judge_file(judge_settings(server, max_error_rate=0.05), *files)
    assert set(server.prompts.values()) == {1}
    row = read_jsonl(files[2])[7]
    assert (row["alignment"], row["alignment_label"]) == (None, None)
    assert row["coherence"] is not None
    assert row["error"] == "HTTP 400"
    assert "1 of 30 responses stay without scores (HTTP 400)" in capsys.readouterr().err
