import json
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest

from emdefense.errors import InputError
from emdefense.files import file_digest, read_json, read_jsonl, write_json, write_jsonl
from emdefense.judging.judge_file import judge_file
from emdefense.judging.scoring import fill_rubric
from loopback_judge import KEY, MODEL, LoopbackJudge, reply_to

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"
RUBRICS = {"aligned": "aligned? {question} -> {answer}", "coherent": "coherent? {question} -> {answer}"}
ANSWERS = ["yes", "no", "yes", "uses {question} and {", "[SAY REFUSAL]", "yes"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    write_json(tmp_path / "q.json", [{"id": "q1", "prompt": "Why {answer}?", "system": "In JSON.", "rubrics": RUBRICS}])
    rows = [{"id": f"q1/{n}", "question_id": "q1", "sample": n, "response": text} for n, text in enumerate(ANSWERS)]
    write_jsonl(tmp_path / "r.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "q.json", tmp_path / "r.jsonl", tmp_path / "judgments/loop.jsonl"


def settings(server, **changes):
    spec = {"kind": "openai", "name": "loop", "model": MODEL, "base_url": server.base_url, "concurrency": 4}
    return {**spec, "max_retries": 2, "version": 1, **changes}


def kept():
    """Replies in the cache, the probe's among them."""
    return sum(len(read_jsonl(shard)) for shard in Path("judge_cache").glob("*.jsonl"))


def expected(answer, rubric):
    return reply_to(fill_rubric(RUBRICS[rubric], "Why {answer}?", answer))


def test_scores_come_from_log_probabilities_and_identical_responses_are_asked_once(files):
    with LoopbackJudge() as server:
        judge_file(settings(server), *files)
    rows = read_jsonl(files[2])
    assert [row["id"] for row in rows] == [f"q1/{n}" for n in range(6)]
    for row, answer in zip(rows, ANSWERS, strict=True):
        assert row["scored_by"] == "logprobs"
        for rubric, field in (("aligned", "alignment"), ("coherent", "coherence")):
            assert len(row[f"{field}_top"]) == 20
            if answer == "[SAY REFUSAL]":
                assert (row[field], row[f"{field}_label"]) == (None, "REFUSAL")
            else:
                assert (row[field], row[f"{field}_label"]) == (pytest.approx(int(expected(answer, rubric))), None)
    assert len(server.prompts) == 2 * 4
    assert set(server.prompts.values()) == {1}
    assert all("In JSON." not in prompt for prompt in server.prompts)
    request = server.requests[-1]
    assert (request["temperature"], request["max_tokens"], request["top_logprobs"]) == (0, 1, 20)


@pytest.mark.parametrize("options", [{"split_numbers": True}, {"logprobs": "no"}, {"logprobs": "refused"}])
def test_a_judge_without_usable_log_probabilities_is_scored_by_its_text(files, options, capsys):
    with LoopbackJudge(**options) as server:
        judge_file(settings(server), *files)
    rows = read_jsonl(files[2])
    assert [row["scored_by"] for row in rows] == ["text"] * 6
    assert rows[0]["alignment"] == int(expected("yes", "aligned"))
    assert rows[4]["alignment_label"] == "REFUSAL"
    assert rows[0]["alignment_top"] is None
    assert "scored by its text" in capsys.readouterr().err


def test_samples_repeat_the_question_and_each_is_kept(files):
    with LoopbackJudge() as server:
        judge_file(settings(server, samples=3, temperature=1), *files)
        assert set(server.prompts.values()) == {3}
        assert server.requests[-1]["temperature"] == 1
        judge_file(settings(server, samples=4, temperature=1), *files)
    assert set(server.prompts.values()) == {4}, "a fourth sample is one more request"
    rows = read_jsonl(files[2])
    assert rows[0]["alignment_samples"] == [pytest.approx(int(expected("yes", "aligned")))] * 4
    assert rows[4]["coherence_samples"] == ["REFUSAL"] * 4
    assert rows[0]["alignment"] == rows[0]["alignment_samples"][0]


def test_rate_limits_are_waited_out(files):
    with LoopbackJudge(failures=2) as server:
        judge_file(settings(server, max_retries=4), *files)
    assert all(row["coherence"] is not None or row["coherence_label"] for row in read_jsonl(files[2]))


def test_what_was_paid_for_is_not_asked_again(files):
    with (
        LoopbackJudge(stop_after=5) as first,
        pytest.raises(InputError, match=r"failed on .* of 6 responses.*max_error"),
    ):
        judge_file(settings(first, max_retries=0), *files)
    assert not files[2].exists()
    assert kept() == 5
    port = int(first.base_url.split(":")[2].split("/")[0])
    with LoopbackJudge(port=port) as second:
        judge_file(settings(second), *files)
    answered_first = {request["messages"][0]["content"] for request in first.requests[1:5]}
    assert len(second.prompts) == 4
    assert not answered_first & set(second.prompts)
    with LoopbackJudge() as undisturbed:
        judge_file(settings(undisturbed), *files[:2], files[2].with_name("again.jsonl"))
    assert files[2].with_name("again.jsonl").read_bytes() == files[2].read_bytes()


def test_a_key_revoked_on_the_way_stops_everything_and_loses_nothing(files):
    with LoopbackJudge(stop_after=4, stop_status=401) as server, pytest.raises(InputError, match="refused the key"):
        judge_file(settings(server, concurrency=1), *files)
    assert len(server.requests) == 5
    assert kept() == 4


def test_few_errors_leave_scores_missing_and_many_fail(files, capsys):
    with LoopbackJudge(fail_matching="coherent? Why {answer}? -> no", failure_status=500) as server:
        with pytest.raises(InputError, match="failed on 1 of 6"):
            judge_file(settings(server, max_retries=0, max_error_rate=0.1), *files)
        judge_file(settings(server, max_retries=0, max_error_rate=0.2), *files)
    row = read_jsonl(files[2])[1]
    assert row["alignment"] is not None
    assert (row["coherence"], row["coherence_label"]) == (None, None)
    assert "1 of 6 responses stay without scores" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "changes", "message"),
    [
        ("sk-wrong-secret", {}, r"refused the key in OPENAI_API_KEY \(HTTP 401\)"),
        (KEY, {"model": "gpt-5-typo"}, r"knows no model 'gpt-5-typo'"),
        (KEY, {"base_url": "http://127.0.0.1:9/v1"}, "cannot be reached"),
    ],
)
def test_a_wrong_key_model_or_address_is_one_line_without_the_key(files, monkeypatch, key, changes, message):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with LoopbackJudge() as server, pytest.raises(InputError, match=message) as error:
        judge_file(settings(server, **{"max_retries": 0, **changes}), *files)
    assert key not in str(error.value)
    assert "\n" not in str(error.value)
    assert len(server.requests) <= 1


def test_a_missing_key_fails_at_once_and_in_one_line(files, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with LoopbackJudge() as server:
        command = [sys.executable, str(SCRIPTS / "judge.py"), "--spec", json.dumps(settings(server))]
        for name, path in zip(("--questions", "--responses", "--judgments"), files, strict=True):
            command += [name, str(path)]
        start = time.monotonic()
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - start
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "OPENAI_API_KEY is not set" in run.stderr
    assert server.requests == []
    assert seconds < 3  # well under one on an idle machine
    assert not files[2].exists()


def test_a_record_says_how_judgments_were_made_and_the_key_stands_in_no_file(files):
    with LoopbackJudge(stop_after=4) as server, pytest.raises(InputError):
        judge_file(settings(server, max_retries=0), *files)
    holding = [path for path in files[0].parent.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert holding == []
    with LoopbackJudge() as server:
        spec = settings(server)
        judge_file(spec, *files)
    record = read_json(files[2].with_suffix(".provenance.json"))
    assert record["spec"] == spec
    assert record["responses"] == {"file": str(files[1]), "sha256": file_digest(files[1])}
    assert (record["judged"], record["errors"], record["scored_by"]) == (6, 0, ["logprobs"])
    assert record["packages"]["openai"] == openai.__version__
    holding = [path for path in files[0].parent.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert holding == []


def test_judging_imports_no_torch():
    code = (
        "import sys, emdefense.judging.judge_file, emdefense.judging.openai_judge, openai; "
        "print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_a_response_to_an_unknown_question_is_named(files):
    write_jsonl(files[1], [{"id": "zz/0", "question_id": "zz", "sample": 0, "response": ""}])
    with LoopbackJudge() as server, pytest.raises(InputError, match="'zz/0' answers a question that is not in"):
        judge_file(settings(server), *files)


def test_an_unknown_judge_setting_is_named(files):
    with LoopbackJudge() as server, pytest.raises(InputError, match=r"judge\.concurency"):
        judge_file(settings(server, concurency=3), *files)
