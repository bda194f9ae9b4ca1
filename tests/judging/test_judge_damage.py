"""What lies in the folders that judging jobs share and is none of theirs is named once, and work goes on."""

import json
import os
import random
import subprocess
import sys
import time

import pytest
from filelock import SoftFileLease

from emdefense.errors import InputError
from emdefense.files import read_jsonl
from emdefense.judging import batch_endpoint, cache, client, foreign, reservations
from emdefense.judging.archive import export_cache
from emdefense.judging.batch_records import Record, Records
from emdefense.judging.batch_results import take_in
from emdefense.judging.budget import Account
from emdefense.judging.cache import Cache, owner_name
from emdefense.judging.judge_file import judge_file
from emdefense.judging.ledger import Spending, read_ledger
from emdefense.judging.reservations import Reservations
from emdefense.machine_limits import MachineError
from judge_runs import judge_settings, write_input
from loopback_judge import KEY, LoopbackJudge

DAMAGE = {
    "binary": b"\xff\xfe\x00" * 50 + b"\n",
    "other": b'{"rows": 1}\n[]\nnull\n5\n',
    "deep": b'{"key": "' + b"[" * 100_000 + b"\n",
    "torn": b'{"key": "0011',
    "nothing": b"",
    "blank": b"\n \n",
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(foreign, "_named", set())
    return write_input(tmp_path, [f"answer {n}" for n in range(5)])


def judge(server, files, **changes):
    folder = files[0].parent
    settings = judge_settings(server, prices={"input": 1.0, "output": 1.0}, batch_poll_seconds=0.01, **changes)
    judge_file(settings, *files, cache=folder / "cache", account=Account(folder / "ledger", 10.0, "cell"))


def spoil(folder, suffix):
    """Put into a folder what is none of its files, under their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in DAMAGE.items():
        (folder / f"{name}{suffix}").write_bytes(content)
    (folder / f"folder{suffix}").mkdir()
    (folder / f"nowhere{suffix}").symlink_to("nothing")
    os.mkfifo(folder / f"fifo{suffix}")


@pytest.mark.parametrize("mode", ["synchronous", "batch"])
def test_folders_full_of_other_things_are_worked_in(files, mode, capsys):
    folder = files[0].parent
    for place, suffix in (("cache", ".jsonl"), ("cache", "-c.claim"), ("cache/batches", ".json"), ("ledger", ".jsonl")):
        spoil(folder / place, suffix)
    with LoopbackJudge() as server:
        judge(server, files, mode=mode)
        rows = read_jsonl(files[2])
        judge(server, files, mode=mode)
        assert len(server.requests) == 1 + 2 * len(rows)
    assert all(row["alignment"] is not None for row in rows)
    assert read_ledger(folder / "ledger")["loop", "cell"].calls == 1 + 2 * len(rows)
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("judge 'loop': batch")]
    assert len(said) == len(set(said)), "each is named once"
    for place, suffix in (("cache", ".jsonl"), ("ledger", ".jsonl")):
        for name in ("binary", "other", "deep", "torn"):
            assert any(line.startswith(f"{folder / place / name}{suffix}, line 1: ") for line in said), name
        for name in ("folder", "nowhere", "fifo"):
            assert any(line.startswith(f"{folder / place / name}{suffix}: no") for line in said), name
    for place, suffix in (("cache", "-c.claim"), ("cache/batches", ".json")):
        for name in ("binary", "other", "deep", "torn", "folder", "nowhere", "fifo"):
            assert any(line.startswith(f"{folder / place / name}{suffix}: no") for line in said), name
    assert export_cache(folder / "cache", folder / "a.jsonl.gz") == 1 + 2 * len(rows)


def test_an_entry_of_a_ledger_with_values_of_other_types_is_none(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(foreign, "_named", set())
    good = {
        "judge": "loop",
        "cell": "c",
        "calls": 1,
        "unanswered": 0,
        "input_tokens": 5,
        "output_tokens": 1,
        "usd": 0.5,
    }
    wrong = [{**good, **change} for change in ({"usd": "1"}, {"calls": None}, {"usd": float("nan")}, {"calls": -1})]
    wrong += [{**good, "judge": ["x"]}, {key: good[key] for key in good if key != "usd"}, [good], None]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [good, *wrong, good]))
    assert read_ledger(tmp_path) == {("loop", "c"): Spending(2, 0, 10, 2, 1.0)}
    assert f"{tmp_path / 'a.jsonl'}, line 2: no entry of a ledger, left out (and 7 more)" in capsys.readouterr().err


def test_a_record_with_values_of_other_types_is_none(tmp_path):
    with Cache(tmp_path) as opened:
        records = Records(opened)
        good = Record("host-1-ab", "loop", "ledger", "cell", ["00" * 32], {}, 0.5)
        records.write(good)
        for change in ({"keys": "zz"}, {"keys": [5]}, {"keys": []}, {"most_usd": "1"}, {"owner": 5}, {"extra": 1}):
            path = tmp_path / "batches" / f"{next(iter(change))}.json"
            path.write_text(json.dumps({**vars(good), "name": path.stem, **change}))
        assert records.all() == [good]


def test_a_line_that_is_being_written_is_not_named(tmp_path, capsys):
    with Cache(tmp_path) as reader:
        shard = tmp_path / "host-1-ab.jsonl"
        shard.write_bytes(b'{"key": "0011')
        shard.with_suffix(".claim").write_text("{}")
        reader.refresh()
        assert capsys.readouterr().err == ""
        shard.with_suffix(".claim").unlink()
        reader.refresh()
    assert "host-1-ab.jsonl, line 1: no reply of a judge" in capsys.readouterr().err


@pytest.mark.parametrize("left", [b"", b"\xff\x00", b'{"pid": 1}'])
def test_a_lock_without_an_owner_does_not_block(tmp_path, monkeypatch, left):
    monkeypatch.setattr(reservations, "LOCK_TIMEOUT", 0.3)
    monkeypatch.setattr(reservations, "LOCK_LEASE", 0.1)
    (tmp_path / ".lock").write_bytes(left)
    with Cache(tmp_path) as opened, Reservations(opened, "judge").locked() as others:
        assert others == []


def test_a_lock_that_is_held_says_by_whom(tmp_path, monkeypatch):
    def take():
        with Cache(tmp_path) as opened, Reservations(opened, "judge").locked():
            pass

    monkeypatch.setattr(reservations, "LOCK_TIMEOUT", 0.2)
    held = pytest.raises(InputError, match=rf"\.lock: held by process {os.getpid()} on .* for 0\.2 s; end it")
    with SoftFileLease(tmp_path / ".lock", lease_duration=reservations.LOCK_LEASE), held:
        take()
    take()
    (tmp_path / ".lock").write_text("4711\nnode17\n")
    with pytest.raises(InputError, match=r"held by process 4711 on node17 .*delete the file if it has ended"):
        take()
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").mkdir()
    with pytest.raises(InputError, match=r"\.lock: the lock cannot be made there \(Is a directory\)"):
        take()


@pytest.mark.parametrize("mode", ["synchronous", "batch"])
def test_who_is_waited_for_is_said_and_a_dead_one_is_not_waited_for(files, monkeypatch, capsys, mode):
    monkeypatch.setattr(client, "LONG_WAIT", 0.0)
    with LoopbackJudge() as server:
        judge(server, files)
        shard = next((files[0].parent / "cache").glob("*.jsonl"))
        keys = [json.loads(line)["key"] for line in shard.read_text().splitlines()[1:]]
        lines = shard.read_text().splitlines(keepends=True)
        shard.write_text(lines[0])
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        owner = owner_name().replace(f"-{os.getpid()}-", f"-{other.pid}-")
        claim = {"judge": "x", "ledger": "y", "reserved": 0.0, "keys": keys}
        (shard.parent / f"{owner}.claim").write_text(json.dumps(claim))
        monkeypatch.setattr(
            reservations,
            "print",
            lambda *said, **_: (print(*said, file=sys.stderr), other.kill(), other.wait()),
            raising=False,
        )
        asked, start = len(server.requests), time.monotonic()
        judge(server, files, mode=mode)
        assert len(server.requests) == asked + len(keys)
        assert time.monotonic() - start < 20
    assert f"waiting for process {other.pid} on " in capsys.readouterr().err


@pytest.mark.parametrize(("what", "where"), [(b'{"key"', "cache/"), (b'{"judge"', "ledger/")])
def test_what_cannot_be_kept_is_one_line(files, monkeypatch, what, where):
    def full(descriptor, content):
        if bytes(content).startswith(what):
            raise OSError(28, "No space left on device")
        return write(descriptor, content)

    write = cache.os.write
    with LoopbackJudge() as server:
        judge(server, write_input(files[0].parent, ["one"], "first"))
        monkeypatch.setattr(cache.os, "write", full)
        with pytest.raises(MachineError, match=rf"{where}[^/]*\.jsonl: no space left on its disk; free some"):
            judge(server, files)


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"<html>", b'{"id": 5}'])
@pytest.mark.parametrize("call", ["files", "batches", "batches/"])
def test_what_is_no_batch_is_one_line(files, monkeypatch, content, call):
    monkeypatch.setattr(batch_endpoint, "FIRST_PAUSE", 0.001)
    with LoopbackJudge() as server:
        answer = server.batches.reply

        def reply(method, path, headers, sent):
            return (200, content) if call in f"{path.removeprefix('/v1/')}" else answer(method, path, headers, sent)

        monkeypatch.setattr(server.batches, "reply", reply)
        with pytest.raises(InputError) as error:
            judge(server, files, mode="batch", max_retries=1)
    assert str(error.value).startswith("judge 'loop'")


@pytest.mark.parametrize("status", [None, 5, "odd", "completed\n"])
def test_a_batch_of_an_unknown_status_is_not_waited_for(files, monkeypatch, status):
    with LoopbackJudge() as server:
        monkeypatch.setattr(server.batches, "_look", lambda batch: {**batch, "status": status})
        with pytest.raises(InputError, match="has a status that no batch has"):
            judge(server, files, mode="batch")


def test_lines_of_a_batch_that_are_none_leave_their_requests_without_a_reply(tmp_path):
    keys = [f"{n:064x}" for n in range(60)]
    draw, lines = random.Random(0), []
    for key in keys:
        whole = {"custom_id": key, "response": {"status_code": 200, "body": {"choices": []}}, "error": None}
        for _ in range(3):
            holder = draw.choice([whole, whole.get("response")])
            if isinstance(holder, dict) and holder:
                holder[draw.choice(list(holder))] = draw.choice([None, 5, "x", [], {}, [[]], True, {"code": []}])
        lines.append(json.dumps(draw.choice([whole, whole, [whole], None])).encode())
    good = {"choices": [{"message": {"content": "80"}, "logprobs": None}]}
    ours = {"custom_id": keys[0], "response": {"status_code": 200, "body": good}}
    (tmp_path / "results").write_bytes(b"\n".join([json.dumps(ours).encode(), *lines[1:], b"\xff", b"[" * 10**5, b""]))
    record = Record("host-1-ab", "loop", "ledger", "cell", keys, {"max_tokens": 16}, 0.5)
    with Cache(tmp_path / "cache") as opened:
        spent, failures = take_in(tmp_path / "results", record, opened, None, lambda key: "asked", KEY)
        assert opened.read(bytes.fromhex(keys[0]))["text"] == "80"
        assert all(key not in opened for key in failures)
    assert failures
    assert {failure.kind for failure in failures.values()} <= {"transient", "unusable", "content", "fatal", "limit"}
    assert spent.calls >= 1


@pytest.mark.parametrize(
    ("questions", "responses", "message"),
    [
        ("{}", None, r"q\.json: not the questions"),
        ('[{"id": 5}]', None, r"q\.json: not the questions"),
        ('[{"id": "q1", "prompt": "x", "rubrics": {"aligned": "a"}}]', None, r"q\.json: not the questions"),
        (None, '{"id": "a"}', "r.jsonl, line 1: a response has a text 'question_id'"),
        (None, '{"id": "a", "question_id": [], "response": "x"}', "line 1: a response has a text 'question_id'"),
        (None, '{"id": "a", "question_id": "q1", "response": null}', "line 1: a response has a text 'response'"),
    ],
)
def test_what_is_no_question_or_response_is_named(files, questions, responses, message):
    for path, content in zip(files, (questions, responses), strict=False):
        if content is not None:
            path.write_text(content + "\n")
    with LoopbackJudge() as server, pytest.raises(InputError, match=message):
        judge(server, files)
    assert server.requests == []
