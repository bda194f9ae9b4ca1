"""A judge that is served with a repetition penalty is named; so is one that gives fewer alternatives than are asked."""

import json

import pytest

from emdefense.config.judges import OpenAIJudge
from emdefense.errors import InputError
from emdefense.files import read_jsonl
from emdefense.judging import client
from emdefense.judging.alternatives import most_given
from emdefense.judging.budget import Account
from emdefense.judging.judge_file import judge_file
from emdefense.judging.ledger import read_ledger
from emdefense.judging.penalty import COPY, NUMBERS
from emdefense.judging.registry import parse_settings
from emdefense.judging.requests import build_request
from emdefense.judging.server_message import read_message
from judge_runs import judge_settings, write_input
from loopback_judge import KEY, LoopbackJudge

ANSWERS = [f"answer {n}" for n in range(5)]
KEY_BEFORE = "2c9952c23a415abcfae97907ba71347bdf902f1df2da8e0e5faaeb82fb93756b"
NAMED = "seems to be served with a repetition penalty"


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.001)
    return write_input(tmp_path, ANSWERS)


def judge(server, files, **changes):
    folder = files[0].parent
    settings = judge_settings(server, **{"max_retries": 1, **changes})
    judge_file(settings, *files, cache=folder / "cache", account=Account(folder / "ledger", cell="cell"))
    return read_jsonl(files[2])


def asked(server, *prompts):
    return [body for body in server.requests if body["messages"][0]["content"] in prompts]


# Log probabilities show what shifts few choices; a text only what shifts many.
@pytest.mark.parametrize(
    ("served", "penalty", "named"),
    [
        ({}, 1.0, False),
        ({}, 1.05, True),
        ({}, 1.3, True),
        ({"split_numbers": True}, 1.0, False),
        ({"split_numbers": True}, 1.05, True),
        ({"logprobs": "no"}, 1.0, False),
        ({"logprobs": "no"}, 2.0, True),
        ({"logprobs": "refused"}, 1.0, False),
        ({"logprobs": "refused"}, 2.0, True),
    ],
)
def test_a_penalty_of_the_servers_is_found_by_one_request_and_said_of_every_file(files, served, penalty, named, capsys):
    with LoopbackJudge(penalty=penalty, **served) as server:
        judge(server, files)
        (body,) = asked(server, NUMBERS, COPY)
        assert body["temperature"] == 0
        said = capsys.readouterr().err
        assert (NAMED in said) is named, said
        assert read_ledger(files[0].parent / "ledger")["loop", "cell"].calls == len(server.requests) - (
            served.get("logprobs") == "refused"  # which costs nothing
        )
        asked_so_far = len(server.requests)
        judge(server, write_input(files[0].parent, [*ANSWERS, "another"]))
        assert len(server.requests) == asked_so_far + 2, "what is known is not asked again"
        assert (NAMED in capsys.readouterr().err) is named


def test_fields_of_the_servers_own_switch_it_off_and_ask_all_anew(files, capsys):
    with LoopbackJudge(penalty=1.3) as server:
        judge(server, files)
        assert "write judge.extra_body: {repetition_penalty: 1.0}" in capsys.readouterr().err
        first = len(server.requests)
        judge(server, files, extra_body={"repetition_penalty": 1.0})
        assert NAMED not in capsys.readouterr().err
        assert len(server.requests) == 2 * first
        assert all(body["repetition_penalty"] == 1.0 for body in server.requests[first:])


@pytest.mark.parametrize("failing", [400, 503])
def test_without_a_reply_to_that_nothing_is_concluded_and_everything_judged(files, failing, capsys):
    def change(body, status, reply):
        return (failing, {"error": {"message": "no"}}) if body["messages"][0]["content"] == NUMBERS else (status, reply)

    with LoopbackJudge(penalty=1.3, change=change) as server:
        rows = judge(server, files)
    assert all(row["alignment"] is not None for row in rows)
    assert NAMED not in capsys.readouterr().err


def test_the_providers_own_endpoint_is_not_asked():
    from emdefense.judging.penalty import penalty_probes

    assert penalty_probes(OpenAIJudge(name="j", model="m")) == []


# Fewer alternatives


def capped(most, message):
    def change(body, status, reply):
        if body.get("top_logprobs", 0) > most:
            return 400, {"error": {"message": message, "type": "BadRequestError", "code": 400}}
        return status, reply

    return change


# Of vLLM, of pydantic behind a server, of OpenAI, of a gateway.
MESSAGES = [
    "Requested sample logprobs of 20, which is greater than max allowed: 5",
    "top_logprobs: Input should be less than or equal to 5",
    "Invalid value for 'top_logprobs': must be between 0 and 5 inclusive.",
    "top_logprobs must be in the range [0, 5]",
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_cap_on_alternatives_is_named_and_a_setting_meets_it(files, message):
    with LoopbackJudge(change=capped(5, message)) as server:
        with pytest.raises(InputError) as error:
            judge(server, files)
        assert len(server.requests) == 1
        assert "gives 5 alternatives to a token at most, fewer than judge.top_logprobs = 20 (HTTP 400)" in str(
            error.value
        )
        assert "write judge.top_logprobs: 5" in str(error.value)
        rows = judge(server, files, top_logprobs=5)
        assert {row["scored_by"] for row in rows} == {"logprobs"}
        assert {len(row["alignment_top"]) for row in rows} == {5}


@pytest.mark.parametrize("mode", ["synchronous", "batch"])
def test_a_cap_that_comes_later_stops_the_job_in_the_same_words(files, mode):
    with LoopbackJudge() as server:
        judge(server, files)
        server.change = capped(11, MESSAGES[0].replace("5", "11"))
        with pytest.raises(InputError, match=r"write judge\.top_logprobs: 11"):
            judge(server, write_input(files[0].parent, ["new"]), mode=mode, batch_poll_seconds=0.01)


@pytest.mark.parametrize(
    "message",
    [
        "logprobs are not supported with model gpt-5",
        "'logprobs' is not supported with this model.",
        "max_tokens must be at least 16",
        "top_logprobs must be between 0 and 1",
        "This model's maximum context length is 8192 tokens",
        "logprobs: Input should be less than or equal to 20",
    ],
)
def test_other_refusals_tell_of_no_cap(message):
    assert most_given(read_message({"error": {"message": message}}), {"top_logprobs": 20}) is None


# What is kept


def test_keys_of_requests_are_those_of_before_unless_the_new_settings_are_set():
    """The digest is of what was kept under before there were these settings."""
    from emdefense.judging.requests import weighed

    before = parse_settings(
        {"kind": "openai", "name": "j", "model": "m", "base_url": "http://h/v1", "options": {"a": 1}}
    )
    key = build_request(before, "text", 0.0, 0, weighed(before)).key.hex()
    assert key == KEY_BEFORE
    for changes in ({"top_logprobs": 5}, {"extra_body": {"top_k": -1}}):
        after = before.model_copy(update=changes)
        assert build_request(after, "text", 0.0, 0, weighed(after)).key.hex() != key


def test_a_judge_without_the_new_keys_has_the_spec_that_it_had():
    def spec(**more):
        return OpenAIJudge(name="j", model="m", **more).model_dump(mode="json", exclude=OpenAIJudge.RUNNING)

    assert json.dumps(spec()) == json.dumps(
        {
            "kind": "openai", "name": "j", "model": "m", "base_url": None, "samples": 1, "temperature": 0.0,
            "min_number_probability": 0.25, "max_tokens": 16, "options": {},
        }
    )  # fmt: skip
    more = {"top_logprobs": 5, "extra_body": {"top_k": -1}}
    assert spec(**more) == {**spec(), **more}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"extra_body": {"temperature": 1}}, "'temperature' is not for 'extra_body'"),
        ({"extra_body": {"extra_body": {}}}, "'extra_body' is an argument of a client"),
        ({"options": {"top_k": 1}, "extra_body": {"top_k": 1}}, "'top_k' stands in 'options' too"),
        ({"extra_body": {"api_key": "x"}}, "it holds a key"),
        ({"top_logprobs": 1}, "top_logprobs"),
    ],
)
def test_what_these_keys_do_not_take_is_named(section, said):
    with pytest.raises(InputError, match=said):
        parse_settings({"kind": "openai", "name": "j", "model": "m", **section})
