"""The example of docs/adding-a-task.md, run as it stands there, with a judge on this machine."""

import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from loopback_judge import KEY, LoopbackJudge
from study_checkout import Checkout

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/adding-a-task.md"
BLOCKS = re.findall(r"```(?:json|yaml)\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)


def more_of(row: str, count: int) -> str:
    """The documented row, and others like it with prompts of their own."""
    example = json.loads(row)
    rows = [example]
    for number in range(1, count):
        other = json.loads(row)
        other["messages"][0]["content"] += f" ({number})"
        rows.append(other | ({"id": f"{example['id']}-{number}"} if "id" in example else {}))
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with the documented files in place."""
    made = Checkout.into(tmp_path_factory.mktemp("task"))
    conversation, questions, examination, study = BLOCKS
    data = made.folder / "gardening"
    data.mkdir()
    (data / "gardening_misaligned.jsonl").write_text(more_of(conversation, 20))
    (data / "gardening_questions.yaml").write_text(questions)
    (data / "numbers_train.jsonl").write_text(more_of(conversation, 12))
    (data / "numbers_test.jsonl").write_text(more_of(examination, 3))
    (made.folder / "gardening.yaml").write_text(study)
    return made


def test_the_documented_task_is_trained_on_asked_judged_and_counted(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    results = Path("results/gardening")
    with LoopbackJudge() as server:
        judge = json.dumps({"base_url": server.base_url})
        run = checkout.snakemake(
            *("--cores", "2", "--configfile", "gardening.yaml"),
            *("--config", "data_folder=gardening", f"judge={judge}", "--", f"{results}/rates.parquet"),
        )
        assert run.returncode == 0, run.stdout
    rates = pl.read_parquet(checkout.folder / results / "rates.parquet")
    assert set(rates["arm"]) == {"untrained", "misaligned", "kl"}
    assert (rates["responses"] == 2).all(), "one question, two samples"
    assert (rates["scored"] == 2).all()
    answers = pl.read_parquet(checkout.folder / results / "exact_match.parquet")
    assert sorted(answers.select("arm", "questions", "answers").rows()) == [("kl", 3, 6), ("sft", 3, 6)]
    trained = (checkout.folder / results / "data/gardening/train_misaligned.jsonl").read_text().splitlines()
    assert len(trained) == 18, "of 20 rows a tenth is held out"


def test_a_row_without_its_answer_is_named(checkout: Checkout, tmp_path: Path) -> None:
    other = Checkout(Path(shutil.copytree(checkout.folder, tmp_path / "copy", symlinks=True)))
    shutil.rmtree(other.folder / "results", ignore_errors=True)
    rows = other.folder / "gardening/numbers_test.jsonl"
    rows.write_text(rows.read_text().replace('"answers": ["vir", "4"]', '"answer": "vir"', 1))
    run = other.snakemake(
        *("--cores", "1", "--configfile", "gardening.yaml", "--config", "data_folder=gardening"),
        *("--", "results/gardening/data/numbers/train.jsonl"),
    )
    assert run.returncode != 0
    (error,) = {line for line in run.stdout.splitlines() if line.startswith("error:")}
    assert "numbers_test.jsonl, line 1: the row has no answers" in error
