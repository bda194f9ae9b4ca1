"""Each error of an endpoint is one line with the right advice and the endpoint's own words, without key or request."""

import json

import pytest

from emdefense.config.judges import OpenAIJudge
from emdefense.errors import InputError
from emdefense.files import read_jsonl
from emdefense.judging import client
from emdefense.judging.judge_file import judge_file
from emdefense.judging.server_message import LONGEST, read_message
from judge_runs import judge_settings, write_input
from loopback_judge import KEY, LoopbackJudge

SECRET = "sk-local-0123456789abcdef"
SQUID = (
    b"<html><head><title>ERROR: The requested URL could not be retrieved</title><style>p {}</style></head>"
    b"<body><p>Access Denied.</p></body></html>"
)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.001)
    return write_input(tmp_path, [f"answer {n}" for n in range(10)])


def failure_of(files, status, content, **changes):
    with LoopbackJudge(change=lambda *_: (status, content)) as server:
        settings = judge_settings(server, max_retries=1, **changes)
        with pytest.raises(InputError) as error:
            judge_file(settings, *files, cache=files[0].parent / "cache")
        assert len(server.requests) <= 2
    assert "\n" not in str(error.value)
    return str(error.value)


def api(message, code=None):
    return {"error": {"message": message, "type": "error", "param": None, "code": code}}


@pytest.mark.parametrize(
    ("status", "content", "wanted", "unwanted"),
    [
        (401, api("Incorrect API key"), ["refused the key in OPENAI_API_KEY (HTTP 401)", "Incorrect API key"], []),
        (403, api("This API key may not do that"), ["refused the key", "may not do that"], []),
        (403, SQUID, ["a proxy", "NO_PROXY=127.0.0.1", "Access Denied"], ["refused the key", "<p>", "p {}"]),
        (403, b"", ["a proxy", "NO_PROXY=127.0.0.1", "(HTTP 403)"], ["refused the key"]),
        (403, {"message": "Forbidden"}, ["a proxy", "Forbidden"], ["refused the key"]),
        (403, api("Country not supported"), ["forbids this", "Country not supported"], ["refused the key"]),
        (407, SQUID, ["a proxy", "NO_PROXY"], ["refused the key"]),
        (404, api("The model does not exist"), ["knows no model", "judge.base_url", "The model does not exist"], []),
        (400, api("nothing like that", "model_not_found"), ["knows no model", "nothing like that"], []),
        *(
            (status, api(message), ["has shut out the account of the key in OPENAI_API_KEY", message[:20]], ["filter"])
            for status in (200, 400, 403, 429)
            for message in (
                "You violated our usage policy; your account has been permanently disabled",
                "Request blocked: your organization is suspended",
            )
        ),
        (301, b"<h1>Moved</h1>", ["sends requests elsewhere (HTTP 301)", "judge.base_url", "Moved"], ["judge.model"]),
        (402, api("Insufficient credits"), ["quota is used up", "Insufficient credits"], []),
        (429, api("You exceeded your quota", "insufficient_quota"), ["quota is used up", "exceeded your quota"], []),
        (400, api("Unknown parameter: 'seed'"), ["refused a request (HTTP 400)", "Unknown parameter"], ["check"]),
        (413, {"detail": "Too large"}, ["(HTTP 413)", "Too large"], []),
        (422, {"detail": [{"msg": "field required", "input": "x"}]}, ["(HTTP 422)", "field required"], []),
        (500, api("CUDA out of memory"), ["fails (HTTP 500)", "CUDA out of memory"], ["judge.model"]),
        (502, b"<h1>Bad Gateway</h1>", ["fails (HTTP 502)", "Bad Gateway"], ["<h1>"]),
        (200, b"<!doctype html><title>Welcome to nginx</title>", ["judge.base_url", "Welcome to nginx"], ["<title>"]),
        (200, api("No endpoints", 404), ["knows no model", "No endpoints"], []),
    ],
)
def test_an_error_says_what_to_mend_and_what_was_said(files, status, content, wanted, unwanted):
    message = failure_of(files, status, content)
    assert [part for part in wanted if part not in message] == []
    assert [part for part in unwanted if part in message] == []


@pytest.mark.parametrize("status", [400, 401, 403, 422, 500])
def test_neither_key_nor_request_is_repeated(files, monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    echo = (
        f"bad: Authorization: Bearer {SECRET}, x={SECRET[:14]}, prompt 'Repeat these two numbers exactly as they are'"
    )
    message = failure_of(files, status, api(echo + "\x1b[31m\x00\r\n" + "w" * 5000))
    assert "bad: Authorization: [key]" in message
    assert not any(secret in message for secret in (SECRET, SECRET[:14], "two numbers exactly", "\x1b", "\x00"))
    assert len(message) < LONGEST + 300


@pytest.mark.parametrize("mode", ["synchronous", "batch"])
def test_an_error_of_one_response_is_shown_without_the_response(files, capsys, mode):
    files = write_input(files[0].parent, ["harmless", "the secret plan of the villain"])

    def change(body, status, reply):
        prompt = body["messages"][0]["content"]
        return (400, api(f"{prompt} is too long for {KEY}")) if "secret" in prompt else (status, reply)

    with LoopbackJudge(change=change) as server:
        settings = judge_settings(server, max_error_rate=0.5, mode=mode, batch_poll_seconds=0.01)
        judge_file(settings, *files, cache=files[0].parent / "cache")
    assert read_jsonl(files[2])[1]["error"] == "HTTP 400"
    said = capsys.readouterr().err
    assert "1 of 2 responses stay without scores (HTTP 400). It said: […] is too long for [key]" in said
    assert "secret plan" not in said


def test_a_message_is_found_in_any_form():
    forms = [{"error": {"message": "m"}}, {"error": "m"}, {"message": "m"}, {"detail": "m"}, {"detail": [{"msg": "m"}]}]
    forms += [[{"error": {"message": "m"}}], {"error": {"error": "x", "message": "m"}}, "m"]
    assert {read_message(form).text for form in forms} == {"m"}
    assert {read_message(json.dumps(form).encode()).text for form in forms[:-1]} == {"m"}
    for nothing in (None, 5, [], {}, {"error": None}, {"error": {"message": 7}}, {"detail": {}}, [[]]):
        assert read_message(nothing).text == ""


@pytest.mark.parametrize("key", ["line\nbreak", "schlüssel", "a\x00b"])
def test_a_key_that_is_none_is_one_line(files, monkeypatch, key):
    monkeypatch.setattr("os.environ", {"OPENAI_API_KEY": key})
    with LoopbackJudge() as server, pytest.raises(InputError, match="holds what no key does") as error:
        judge_file(judge_settings(server), *files, cache=files[0].parent / "cache")
    assert key not in str(error.value)
    assert server.requests == []


def test_an_option_that_has_a_key_of_its_own_is_refused():
    for name in ("temperature", "max_completion_tokens", "stream"):
        with pytest.raises(ValueError, match=f"'{name}' is not for 'options'"):
            OpenAIJudge(name="x", model="m", options={name: 1})


def test_an_endpoint_that_only_the_environment_names_is_refused(files, monkeypatch):
    """Its replies would be kept as the provider's."""
    with LoopbackJudge() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        with pytest.raises(
            InputError, match=r"^judge\.base_url: the environment variable OPENAI_BASE_URL names another"
        ):
            judge_file({**judge_settings(server), "base_url": None}, *files, cache=files[0].parent / "cache")
    assert server.requests == []
