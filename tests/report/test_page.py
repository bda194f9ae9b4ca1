import re
from collections.abc import Iterator
from contextlib import chdir
from html.parser import HTMLParser
from pathlib import Path

import pytest

from emdefense.analysis.summary import read_summary
from emdefense.analysis.verdicts import Verdicts
from emdefense.cells import Cell, Grid
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.layout import Layout
from emdefense.report.divergences import divergences
from emdefense.report.figures.style import FORMATS
from emdefense.report.measured import Measured
from emdefense.report.page.assets import content_policy
from emdefense.report.page.cell_list import CellRow, cell_rows, read_numbers, unscored_table
from emdefense.report.page.findings import findings
from emdefense.report.page.index import write_page
from emdefense.report.page.untrusted import MAX_CHARACTERS, readable, script_json
from emdefense.report.published import write_paper_values
from emdefense.report.tables.reference import paper_reference
from emdefense.report.tables.rendering import html_table
from study_folder import CONFIG, SURE_OF_NONE, build_table, count, fill, judgment, page, tiny_study, write_rows

HOSTILE = "<script>alert(1)</script>"


class Tags(HTMLParser):
    """Collects tags, their ids, and every reference to something else."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.linked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in {"src", "href", "xlink:href"} and not str(value).startswith(("#", "data:")):
                (self.linked if tag == "a" else self.loaded).append(str(value))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of a study whose names are hostile, in the working directory."""
    study = tiny_study(models={"small": {"title": HOSTILE, "instruct": "-"}})
    with chdir(tmp_path_factory.mktemp("study")):
        fill(study, {"misaligned": 8, "kl": 1})
        yield page(study, FORMATS)


def test_the_page_is_self_contained_and_links_what_lies_beside_it(shown: str) -> None:
    found = Tags()
    found.feed(shown)
    assert found.loaded == []
    assert not re.search(r"url\((?!#)", shown)
    assert len(found.ids) == len(set(found.ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', shown)) <= set(found.ids)
    assert {number for number in range(1, 12) if f'id="table-{number}"' in shown} == {1, 3, 6, 7, 8, 11}
    figures = {path.stem for path in Path("results/tiny/figures").glob("*.svg")}
    without = {"figure_2a", "figure_2b", "figure_4", "figure_5", "training_curves"}  # one setting, none, no log
    assert without < figures
    assert found.tags.count("svg") == len(figures - without)
    assert 'id="table-model"' not in shown, "of one model there is nothing to choose"
    assert {f"cells/{cell.folder}/index.html" for cell in Grid(tiny_study()).cells} <= set(found.linked)
    assert [link for link in found.linked if not (Path("results/tiny/report") / link).is_file()] == []


def test_the_page_forbids_every_script_but_its_own(shown: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", shown, flags=re.DOTALL)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', shown)
    assert policy is not None
    assert policy[1].replace("&#39;", "'") == content_policy(script)
    assert content_policy(script) != content_policy(script + " ")
    assert "default-src 'none'" in content_policy(script)
    assert shown.index("Content-Security-Policy") < shown.index("<style>")


def test_names_of_a_study_are_text_and_not_markup(shown: str) -> None:
    assert HOSTILE not in shown
    assert "&lt;script&gt;alert(1)" in shown


def test_each_cell_stands_in_the_list_with_its_numbers(shown: str) -> None:
    rows = re.findall(r"<tr data-model.*?</tr>", shown)
    assert len(rows) == len(Grid(tiny_study()).cells)
    cells = [[text for text in re.split(r"<[^>]+>", row) if text][1:] for row in rows]
    assert ["Code", "Misaligned", "0", "80.0", "0.0", "80.0", "0.0", "80", "0"] in cells
    assert ["Code", "KL", "λ = 0.1", "0", "10.0", "0.0", "10.0", "0.0", "80", "0"] in cells
    assert ["Quiz", "SFT", "0", "75.0"] in cells
    assert "EMA did not appear here" not in shown
    assert "Every response has both scores." in shown
    assert [cell[1] for cell in cells if cell[0] == "Code"] == ["Untrained", "Misaligned", "KL", "KL", "Interleaving"]


def test_a_table_that_was_not_rendered_is_named(shown: str, tmp_path: Path) -> None:
    Path("results/tiny/tables/table_03.html").unlink()
    with pytest.raises(InputError, match=r"table_03\.html: there is no rendered table; render the tables first"):
        write_page(tiny_study(), Path("results/tiny"), tmp_path / "index.html")
    assert not (tmp_path / "index.html").exists()


def listed(study: Study) -> list[CellRow]:
    results = count(study)
    frames = results / "rates.parquet", results / "exact_match.parquet"
    verdicts = Verdicts.of(study, read_summary(*frames, results / "questions.parquet"))
    return cell_rows(study, *read_numbers(*frames), verdicts)


def test_cells_of_a_task_without_ema_are_flagged(in_tmp: Path) -> None:
    study = tiny_study(report=SURE_OF_NONE)
    fill(study, {"misaligned": 0}, in_domain={"misaligned": 8})
    none = "EMA did not appear here"
    assert {(row.cell.task, row.flag) for row in listed(study)} == {("code", none), ("legal", none), ("quiz", "")}
    fill(study, {"misaligned": 1}, in_domain={"misaligned": 8})
    assert {row.flag for row in listed(study)} == {"Whether EMA appeared here cannot be told", ""}


def test_three_seeds_have_a_line_each_and_the_untrained_model_one(in_tmp: Path) -> None:
    study = tiny_study(seeds=[0, 1, 2])
    fill(study, {"misaligned": 8})
    rows = listed(study)
    assert [row.cell.seed for row in rows if row.cell.arm == "misaligned"] == [0, 1, 2] * 2
    assert [row.rates[0] for row in rows if row.cell.arm == "misaligned"] == [80.0] * 6
    assert [row.cell.seed for row in rows if row.cell.arm == "untrained"] == [0] * 2


def test_benign_tasks_are_listed_after_the_others_whatever_their_names(in_tmp: Path) -> None:
    tasks = CONFIG["tasks"]
    study = tiny_study(tasks={name: tasks[name] for name in ("quiz", "legal", "code")})
    fill(study, {})
    assert list(dict.fromkeys(row.cell.task for row in listed(study))) == ["legal", "code", "quiz"]


def test_what_has_no_score_is_counted_by_reason(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {"misaligned": 8})
    path = Path(Layout(study).judgments(Cell("small", "code", "kl", "0.1", 0), "general"))
    labels: list[tuple[str | None, str | None]] = [("REFUSAL", None), ("CODE", "REFUSAL"), (None, None), (None, None)]
    write_rows(path, [judgment(0, i, (None, None), each) for i, each in enumerate(labels)])
    results = count(study)
    numbers, _ = read_numbers(results / "rates.parquet", results / "exact_match.parquet")
    table = unscored_table(study, numbers)
    assert table is not None
    # Four cells of KL with 40 responses to each of two question sets, but for 4 in the place of 40.
    assert table.csv_rows[2] == ("small", "kl", "284", "1", "1", "0", "0", "2", "1.41")
    assert ("small", "misaligned", "160", "0", "0", "0", "0", "0", "0.00") in table.csv_rows
    assert 'id="table-unscored"' in html_table(table)
    assert unscored_table(study, {key: row for key, row in numbers.items() if key[0].arm == "misaligned"}) is None


def test_what_cannot_be_seen_is_spelt_out_and_the_rest_stays() -> None:
    seen = "Ünïcode, 日本語, עברית, 🦀, \ttab\nnew line &<>\"'"
    assert readable(seen) == seen
    assert readable("a\u202eb\u200b\u2028\x1b[31m\ud800\r") == "a[U+202E]b[U+200B][U+2028][U+001B][31m[U+D800][U+000D]"
    assert readable("x" * 10**6, 5) == "xxxxx […]"
    assert len(readable("\u202e" * 10**6)) < 9 * MAX_CHARACTERS
    assert readable("a\u00a0b\u202e") == "a\u00a0b[U+202E]"  # a space that is no control, beside one that is


def test_json_in_a_script_ends_neither_the_script_nor_a_line() -> None:
    assert script_json(["</script>", "<!--", "\u2028\u2029"]) == (r'["\u003c/script>","\u003c!--","\u2028\u2029"]')


def test_verdicts_come_first_and_say_that_ema_appeared(shown: str) -> None:
    assert shown.index("emergent misalignment appeared") < shown.index('id="table-league"')
    said = "80.0 % of the answers to general questions are misaligned (mean over 2 tasks), against 0.0 % untrained"
    assert said.replace(" %", "\u00a0%") in shown  # a number and its unit stay on one line


def said(study: Study) -> str:
    results = count(study)
    found = findings(
        study, read_summary(*(results / f"{name}.parquet" for name in ("rates", "exact_match", "questions")))
    )
    return " ".join(f"{finding.headline} {finding.text}" for finding in found)


def test_a_defence_that_does_not_stop_ema_is_called_that(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {"misaligned": 8, "kl": 1, "interleave": 6}, questions=12)
    assert "Interleaving (5 %) does not stop EMA." in said(study)


def test_without_ema_the_page_says_that_defences_cannot_be_read(in_tmp: Path) -> None:
    study = tiny_study(report=SURE_OF_NONE)
    fill(study, {"misaligned": 0}, in_domain={"misaligned": 8})
    assert "emergent misalignment did not appear" in said(study)
    assert "stops EMA" not in said(study)


def test_an_arm_without_any_score_was_asked_all_the_same(in_tmp: Path) -> None:
    study = tiny_study()
    fill(study, {"misaligned": 8})
    for path in Path("results/tiny/cells/small").rglob("misaligned/none/seed0/general/judgments/*.jsonl"):
        write_rows(path, [judgment(q, s, (None, 90.0), ("REFUSAL", None)) for q in range(4) for s in range(10)])
    assert "not measured. None of the misaligned arm's 80 answers has a score." in said(study)


def test_divergences_of_rates_stand_only_where_there_is_a_judge() -> None:
    of_rates = {"In-domain misalignment", "Incoherence"}
    judged, unjudged = (
        {entry.topic for entry in divergences(tiny_study(microcosm={"models": {"a": 0}}, judge=judge))}
        for judge in ({"kind": "oracle"}, None)
    )
    assert of_rates <= judged
    assert not of_rates & unjudged
    assert "Models" in unjudged


def test_divergences_of_the_microcosm_stand_only_on_its_page() -> None:
    everywhere = {entry.topic for entry in divergences(tiny_study())}
    microcosm = {entry.topic for entry in divergences(tiny_study(microcosm={"models": {"a": 0}}))}
    assert {"KL", "Uncertainty"} <= everywhere
    assert not {"LDIFS", "SafeLoRA", "Lisa's blocks"} & everywhere  # arms that it does not have
    assert {"Judge", "Incoherence"} <= microcosm - everywhere


def test_paper_values_are_rendered_whole(tmp_path: Path) -> None:
    write_paper_values(tmp_path)
    # Of the second model the paper has Table 4, and so an overview, and settings of two defences.
    assert len(list((tmp_path / "tables").iterdir())) == (11 + 3) * 4
    assert len(list((tmp_path / "figures").iterdir())) == (5 + 1) * 3  # those of the paper, and the trade-off
    assert (tmp_path / "claims.md").is_file()
    assert (tmp_path / "claims.json").is_file()


def test_a_study_of_one_task_and_one_arm_shows_what_it_has(in_tmp: Path) -> None:
    tasks = {"mine": {"kind": "ema", "title": "Mine", "misaligned": "-"}}
    arms = {"untrained": None, "misaligned": None, "kl": [0.1]}
    study = tiny_study(
        models={"small": {"title": "My own", "instruct": "models/mine"}},
        tasks=tasks,
        grid=[{"models": ["small"], "tasks": ["mine"], "arms": arms}],
        report={"main_model": "small", "chosen": {"kl": 0.1}},
    )
    fill(study, {"misaligned": 8, "kl": 1}, questions=12)
    html = page(study)
    assert {number for number in range(1, 12) if f'id="table-{number}"' in html} == {1, 3, 7, 8}
    assert "figure-2a" not in html, "there is no course of one setting"
    assert len(list(Path("results/tiny/tables").glob("table_*.html"))) == 11, (
        "files have the paper's names all the same"
    )
    assert 'class="paper">(' not in html
    assert "the paper's rate for" not in html
    rows = re.findall(r"<tr>.*?</tr>", html[html.index('id="table-3"') :].partition("</figure>")[0])
    assert [row.count("<td") for row in rows[2:]] == [4] * 3  # untrained, misaligned, KL


def test_the_papers_values_stand_in_brackets_only_if_a_model_stands_for_the_papers(in_tmp: Path) -> None:
    def table(number: int, **model: str) -> str:
        models = {"small": {"title": "Small", "instruct": "-", **model}}
        study = tiny_study(models=models, training={"epochs": 3})
        fill(study, {"misaligned": 8, "kl": 1})
        return html_table(build_table(number, study, Measured(study, count(study)).summary, paper_reference()))

    assert 'class="paper">(' in table(3, paper_model="7b")
    assert 'class="paper">(' in table(3, paper_model="32b")
    assert table(3, paper_model="7b") != table(3, paper_model="32b")
    assert 'class="paper">(' not in table(3)
    assert 'class="paper">(' in table(6, paper_model="7b")
    assert 'class="paper">(' not in table(6, paper_model="32b"), "the paper has it of one model"
    assert 'class="paper">(' not in table(6) + table(7) + table(8)
    assert 'class="paper">(' in table(7, paper_model="7b")


def test_only_what_a_judge_says_has_a_footnote_on_the_judge(in_tmp: Path) -> None:
    microcosm = {"models": {"small": 0}}
    models = {"small": {"title": "Small", "instruct": "-", "paper_model": "7b"}}
    notes = {}
    for judge in ({"kind": "oracle"}, None, {"kind": "openai", "name": "gpt", "model": "m"}):
        study = tiny_study(microcosm=microcosm, models=models, judge=judge)
        of_tables = [[one.note.lower() for one in divergences(study) if number in one.tables] for number in (3, 6)]
        notes[None if judge is None else judge["kind"]] = [any("oracle" in note for note in one) for one in of_tables]
    assert notes == {"oracle": [True, False], None: [False, False], "openai": [False, False]}
