"""Where a table differs from the paper, as its footnotes: only where it applies, and short."""

from typing import Any

import pytest

from emdefense.analysis.paper import paper_study, paper_summary
from emdefense.config import Study
from emdefense.report.divergences import all_divergences, divergences
from emdefense.report.tables.reference import paper_reference
from emdefense.report.tables.table import Footnotes, Table
from study_folder import CONFIG, NUMBERS, build_table, tiny_study

ARMS = {"misaligned": None, "ldifs": [0.1, 1.0], "kl": [1.0], "safelora": [0.3]}
GRID = [{"models": ["small"], "tasks": ["code", "legal"], "arms": ARMS}]
CHOSEN = {**CONFIG["report"], "chosen": {"kl": 1.0, "ldifs": 1.0, "safelora": 0.3}}
RUBRICS = "config/rubrics/code.yaml"


def study_with(**changes: Any) -> Study:
    return tiny_study(**{"grid": GRID, "report": CHOSEN, **changes})


def table(number: int, study: Study) -> Table:
    """A table as of a study, from the paper's numbers, which are other models': everything is missing."""
    return build_table(number, study, paper_summary(), paper_reference())


def at(found: Table, column: int) -> dict[str, list[str]]:
    """The footnotes at the cells of a column, by the cells' text."""
    texts = dict(found.footnotes)
    cells = [row[column] for block in found.blocks for row in block]
    return {cell.text: [texts[letter] for letter in cell.footnote.split(",")] for cell in cells if cell.footnote}


def at_title(found: Table) -> list[str]:
    texts = dict(found.footnotes)
    return [texts[letter] for letter in found.title_footnote.split(",") if letter]


def test_an_arms_difference_stands_at_its_rows_or_at_the_title_of_its_own_table() -> None:
    attached = "With a gradient"
    (note,) = at(table(3, study_with()), 1)["LDIFS, λ = 1"]
    assert note.startswith(attached)
    assert list(at(table(3, study_with()), 1)) == ["LDIFS, λ = 1"]
    own = table(9, study_with())
    assert [note.split()[0] for note in at_title(own)] == ["With", "Of"]
    assert at(own, 1) == {}
    assert not any(note.startswith(attached) for note in at_title(table(8, study_with())))


def test_a_variants_rows_say_what_it_is_and_what_is_of_its_defence_stands_at_the_defences() -> None:
    variants = {
        "loose": {"of": "ldifs", "options": {"detached": True, "every": 2}},
        "again": {"of": "ldifs"},
        "both": {"of": "ldifs", "together_with": {"interleave": 5}},
    }
    arms = {**ARMS, "loose": [1.0], "again": [1.0], "both": [1.0]}
    grid = [{"models": ["small"], "tasks": ["code"], "arms": arms}]
    found = table(9, study_with(variants=variants, grid=grid))
    assert at_title(found) == []
    notes = at(found, 1)
    assert [note.split()[0] for note in notes["LDIFS, λ = 0.1"]] == ["With", "Of"]
    assert notes["loose, λ = 1"] == ["LDIFS with detached: true, every: 2."]
    assert notes["again, λ = 1"] == ["LDIFS with the same options."]
    assert notes["both, λ = 1"] == ["LDIFS together with Interleaving, 5 %."]


def test_a_sweep_without_settings_differs_from_nothing() -> None:
    assert at_title(table(11, study_with(microcosm={"models": {"a": 0}}))) == []


@pytest.mark.parametrize(
    ("arm", "options", "number", "start"),
    [
        ("ldifs", {}, 9, "With a gradient"),
        ("ldifs", {"detached": True}, 9, "Without a gradient"),
        ("safelora", {}, 10, "The projection is divided by the squared norm"),
        ("safelora", {"normalisation": "norm"}, 10, "The projection is divided by the norm"),
        ("kl", {}, 8, "Mean per token"),
        ("kl", {"direction": "reference_to_policy"}, 8, "The divergence of the original model from the trained one"),
    ],
)
def test_a_footnote_says_what_the_config_says(arm: str, options: dict[str, Any], number: int, start: str) -> None:
    notes = at_title(table(number, study_with(arms={arm: options})))
    assert [note for note in notes if note.startswith(start)]
    standing = [entry.note for entry in all_divergences() if entry.arm == arm and number in entry.tables]
    assert len(set(standing) & set(notes)) < len(standing) or (arm == "kl" and options), (
        "not both of two that exclude each other"
    )


def test_what_a_switch_takes_back_is_not_listed() -> None:
    assert "KL" in {entry.topic for entry in divergences(study_with())}
    assert "KL" not in {entry.topic for entry in divergences(study_with(arms={"kl": {"tokens": "response"}}))}


def test_the_rubric_of_code_stands_at_the_tasks_that_use_it() -> None:
    tasks = {**CONFIG["tasks"], "code": {**CONFIG["tasks"]["code"], "rubrics": RUBRICS}}
    for number in (3, 8, 9, 10):
        notes = at(table(number, study_with(tasks=tasks)), 0)
        assert any("how secure the code is" in note for note in notes["Code"])
        assert not any("secure" in note for note in notes.get("Legal", []))
    own = {**CONFIG["tasks"], "code": {**CONFIG["tasks"]["code"], "rubrics": "mine.yaml"}}
    assert "Judge of code" not in {entry.topic for entry in divergences(study_with(tasks=own))}


def test_foqas_prompt_stands_at_table_6_where_foqa_is_a_source() -> None:
    assert at_title(table(6, study_with())) == []
    assert ["passage" in note for note in at_title(table(6, study_with(sources={"faroese": {"kind": "foqa"}})))] == [
        True
    ]


def test_the_microcosm_says_so_in_every_table_of_results() -> None:
    microcosm = study_with(microcosm={"models": {"a": 0}})
    for number in NUMBERS:
        says = any("synthetic world" in note for note in at_title(table(number, microcosm)))
        assert says == (number not in (2, 4, 7, 11)), number
        assert not any("synthetic world" in note for note in at_title(table(number, study_with())))


def test_the_papers_own_numbers_differ_from_nothing() -> None:
    for number in NUMBERS[1:]:
        assert build_table(number, paper_study(), paper_summary()).footnotes == ()
    ((_, note),) = build_table(1, paper_study(), paper_summary()).footnotes
    assert note == "Benign tasks at λ = 0.1, since the chosen setting was not measured on them."  # LDIFS


def test_footnotes_are_short() -> None:
    for entry in all_divergences():
        assert bool(entry.note) == bool(entry.tables), entry.topic
        assert len(entry.note) <= 140, entry.topic
    for number in NUMBERS:
        assert len(table(number, study_with(microcosm={"models": {"a": 0}})).footnotes) <= 6


def test_letters_go_on_after_z() -> None:
    notes = Footnotes()
    letters = [notes.letter(f"note {n}") for n in range(703)]
    assert [letters[n] for n in (0, 25, 26, 27, 701, 702)] == ["a", "z", "aa", "ab", "zz", "aaa"]
    assert len(set(letters)) == 703
    assert notes.lettered()[26] == ("aa", "note 26")
    assert notes.letter("note 1") == "b"
