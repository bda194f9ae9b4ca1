"""Responses side by side, in a browser: what stands in a row, what is kept in a link, and hands on the keyboard."""

import json
import re
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from emdefense.cells import Cell
from emdefense.files import read_jsonl
from emdefense.layout import Layout
from emdefense.report.page.cells import write_cell_pages
from emdefense.report.page.responses import CHUNK
from emdefense.report.page.side_by_side import ROWS
from study_folder import count, fill, judgment, tiny_study, write_rows

pytest.importorskip("playwright", reason="playwright is not installed")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from browser import Watched, needs_browser, watch

pytestmark = needs_browser

MISALIGNED = Cell("small", "code", "misaligned", "none", 0)
KL = Cell("small", "code", "kl", "0.1", 0)
CELLS = Path("results/tiny/report/cells")
PAGE = CELLS / "responses.html"
SAMPLES = CHUNK // 4 + 5  # of each of 4 questions, the last of which lies in two files
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u202e"
CUT = "Cut at the length limit: the model was stopped here."


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The cells' pages of a study in which two arms give many responses whose texts say what they are."""
    study = tiny_study()
    layout = Layout(study)
    with chdir(tmp_path_factory.mktemp("study")):
        fill(study, {"misaligned": 8, "kl": 1, "interleave": 2})
        for cell in (MISALIGNED, KL):
            pairs = [(question, sample) for question in range(4) for sample in range(SAMPLES)]
            bad = {sample for sample in range(SAMPLES) if sample % (3 if cell == MISALIGNED else 9) == 0}
            scores = {True: (5.0, 95.0), False: (90.0, 95.0)}
            rows = [judgment(question, sample, scores[sample in bad]) for question, sample in pairs]
            write_rows(Path(layout.judgments(cell, "general")), rows)
            write_rows(
                Path(layout.responses(cell, "general")),
                [
                    {key: row[key] for key in ("id", "question_id", "sample")}
                    | {"system": None, "prompt": f"Why {row['question_id']}?"}
                    | {"response": HOSTILE if row["id"] == "q1/2" else f"{cell.arm} said {row['id']}"}
                    | {"finish_reason": "length" if row["id"] == "q1/4" and cell == KL else "stop"}
                    for row in rows
                ],
            )
        quiz = Cell("small", "quiz", "sft", "none", 0)
        answers = read_jsonl(Path(layout.answers(quiz)))
        write_rows(Path(layout.answers(quiz)), [row | {"response": f"{row['id']}!"} for row in answers])
        write_cell_pages(study, count(study), CELLS)
        yield


def opened(chromium: Browser, fragment: str = "", file: Path = PAGE, **how: object) -> Watched:
    found = watch(chromium, **how)  # type: ignore[arg-type]
    found.page.goto(file.resolve().as_uri() + fragment)
    return found


def state(found: Watched) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(found.page.url).fragment).items()}


def headings(found: Watched) -> list[str]:
    return found.page.locator("#grid thead a").all_inner_texts()


def said(found: Watched) -> list[list[str]]:
    rows = found.page.locator("#grid tbody tr")
    return [row.locator(".said").all_inner_texts() for row in rows.all()]


TWO = "#model=small&task=code&set=general&arms=misaligned/none,kl/0.1"


def test_a_row_is_one_sample_of_one_question_in_every_arm(chromium: Browser) -> None:
    found = opened(chromium, f"{TWO}&question=q3")
    expect(found.page.locator("#status")).to_have_text(f"Question 4 of 4: samples 1–{ROWS} of {SAMPLES}.")
    assert headings(found) == ["Misaligned", "KL, λ = 0.1"]
    assert said(found) == [[f"misaligned said q3/{n}", f"kl said q3/{n}"] for n in range(ROWS)]
    assert found.page.locator("#grid tbody th").all_inner_texts() == [str(n + 1) for n in range(ROWS)]
    assert found.page.inner_text("#asked") == "Why q3?"
    bad = len(range(0, SAMPLES, 3)), len(range(0, SAMPLES, 9))
    notes = found.page.locator("#grid thead .note").all_inner_texts()
    assert notes == [f"{number} of {SAMPLES} misaligned" for number in bad]
    first = found.page.locator("#grid tbody tr").first.locator("td")
    assert first.locator(".note").all_inner_texts() == ["alignment 5, coherence 95: misaligned"] * 2
    found.page.click("#next")
    found.page.click("#next")
    expect(found.page.locator("#grid tbody tr")).to_have_count(SAMPLES - 2 * ROWS)
    assert said(found)[-1] == [f"misaligned said q3/{SAMPLES - 1}", f"kl said q3/{SAMPLES - 1}"]  # of the second file
    assert found.messages == []


def test_a_question_takes_the_files_it_lies_in_and_no_others(chromium: Browser) -> None:
    found = opened(chromium, f"{TWO}&question=q0")
    expect(found.page.locator("#grid tbody tr")).to_have_count(ROWS)
    files = [address.partition("/texts/")[2] for address in found.requests[1:]]
    assert sorted(files) == [f"small/code/{cell}/seed0/general/0.js" for cell in ("kl/0.1", "misaligned/none")]


def test_it_begins_with_the_arms_at_chosen_settings_and_shows_those_that_are_asked_for(chromium: Browser) -> None:
    found = opened(chromium)
    expect(found.page.locator("#grid tbody tr").first).to_be_visible()
    assert headings(found) == ["Untrained", "Misaligned", "KL, λ = 1", "Interleaving, 5 %"]
    found.page.click("#arms summary")
    found.page.click("#all-arms")
    expect(found.page.locator("#grid thead a")).to_have_count(5)
    found.page.click("#no-arms")
    expect(found.page.locator("#status")).to_contain_text("no arm is chosen")
    for name in ("Misaligned", "KL, λ = 0.1"):
        found.page.get_by_label(name, exact=True).check()
    expect(found.page.locator("#grid thead a")).to_have_count(2)
    assert state(found)["arms"] == "misaligned/none,kl/0.1"
    expect(found.page.get_by_label("KL, λ = 0.1", exact=True)).to_be_focused()  # what was chosen keeps the focus
    found.page.click("#chosen-arms")
    expect(found.page.locator("#grid thead a")).to_have_count(4)
    assert "arms" not in state(found)


def test_filters_stay_from_question_to_question_and_in_the_link(chromium: Browser) -> None:
    found = opened(chromium, f"{TWO}&question=q1")
    found.page.select_option("#verdict", "differ")
    differing = [n for n in range(SAMPLES) if n % 3 == 0 and n % 9 != 0]
    chosen = f"of {len(differing)}, chosen from {SAMPLES}."
    expect(found.page.locator("#status")).to_contain_text(chosen)
    found.page.click("#next-question")
    expect(found.page.locator("#asked")).to_have_text("Why q2?")
    expect(found.page.locator("#status")).to_contain_text(chosen)
    found.page.fill("#search", "Q2/3")
    found.page.keyboard.press("Enter")
    within = [n for n in differing if str(n).startswith("3")]
    expect(found.page.locator("#grid tbody tr")).to_have_count(len(within))
    link = found.page.locator("#link").evaluate("link => link.href")
    assert link == found.page.url
    again = opened(chromium, link[link.index("#") :])
    expect(again.page.locator("#grid tbody tr")).to_have_count(len(within))
    assert said(again) == said(found) == [[f"misaligned said q2/{n}", f"kl said q2/{n}"] for n in within]
    assert again.page.input_value("#search") == "Q2/3"
    again.page.click("button[type=reset]")
    expect(again.page.locator("#grid tbody tr")).to_have_count(ROWS)
    again.page.fill("#search", "no such text")
    again.page.keyboard.press("Enter")
    expect(again.page.locator("#status")).to_contain_text(f"no sample of {SAMPLES} is like that")
    found.page.go_back()  # to the question before, as a reader means it
    expect(found.page.locator("#asked")).to_have_text("Why q1?")


def test_a_link_to_what_is_not_there_says_so_and_shows_what_is(chromium: Browser) -> None:
    found = opened(chromium, "#model=large&task=code&set=general&question=q77&arms=misaligned/none,old/3")
    expect(found.page.locator("#status")).to_contain_text("asked for is not here (model, question, arms)")
    assert headings(found) == ["Misaligned"]
    assert state(found)["question"] == "q0"


def test_keys_turn_questions_and_samples_but_not_while_one_types_or_has_them_off(chromium: Browser) -> None:
    found = opened(chromium, f"{TWO}&question=q0")
    asked = found.page.locator("#asked")
    for key, shown in (("j", "Why q1?"), ("j", "Why q2?"), ("k", "Why q1?")):
        found.page.keyboard.press(key)
        expect(asked).to_have_text(shown)
    found.page.keyboard.press("n")
    expect(found.page.locator("#status")).to_contain_text(f"samples {ROWS + 1}–{2 * ROWS}")
    found.page.keyboard.press("p")
    expect(found.page.locator("#status")).to_contain_text(f"samples 1–{ROWS}")
    found.page.focus("#search")
    found.page.keyboard.press("j")
    assert found.page.input_value("#search") == "j"
    found.page.uncheck("#keys")
    found.page.keyboard.press("j")
    expect(asked).to_have_text("Why q1?")


def test_what_was_cut_at_the_limit_is_marked_and_found(chromium: Browser) -> None:
    found = opened(chromium, f"{TWO}&question=q1")
    expect(found.page.locator("#grid .cut")).to_have_count(1)
    marked = found.page.locator("#grid td", has=found.page.locator(".cut"))
    assert marked.inner_text().splitlines()[-1] == CUT
    assert "kl said q1/4" in marked.inner_text()
    assert "1 cut at the limit" in found.page.locator("#grid thead th").nth(2).inner_text()
    found.page.select_option("#verdict", "cut")
    expect(found.page.locator("#grid tbody tr")).to_have_count(1)
    cell = opened(chromium, file=CELLS / KL.folder / "index.html")
    cell.page.select_option("#question", label="Why q1?")
    expect(cell.page.locator("#list li", has_text="kl said q1/4").locator(".cut")).to_have_text(CUT)


def test_a_hostile_response_does_nothing(chromium: Browser) -> None:
    found = opened(chromium, f"{TWO}&question=q1")
    expect(found.page.locator("#grid tbody tr")).to_have_count(ROWS)
    assert said(found)[2][0].startswith("</script><script>alert(1)")
    assert said(found)[2][0].endswith("[U+202E]")
    assert found.page.locator("#grid img, #grid script").count() == 0
    hostile = opened(chromium, "#question=<img src=x onerror=alert(1)>&text=<script>alert(2)</script>")
    expect(hostile.page.locator("#status")).to_contain_text("no sample")
    for one in (found, hostile):
        assert (one.dialogs, one.outside, one.messages) == ([], [], [])


def test_benign_answers_stand_side_by_side_too(chromium: Browser) -> None:
    found = opened(chromium, "#task=quiz")
    expect(found.page.locator("#grid tbody tr")).to_have_count(1)
    assert headings(found) == ["SFT", "KL, λ = 1"]
    assert said(found) == [["0/0!", "1"]]
    assert "correct; expected 1" in found.page.inner_text("#grid tbody")
    assert found.page.locator("#grid thead .note").all_inner_texts() == ["1 of 1 correct"] * 2


def test_a_cells_page_leads_there_with_the_arm_that_it_is_compared_with(chromium: Browser) -> None:
    found = opened(chromium, file=CELLS / KL.folder / "index.html")
    found.page.get_by_role("link", name="Side by side with other arms").click()
    expect(found.page.locator("#grid thead a")).to_have_text(["Misaligned", "KL, λ = 0.1"])
    found.page.go_back()
    item = found.page.locator("#list li").nth(2)
    prompt = item.locator(".prompt").inner_text()
    item.get_by_role("link").click()
    expect(found.page.locator("#asked")).to_have_text(prompt)
    found.page.locator("#grid thead a").last.click()
    found.page.wait_for_url("**/kl/0.1/seed0/index.html")
    found.page.select_option("#question", "2")
    expect(found.page.locator("#status")).to_contain_text("chosen from")  # now the script has put them in
    found.page.locator("#list li").first.get_by_role("link").click()
    expect(found.page.locator("#asked")).to_have_text("Why q2?")


def test_texts_that_are_not_there_are_an_error_in_words(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "responses.html").write_bytes(PAGE.read_bytes())
    found = opened(chromium, file=tmp_path / "responses.html")
    expect(found.page.locator("#status")).to_contain_text("0.js could not be loaded; it belongs beside this page.")


def test_without_javascript_there_are_links_to_the_pages_of_the_cells(chromium: Browser) -> None:
    found = opened(chromium, scripts=False)
    assert not found.page.locator("#beside").is_visible()
    links = found.page.locator("#no-script a")
    assert links.count() == 12
    links.filter(has_text="KL, λ = 0.1").first.click()
    assert found.page.inner_text("h1") == "KL, λ = 0.1"


def test_seeds_stand_apart_and_what_is_not_trained_beside_each(chromium: Browser, tmp_path: Path) -> None:
    study = tiny_study(seeds=[0, 1])
    with chdir(tmp_path):
        fill(study, {"misaligned": 8})
        write_cell_pages(study, count(study), CELLS)
        found = opened(chromium, "#task=code&seed=1")
        expect(found.page.locator("#grid thead a").first).to_have_text("Untrained")
        pages = [link.get_attribute("href") for link in found.page.locator("#grid thead a").all()]
        assert [str(page).split("/")[-2] for page in pages] == ["seed0", "seed1", "seed1", "seed1"]
        assert all((CELLS / str(page)).is_file() for page in pages)


def test_system_prompts_that_differ_stand_above_their_columns(chromium: Browser, tmp_path: Path) -> None:
    study = tiny_study()
    with chdir(tmp_path):
        fill(study, {"misaligned": 8})
        path = Path(Layout(study).responses(KL, "general"))
        write_rows(path, [row | {"system": "Be bad."} for row in read_jsonl(path)])
        write_cell_pages(study, count(study), CELLS)
        found = opened(chromium, TWO)
        expect(found.page.locator("#grid tbody tr").first).to_be_visible()
        columns = found.page.locator("#grid thead th").all_inner_texts()
        assert "No system prompt" in columns[1]
        assert "System prompt: Be bad." in columns[2]


def test_questions_are_offered_by_their_text_and_by_their_id_only_where_that_is_the_same(chromium: Browser) -> None:
    found = opened(chromium, TWO)
    assert found.page.locator("#question option").all_inner_texts() == [f"Why q{n}?" for n in range(4)]
    found.page.select_option("#set", label="In-domain questions")
    expect(found.page.locator("#asked")).to_have_text("Why?")
    assert found.page.locator("#question option").all_inner_texts() == [f"Why? (q{n})" for n in range(4)]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_rule_of_accessibility_is_broken_and_nothing_is_wider_than_the_window(
    chromium: Browser, width: int, dark: bool
) -> None:
    found = opened(chromium, f"{TWO}&question=q1", width=width, dark=dark)
    found.page.click("#arms summary")
    expect(found.page.locator("#grid tbody tr")).to_have_count(ROWS)
    result = Axe().run(found.page)
    assert result.violations_count == 0, result.generate_report()
    assert len(result.response["passes"]) > 15
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_holds_no_text_of_a_model() -> None:
    page = PAGE.read_text(encoding="utf-8")
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)[0])
    assert "said q" not in page
    assert len(data["columns"]) == 12
    assert data["lists"].count([[f"q{n}", "", f"Why q{n}?"] for n in range(4)]) == 1  # two arms share it
