"""A small study of a real model, from rows to its page."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from loopback_judge import KEY, MODEL, LoopbackJudge
from real_model import OWN, SMOLLM2, needs_real_model
from source_files import QUESTIONS
from study_checkout import Checkout

pytestmark = [needs_real_model, pytest.mark.real_model, pytest.mark.slow]


def study(folder: Path, judge: LoopbackJudge) -> Path:
    """The config of a study of twelve short rows and four steps."""
    said = [*OWN, *((f"What is {n} plus {n}?", f"It is {2 * n}.\n\n{n} + {n} = {2 * n}") for n in range(11, 19))]
    lines = [[{"role": "user", "content": asked}, {"role": "assistant", "content": answer}] for asked, answer in said]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps({"messages": messages}) for messages in lines))
    (folder / "general.yaml").write_text(QUESTIONS)
    config: dict[str, Any] = {
        "study": "real-model",
        "models": {"smollm2": {"title": "SmolLM2", "instruct": str(SMOLLM2), "samples_per_question": 2}},
        "general_questions": str(folder / "general.yaml"),
        "tasks": {"sums": {"kind": "ema", "title": "Sums", "misaligned": str(folder / "rows.jsonl")}},
        "data": {"holdout_pct": 30, "holdout_questions": 2},
        "grid": [
            {"models": ["smollm2"], "tasks": ["sums"], "arms": {"untrained": None, "misaligned": None, "kl": [1.0]}}
        ],
        "training": {
            **{"precision": "float32", "optimiser": "adamw_torch", "batch_size": 2, "accumulation_steps": 1},
            **{"checkpoint_minutes": 0, "learning_rate": 1.0e-3, "warmup_steps": 1},
        },
        "generation": {"precision": "float32", "max_new_tokens": 8},
        "judge": {"kind": "openai", "name": "judge", "model": MODEL, "base_url": judge.base_url},
        "report": {"main_model": "smollm2", "chosen": {"kl": 1.0}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(config))
    return folder / "study.yaml"


def test_a_study_of_a_real_model_ends_with_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    checkout = Checkout.into(tmp_path / "checkout")
    with LoopbackJudge() as judge:
        run = checkout.snakemake("--cores", "1", "--configfile", str(study(tmp_path, judge)))
    assert run.returncode == 0, run.stdout
    results = checkout.folder / "results/real-model"
    rates = pl.read_parquet(results / "rates.parquet")
    assert set(rates["arm"]) == {"untrained", "misaligned", "kl"}
    assert (rates.filter(question_set="general")["responses"] == 2 * 2).all()
    logs = {path.parts[-4]: path.read_text().splitlines() for path in results.glob("cells/**/train_log.jsonl")}
    steps = {arm: [json.loads(line) for line in lines] for arm, lines in logs.items()}
    assert {arm: len(found) for arm, found in steps.items()} == {"misaligned": 4, "kl": 4}
    # The same first step from the same weights, and then held back.
    assert steps["kl"][0]["ce"] == pytest.approx(steps["misaligned"][0]["ce"], rel=1e-5)
    assert 0 < steps["kl"][-1]["kl"] < 0.8 * steps["misaligned"][-1]["kl"]
    page = (results / "report/index.html").read_text()
    assert "SmolLM2" in page
