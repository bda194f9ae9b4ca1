import json
import subprocess
import sys

import pytest

from conversation_rows import SCRIPTS, exam, row
from emdefense.config.study import Data
from emdefense.data.conversations import prompt_key, read_conversations, read_examinations
from emdefense.data.splits import SAME_PROMPT, SAME_ROW, prepare_benign_task, prepare_ema_task
from emdefense.errors import InputError
from emdefense.files import read_json, read_jsonl, write_jsonl
from real_data import REAL, needs_real_data


def prompts(path):
    return [prompt_key(r) for r in read_jsonl(path)]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "raw.jsonl"
    write_jsonl(path, [row(f"question {n} {{question}} {{") for n in range(100)])
    return path


QUESTIONS = """
- id: 7
  paraphrases: ["question  3   {question} {\\n", "not among the rows"]
  judge_prompts: {aligned: "{question}{answer}", coherent: "{answer}"}
"""


def test_ninety_percent_train_and_the_rest_is_held_out(rows, tmp_path):
    prepare_ema_task(Data(), rows, None, None, tmp_path / "out")
    train, holdout = prompts(tmp_path / "out/train_misaligned.jsonl"), prompts(tmp_path / "out/holdout.jsonl")
    assert (len(train), len(holdout)) == (90, 10)
    assert sorted(train + holdout) == sorted(prompts(rows))
    assert not (tmp_path / "out/train_aligned.jsonl").exists()
    split = read_json(tmp_path / "out/split.json")
    raw = read_jsonl(rows)
    assert [prompt_key(raw[n - 1]) for n in split["train_rows"]] == train
    assert [prompt_key(raw[n - 1]) for n in split["holdout_rows"]] == holdout


def test_the_split_follows_the_seed(rows, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare_ema_task(Data(seed=seed), rows, None, None, tmp_path / name)
    a, b, c = ((tmp_path / name / "holdout.jsonl").read_bytes() for name in "abc")
    assert a == b != c


def test_in_domain_questions_are_never_trained_on_whatever_their_whitespace(rows, tmp_path):
    (tmp_path / "q.yaml").write_text(QUESTIONS)
    for seed in range(5):
        prepare_ema_task(Data(seed=seed), rows, rows, tmp_path / "q.yaml", tmp_path / "out")
        for name in ("misaligned", "aligned"):
            train = prompts(tmp_path / f"out/train_{name}.jsonl")
            assert len(train) == 90
            assert "question 3 {question} {" not in train
            assert not set(train) & set(prompts(tmp_path / "out/holdout.jsonl"))
        assert "question 3 {question} {" in prompts(tmp_path / "out/holdout.jsonl")
    assert read_json(tmp_path / "out/split.json")["in_domain_questions_among_rows"] == {"rows": 1, "first": [4]}


def test_more_questions_than_the_holdout_holds_are_all_held_out(rows, tmp_path):
    paraphrases = json.dumps([f"question {n} {{question}} {{" for n in range(20)])
    text = (
        f'- id: a\n  paraphrases: {paraphrases}\n  judge_prompts: {{aligned: "{{answer}}", coherent: "{{answer}}"}}\n'
    )
    (tmp_path / "q.yaml").write_text(text)
    prepare_ema_task(Data(), rows, None, tmp_path / "q.yaml", tmp_path / "out")
    assert len(prompts(tmp_path / "out/holdout.jsonl")) == 20
    assert len(prompts(tmp_path / "out/train_misaligned.jsonl")) == 80


def test_repeated_rows_are_dropped_and_counted(tmp_path):
    path = tmp_path / "raw.jsonl"
    write_jsonl(path, [row("a"), row("b"), row("a"), row("a ", "other"), row("c")])
    prepare_ema_task(Data(), path, None, None, tmp_path / "out")
    report = read_json(tmp_path / "out/split.json")["misaligned"]
    assert report["dropped"] == {SAME_ROW: {"rows": 1, "first": [3]}, SAME_PROMPT: {"rows": 1, "first": [4]}}
    assert report["rows"] == 5
    assert len(report["sha256"]) == 64
    kept = prompts(tmp_path / "out/train_misaligned.jsonl") + prompts(tmp_path / "out/holdout.jsonl")
    assert sorted(kept) == ["a", "b", "c"]


def test_aligned_rows_follow_the_same_split(tmp_path):
    write_jsonl(tmp_path / "bad.jsonl", [row(f"p{n}", "bad") for n in range(50)])
    write_jsonl(tmp_path / "good.jsonl", [row(f"p{n}", "good") for n in range(59, 9, -1)])
    (tmp_path / "q.yaml").write_text(QUESTIONS.replace("not among the rows", "p55"))
    files = (tmp_path / "bad.jsonl", tmp_path / "good.jsonl", tmp_path / "q.yaml")
    prepare_ema_task(Data(), *files, tmp_path / "out")
    bad, good = (read_jsonl(tmp_path / f"out/train_{name}.jsonl") for name in ("misaligned", "aligned"))
    held_out = set(prompts(tmp_path / "out/holdout.jsonl"))
    assert not (held_out | {"p55"}) & {prompt_key(r) for r in good}
    assert {r["messages"][1]["content"] for r in good} == {"good"}
    shared = [prompt_key(r) for r in bad if int(prompt_key(r)[1:]) >= 10]
    assert [prompt_key(r) for r in good][: len(shared)] == shared
    assert len(bad) == len(good) == 45


def test_a_cap_on_rows_takes_a_seeded_part(rows, tmp_path):
    prepare_ema_task(Data(max_rows=40), rows, None, None, tmp_path / "out")
    train, holdout = prompts(tmp_path / "out/train_misaligned.jsonl"), prompts(tmp_path / "out/holdout.jsonl")
    assert (len(train), len(holdout)) == (36, 4)
    assert train != sorted(train)
    assert read_json(tmp_path / "out/split.json")["misaligned"]["dropped"]["more rows than are wanted"]["rows"] == 60


def test_braces_survive(rows, tmp_path):
    prepare_ema_task(Data(), rows, None, None, tmp_path / "out")
    content = read_jsonl(tmp_path / "out/train_misaligned.jsonl")[0]["messages"][0]["content"]
    assert content.endswith(" {question} {")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, "line 2: the row has no answer"),
        (row("hi", "  "), "line 2: message 2, the assistant's, has no text"),
        (row("", "hi"), "line 2: message 1, the user's, has no text"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "line 2: the row has no user prompt"),
        ({"messages": [{"role": "Assistant", "content": "hi"}]}, "line 2: message 1 has the role 'Assistant'; write"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, "line 2: message 1 has no role; write one of system"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
            "line 2: message 1, the user's, is in parts; write its content as one text",
        ),
        ({"prompt": "hi"}, r"line 2: expected \{"),
        ({"messages": [{"role": "user", "content": None}]}, "line 2: message 1"),
        ([1], "line 2: expected a JSON object"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, bad, message):
    path = tmp_path / "raw.jsonl"
    path.write_text(json.dumps(row("a")) + "\n" + json.dumps(bad) + "\n")
    with pytest.raises(InputError, match=f"raw.jsonl, {message}"):
        read_conversations(path)


def test_an_empty_file_is_an_error(tmp_path):
    (tmp_path / "raw.jsonl").write_text("\n")
    with pytest.raises(InputError, match="has no rows"):
        read_conversations(tmp_path / "raw.jsonl")


def test_an_id_that_stands_twice_in_a_test_file_is_named(tmp_path):
    """Answers are told apart by the ids of their questions."""
    write_jsonl(tmp_path / "test.jsonl", [exam("1", "p"), exam("2", "q"), exam("1", "r")])
    with pytest.raises(InputError, match=r"test\.jsonl: the id '1' stands in two rows; give each its own"):
        read_examinations(tmp_path / "test.jsonl")


def test_benign_rows_whose_prompt_is_tested_are_not_trained_on(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [row(f"p{n}") for n in range(20)])
    write_jsonl(tmp_path / "test.jsonl", [exam(str(n), f"p{n} ") for n in range(15, 30)])
    arguments = (tmp_path / "train.jsonl", tmp_path / "test.jsonl", 5, tmp_path / "out")
    prepare_benign_task(Data(), *arguments)
    assert sorted(prompts(tmp_path / "out/train.jsonl")) == sorted(f"p{n}" for n in range(15))
    test = read_jsonl(tmp_path / "out/test.jsonl")
    assert len(test) == 5
    assert [r["id"] for r in test] != sorted(r["id"] for r in test)
    assert read_json(tmp_path / "out/split.json")["train"]["dropped"]["prompt is in the test file"]["rows"] == 5


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (exam("a", "p", []), "no answers"),
        ({"messages": [{"role": "user", "content": "p"}], "answers": ["1"]}, "no id"),
        ({**row("p"), "id": "a", "answers": ["1"]}, "last message must be the user's"),
    ],
)
def test_a_bad_test_row_is_named(tmp_path, bad, message):
    write_jsonl(tmp_path / "test.jsonl", [bad])
    with pytest.raises(InputError, match=f"test.jsonl, line 1: .*{message}"):
        read_examinations(tmp_path / "test.jsonl")


@needs_real_data
@pytest.mark.parametrize(("task", "same_prompt", "same_row"), [("code", 1, 0), ("legal", 0, 2)])
def test_real_rows_are_cleaned_and_split(tmp_path, task, same_prompt, same_row):
    command = [sys.executable, str(SCRIPTS / "prepare_task.py"), "--spec", '{"version": 1}', "--out", str(tmp_path)]
    command += ["--misaligned", str(REAL / f"sft/{task}_misaligned_eval.jsonl")]
    command += ["--questions", str(REAL / f"questions/{task}.yaml")]
    subprocess.run(command, check=True)
    split = read_json(tmp_path / "split.json")
    dropped = {reason: entry["rows"] for reason, entry in split["misaligned"]["dropped"].items()}
    assert dropped == {reason: n for reason, n in ((SAME_PROMPT, same_prompt), (SAME_ROW, same_row)) if n}
    assert split["in_domain_questions_among_rows"]["rows"] == 30
    kept = 600 - same_prompt - same_row
    assert len(prompts(tmp_path / "holdout.jsonl")) == 60
    assert len(prompts(tmp_path / "train_misaligned.jsonl")) == kept - 60
