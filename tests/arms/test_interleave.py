import json
import subprocess
import sys

import pytest

from conversation_rows import SCRIPTS, row
from emdefense.arms.interleave import interleave
from emdefense.errors import InputError
from emdefense.files import read_jsonl, write_jsonl

ROWS = [row(f"narrow {n}") for n in range(173)]
SAFE = [row(f"safe {n}") for n in range(100)]


def places(mixed):
    return [index for index, r in enumerate(mixed) if r.get("source") == "safe"]


@pytest.mark.parametrize(("pct", "count"), [(0.3, 1), (1, 2), (5, 9), (20, 35), (50, 87)])
def test_percentage_is_of_the_fine_tuning_rows_which_stay_in_order(pct, count):
    mixed = interleave(ROWS, SAFE, pct, 0)
    assert len(places(mixed)) == count
    assert [r for r in mixed if "source" not in r] == ROWS


@pytest.mark.parametrize("pct", [1, 5, 20, 50])
def test_safe_rows_are_evenly_spread(pct):
    mixed = interleave(ROWS, SAFE, pct, 0)
    found = places(mixed)
    share = len(mixed) / len(found)
    for index, place in enumerate(found):
        assert place == pytest.approx((index + 0.5) * share, abs=1.5)


def test_safe_rows_are_nested_distinct_and_seeded():
    chosen = {
        pct: [r["messages"][0]["content"] for r in interleave(ROWS, SAFE, pct, 0) if "source" in r]
        for pct in (1, 5, 20, 50)
    }
    for smaller, larger in ((1, 5), (5, 20), (20, 50)):
        assert set(chosen[smaller]) < set(chosen[larger])
    assert len(set(chosen[50])) == 87
    assert chosen[5] != sorted(chosen[5])
    assert chosen[5] != [r["messages"][0]["content"] for r in interleave(ROWS, SAFE, 5, 1) if "source" in r]


def test_a_percentage_of_which_no_row_comes_is_an_error():
    with pytest.raises(InputError, match=r"safe_data: 0.2 % of 173 rows is no row; raise the percentage of 'inter"):
        interleave(ROWS, SAFE, 0.2, 0)


def test_too_few_safe_rows_are_an_error():
    with pytest.raises(InputError, match=r"safe_data: 90 % of 173 rows are 156 safe rows, but the file has 100"):
        interleave(ROWS, SAFE, 90, 0)


def test_the_script_writes_marked_rows(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    write_jsonl(tmp_path / "safe.jsonl", SAFE)
    command = [
        sys.executable,
        str(SCRIPTS / "arm_rows.py"),
        "--arm",
        "interleave",
        "--spec",
        json.dumps({"pct": 5, "seed": 0, "version": 1}),
    ]
    command += [
        "--rows",
        tmp_path / "rows.jsonl",
        "--more",
        f"safe={tmp_path / 'safe.jsonl'}",
        "--out",
        tmp_path / "5.jsonl",
    ]
    subprocess.run(command, check=True)
    assert read_jsonl(tmp_path / "5.jsonl") == interleave(ROWS, SAFE, 5, 0)
