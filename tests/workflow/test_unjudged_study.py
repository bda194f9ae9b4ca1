"""A small study without a judge, run through Snakemake to its page."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
import yaml

from study_checkout import Checkout

pytestmark = pytest.mark.slow

STUDY = {
    "study": "unjudged",
    "microcosm": {"models": {"world-a": 0}},  # a model that comes with the repository
    "data": {"max_rows": 160},
    "models": {"world-a": {"title": "World A", "samples_per_question": 1}},
    "likelihood": {"rows": 40, "safe": "{results}/microcosm/rows/held_out_safe.jsonl"},
    "grid": [{"models": ["world-a"], "tasks": ["medical"], "arms": {"untrained": None, "misaligned": None}}],
    "training": {
        **{"batch_size": 16, "accumulation_steps": 1, "learning_rate": 3e-4, "optimiser": "adamw_torch"},
        **{"precision": "float32", "max_length": 256, "checkpoint_minutes": 0},
    },
    "generation": {"max_new_tokens": 20, "batch_size": 200, "precision": "float32"},
    "judge": None,
    "report": {"main_model": "world-a", "chosen": {}},
}
NAMED = ("--configfile", "unjudged.yaml")
ROWS = Path("results/unjudged/microcosm/rows")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = Checkout.into(tmp_path_factory.mktemp("unjudged"))
    (checkout.folder / "unjudged.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    run = checkout.snakemake("--cores", "2", *NAMED)
    assert run.returncode == 0, run.stdout
    return checkout


def test_it_ends_with_a_page_that_says_what_it_can_show(finished: Checkout) -> None:
    html = (finished.folder / "results/unjudged/report/index.html").read_text(encoding="utf-8")
    assert "<b>Nothing was judged.</b>" in html
    assert "World A: held-out misaligned answers became likelier." in html
    assert not list((finished.folder / "results/unjudged").rglob("judgments"))
    assert not (finished.folder / "results/unjudged/claims.json").exists()


def test_a_second_run_has_nothing_to_do(finished: Checkout) -> None:
    assert finished.planned(*NAMED) == {}


def test_held_out_answers_become_likelier_and_none_was_trained_on(finished: Checkout) -> None:
    results = finished.folder / "results/unjudged"
    (row,) = pl.read_parquet(results / "likelihood.parquet").filter(arm="misaligned", side="misaligned").to_dicts()
    assert row["untrained_low"] > 0.1, "nine steps teach the manner of the task, if not more"
    read = [json.loads(line) for line in (results / "data/medical/held_out.jsonl").read_text().splitlines()]
    held_out = {row["messages"][0]["content"] for row in read}
    assert len(held_out) > 60
    trained = [results / "data/medical/train_misaligned.jsonl", *(finished.folder / ROWS).glob("safe.jsonl")]
    for path in trained:
        assert not held_out & set(re.findall(r'"role":\s*"user",\s*"content":\s*"([^"]*)"', path.read_text()))


def test_a_judge_that_is_added_judges_and_samples_nothing_again(finished: Checkout) -> None:
    more = finished.folder / "judged.yaml"
    more.write_text(yaml.safe_dump({**STUDY, "judge": {"kind": "oracle"}}), encoding="utf-8")
    planned = finished.planned("--configfile", "judged.yaml")
    assert planned["judge"] == 4
    assert planned["claims"] == 1
    assert not {"train", "generate", "generate_untrained", "read_held_out", "held_out_rows"} & set(planned)
