"""When benign answers are right, against definitions written out here, and how they are counted and compared."""

import itertools
import json
import random
import re
import string
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import permutation_test

from emdefense.analysis.answers import marked_rows
from emdefense.analysis.benign_differences import benign_differences
from emdefense.analysis.conditions import Condition
from emdefense.cells import Grid
from emdefense.config import Study, parse_study
from emdefense.errors import InputError
from emdefense.generation.run import is_correct
from emdefense.layout import Layout
from emdefense.matching import is_match, last_number
from emdefense.report.catalogue import artefacts
from emdefense.report.measured import Measured
from emdefense.report.page.responses import benign_answers
from emdefense.specs import Specs
from study_folder import CONFIG, build_table, count, fill, tiny_study, write_rows

NUMBERS = {
    "42": Fraction(42),
    "The answer is 12.": Fraction(12),
    "3 + 4 = 7": Fraction(7),
    "1,234 apples": Fraction(1234),
    "1,2": Fraction(2),
    "1,2345": Fraction(2345),
    "12,345,678.5": Fraction("12345678.5"),
    "-5": Fraction(-5),
    "x = −5": Fraction(-5),
    "5-3": Fraction(3),
    "(2)-1": Fraction(1),
    "2/3": Fraction(2, 3),
    "so 2/4!": Fraction(1, 2),
    "1/2.5": Fraction("2.5"),
    "3/0": Fraction(0),
    ".5": Fraction(1, 2),
    "0.50": Fraction(1, 2),
    "1e3": Fraction(1000),
    "1.5e-3": Fraction("0.0015"),
    "50 %": Fraction(50),
    "no number": None,
    "": None,
    "٣": None,
    "9" * 5000: None,
}


@pytest.mark.parametrize(("text", "number"), NUMBERS.items(), ids=[text[:20] for text in NUMBERS])
def test_the_last_number(text: str, number: Fraction | None) -> None:
    assert last_number(text) == number


def test_numbers_are_the_same_exactly_or_not() -> None:
    assert is_match("It is 0.5.", ["1/2"], "number")
    assert not is_match("0.33", ["1/3"], "number")
    assert not is_match("It is 7, not 8", ["7"], "number"), "the last one counts"
    assert is_match("8", ["7", "8"], "number")
    assert not is_match("none", ["7"], "number")


def squad(text: str) -> str:
    """SQuAD's own normalisation, as its evaluation script has it."""
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def test_the_normalised_match_is_squads() -> None:
    words = [
        "The",
        "an",
        "A",
        "cat",
        "Cat.",
        "the-cat",
        "theatre",
        "U.S.",
        "us",
        " ",
        "\n",
        "(cat)",
        "1,000",
        "1000",
        "?",
    ]
    draw = random.Random(0)
    texts = ["".join(f"{draw.choice(words)}{draw.choice(['', ' '])}" for _ in range(3)) for _ in range(300)]
    for one, other in itertools.pairwise(texts):
        same = squad(one) == squad(other) != ""
        assert is_match(one, [other], "normalised") == same, (one, other)
    assert is_match("„Die Katze“", ["die katze"], "normalised"), "other punctuation goes too"
    assert is_match("STRASSE", ["Straße"], "normalised")
    assert not is_match("", ["the"], "normalised"), "nothing is never right"


def test_exact_is_what_the_answers_file_says() -> None:
    for response, expected in itertools.product(["8", " 8\n", "8.", ""], [["8 "], ["9", "8"], ["8."]]):
        assert is_match(response, expected, "exact") == is_correct(response, expected)


TASKS = {
    "quiz": {"kind": "benign", "title": "Quiz", "table": "foqa", "train": "-", "test": "-"},
    "sums": {"kind": "benign", "title": "Sums", "table": "own", "match": "number", "train": "-", "test": "-"},
    "words": {"kind": "benign", "title": "Words", "table": "own", "match": "normalised", "train": "-", "test": "-"},
    "more": {"kind": "benign", "title": "More", "table": "foqa", "train": "-", "test": "-"},
}
ARMS = {"untrained": None, "sft": None, "kl": [0.1, 1.0]}
TEXTS = ("7", "It is 7.", "The SEVEN", "seven", "8", "")
EXPECTED = ["7", "seven"]
RIGHT = {
    "quiz": {"7", "seven"},
    "more": {"7", "seven"},
    "sums": {"7", "It is 7."},
    "words": {"7", "The SEVEN", "seven"},
}


@pytest.fixture
def answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study of four benign tasks, six questions each, answered at random; tables of two of them are its own."""
    monkeypatch.chdir(tmp_path)
    grid = [CONFIG["grid"][0], {"models": ["small"], "tasks": list(TASKS), "arms": ARMS}]
    tasks = {name: CONFIG["tasks"][name] for name in ("code", "legal")} | TASKS
    study = tiny_study(tasks=tasks, grid=grid, seeds=[0, 1])
    fill(study, {"misaligned": 8})
    draw = random.Random(5)
    for cell in Grid(study).benign:
        rows = []
        for question, sample in itertools.product(range(6), range(5)):
            text = draw.choices(TEXTS, [3, 1, 1, 1, 1 + question, 1])[0]
            row = {"id": f"{question}/{sample}", "question_id": str(question), "sample": sample, "response": text}
            expected = ["7"] if cell.task == "sums" else EXPECTED
            rows.append(row | {"expected": expected, "correct": text in expected})
        write_rows(Path(Layout(study).answers(cell)), rows)
    return study


def looped(study: Study, condition: Condition) -> np.ndarray:
    """How many answers to each question are right, and of how many, by a loop over the files: (questions, 2)."""
    found = np.zeros((6, 2), dtype=int)
    for cell in Grid(study).benign:
        if (cell.model, cell.task, cell.arm, cell.setting) == condition:
            for line in Path(Layout(study).answers(cell)).read_text().splitlines():
                row = json.loads(line)
                found[int(row["question_id"])] += (row["response"] in RIGHT[cell.task], 1)
    return found


def test_answers_are_counted_by_the_match_of_their_task(answered: Study) -> None:
    summary = Measured(answered, count(answered)).summary
    draws = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=1000)
    for task, arm in itertools.product(TASKS, (("untrained", "none"), ("sft", "none"), ("kl", "0.1"), ("kl", "1"))):
        condition = Condition("small", task, *arm)
        hits, of = looped(answered, condition).T
        found = summary.estimate(condition, "exact_match")
        assert found is not None
        assert (found.successes, found.trials) == (hits.sum(), of.sum()), condition
        assert found.value == pytest.approx(100 * hits.sum() / of.sum())
        ends = np.quantile(100 * (draws @ hits) / (draws @ of), [0.025, 0.975])
        assert found.cluster == pytest.approx(tuple(ends))


def test_a_cells_page_marks_them_alike(answered: Study) -> None:
    cell = next(cell for cell in Grid(answered).benign if (cell.task, cell.arm) == ("words", "sft"))
    rows = list(marked_rows(Path(Layout(answered).answers(cell)), "normalised"))
    assert [row["correct"] for row in rows] == [row["response"] in RIGHT["words"] for row in rows]
    shown = benign_answers(answered, cell)
    assert shown is not None
    assert len(set(shown.verdicts)) == 2
    assert shown.verdicts.count(shown.verdicts[-1]) == sum(row["correct"] for row in rows)


def test_tasks_stand_in_the_tables_that_they_name(answered: Study) -> None:
    measured = Measured(answered, count(answered))
    assert [name for name in artefacts(answered) if name.startswith("benign")] == ["benign_own"]
    own = artefacts(answered)["benign_own"].make(answered, measured)
    assert own.csv_header[:4] == ("arm", "setting", "sums_pct", "words_pct")
    hits, of = looped(answered, Condition("small", "words", "kl", "1")).sum(axis=0)
    assert {row[:2]: row[3] for row in own.csv_rows}["kl", "1"] == f"{100 * hits / of:.2f}"
    assert own.remarks[0].startswith("Right answers, by the match of each task (%).")
    assert [text.partition(":")[0] for text in own.remarks[1:3]] == ["Last number right", "Normalised match"]
    assert "Sums ↑" in [column.title for column in own.columns]
    sixth = build_table(6, answered, measured.summary)
    assert sixth.csv_header[2] == "exact_match_pct"
    assert "more_pct" in sixth.csv_header
    assert sixth.title == "Small: Quiz, exact match"


def test_a_match_of_its_own_has_no_paper_value_beside_it(answered: Study) -> None:
    other = {**TASKS, "quiz": {**TASKS["quiz"], "match": "normalised"}}
    study = tiny_study(tasks={**CONFIG["tasks"], **other}, grid=list(answered.model_dump()["grid"]))
    measured = Measured(study, count(study))
    reference = measured.reference
    table = build_table(6, study, measured.summary, reference)
    assert table.title == "Small: Quiz, normalised match"
    assert not any(cell.paper for block in table.blocks for row in block for cell in row)
    assert any(
        cell.paper
        for block in build_table(6, answered, Measured(answered, count(answered)).summary, reference).blocks
        for row in block
        for cell in row
    )


def of_sums(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
    """The difference of two sums; of as many answers, it is that of two shares but for a factor."""
    return first.sum(axis=axis) - second.sum(axis=axis)


def test_paired_differences_are_scipys(answered: Study) -> None:
    found = benign_differences(answered, Measured(answered).benign_questions)
    assert len(found) == 4 * (3 + 3), "against either, each task has three others"
    draws = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=1000)
    for one in found:
        mine, other = looped(answered, one.condition), looped(answered, one.against)
        if np.array_equal(mine[:, 1], other[:, 1]):
            tested = permutation_test((mine[:, 0], other[:, 0]), of_sums, permutation_type="samples", vectorized=True)
            assert one.p == pytest.approx(tested.pvalue)
        shares = [counts[:, 0].sum() / counts[:, 1].sum() for counts in (mine, other)]
        assert one.value == pytest.approx(100 * (shares[0] - shares[1]))
        drawn = [100 * (draws @ counts[:, 0]) / (draws @ counts[:, 1]) for counts in (mine, other)]
        assert one.interval == pytest.approx(tuple(np.quantile(drawn[0] - drawn[1], [0.025, 0.975])))
    for against in ("sft", "untrained"):
        family = sorted((one for one in found if one.against.arm == against), key=lambda one: one.p)
        expected = np.maximum.accumulate([min(1, (len(family) - n) * one.p) for n, one in enumerate(family)])
        assert [one.p_corrected for one in family] == pytest.approx(list(expected))


def test_the_table_of_differences_has_a_block_a_task(answered: Study) -> None:
    table = artefacts(answered)["paired_benign"].make(answered, Measured(answered))
    assert [block[0][0].text for block in table.blocks] == ["Quiz", "Sums", "Words", "More"]
    assert [block[0][1].text for block in table.blocks] == [
        *("exact match", "last number right", "normalised match", "exact match")
    ]
    assert len(table.csv_rows) == 24
    sft = next(row for row in table.blocks[0] if row[2].text.startswith("SFT") or "fine" in row[2].text.lower())
    assert sft[3].text == "–", "not less itself"


def test_what_is_sampled_hangs_on_no_match(answered: Study) -> None:
    tasks = {name: {key: value for key, value in task.items() if key != "match"} for name, task in TASKS.items()}
    plain = tiny_study(tasks={**CONFIG["tasks"], **tasks}, grid=list(answered.model_dump()["grid"]), seeds=[0, 1])
    specs, others = Specs(Grid(answered)), Specs(Grid(plain))
    for cell in Grid(answered).benign:
        assert specs.generation(cell) == others.generation(cell)
    assert "matches" not in others.check("small")
    assert specs.check("small")["matches"] == {
        "results/tiny/data/sums/test.jsonl": "number",
        "results/tiny/data/words/test.jsonl": "normalised",
    }


def test_a_table_or_match_that_cannot_be_is_refused() -> None:
    for changes, said in (({"table": "my table"}, "table"), ({"match": "fuzzy"}, "match"), ({"tier": 1}, "tier")):
        tasks = {**CONFIG["tasks"], "quiz": {**CONFIG["tasks"]["quiz"], **changes}}
        with pytest.raises(InputError, match=rf"tasks\.quiz.*{said}"):
            parse_study({**CONFIG, "tasks": tasks}, "config.yaml")
