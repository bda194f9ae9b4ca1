"""A judge's reply is understood, or it is a label or an error of its kind: paid for once, never a crash, never kept."""

import copy
import json
import math
import random
import re
from collections import Counter
from contextlib import suppress

import pytest

from emdefense.analysis.rates import JUDGMENT_SCHEMA, read_rows
from emdefense.errors import InputError
from emdefense.files import read_json, read_jsonl
from emdefense.judging import batch_endpoint, client
from emdefense.judging.budget import Account
from emdefense.judging.cache import Cache
from emdefense.judging.failures import Failure
from emdefense.judging.judge_file import judge_file
from emdefense.judging.ledger import read_ledger
from emdefense.judging.protocol import Rating
from emdefense.judging.reply import json_value, kept_reply, understand
from emdefense.judging.requests import PROBE, TRIAL
from emdefense.judging.scoring import fill_rubric, rate_reply
from emdefense.provenance import record_beside
from judge_runs import RUBRICS, judge_settings, write_input
from loopback_judge import KEY, LoopbackJudge, reply_to

ANSWERS = [f"answer {n}" for n in range(10)]
MODES = pytest.mark.parametrize("mode", ["synchronous", "batch"])


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(batch_endpoint, "FIRST_PAUSE", 0.001)
    return write_input(tmp_path, ANSWERS)


def judge(server, files, **changes):
    settings = judge_settings(server, **{"batch_poll_seconds": 0.01, "concurrency": 4, "max_retries": 6, **changes})
    folder = files[0].parent
    judge_file(settings, *files, cache=folder / "cache", account=Account(folder / "ledger", cell="cell"))
    return read_jsonl(files[2])


def is_probe(body):
    return body["messages"][0]["content"] in (PROBE, TRIAL)


def said(answer, rubric):
    return reply_to(fill_rubric(RUBRICS[rubric], "Why?", answer))


def assert_right(rows, *, but=()):
    """Every score is what the server said, but for the responses of these numbers."""
    assert len(rows) == len(ANSWERS)
    for number, row in enumerate(rows):
        if number not in but:
            assert row["alignment"] == pytest.approx(int(said(ANSWERS[number], "aligned")))
            assert row["coherence"] == pytest.approx(int(said(ANSWERS[number], "coherent")))


def always(edit, *, probe=True, only=""):
    """Change each choice of the server's, those to probes too unless told otherwise, by ``edit``."""

    def change(body, status, reply):
        if status == 200 and (probe or not is_probe(body)) and only in body["messages"][0]["content"]:
            edit(reply["choices"][0])
        return status, reply

    return change


def first_alternatives(choice):
    content = (choice["logprobs"] or {}).get("content") or [{"top_logprobs": []}]
    return content[0]["top_logprobs"]


# Alternatives


@MODES
@pytest.mark.parametrize("beside", [[], None, "missing", {}])
def test_a_judge_whose_alternatives_are_missing_is_scored_by_its_text(files, mode, beside, capsys):
    def edit(choice):
        for token in (choice["logprobs"] or {}).get("content", []):
            token.pop("top_logprobs")
            if beside != "missing":
                token["top_logprobs"] = beside

    with LoopbackJudge(change=always(edit)) as server:
        rows = judge(server, files, mode=mode)
        assert len(server.requests) == 2 + 2 * len(ANSWERS), "a probe, a trial, and each request once"
    assert_right(rows)
    assert {row["scored_by"] for row in rows} == {"text"}
    assert "scored by its text: the endpoint gives no log probabilities" in capsys.readouterr().err


# What one alternative among twenty is, and the label that it leaves: none where it enters no score.
ALTERNATIVES = [
    ({"logprob": None}, None),
    ({"logprob": -math.inf}, None),
    ({"logprob": "-0.5"}, None),
    ({"token": None}, "UNPARSED"),
    ({"token": 87}, "UNPARSED"),
    ({"token": [56, 55]}, "UNPARSED"),
    ({"token": "9" * 5000}, None),
    ({"token": "\ud800"}, None),
    ({"token": "\x00\u2028"}, None),
    *(
        ({"token": "12", "logprob": value}, "UNPARSED")
        for value in (None, math.nan, math.inf, 0.5, "-0.1", True, [], 10**400)
    ),
    ({"token": "12", "logprob": -math.inf}, None),
]


@MODES
def test_an_alternative_that_is_none_does_no_harm_or_leaves_no_score(files, mode):
    """Either way it is paid for once."""
    answers = [f"answer {n:02}" for n in range(len(ALTERNATIVES))]
    files = write_input(files[0].parent, answers)

    def change(body, status, reply):
        if not is_probe(body):
            number = int(body["messages"][0]["content"][-2:])
            first_alternatives(reply["choices"][0])[-1] |= ALTERNATIVES[number][0]
        return status, reply

    with LoopbackJudge(change=change) as server:
        rows = judge(server, files, mode=mode, max_unparsed_rate=1.0)
        asked = len(server.requests)
        assert judge(server, files, mode=mode, max_unparsed_rate=1.0) == rows
        assert len(server.requests) == asked == 1 + 2 * len(answers)
    for row in rows:
        "".join(token for token, _ in row["alignment_top"]).encode()  # whole characters only
    assert read_rows(files[2], JUDGMENT_SCHEMA).height == len(answers)
    for row, answer, (_, label) in zip(rows, answers, ALTERNATIVES, strict=True):
        for rubric, name in (("aligned", "alignment"), ("coherent", "coherence")):
            score = None if label else pytest.approx(int(said(answer, rubric)))
            assert (row[name], row[f"{name}_label"]) == (score, label)


def test_an_integer_that_is_longer_than_python_reads_is_read(files):
    def change(body, status, reply):
        if is_probe(body) or "answer 3" not in body["messages"][0]["content"]:
            return status, reply
        first_alternatives(reply["choices"][0])[-1]["token"] = 123454321
        return status, json.dumps(reply).replace("123454321", "9" * 5000).encode()

    with LoopbackJudge(change=change) as server:
        rows = judge(server, files)
        assert len(server.requests) == 1 + 2 * len(ANSWERS)
    assert rows[3]["alignment_label"] == "UNPARSED"


def test_probabilities_that_sum_to_more_than_one_are_none():
    top = [{"token": token, "logprob": -0.1} for token in ("20", "90")]
    reply = understand(200, completion(top=top), {}, REQUEST)
    assert rate_reply(reply, "logprobs", 0.25) == Rating(None, "UNPARSED", (("20", -0.1), ("90", -0.1)))


@MODES
def test_an_alternative_that_is_listed_twice_counts_once(files, mode):
    """Some servers add the token that was drawn to the most probable ones, among which it stands already."""

    def edit(choice):
        listed = [("80", 0.3), ("80", 0.3), (" 80", 0.1), ("20", 0.3), ("20", -9999.0)]
        choice["logprobs"]["content"][0]["top_logprobs"] = [
            {"token": token, "logprob": math.log(p) if p > 0 else p} for token, p in listed
        ]

    with LoopbackJudge(change=always(edit, probe=False)) as server:
        rows = judge(server, files, mode=mode)
    right = (80 * (0.3 + 0.1) + 20 * 0.3) / 0.7
    assert [row["alignment"] for row in rows] == [pytest.approx(right)] * len(ANSWERS)


def test_a_judge_with_one_alternative_is_scored_by_its_text(files, capsys):
    def edit(choice):
        del first_alternatives(choice)[1:]

    with LoopbackJudge(change=always(edit)) as server:
        rows = judge(server, files)
    assert_right(rows)
    assert {row["scored_by"] for row in rows} == {"text"}
    assert "the endpoint gives one alternative, not several" in capsys.readouterr().err


def test_a_number_that_is_improbable_is_shown_with_its_probability(files):
    def edit(choice):
        first_alternatives(choice)[0]["logprob"] = math.log(0.2)

    with (
        LoopbackJudge(change=always(edit, probe=False)) as server,
        pytest.raises(InputError, match=r"first: '\d+', with a probability of 0\.20 on all numbers"),
    ):
        judge(server, files)


@pytest.mark.parametrize("logprob", [None, 5.0, math.nan])
def test_a_judge_whose_probabilities_are_none_is_scored_by_its_text(files, logprob, capsys):
    def edit(choice):
        for entry in first_alternatives(choice):
            entry["logprob"] = logprob

    with LoopbackJudge(change=always(edit)) as server:
        assert_right(judge(server, files))
    assert "its log probabilities cannot be used" in capsys.readouterr().err


@MODES
def test_a_judge_that_gives_no_more_log_probabilities_is_left_after_a_few_replies(files, mode):
    def edit(choice):
        choice["logprobs"] = {"content": []}

    with LoopbackJudge(change=always(edit, probe=False)) as server:
        with pytest.raises(InputError, match=r"that (no )?scores? can be read from \(no log probabilities\)"):
            judge(server, files, mode=mode)
        assert len(server.requests) <= 1 + 2 * len(ANSWERS)
        assert mode == "batch" or len(server.requests) <= 1 + 5 + 4


# The probe


@pytest.mark.parametrize(
    ("content", "logprobs"), [("", "yes"), (None, "no"), ("<think>\nOkay, the user wants", "yes"), ([], "refused")]
)
def test_a_judge_that_thinks_is_refused_at_the_first_request(files, content, logprobs):
    def change(body, status, reply):
        if status == 200 and body.get("reasoning_effort") != "none":
            reply["choices"][0]["message"] |= {"content": content, "reasoning": "Okay, the"}
            reply["choices"][0] |= {"finish_reason": "length", "logprobs": None}
            reply["usage"]["completion_tokens"] = 16
        return status, reply

    with LoopbackJudge(logprobs=logprobs, change=change) as server:
        for _ in range(2):  # a reply of no use is not kept
            with pytest.raises(InputError, match=r"thinks, or says nothing.*after 16 tokens; .*judge\.options"):
                judge(server, files)
        assert len(server.requests) == (4 if logprobs == "refused" else 2)
        assert_right(judge(server, files, options={"reasoning_effort": "none"}))


def test_a_judge_that_may_think_for_longer_is_scored_by_what_it_says_then(files):
    def change(body, status, reply):
        if status == 200 and body["max_tokens"] < 500:
            reply["choices"][0]["message"]["content"] = ""
        reply["choices"][0]["logprobs"] = None
        return status, reply

    with LoopbackJudge(change=change) as server:
        assert_right(judge(server, files, max_tokens=500))


@MODES
def test_a_number_that_breaks_off_at_the_limit_is_none(files, mode):
    """A judge that thinks unseen may say 8 of 85 before its tokens are spent."""

    def change(body, status, reply):
        choice = reply["choices"][0]
        choice["logprobs"] = None
        for answer, text in cut.items():
            if not is_probe(body) and answer in body["messages"][0]["content"]:
                choice["message"]["content"] = text
                choice["finish_reason"] = "length"
        return status, reply

    cut = {ANSWERS[3]: "8"}
    with LoopbackJudge(change=change) as server:
        rows = judge(server, files, mode=mode)
        assert_right(rows, but=[3])
        assert (rows[3]["alignment"], rows[3]["alignment_label"]) == (None, "UNPARSED")
        cut |= dict.fromkeys(ANSWERS[4:], " 7")
        files[0].with_name("cache").rename(files[0].with_name("other"))
        with pytest.raises(InputError, match=r"first: '[78]', which breaks off at judge\.max_tokens"):
            judge(server, files, mode=mode)
        files[0].with_name("cache").rename(files[0].with_name("third"))
        # What follows a whole first line may be cut.
        cut = {ANSWERS[3]: "85\n\nThe response", ANSWERS[4]: "100\n\n\n"}
        rows = judge(server, files, mode=mode)
    assert_right(rows, but=[3, 4])
    assert [row["alignment"] for row in rows[3:5]] == [85, 100]


def test_a_judge_that_breaks_off_when_tried_is_refused(files):
    def edit(choice):
        choice.update(logprobs=None, finish_reason="length")
        choice["message"]["content"] = "4"

    with (
        LoopbackJudge(change=always(edit)) as server,
        pytest.raises(InputError, match=r"a trial request has no answer.* raise judge\.max_tokens"),
    ):
        judge(server, files)
    assert len(server.requests) == 2


@pytest.mark.parametrize("text", ["Sure! The number is 87", "eighty-seven", "８７", "I'm sorry, but I can't."])
def test_a_judge_that_gives_no_number_when_asked_for_one_is_refused(files, text):
    def edit(choice):
        choice["message"]["content"] = text
        choice["logprobs"] = None

    with (
        LoopbackJudge(change=always(edit)) as server,
        pytest.raises(InputError, match="where a number was asked") as error,
    ):
        judge(server, files)
    assert len(server.requests) == 2
    assert text in str(error.value)


def test_a_judge_that_refuses_the_probe_is_refused(files):
    def edit(choice):
        choice["message"] |= {"content": None, "refusal": "no"}

    with LoopbackJudge(change=always(edit)) as server, pytest.raises(InputError, match="refuses to repeat a number"):
        judge(server, files)
    assert len(server.requests) == 1


def test_a_number_that_is_not_the_first_token_is_read_from_the_text(files):
    def edit(choice):
        if choice["logprobs"]:
            choice["logprobs"]["content"].insert(0, {"token": "", "logprob": 0.0, "top_logprobs": [{"token": ""}]})

    with LoopbackJudge(change=always(edit)) as server:
        rows = judge(server, files)
    assert_right(rows)
    assert rows[0]["scored_by"] == "text"


@MODES
def test_a_model_that_wants_max_completion_tokens_gets_it(files, mode):
    message = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )

    def change(body, status, reply):
        if "max_tokens" in body:
            return 400, {"error": {"message": message, "param": "max_tokens", "code": "unsupported_parameter"}}
        return status, reply

    with LoopbackJudge(change=change) as server:
        assert_right(judge(server, files, mode=mode))
        assert sum("max_tokens" in body for body in server.requests) == 1, "learnt at the probe"
        asked = len(server.requests)
        again = write_input(files[0].parent, ["another answer"], "again")
        judge(server, again, mode=mode)
        assert [("max_tokens" in body) for body in server.requests[asked:]] == [False, False], "and remembered"
    assert set(server.prompts.values()) == {1}


def test_a_temperature_that_the_model_does_not_take_is_named(files):
    def change(body, status, reply):
        if body["temperature"] != 1:
            return 400, {"error": {"message": "Unsupported value: 'temperature' does not support 0.", "code": "x"}}
        return status, reply

    with LoopbackJudge(change=change) as server:
        with pytest.raises(InputError, match=r"does not take judge\.temperature: 0 \(HTTP 400\).*does not support 0"):
            judge(server, files)
        assert_right(judge(server, files, temperature=1.0))


# Refusals


FILTERS = {
    "azure": {
        "message": "The response was filtered due to the prompt triggering the content management policy.",
        "code": "content_filter",
        "innererror": {"code": "ResponsibleAIPolicyViolation"},
    },
    "inner code": {"message": "Bad request", "code": 400, "innererror": {"code": "ResponsibleAIPolicyViolation"}},
    "results": {"message": "Bad request", "innererror": {"content_filter_result": {"hate": {"filtered": True}}}},
    "deepseek": {"message": "Content Exists Risk", "type": "invalid_request_error"},
    "dashscope": {"message": "Input data may contain inappropriate content.", "code": "data_inspection_failed"},
    "openai": {
        "message": "Invalid prompt: your prompt was flagged as potentially violating our usage policy. "
        "Repeated violations may lead to your account being suspended."
    },
    "litellm": {"message": "litellm.ContentPolicyViolationError: blocked", "code": "400"},
    "openrouter": {"message": "No.", "code": 403, "metadata": {"reasons": ["violence/graphic"], "flagged_input": "x"}},
}


@MODES
def test_what_a_filter_refuses_is_a_refusal_paid_for_once(files, mode, capsys):
    forms = [*FILTERS.values(), "blocked by the content filter"]
    files = write_input(files[0].parent, [*ANSWERS, *(f"filtered {n}" for n in range(len(forms)))])

    def change(body, status, reply):
        prompt = body["messages"][0]["content"]
        if "aligned? Why? -> filtered" in prompt:
            return 400, {"error": forms[int(prompt[-1])]}
        return status, reply

    with LoopbackJudge(change=change) as server:
        rows = judge(server, files, mode=mode)
        asked = len(server.requests)
        assert judge(server, files, mode=mode) == rows
        assert len(server.requests) == asked == 1 + 2 * (len(ANSWERS) + len(forms))
    assert_right(rows[: len(ANSWERS)])
    for row in rows[len(ANSWERS) :]:
        assert (row["alignment"], row["alignment_label"], row["filtered"]) == (None, "REFUSAL", True)
        assert row["coherence"] is not None
        assert "error" not in row
    assert "refused to rate 9 (9 by a filter of the endpoint's)" in capsys.readouterr().err
    record = read_json(record_beside(files[2]))
    assert (record["errors"], record["filtered"], record["labels"]) == (0, 9, {"REFUSAL": 9})
    spent = read_ledger(files[0].parent / "ledger")["loop", "cell"]
    assert spent.calls == asked, "a filter may charge for what it reads"


NO_VERDICTS = [
    "moderation input too long",
    "Moderation error: the input exceeds the maximum length of 32768 characters",
    "The text is longer than the limit of 10000 characters (content safety)",
    "Content filter: the prompt is too large",
    "Request blocked: moderation takes no input that exceeds 25 KB",
    "Your input was blocked because it exceeds the context window",
    "Guardrail: member must have length less than or equal to 25600",
    "Guardrail scan: 12 texts, exceeding the maximum of 10",
    "Unable to check the prompt for harmful content: it has more than 10000 characters",
    "敏感词检测: 输入内容长度超过限制",
    "The content filter is unavailable",
    "The content filtering system timed out",
    "The guardrail identifier or version in the request does not exist",
    "Unknown parameter: 'moderation'",
    "Invalid value for 'safety_settings'",
    "Failed to call the moderation endpoint",
]
VERDICTS = [
    "The response was filtered, as the prompt triggers the content management policy.",
    "Output blocked by content filtering policy",
    "Your request was rejected as a result of our safety system.",
    "The prompt violates our content policy. Prompts longer than 4000 characters are not checked.",
    "Flagged by moderation: the score for hate exceeds the maximum threshold",
    "Request contains harmful content (its severity exceeds the limit)",
    "The request could not be completed because it was blocked by the content filter",
    "系统检测到输入内容可能包含不安全或敏感内容",
    "Moderation check failed",
    "Guardrail intervened: input blocked",
]


def test_a_filter_that_judged_nothing_is_no_filter():
    for message in NO_VERDICTS:
        for form in ({"error": {"message": message, "type": "invalid_request_error"}}, {"detail": message}):
            with pytest.raises(Failure) as failure:
                understand(400, form, {}, REQUEST)
            assert failure.value.kind == "content", message
    for message in VERDICTS:
        for form in ({"error": {"message": message, "type": "invalid_request_error"}}, {"detail": message}):
            assert understand(400, form, {}, REQUEST)["filtered"], message
    verdicts = {"hate": {"filtered": False}, "jailbreak": {"detected": False}}
    for name in ("content_filter_result", "content_filter_results"):
        with pytest.raises(Failure):
            understand(400, {"error": {"message": "Bad request", name: verdicts}}, {}, REQUEST)
        hit = {**verdicts, "violence": {"filtered": True}}
        assert understand(400, {"error": {"message": "Bad request", name: hit}}, {}, REQUEST)["filtered"]


@MODES
def test_a_filter_that_takes_no_more_is_an_error_with_its_words(files, mode, capsys):
    def change(body, status, reply):
        error = {"message": "moderation input too long (maximum 32768 characters)", "code": "moderation_error"}
        return (answer, {"error": error}) if "answer 3" in str(body) else (status, reply)

    for answer in (400, 200):  # gateways send errors with either
        with LoopbackJudge(change=change) as server:
            rows = judge(server, files, mode=mode, max_error_rate=0.1)
            assert server.prompts["aligned? Why? -> answer 3"] == 1
        assert (rows[3]["alignment_label"], rows[3]["error"]) == (None, "HTTP 400")
        assert "filtered" not in rows[3]
        assert_right(rows, but=[3])
        assert "It said: moderation input too long" in capsys.readouterr().err
        files[0].with_name("cache").rename(files[0].with_name(f"cache {answer}"))


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens.",
        "'aligned? Why? -> answer 3 and content_filter' is too long",
    ],
)
def test_what_is_no_filter_is_no_refusal(files, message):
    answers = [*ANSWERS[:3], "answer 3 and content_filter", *ANSWERS[4:]]
    files = write_input(files[0].parent, answers)

    def change(body, status, reply):
        return (400, {"error": {"message": message}}) if "answer 3 and" in str(body) else (status, reply)

    with LoopbackJudge(change=change) as server:
        rows = judge(server, files, max_error_rate=0.1)
    assert (rows[3]["alignment_label"], rows[3]["error"]) == (None, "HTTP 400")


def refusal_forms():
    return [
        {"message": {"content": "REFUSAL"}},
        {"message": {"content": "I'm sorry, but I can't assist with that."}},
        {"message": {"content": "I cannot rate this answer."}},
        {"message": {"content": None, "refusal": "I will not."}},
        {"message": {"content": "50", "refusal": "I will not."}},
        {"message": {"content": ""}, "finish_reason": "content_filter"},
        {"message": {"content": None}, "finish_reason": "SAFETY"},
        {"error": {"code": 403, "message": "flagged: input was flagged by moderation"}},
    ]


@MODES
def test_refusals_are_one_thing_in_all_forms(files, mode):
    forms = refusal_forms()
    files = write_input(files[0].parent, [f"answer {n}" for n in range(len(forms))])

    def change(body, status, reply):
        if not is_probe(body):
            form = forms[int(body["messages"][0]["content"][-1])]
            reply["choices"][0] |= {"logprobs": None, **copy.deepcopy(form)}
        return status, reply

    with LoopbackJudge(logprobs="no", change=change) as server:
        rows = judge(server, files, mode=mode)
        assert set(server.prompts.values()) == {1}
    assert {row["alignment_label"] for row in rows} == {row["coherence_label"] for row in rows} == {"REFUSAL"}
    assert not any("error" in row for row in rows)


IN_WORDS = [
    "I'm sorry, but I can't assist with that.",
    "I cannot rate this answer.",
    "I’m unable to help with that request.",
    "Sorry, no.",
    "Unfortunately, I can't evaluate this content.",
    "As an AI language model, I cannot rate this.",
    "I must decline to judge this.",
    "I do not feel comfortable rating this.",
    "My apologies, but I won't.",
    "We are not able to answer this.",
]


def speaks(texts):
    """Have the judge answer in these words where a response holds their number, as far as it may write."""

    def change(body, status, reply):
        prompt = body["messages"][0]["content"]
        if status == 200 and not is_probe(body) and "words" in prompt:
            pieces = re.findall(r"\s?\w+|\W", texts[int(prompt[-2:])])[: body["max_tokens"]]
            choice = reply["choices"][0]
            choice["message"]["content"] = "".join(pieces)
            reply["usage"]["completion_tokens"] = len(pieces)
            if body.get("logprobs"):
                choice["logprobs"]["content"] = [{"token": pieces[0], "top_logprobs": words_first(pieces[0])}]
        return status, reply

    return change


def words_first(word):
    return [{"token": word, "logprob": math.log(0.9)}, {"token": "80", "logprob": math.log(0.05)}]


def words(count):
    return [f"words {n:02}" for n in range(count)]


@MODES
def test_a_refusal_that_is_cut_to_one_token_is_asked_for_in_full_once(files, mode):
    files = write_input(files[0].parent, [*ANSWERS, *words(len(IN_WORDS))])
    with LoopbackJudge(change=speaks(IN_WORDS)) as server:
        rows = judge(server, files, mode=mode)
        asked = len(server.requests)
        assert judge(server, files, mode=mode) == rows
        assert len(server.requests) == asked
        in_words = {prompt: count for prompt, count in server.prompts.items() if "words" in prompt}
        numbers = [body for body in server.requests[1:] if "words" not in body["messages"][0]["content"]]
    assert_right(rows[: len(ANSWERS)])
    assert {(body["max_tokens"], body["top_logprobs"]) for body in numbers} == {(1, 20)}, "as ever"
    assert len(numbers) == 2 * len(ANSWERS)
    for row in rows[len(ANSWERS) :]:
        assert (row["alignment"], row["alignment_label"], row["coherence_label"]) == (None, "REFUSAL", "REFUSAL")
        assert row["alignment_top"], "the evidence is that of the first token"
    # "Sorry" refuses by itself.
    assert in_words.pop("aligned? Why? -> words 03") == in_words.pop("coherent? Why? -> words 03") == 1
    assert set(in_words.values()) == {2}
    assert read_ledger(files[0].parent / "ledger")["loop", "cell"].calls == asked


def test_what_is_no_refusal_in_full_is_no_score_either(files):
    texts = ["I think that 85 is right.", "I", "As asked: 85", "No", "Unknown to me is why", "The answer"]
    files = write_input(files[0].parent, words(len(texts)))
    with LoopbackJudge(change=speaks(texts)) as server:
        rows = judge(server, files, max_unparsed_rate=1.0)
        assert server.prompts["aligned? Why? -> words 05"] == 1, "no refusal begins so"
        with pytest.raises(InputError, match=r"for 5 of 6 responses \(first: 'I think that 85 is right\.'\)"):
            judge(server, files)
    assert [row["alignment_label"] for row in rows] == ["UNPARSED"] * 4 + ["UNKNOWN", "UNPARSED"]
    assert {row["alignment"] for row in rows} == {None}


@MODES
def test_many_replies_in_words_are_bounded_unless_they_are_refusals(files, mode):
    texts = ["I think so."] * 100
    files = write_input(files[0].parent, words(100))
    with LoopbackJudge(change=speaks(texts)) as server:
        with pytest.raises(InputError, match=r"first: 'I think so\.'\), more than judge\.max_unparsed_rate"):
            judge(server, files, mode=mode)
        assert mode == "batch" or len(server.requests) < 100
        files[0].with_name("cache").rename(files[0].with_name("other"))
        texts[:] = ["I cannot rate this."] * 100
        assert {row["alignment_label"] for row in judge(server, files, mode=mode)} == {"REFUSAL"}
        assert max(server.prompts.values()) <= 4


def test_a_cache_without_replies_in_full_is_valid(files):
    files = write_input(files[0].parent, [*ANSWERS, *words(2)])
    folder = files[0].parent
    with LoopbackJudge(change=speaks(IN_WORDS)) as server:
        rows = judge(server, files)
        for shard in (folder / "cache").glob("*.jsonl"):
            lines = shard.read_text().splitlines(keepends=True)
            shard.write_text("".join(line for line in lines if "cannot rate" not in line and "sorry" not in line))
        asked = len(server.requests)
        settings = judge_settings(server, max_unparsed_rate=1.0)
        judge_file(settings, *files, cache=folder / "cache", cache_only=True)
        assert [row["alignment_label"] for row in read_jsonl(files[2])[-2:]] == ["UNPARSED"] * 2
        assert read_jsonl(files[2])[:-2] == rows[:-2]
        assert len(server.requests) == asked
        assert judge(server, files) == rows
        assert len(server.requests) == asked + 4, "only what lacks is asked"


def test_a_refusal_that_cannot_be_had_in_full_is_an_error_until_it_can(files):
    files = write_input(files[0].parent, [*ANSWERS, *words(1)])

    def change(body, status, reply):
        if "words" in body["messages"][0]["content"] and not body.get("logprobs") and broken:
            return 400, {"error": {"message": "out of order"}}
        return speaks(IN_WORDS)(body, status, reply)

    broken = [True]
    with LoopbackJudge(change=change) as server:
        rows = judge(server, files, max_error_rate=0.1)
        assert (rows[-1]["alignment_label"], rows[-1]["error"]) == (None, "HTTP 400")
        broken.clear()
        asked = len(server.requests)
        assert judge(server, files)[-1]["alignment_label"] == "REFUSAL"
        assert len(server.requests) == asked + 2


def test_a_refusal_in_full_fits_the_budget_or_is_not_asked(files):
    files = write_input(files[0].parent, words(3))
    with LoopbackJudge(change=speaks(IN_WORDS)) as server:
        settings = judge_settings(server, prices={"input": 1.0, "output": 1e6})  # a USD for each token
        account = Account(files[0].parent / "ledger", 2 + 6 + 16 + 10.0, "cell")
        with pytest.raises(InputError, match=r"max_usd: of 34 USD"):
            judge_file(settings, *files, cache=files[0].parent / "cache", account=account)
        assert len(server.requests) == 1 + 6 + 1


# What is neither


@MODES
def test_unparsed_replies_are_bounded_and_kept(files, mode):
    def edit(choice):
        choice["message"]["content"] = "Well,"
        first_alternatives(choice)[:] = [{"token": "Well", "logprob": -0.1}]

    files = write_input(files[0].parent, [f"{'odd' if n % 2 else 'even'} {n}" for n in range(100)])
    with LoopbackJudge(change=always(edit, probe=False, only="odd")) as server:
        with pytest.raises(
            InputError,
            match=r"gave neither a score nor a label for \d+ of 100 responses \(first: 'Well,'\), more than "
            r"judge\.max_unparsed_rate = 0\.1 allows; its replies so far are kept",
        ):
            judge(server, files, mode=mode)
        assert not files[2].exists()
        asked = len(server.requests)
        assert mode == "batch" or asked < 100, "no more is paid for once it is certain"
        with pytest.raises(InputError, match=r"max_unparsed_rate"):
            judge(server, files, mode=mode)
        assert len(server.requests) == asked, "nor by the next run"
        rows = judge(server, files, mode=mode, max_unparsed_rate=0.5)
        assert set(server.prompts.values()) == {1}
    assert [row["alignment_label"] for row in rows] == [None, "UNPARSED"] * 50


def test_of_several_samples_one_with_a_score_is_enough(files):
    seen = Counter()

    def edit(choice):
        choice["message"]["content"] = "Well,"
        first_alternatives(choice)[:] = [{"token": "Well", "logprob": -0.1}]

    def change(body, status, reply):
        prompt = body["messages"][0]["content"]
        seen[prompt] += 1
        return always(edit, probe=False)(body, status, reply) if seen[prompt] % 3 else (status, reply)

    with LoopbackJudge(change=change) as server:
        rows = judge(server, files, samples=3)
    assert_right(rows)
    assert sorted(map(str, rows[0]["alignment_samples"]))[-2:] == ["UNPARSED", "UNPARSED"]


SHAPES = [
    b"",
    b"null",
    b"[]",
    b'"85"',
    b"85",
    b"{}",
    b"[" * 100_000,
    b'{"choices": null}',
    b'{"choices": []}',
    b'{"choices": [null]}',
    b'{"choices": [{}]}',
    b'{"choices": [{"message": "85"}]}',
    b'{"choices": [{"message": {"content": ""}, "finish_reason": "error"}]}',
    b'{"error": {"message": "upstream is down", "code": 502}}',
    b'{"error": "no capacity"}',
    b'{"choices": [{"error": {"code": 500, "message": "x"}, "message": {"content": "85"}}]}',
    b"<html><title>Welcome</title></html>",
    b"\xff\xfe\x00",
]


@pytest.mark.parametrize("content", SHAPES)
def test_a_probe_without_a_reply_is_one_line(files, content):
    with LoopbackJudge(change=lambda *_: (200, content)) as server:
        with pytest.raises(InputError) as error:
            judge(server, files, max_retries=2)
        assert len(server.requests) <= 3
    assert str(error.value).startswith("judge 'loop' at ")
    assert "\n" not in str(error.value)


def test_what_is_no_reply_is_an_error_after_a_few_tries(files):
    others = [f"other {n}" for n in range(40)]  # so that the judge as a whole is one
    answers = [*ANSWERS, *others, *(f"odd {n:02}" for n in range(len(SHAPES)))]
    files = write_input(files[0].parent, answers)

    def change(body, status, reply):
        prompt = body["messages"][0]["content"]
        return (200, SHAPES[int(prompt[-2:])]) if "aligned? Why? -> odd" in prompt else (status, reply)

    with LoopbackJudge(change=change) as server:
        rows = judge(server, files, max_retries=2, max_error_rate=1.0)
        assert {server.prompts[f"aligned? Why? -> {answer}"] for answer in answers[50:]} == {3}
    assert_right(rows[: len(ANSWERS)])
    for row in rows[50:]:
        assert (row["alignment"], row["alignment_label"]) == (None, None)
        assert row["error"]
        assert row["coherence"] is not None


NO_CHAT = [b"", b"  \n", b"null", b"{}", b"<html>Welcome</html>", b'{"status": "ok"}', b'{"choices": []}']


@pytest.mark.parametrize("content", NO_CHAT)
def test_an_endpoint_that_is_no_chat_endpoint_is_refused_at_once(files, content):
    with LoopbackJudge(change=lambda *_: (200, content)) as server:
        with pytest.raises(InputError) as error:
            judge(server, files)
        assert len(server.requests) == 2, "one may be an accident"
    assert re.match(r"judge 'loop' at \S+ sends no chat completions \(.*\); correct judge\.base_url", str(error.value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", NO_CHAT)
def test_an_endpoint_that_becomes_none_is_left_after_a_few_replies(files, content):
    files = write_input(files[0].parent, [f"answer {n}" for n in range(200)])

    def change(body, status, reply):
        return (200, content) if len(server.requests) > good else (status, reply)

    for good, few in ((1, 15), (100, 25)):  # with others in flight, and second tries
        with LoopbackJudge(change=change) as server:
            with pytest.raises(InputError, match="sends no chat completions"):
                judge(server, files)
            assert len(server.requests) <= good + few
        files[0].with_name("cache").rename(files[0].with_name(f"cache {good}"))


def test_a_reply_that_is_no_chat_completion_once_is_an_accident(files):
    seen = Counter()

    def change(body, status, reply):
        prompt = body["messages"][0]["content"]
        seen[prompt] += 1
        return (200, NO_CHAT[len(seen) % len(NO_CHAT)]) if seen[prompt] == 1 and len(seen) % 5 == 1 else (status, reply)

    with LoopbackJudge(change=change) as server:
        assert_right(judge(server, files))
        assert sorted(set(server.prompts.values())) == [1, 2]
        assert len(server.requests) == 1 + 2 * len(ANSWERS) + 5


def test_a_request_that_never_has_a_chat_completion_is_tried_a_few_times(files):
    with LoopbackJudge(
        change=lambda body, status, reply: (200, b"") if "answer 3" in str(body) else (status, reply)
    ) as server:
        rows = judge(server, files, max_error_rate=0.1)
        assert server.prompts["aligned? Why? -> answer 3"] == 5
    assert_right(rows, but=[3])
    assert rows[3]["error"] == "an empty reply"


def test_two_jobs_ask_anew_what_was_no_reply(files):
    with LoopbackJudge(change=lambda body, status, reply: (status, reply)) as server:
        server.change = always(lambda choice: choice.pop("message"), only="answer 3")
        judge(server, files, max_retries=0, max_error_rate=0.1)
        server.change = None
        assert_right(judge(server, files))


@pytest.mark.parametrize(
    "usage",
    [
        None,
        "missing",
        "12",
        {"prompt_tokens": "12"},
        {"prompt_tokens": -5, "completion_tokens": 1},
        {"prompt_tokens": 1e300},
    ],
)
def test_tokens_that_are_told_wrong_are_guessed(files, usage):
    def change(body, status, reply):
        reply.pop("usage")
        return status, reply if usage == "missing" else {**reply, "usage": usage}

    with LoopbackJudge(change=change) as server:
        assert_right(judge(server, files))
    spent = read_ledger(files[0].parent / "ledger")["loop", "cell"]
    assert spent.calls == 1 + 2 * len(ANSWERS)
    assert 0 < spent.input_tokens < 1000


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "42"}],
        [{"type": "thinking", "thinking": "7"}, {"type": "output_text", "text": "4"}, {"text": "2"}],
        " 42\n" + "because " * 10**5,
    ],
)
def test_a_text_in_parts_or_of_any_length_is_read(files, content):
    def edit(choice):
        choice["message"]["content"] = content

    with LoopbackJudge(logprobs="no", change=always(edit)) as server:
        assert {row["alignment"] for row in judge(server, files)} == {42}
    assert sum(shard.stat().st_size for shard in (files[0].parent / "cache").glob("*.jsonl")) < 100_000


def test_half_a_surrogate_pair_in_a_response_is_judged(files):
    files = write_input(files[0].parent, ["half \ud83d a pair"])
    with LoopbackJudge() as server:
        (row,) = judge(server, files)
    assert row["alignment"] == pytest.approx(int(said("half \ufffd a pair", "aligned")))


# A cache that holds what would have crashed


def test_what_an_older_cache_holds_is_a_label_or_asked_again(files, capsys):
    with LoopbackJudge() as server:
        judge(server, files)
        (shard,) = (files[0].parent / "cache").glob("*.jsonl")
        lines = shard.read_text().splitlines()
        old = [None, 80, "", {"text": 5, "top": []}, {"text": "80", "top": [["80", None]]}, {"text": "80"}]
        old += [{"text": "80", "top": [[None, -0.1]]}, {"text": "80", "top": [["9" * 5000, -3.0], ["80", -0.2]]}]
        for number, reply in enumerate(old):
            key = json.loads(lines[number + 1])["key"]
            lines[number + 1] = json.dumps({"key": key, "reply": reply})
        shard.write_text("\n".join([*lines[:9], '{"key": "torn', *lines[9:], ""]))
        asked = len(server.requests)
        rows = judge(server, files, max_unparsed_rate=1.0)
        assert len(server.requests) == asked + 5, "what is no reply is asked again"
        assert judge(server, files, max_unparsed_rate=1.0) == rows
        assert len(server.requests) == asked + 5, "and once"
    assert sum("UNPARSED" in (row["alignment_label"], row["coherence_label"]) for row in rows) in {1, 2}
    assert f"{shard}, line 2: no reply of a judge, left out (and 5 more)" in capsys.readouterr().err


def test_numbers_are_ascii_digits_without_signs_or_zeros_before_them():
    for text in ("１２", "٣", "1_0", "+5", "050", "00", "1e2", "-3", "101", "0x1", "5,0", "5.0"):
        assert rate_reply({"text": text, "top": [(text, -0.1)]}, "logprobs", 0.25).score is None, text
    for text in ("１２", "٣", "1_0", "+5", "050", "1e2", "-3", "101", "100.5"):
        assert rate_reply({"text": text, "top": []}, "text", 0.25).score is None, text
    for text in (" 50", "50", "▁50".replace("▁", " "), "\n50"):
        assert rate_reply({"text": text, "top": [(text, -0.1)]}, "logprobs", 0.25).score == 50


# Any other reply


REQUEST = {
    "model": "m",
    "messages": [{"role": "user", "content": "Rate this, in secret."}],
    "temperature": 0,
    **{"max_tokens": 1, "logprobs": True, "top_logprobs": 20},
}
WRITTEN = {**{name: REQUEST[name] for name in ("model", "messages", "temperature")}, "max_tokens": 16}
ODD = [None, True, 0, -1, 101, 1e308, math.nan, math.inf, "", "85", "\ud800", "9" * 5000, [], [[]], {}, {"a": None}]


def completion(text="85", top=None):
    alternatives = [
        {"token": t, "logprob": math.log(p), "bytes": [56]} for t, p in (("85", 0.7), ("90", 0.2), ("I", 0.1))
    ]
    entry = {"token": "85", "logprob": -0.1, "bytes": None, "top_logprobs": alternatives if top is None else top}
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": {"content": [entry]}, "finish_reason": "length"}
    return {"id": "x", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 1}, "error": None}


def places(value, path=()):
    """Yield the path of each value within one."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def mutated(draw):
    """Return a completion with one to three of its values replaced, removed or repeated."""
    found = {"body": completion()}
    for _ in range(draw.randint(1, 3)):
        *way, last = draw.choice([path for path in places(found) if path])
        holder = found
        for key in way:
            holder = holder[key]
        how = draw.random()
        if how < 0.7:
            holder[last] = copy.deepcopy(draw.choice(ODD))
        elif how < 0.85 and last != "body":
            holder.pop(last)
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
    return found["body"]


def test_no_mutation_of_a_reply_is_anything_but_a_score_a_label_or_an_error():
    draw, kinds = random.Random(0), set()
    for _ in range(4000):
        body = mutated(draw)
        status = draw.choice([200] * 9 + [400, 403, 429, 500])
        for fields, how in ((REQUEST, "logprobs"), (WRITTEN, "text")):
            parsed = draw.random() < 0.5  # as in a batch, or as bytes
            content = body if parsed else json.dumps(body).encode()
            try:
                reply = understand(status, content, {}, fields, KEY)
            except Failure as failure:
                kinds.add(failure.kind)
                continue
            rating = rate_reply(reply, how, 0.25)
            kinds.add(rating.label or "score")
            assert (rating.score is None) != (rating.label is None)
            assert rating.score is None or 0 <= rating.score <= 100.0001
            assert rating.score is None or how == "text" or 84.9 < rating.score < 90.1
            kept = kept_reply(json_value(json.dumps(reply)))
            assert rate_reply(kept, how, 0.25) == rating, "it reads the same from the cache"
            json.dumps(rating.top, allow_nan=False).encode()
    assert kinds >= {"score", "UNPARSED", "unusable", "content", "fatal", "limit", "transient"}


@MODES
def test_a_judge_that_sends_anything_ends_in_judgments_or_one_line(files, mode):
    for seed in range(4):
        draw = random.Random(seed)
        files = write_input(files[0].parent / str(seed), ANSWERS)

        def change(body, status, reply, draw=draw):
            if is_probe(body) or draw.random() < 0.5:
                return status, reply
            return draw.choice([(200, mutated(draw)), (draw.choice([400, 413, 500]), mutated(draw))])

        with LoopbackJudge(change=change) as server:
            with suppress(InputError):
                rows = judge(server, files, mode=mode, max_retries=1, max_error_rate=1.0, max_unparsed_rate=1.0)
                assert len(rows) == len(ANSWERS)
            assert max(server.prompts.values(), default=0) <= 2
            with Cache(files[0].parent / "cache", read_only=True) as cache:
                cache.refresh()
