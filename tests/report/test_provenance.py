"""What the page says of how its numbers came to be, and what it flags."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from emdefense.config import Study
from emdefense.files import read_json, write_json
from emdefense.provenance import made_by, model_identity, record_beside
from emdefense.report.page.provenance import made_differently, provenance, stage_records
from study_folder import tiny_study

CELLS = Path("results/tiny/cells/small")


def record(code: str = "a" * 64, **changes: Any) -> dict[str, Any]:
    """A record as every stage writes it."""
    return {
        "packages": {"torch": "2"},
        "code_digest": code,
        "machine": {"architecture": "x86_64", "processor": "CPU", "cores": 2, "device": "cpu"},
        "seconds": {"all": 1800.0},
        **changes,
    }


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The tiny study, every record there and alike."""
    monkeypatch.chdir(tmp_path)
    Path("results/tiny").mkdir(parents=True)
    Path("results/tiny/rates.parquet").write_bytes(b"rates")
    model = {"folder": "models/small", "revision": None, "weights_digest": "b" * 64}
    for task in ("code", "legal"):
        for arm in ("misaligned/none", "kl/0.1", "kl/1", "interleave/5"):
            write_json(CELLS / task / arm / "seed0/provenance.json", record(model=model))
            for asked in ("general", "in_domain"):
                folder = CELLS / task / arm / "seed0" / asked
                write_json(folder / "responses.provenance.json", record("c" * 64, model=model))
                write_json(folder / "judgments/oracle.provenance.json", record("d" * 64))
    return tiny_study()


def lines(study: Study) -> dict[str, str]:
    return dict(provenance(study, stage_records(study), Path("results/tiny/rates.parquet")))


def test_each_stage_says_what_made_it(study: Study) -> None:
    said = lines(study)
    assert (said["Code that trained"], said["Code that sampled"]) == ("aaaaaaaaaaaa…", "cccccccccccc…")
    assert (said["Code that judged"], said["Packages that judged"]) == ("dddddddddddd…", "torch 2")
    assert said["Hours that trained"] == "4.00 in 8 parts"
    assert said["Hours that sampled"] == "8.00 in 16 parts"
    assert said["Model models/small"] == "weights bbbbbbbbbbbb…"
    assert said["Sampling"].startswith("transformers, temperature 1, top-p 1, at most 600 tokens")
    assert "Code that projected" not in said
    assert not [text for text in said.values() if "ifferent" in text]
    assert made_differently(stage_records(study)) == []


@pytest.mark.parametrize(
    ("stage", "file", "name"),
    [
        ("trained", "legal/kl/1/seed0/provenance.json", "small/legal/kl/1/seed0"),
        ("sampled", "code/kl/1/seed0/in_domain/responses.provenance.json", "small/code/kl/1/seed0/in_domain"),
        ("judged", "code/kl/1/seed0/general/judgments/oracle.provenance.json", "small/code/kl/1/seed0/general"),
    ],
)
def test_cells_made_by_other_code_are_flagged_by_name(study: Study, stage: str, file: str, name: str) -> None:
    before = lines(study)
    write_json(CELLS / file, record("e" * 64))
    after = lines(study)
    assert f"; eeeeeeeeeeee… made {name}. To make" in after[f"Code that {stage}"]
    assert after[f"Code that {stage}"].startswith("Different code made these cells: ")
    assert [warning.headline for warning in made_differently(stage_records(study))] == [
        f"Not all was {stage} by the same code."
    ]
    other = {"trained", "sampled", "judged"} - {stage}
    assert all(before[f"Code that {name}"] == after[f"Code that {name}"] for name in other)


def test_of_many_such_cells_the_first_are_named(study: Study) -> None:
    for path in sorted(CELLS.glob("code/*/*/seed0/*/responses.provenance.json"))[:7]:
        write_json(path, record("e" * 64))
    said = lines(study)["Code that sampled"]
    assert "cccccccccccc… made 9; eeeeeeeeeeee… made small/code/" in said
    assert "general and 2 more. To" in said or "in_domain and 2 more. To" in said


def test_another_model_under_the_same_name_is_flagged(study: Study) -> None:
    other = {"folder": "models/small", "revision": "1" * 40, "weights_digest": "f" * 64}
    write_json(CELLS / "code/kl/1/seed0/provenance.json", record(model=other))
    assert lines(study)["Model models/small"] == (
        f"revision {'1' * 40}, weights ffffffffffff…, weights bbbbbbbbbbbb…; there were different models in it"
    )


def test_copies_take_no_time(study: Study) -> None:
    copied = CELLS / "code/kl/1/seed0/general/responses.provenance.json"
    write_json(copied, {"copied_from": "elsewhere", **read_json(copied)})
    assert lines(study)["Hours that sampled"] == "7.50 in 15 parts; 1 were copied from the same adapter's"


def test_records_that_are_not_there_are_left_out(study: Study) -> None:
    for path in CELLS.rglob("*provenance.json"):
        path.unlink()
    said = lines(study)
    assert said["Cells"].startswith("12; there are 0 adapters")
    assert not [what for what in said if "that" in what]


def test_a_models_revision_is_the_one_it_was_fetched_at(tmp_path: Path) -> None:
    for folder in ("sources/qwen", "cache/snapshots/0123", "own"):
        write_json(tmp_path / folder / "config.json", {})
    write_json(tmp_path / "sources/qwen.source.json", {"revision": "4567"})
    found = {
        name: model_identity(tmp_path / name)["revision"] for name in ("sources/qwen", "cache/snapshots/0123", "own")
    }
    assert found == {"sources/qwen": "4567", "cache/snapshots/0123": "0123", "own": None}


def test_a_record_tells_when_where_and_with_what(tmp_path: Path) -> None:
    made = made_by(datetime.now(UTC) - timedelta(seconds=90), ("polars",), "emdefense.files", device="GPU")
    assert 90 <= made["seconds"]["all"] < 95
    assert made["started"] < made["finished"]
    assert made["machine"]["device"] == "GPU"
    assert set(made["packages"]) == {"polars"}
    assert record_beside(tmp_path / "judgments/gpt-4o-mini.jsonl").name == "gpt-4o-mini.provenance.json"
