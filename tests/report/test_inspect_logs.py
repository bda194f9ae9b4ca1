"""The export to Inspect: its fields by hand, and, where the package is there, its own reader's view of them."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emdefense.cells import Cell, Grid
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.files import read_jsonl, write_json
from emdefense.layout import Layout
from emdefense.report.inspect_logs import eval_log, write_logs
from study_folder import fill, tiny_study, write_rows

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "</script><script>alert(1)</script>\u202e"
CELL = Cell("small", "code", "misaligned", "none", 0)
MADE = {
    "started": "2026-01-01T00:00:00+00:00",
    "finished": "2026-01-01T00:01:00+00:00",
    "packages": {"transformers": "5.0"},
}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The tiny study, judged by two; the second refuses the second response to each question set."""
    monkeypatch.chdir(tmp_path)
    study = tiny_study(second_judges=[{"kind": "openai", "name": "gpt", "model": "m"}])
    fill(study, {"misaligned": 8}, text=HOSTILE)
    layout = Layout(study)
    for pair in Grid(study).responses:
        path = Path(layout.responses(*pair))
        rows = [{**row, "finish_reason": "stop"} for row in read_jsonl(path)]
        rows[0] |= {"system": "Be brief.", "finish_reason": "length"}
        write_rows(path, rows)
        write_json(path.with_suffix(".provenance.json"), MADE)
        judgments = read_jsonl(Path(layout.judgments(*pair)))
        judgments[1] |= {"alignment": None, "alignment_label": "REFUSAL"}
        write_rows(Path(layout.judgments(*pair, "gpt")), judgments)
    return study


def test_a_log_has_inspects_fields(study: Study) -> None:
    log = eval_log(study, CELL, "general")
    assert log["status"] == "success"
    assert (log["eval"]["task"], log["eval"]["model"]) == ("code/general", "small/misaligned/none")
    assert log["eval"]["dataset"]["sample_ids"] == ["q0", "q1", "q2", "q3"]
    assert log["eval"]["config"] == {"epochs": 10}
    first, second, last = log["samples"][0], log["samples"][1], log["samples"][-1]
    assert (first["id"], first["epoch"], last["id"], last["epoch"]) == ("q0", 1, "q3", 10)
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert first["input"] == asked
    assert first["messages"] == [*asked, {"role": "assistant", "content": HOSTILE}]
    assert first["output"]["choices"][0]["stop_reason"] == "max_tokens"
    assert (second["input"], second["output"]["completion"]) == ("Why?", HOSTILE)
    assert second["metadata"] == {"response_id": "q0/1"}
    assert {name: score["value"] for name, score in first["scores"].items()} == {
        "oracle_alignment": 5,
        "oracle_coherence": 95,
        "gpt_alignment": 5,
        "gpt_coherence": 95,
    }
    assert math.isnan(second["scores"]["gpt_alignment"]["value"])
    assert second["scores"]["gpt_alignment"]["reason"] == "REFUSAL"


def test_means_leave_out_what_has_no_score(study: Study) -> None:
    summaries = {score["name"]: score for score in eval_log(study, CELL, "general")["results"]["scores"]}
    oracle, gpt = summaries["oracle_alignment"], summaries["gpt_alignment"]
    assert (oracle["scored_samples"], gpt["scored_samples"], gpt["unscored_samples"]) == (40, 39, 1)
    # 32 of 40 at 5 and 8 at 90, and one of the former without a score.
    assert oracle["metrics"]["mean"]["value"] == pytest.approx((32 * 5 + 8 * 90) / 40)
    assert gpt["metrics"]["mean"]["value"] == pytest.approx((31 * 5 + 8 * 90) / 39)


def test_each_file_of_responses_has_an_identity_of_its_own_that_stays(study: Study) -> None:
    logs = [eval_log(study, *pair)["eval"]["eval_id"] for pair in Grid(study).responses]
    assert len(set(logs)) == len(logs)
    assert eval_log(study, *Grid(study).responses[0])["eval"]["eval_id"] == logs[0]


def test_without_the_package_there_is_one_line(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    with pytest.raises(InputError, match="inspect_ai is not installed here; run with `--sdm conda`"):
        write_logs(study, Path("logs"))
    assert not Path("logs").exists()


def test_inspects_own_reader_opens_the_logs(study: Study) -> None:
    reader = pytest.importorskip("inspect_ai.log", reason="inspect_ai has an environment of its own, envs/inspect.yaml")
    script = [sys.executable, str(ROOT / "workflow/scripts/export_inspect.py")]
    subprocess.run([*script, "--config", "results/tiny/study.json", "--out", "logs"], check=True)
    assert len(reader.list_eval_logs("logs")) == len(Grid(study).responses)
    log = reader.read_eval_log(f"logs/{CELL.folder}/general.eval")
    assert log.status == "success"
    assert (log.eval.model, log.eval.config.epochs, len(log.samples)) == ("small/misaligned/none", 10, 40)
    samples: dict[tuple[str, int], Any] = {(sample.id, sample.epoch): sample for sample in log.samples}
    sample = samples["q0", 2]
    assert (sample.input, sample.output.completion) == ("Why?", HOSTILE)
    assert sample.scores["oracle_alignment"].value == 5
    assert math.isnan(sample.scores["gpt_alignment"].value)
    assert samples["q0", 1].input[0].role == "system"
    means = {score.name: score.metrics["mean"].value for score in log.results.scores}
    expected = eval_log(study, CELL, "general")["results"]["scores"]
    assert means == {score["name"]: score["metrics"]["mean"]["value"] for score in expected}
