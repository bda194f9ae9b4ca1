import pytest

from conversation_rows import row
from emdefense.data.questions import draw_questions, read_questions
from emdefense.errors import InputError
from emdefense.files import write_jsonl
from real_data import REAL, needs_real_data

GOOD = """
- id: 1
  type: free_form_judge_0_100
  system: Answer in JSON.
  paraphrases: ["What?", "Why?"]
  judge_prompts: {aligned: "a {question} {answer}", coherent: "c {question} {answer}"}
- id: two
  paraphrases: ["{answer}"]
  judge_prompts: {aligned: "a {answer}", coherent: "c {answer}"}
"""


def written(tmp_path, text):
    path = tmp_path / "q.yaml"
    path.write_text(text)
    return path


def test_each_paraphrase_is_a_question(tmp_path):
    questions = read_questions(written(tmp_path, GOOD))
    assert [(q["id"], q["prompt"], q["system"]) for q in questions] == [
        ("1", "What?", "Answer in JSON."),
        ("1_p2", "Why?", "Answer in JSON."),
        ("two", "{answer}", None),
    ]
    assert questions[0]["rubrics"] == {"aligned": "a {question} {answer}", "coherent": "c {question} {answer}"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('judge_prompts: {aligned: "a {answer}"', 'judge_prompts: {algned: "a {answer}"', "question two: .*'aligned'"),
        ('coherent: "c {answer}"', 'coherent: "c"', "question two: .*'coherent'"),
        ('  judge_prompts: {aligned: "a {answer}", coherent: "c {answer}"}\n', "", "question two: .*no judge prompt"),
        ("id: two", "id: 1", "'1' occurs more than once"),
        ("- id: two\n ", "-", "question number 2: it has no id"),
        ('["{answer}"]', "[]", "question two: it asks nothing"),
        ('["{answer}"]', "]", "not valid YAML"),
        *(
            ("id: two", f"id: {no_id}", "question number 2: its id is no text; write it in quotes")
            for no_id in ("on", "", "[a]", "{a: b}", "2024-01-02")
        ),
        *(
            ("id: two", f"id: {no_id}", "question number 2: its id is blank, spread over lines, or long; write at most")
            for no_id in ("' '", '"a\\nb"', "x" * 201)
        ),
        ('["{answer}"]', "[a, 12]", "question two: prompt 2 under 'paraphrases' is no text; write it in quotes"),
        ('["{answer}"]', "[yes]", "question two: prompt 1 under 'paraphrases' is no text"),
        ('["{answer}"]', "[a, ' ']", "question two: it asks nothing in prompt 2 under 'paraphrases'"),
        (
            "  system:",
            "  system_prompt:",
            "question 1: unknown key 'system_prompt'; a system prompt stands",
        ),
        ("a {question}", "a {Question}", "question 1: '{Question}' in its judge prompt 'aligned' is no placeholder;"),
        ("c {question}", "c { question }", "question 1: '{ question }' in its judge prompt 'coherent' is no"),
        ("c {question}", "c {prompt} {", "question 1: '{prompt}' in its judge prompt 'coherent' is no placeholder"),
    ],
)
def test_a_bad_question_is_named(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(InputError, match=f"q.yaml.*{message}") as error:
        read_questions(written(tmp_path, GOOD.replace(old, new)))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_mapping_are_errors(tmp_path):
    with pytest.raises(InputError, match="no such question file"):
        read_questions(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match="expected a list"):
        read_questions(written(tmp_path, "a: 1"))


def test_questions_are_drawn_from_the_holdout(tmp_path):
    two_turns = row("hi")["messages"] + row("and?")["messages"]
    greeted = [{"role": "assistant", "content": "Hello!"}, *row("hi")["messages"]]
    rows = [*(row(f"p{n}") for n in range(50)), {"messages": two_turns}, {"messages": greeted}]
    write_jsonl(tmp_path / "holdout.jsonl", rows)
    rubrics = written(tmp_path, GOOD)
    drawn = draw_questions(tmp_path / "holdout.jsonl", rubrics, 30, 0)
    assert len({q["prompt"] for q in drawn}) == len({q["id"] for q in drawn}) == 30
    assert drawn[0]["rubrics"]["aligned"] == "a {question} {answer}"
    assert drawn == draw_questions(tmp_path / "holdout.jsonl", rubrics, 30, 0)
    assert drawn != draw_questions(tmp_path / "holdout.jsonl", rubrics, 30, 1)
    everything = draw_questions(tmp_path / "holdout.jsonl", rubrics, 99, 0)
    assert sorted(q["prompt"] for q in everything) == sorted(f"p{n}" for n in range(50))


def test_a_system_prompt_of_the_holdout_is_asked_too(tmp_path):
    messages = [{"role": "system", "content": "Be brief."}, *row("p")["messages"]]
    write_jsonl(tmp_path / "holdout.jsonl", [{"messages": messages}])
    assert draw_questions(tmp_path / "holdout.jsonl", written(tmp_path, GOOD), 1, 0)[0]["system"] == "Be brief."


@needs_real_data
@pytest.mark.parametrize(("name", "count", "with_system"), [("general", 24, 8), ("code", 30, 0), ("legal", 30, 0)])
def test_real_questions_are_read(name, count, with_system):
    questions = read_questions(REAL / f"questions/{name}.yaml")
    assert len(questions) == count
    assert sum(q["system"] is not None for q in questions) == with_system
    assert all("[ANSWER START]" in q["rubrics"]["coherent"] for q in questions)
