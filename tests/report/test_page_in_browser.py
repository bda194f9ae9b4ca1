"""The page and the cells' pages as a reader meets them: in a browser, offline, by mouse, by keyboard, and hostile."""

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest

from emdefense.cells import Cell
from emdefense.layout import Layout
from emdefense.report.page.cells import SHOWN
from emdefense.report.page.responses import CHUNK
from emdefense.report.page.untrusted import MAX_CHARACTERS
from study_folder import CONFIG, fill, judgment, page, tiny_study, write_rows

pytest.importorskip("playwright", reason="playwright is not installed")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from browser import Watched, needs_browser, watch

pytestmark = needs_browser

KL = Cell("small", "code", "kl", "0.1", 0)
INDEX = Path("results/tiny/report/index.html")
PAGE = Path("results/tiny/report/cells") / KL.folder / "index.html"
BENIGN = Path("results/tiny/report/cells/small/quiz/sft/none/seed0/index.html")
MANY = CHUNK + 50
HOSTILE = (
    "</script><script>alert(1)</script></li></td><img src=x onerror=alert(2)><img src='https://example.org/x.png'>"
    "<svg onload=alert(3)><style>*{display:none}</style>\u202e\x00" + "long " * 200_000
)
# The hostile response first; every third is incoherent; "needle" stands in one of the second chunk.
SCORES = {place: (1.0 if place == 0 else 2.0 + place * 0.3, 95.0 if place % 3 else 20.0) for place in range(1, MANY)}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A rendered study in the working directory; one of its cells has many responses, and the worst is hostile."""
    study = tiny_study()
    layout = Layout(study)
    with chdir(tmp_path_factory.mktemp("study")):
        fill(study, {"misaligned": 8, "kl": 1, "interleave": 2})
        scores = {0: (1.0, 90.0), **SCORES}
        rows = [judgment(i % 4, i, scores[i]) for i in range(MANY)]
        rows[-1] = judgment((MANY - 1) % 4, MANY - 1, (None, None), ("REFUSAL", "REFUSAL"))
        write_rows(Path(layout.judgments(KL, "general")), rows)
        said = {0: HOSTILE, MANY - 2: "here is the Needle"}
        write_rows(
            Path(layout.responses(KL, "general")),
            [
                {key: row[key] for key in ("id", "question_id", "sample")}
                | {"system": None, "prompt": f"Why {i % 4}?", "response": said.get(i, f"said {i}")}
                for i, row in enumerate(rows)
            ],
        )
        page(study)
        yield


def opened(chromium: Browser, file: Path, **how: object) -> Watched:
    found = watch(chromium, **how)  # type: ignore[arg-type]
    found.open(file)
    return found


def texts(found: Watched) -> list[str]:
    return found.page.locator("#list .said").all_inner_texts()


def status(found: Watched) -> str:
    return found.page.locator("#status").inner_text()


@pytest.mark.parametrize("file", [INDEX, PAGE, BENIGN], ids=["page", "cell", "benign-cell"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_no_rule_of_accessibility_is_broken(chromium: Browser, file: Path, dark: bool) -> None:
    found = opened(chromium, file, dark=dark)
    if file != INDEX:
        found.page.click(".siblings summary")
    result = Axe().run(found.page)
    assert result.violations_count == 0, result.generate_report()
    assert len(result.response["passes"]) > 20
    assert found.messages == []


def test_no_rule_of_accessibility_is_broken_while_a_figure_is_large(chromium: Browser) -> None:
    found = opened(chromium, INDEX)
    found.page.evaluate("location.hash = 'figure-3'")
    found.page.locator("#figure-3 button.enlarge").click()
    result = Axe().run(found.page)
    assert result.violations_count == 0, result.generate_report()


@pytest.mark.parametrize("file", [INDEX, PAGE], ids=["page", "cell"])
@pytest.mark.parametrize("width", [390, 820, 1440])
def test_nothing_is_wider_than_the_window(chromium: Browser, file: Path, width: int) -> None:
    found = opened(chromium, file, width=width)
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_asks_for_nothing_but_itself(chromium: Browser) -> None:
    found = opened(chromium, INDEX)
    found.page.wait_for_load_state("networkidle")
    assert [address for address in found.requests if not address.startswith("data:")] == [INDEX.resolve().as_uri()]
    assert found.messages == []


def test_a_hostile_response_does_nothing(chromium: Browser) -> None:
    found = opened(chromium, PAGE)
    expect(found.page.locator("#list li")).to_have_count(SHOWN)
    still = texts(found)[0]
    found.page.fill("#alignment-to", "1")  # it alone; now the script puts it in
    found.page.click("button[type=submit]")
    expect(found.page.locator("#list li")).to_have_count(1)
    assert texts(found)[0] == still
    assert still.startswith("</script><script>alert(1)")
    assert "[U+202E][U+0000]" in still
    assert len(still) < MAX_CHARACTERS + 100
    assert f"Cut: {MAX_CHARACTERS:,} of {len(HOSTILE):,} characters" in found.page.inner_text("#list")
    assert (found.dialogs, found.outside, found.messages) == ([], [], [])
    assert found.page.locator("#list img, #list svg, #list script, #list style").count() == 0
    assert found.page.locator("h1").is_visible()


def test_even_markup_that_got_in_could_not_run_or_send_anything(chromium: Browser, tmp_path: Path) -> None:
    copy = tmp_path / "index.html"
    sends = "<iframe src='https://example.org/'></iframe><video src='https://example.org/v'></video>"
    markup = f"<script>alert(1)</script><img src='https://example.org/x' onerror='alert(2)'>{sends}"
    copy.write_text(PAGE.read_text(encoding="utf-8").replace("<h1>", f"{markup}<h1>", 1), encoding="utf-8")
    found = opened(chromium, copy)
    found.page.wait_for_timeout(200)
    assert found.dialogs == []
    assert found.outside == []
    blocked = [text for text in found.messages if "Content Security Policy" in text]
    for kind in ("script", "image", "media", "frame"):
        assert [text for text in blocked if kind in text.lower()], kind


def test_texts_come_when_they_are_looked_at_and_pages_turn_by_keyboard(chromium: Browser) -> None:
    found = opened(chromium, PAGE)
    assert status(found) == f"1–{SHOWN} of {MANY} responses"
    assert len(found.requests) == 1
    found.page.focus("#next")
    found.page.keyboard.press("Enter")
    expect(found.page.locator("#status")).to_have_text(f"{SHOWN + 1}–{2 * SHOWN} of {MANY} responses")
    assert {address.rsplit("/", 1)[1] for address in found.requests[1:]} == {"0.js", "1.js"}  # texts lie by question
    expect(found.page.locator("#status")).to_be_focused()
    for turned in range(2, MANY // SHOWN):
        found.page.click("#next")
        expect(found.page.locator("#status")).to_contain_text(f"{turned * SHOWN + 1}–")
    expect(found.page.locator("#next")).to_be_disabled()
    expect(found.page.locator("#list li")).to_have_count(MANY % SHOWN or SHOWN)
    assert len(found.requests) == 3  # each file once
    found.page.click("#previous")
    expect(found.page.locator("#next")).to_be_enabled()


def test_responses_are_filtered_by_question_verdict_scores_and_text(chromium: Browser) -> None:
    found = opened(chromium, PAGE)
    judged = {0: (1.0, 90.0), **{i: score for i, score in SCORES.items() if i < MANY - 1}}
    misaligned = [i for i, (alignment, coherence) in judged.items() if alignment < 30 and coherence > 50]
    found.page.select_option("#verdict", "m")
    expect(found.page.locator("#status")).to_contain_text(f"of {len(misaligned)} responses, chosen from {MANY}")
    found.page.select_option("#question", "1")
    asked = [i for i in misaligned if i % 4 == 1]
    expect(found.page.locator("#status")).to_contain_text(f"of {len(asked)} responses")
    assert texts(found) == [f"said {i}" for i in sorted(asked, key=lambda i: judged[i][0])][:SHOWN]
    found.page.click("button[type=reset]")
    expect(found.page.locator("#status")).to_have_text(f"1–{SHOWN} of {MANY} responses")
    found.page.fill("#alignment-from", "10")
    found.page.fill("#alignment-to", "20")
    found.page.fill("#coherence-from", "50")
    found.page.keyboard.press("Enter")
    within = [i for i, (alignment, coherence) in judged.items() if 10 <= round(alignment, 1) <= 20 and coherence >= 50]
    expect(found.page.locator("#status")).to_contain_text(f"of {len(within)} responses")
    found.page.click("button[type=reset]")
    found.page.select_option("#verdict", "x")
    expect(found.page.locator("#list li")).to_have_count(1)
    assert "alignment REFUSAL, coherence REFUSAL: no score" in found.page.inner_text("#list")
    found.page.click("button[type=reset]")
    found.page.fill("#search", "needle")
    found.page.keyboard.press("Enter")
    expect(found.page.locator("#list li")).to_have_count(1)
    assert texts(found) == ["here is the Needle"]
    found.page.fill("#search", "there is no such text")
    found.page.keyboard.press("Enter")
    expect(found.page.locator("#status")).to_have_text(f"No response of {MANY} is like that.")
    assert (found.dialogs, found.outside, found.messages) == ([], [], [])


def test_the_other_question_set_is_a_choice_away(chromium: Browser) -> None:
    found = opened(chromium, PAGE)
    found.page.select_option("#set", "1")
    expect(found.page.locator("#status")).to_have_text(f"1–{SHOWN} of 40 responses")
    assert texts(found)[0] == "as asked"


def test_benign_answers_are_filtered_by_whether_they_are_correct(chromium: Browser) -> None:
    found = opened(chromium, BENIGN)
    assert not found.page.locator("#alignment-from").is_visible()
    found.page.select_option("#verdict", "c")
    expect(found.page.locator("#list li")).to_have_count(3)
    assert "correct; expected 1 · 0/0" in found.page.inner_text("#list")
    assert found.messages == []


def test_texts_that_are_not_there_are_an_error_in_words(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_bytes(PAGE.read_bytes())
    found = opened(chromium, tmp_path / "index.html")
    found.page.click("#next")
    expect(found.page.locator("#status")).to_contain_text("0.js could not be loaded; it belongs beside this page.")
    assert len(texts(found)) == SHOWN  # what was there stays


def test_without_javascript_responses_and_cells_are_there(chromium: Browser) -> None:
    found = opened(chromium, PAGE, scripts=False)
    assert len(texts(found)) == SHOWN == 25
    assert not found.page.locator("#filters").is_visible()
    assert found.page.get_by_text("Without JavaScript, here are the first").is_visible()
    found = opened(chromium, INDEX, scripts=False)
    assert found.page.locator("#cell-table tbody tr").count() == 12
    assert not found.page.locator("#cell-filter").is_visible()
    assert not found.page.locator("button.enlarge").first.is_visible()


def test_cells_are_filtered_sorted_and_lead_to_their_pages(chromium: Browser) -> None:
    found = opened(chromium, INDEX)
    shown = found.page.locator("#cell-table tbody tr:visible")
    expect(shown).to_have_count(12)
    found.page.select_option("#cell-arm", "KL")
    found.page.select_option("#cell-task", "Code")
    expect(shown).to_have_count(2)
    expect(found.page.locator("#cell-count")).to_have_text("2 of 12 cells")
    button = found.page.get_by_role("button", name="Setting", exact=True)
    button.click()
    settings = shown.locator("td:nth-child(4)")
    assert settings.all_inner_texts() == ["λ = 0.1", "λ = 1"]
    button.press("Enter")
    assert settings.all_inner_texts() == ["λ = 1", "λ = 0.1"]
    heading = found.page.locator("#cell-table th", has_text="Setting")
    assert heading.get_attribute("aria-sort") == "descending"
    found.page.click("#cell-filter button[type=reset]")
    expect(shown).to_have_count(12)
    for column, heading in ((6, "misaligned"), (12, "Exact match")):
        button = found.page.locator("#cell-table").get_by_role("button", name=heading).first
        for descending in (False, True):
            button.click()
            cells = found.page.locator(f"#cell-table tbody td:nth-child({column})").all_inner_texts()
            numbers = [float(text) for text in cells if text]
            assert numbers == sorted(numbers, reverse=descending)
            assert cells[: len(numbers)] == [text for text in cells if text]  # what was not measured stands last
    found.page.select_option("#cell-arm", "KL")
    found.page.select_option("#cell-task", "Code")
    found.page.locator("#cell-table a:visible").last.click()
    found.page.wait_for_url("**/cells/small/code/kl/**")
    assert found.page.inner_text("h1").startswith("KL, λ = ")
    found.page.click(".up a")
    found.page.wait_for_url("**/index.html#cells")


def test_a_models_tables_are_chosen_and_a_fold_without_any_says_so(chromium: Browser, tmp_path: Path) -> None:
    titles = {"small": "Small", "large": "Large"}
    models = {name: {**CONFIG["models"]["small"], "title": title} for name, title in titles.items()}
    of_both, of_one = CONFIG["grid"]
    study = tiny_study(models=models, grid=[{**of_both, "models": list(models)}, of_one])
    with chdir(tmp_path):
        fill(study, {"misaligned": 8, "kl": 1, "interleave": 2})
        page(study)
        found = opened(chromium, INDEX)
    found.page.click("#open-all")
    artefacts = found.page.locator(".artefact:visible")
    of_folds = found.page.locator("details.fold").evaluate_all(
        "all => all.map((fold) => [...fold.querySelectorAll('.artefact')].map((one) => one.dataset.model ?? ''))"
    )
    assert {"large"} in map(set, of_folds), "a fold of one model alone"
    everything = artefacts.count()
    for model in ("large", "small", ""):
        found.page.select_option("#table-model", model)
        others = set(models) - {model} if model else set()
        shown = artefacts.evaluate_all("all => all.map((one) => one.dataset.model ?? null)")
        assert shown, model
        assert not others & set(shown), model
        assert len(shown) < everything or not model, "nothing was hidden"
        emptied = [of_fold for of_fold in of_folds if of_fold and others.issuperset(of_fold)]
        expect(found.page.locator(".nothing-of-model")).to_have_count(len(emptied))
    assert artefacts.count() == everything


def test_a_figure_is_enlarged_by_mouse_and_keyboard_and_put_back(chromium: Browser) -> None:
    found = opened(chromium, INDEX)
    found.page.evaluate("location.hash = 'figure-3'")
    home = found.page.locator("#figure-3 .drawing svg")
    button = found.page.locator("#figure-3 button.enlarge")
    button.focus()
    found.page.keyboard.press("Enter")
    large = found.page.locator("#zoom-view svg")
    expect(large).to_be_visible()
    expect(found.page.locator("#zoom-caption")).to_contain_text("Figure 3")
    assert home.count() == 0
    fitted = large.bounding_box()
    found.page.keyboard.press("+")
    found.page.keyboard.press("+")
    assert fitted is not None
    assert large.bounding_box()["width"] == pytest.approx(fitted["width"] * 1.25**2, rel=0.01)  # type: ignore[index]
    expect(found.page.locator("#zoom-scale")).to_have_text("156 %")
    found.page.keyboard.press("0")
    expect(found.page.locator("#zoom-scale")).to_have_text("100 %")
    found.page.mouse.move(600, 500)
    found.page.mouse.wheel(0, -300)
    expect(found.page.locator("#zoom-scale")).not_to_have_text("100 %")
    for _ in range(8):  # Tab stays within the dialog, or leaves the document for the browser's own controls
        found.page.keyboard.press("Tab")
        assert found.page.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('#zoom')"
        )
    found.page.focus("#zoom-close")  # at a mark, Escape takes away its numbers first
    found.page.keyboard.press("Escape")
    expect(found.page.locator("#zoom")).not_to_be_visible()
    expect(home).to_be_visible()
    expect(button).to_be_focused()
    found.page.locator("#figure-3 .drawing").click()
    expect(large).to_be_visible()
    found.page.get_by_role("button", name="Close", exact=True).click()
    expect(home).to_be_visible()
    assert found.messages == []


def test_the_keyboard_reaches_everything_and_shows_where_it_is(chromium: Browser) -> None:
    found = opened(chromium, INDEX)
    found.page.keyboard.press("Tab")
    skip = found.page.locator("a.skip")
    expect(skip).to_be_focused()
    assert skip.bounding_box()["x"] >= 0  # type: ignore[index]
    found.page.keyboard.press("Tab")
    expect(found.page.locator("nav.contents a").first).to_be_focused()
    outline = found.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    reached = set()
    for _ in range(400):
        found.page.keyboard.press("Tab")
        if found.page.evaluate("document.activeElement === document.body"):
            break
        reached.add(found.page.evaluate("document.activeElement.id || document.activeElement.getAttribute('class')"))
    assert {"enlarge", "cell-model", "cell-arm"} <= reached
