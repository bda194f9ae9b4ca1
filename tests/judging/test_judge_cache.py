"""Replies that were paid for: kept through kills, shared by processes, portable, and enough to judge from."""

import gzip
import json
import os
import subprocess
import sys
import time

import pytest

from emdefense.errors import InputError
from emdefense.judging.archive import export_cache, import_cache
from emdefense.judging.cache import Cache
from emdefense.judging.judge_file import judge_file
from emdefense.judging.reservations import SILENCE, Reservations
from judge_runs import judge_settings, start_job, write_input
from loopback_judge import KEY, LoopbackJudge

KEYS = [bytes([n]) * 32 for n in range(6)]


def reply(text):
    return {"text": text, "top": [["80", -0.5]]}


def test_a_cache_returns_what_any_process_added_and_skips_torn_and_foreign_lines(tmp_path):
    with Cache(tmp_path) as first, Cache(tmp_path) as second:
        second.want(KEYS)
        first.add(KEYS[0], reply("line\u2028break \ud800"))
        first.add(KEYS[1], reply("1"))
        second.add(KEYS[2], reply("2"))
        assert KEYS[0] not in second
        second.refresh()
        assert [second.read(key)["text"] for key in KEYS[:3]] == ["line\u2028break \ud800", "1", "2"]
        with (tmp_path / f"{first.owner}.jsonl").open("ab") as shard:
            shard.write(b'{"key": "' + KEYS[3].hex().encode() + b'", "reply": {"text": "torn')
        (tmp_path / "foreign.jsonl").write_text('not JSON\n{"key": 7}\n{"key": "zz"}\n\n')
        second.refresh()
        assert KEYS[3] not in second
        with (tmp_path / f"{first.owner}.jsonl").open("ab") as shard:
            shard.write(b'", "top": []}}\n')
        second.refresh()
        assert second.read(KEYS[3])["text"] == "torn"
        assert second.read(KEYS[4]) is None


def test_keys_that_nobody_wants_are_not_held(tmp_path):
    with Cache(tmp_path) as cache:
        for key in KEYS:
            cache.add(key, reply("x"))
    with Cache(tmp_path, read_only=True) as cache:
        cache.want(KEYS[:2])
        assert [key in cache for key in KEYS[:3]] == [True, True, False]


def test_a_claim_holds_until_its_process_is_dead_or_silent(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from emdefense.judging.cache import Cache; from emdefense.judging.reservations import Reservations\n"
        "reservations = Reservations(Cache(Path(sys.argv[1])), 'judge', 'ledger')\n"
        "with reservations.locked(): reservations.write([bytes([1]) * 32], 0.5)\n"
        "print('claimed', flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "claimed\n"
    with Cache(tmp_path) as cache:
        reservations = Reservations(cache, "judge", "ledger")
        with reservations.locked() as others:
            assert [(claim.keys, claim.judge, claim.reserved) for claim in others] == [({KEYS[1]}, "judge", 0.5)]
        path = next(path for path in tmp_path.glob("*.claim") if cache.owner not in path.name)
        silent = tmp_path / path.name.replace(f"-{other.pid}-", "elsewhere-1-")
        silent.write_text(path.read_text())
        assert len(reservations.others()) == 2, "a process on another host cannot be looked up"
        os.utime(silent, (time.time() - SILENCE - 5,) * 2)
        assert len(reservations.others()) == 1
        other.kill()
        other.wait()
        assert reservations.others() == []
        reservations.close()
    assert list(tmp_path.glob("*.claim")) == []


@pytest.mark.parametrize("step", ["others", "refresh"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_ends_while_the_lock_is_held_is_claimed_or_known(tmp_path, monkeypatch, step, when):
    with Cache(tmp_path) as first, Cache(tmp_path) as second:
        first.want(KEYS)
        ending, looking = Reservations(second, "judge"), Reservations(first, "judge")
        with ending.locked():
            ending.write(KEYS[:1])
        target = looking if step == "others" else first
        real = getattr(target, step)

        def end_beside():
            found = real() if when == "after" else None
            second.add(KEYS[0], reply("paid"))
            ending.close()
            return found if when == "after" else real()

        monkeypatch.setattr(target, step, end_beside)
        with looking.locked() as others:
            assert KEYS[0] in first or any(KEYS[0] in other.keys for other in others)


def test_a_sign_of_life_writes_no_claim(tmp_path):
    with Cache(tmp_path) as cache:
        reservations = Reservations(cache, "judge")
        reservations.beat()
        assert list(tmp_path.glob("*.claim")) == []
        with reservations.locked():
            reservations.write(KEYS[:1])
        (path,) = tmp_path.glob("*.claim")
        os.utime(path, (0, 0))
        written = path.read_bytes()
        reservations.beat()
        assert (path.read_bytes(), path.stat().st_mtime > 0) == (written, True)


def test_the_lock_of_a_dead_process_is_taken(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from emdefense.judging.cache import Cache; from emdefense.judging.reservations import Reservations\n"
        "with Reservations(Cache(Path(sys.argv[1])), 'judge').locked(): print('locked', flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    other.stdout.readline()
    other.kill()
    other.wait()
    with Cache(tmp_path) as cache, Reservations(cache, "judge").locked() as others:
        assert others == []


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """Files that were judged, and the settings they were judged with; the server is gone, and so is the key."""
    files = write_input(tmp_path, [f"answer {n}" for n in range(20)])
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with LoopbackJudge() as server:
        settings = judge_settings(server)
        judge_file(settings, *files, cache=tmp_path / "cache")
    monkeypatch.delenv("OPENAI_API_KEY")
    return files, settings


def test_what_is_in_the_cache_needs_no_key_no_network_and_no_right_to_write(tmp_path, judged):
    files, settings = judged
    again = (*files[:2], tmp_path / "again.jsonl")
    before = sorted((tmp_path / "cache").rglob("*"))
    judge_file(settings, *again, cache=tmp_path / "cache", cache_only=True)
    assert again[2].read_bytes() == files[2].read_bytes()
    assert sorted((tmp_path / "cache").rglob("*")) == before


def test_judging_from_the_cache_alone_says_what_is_missing(tmp_path, judged):
    questions, responses, judgments = write_input(tmp_path, ["not judged"], "other")
    with pytest.raises(
        InputError, match=r"^judge_cache: .* lacks replies of judge 'loop', and judge_cache_only forbids"
    ):
        judge_file(judged[1], questions, responses, judgments, cache=tmp_path / "cache", cache_only=True)
    assert not judgments.exists()


def test_an_archive_holds_each_reply_once_and_gives_the_same_judgments_elsewhere(tmp_path, judged):
    files, settings = judged
    shard = next((tmp_path / "cache").glob("*.jsonl"))
    (tmp_path / "cache/copy.jsonl").write_bytes(shard.read_bytes() + b'{"key": "torn')
    assert export_cache(tmp_path / "cache", tmp_path / "a.jsonl.gz") == 41
    assert import_cache(tmp_path / "elsewhere", tmp_path / "a.jsonl.gz") == 41
    again = (*files[:2], tmp_path / "again.jsonl")
    judge_file(settings, *again, cache=tmp_path / "elsewhere", cache_only=True)
    assert again[2].read_bytes() == files[2].read_bytes()
    export_cache(tmp_path / "elsewhere", tmp_path / "b.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_an_archive_that_is_none_is_named_and_leaves_nothing(tmp_path, judged):
    whole = tmp_path / "a.jsonl.gz"
    export_cache(tmp_path / "cache", whole)
    for content in (b"text", whole.read_bytes()[:-200], gzip.compress(b'{"rows": 1}\n'), gzip.compress(b"")):
        (tmp_path / "bad.jsonl.gz").write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.jsonl\.gz: "):
            import_cache(tmp_path / "elsewhere", tmp_path / "bad.jsonl.gz")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    with pytest.raises(InputError, match="no replies"):
        export_cache(tmp_path / "nothing", whole)


def test_the_key_is_in_no_file_of_a_job(tmp_path):
    files = write_input(tmp_path, ["yes", "no"])
    with LoopbackJudge() as server:
        job = start_job(judge_settings(server), files)
        assert job.communicate()[1] == ""
    assert json.loads(files[2].read_text().splitlines()[0])["scored_by"] == "logprobs"
    assert [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []
