"""Figures on the page as a reader meets them: numbers by pointer, keys and finger, links, arms on and off."""

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest

from study_folder import fill, page, tiny_study

pytest.importorskip("playwright", reason="playwright is not installed")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from browser import Watched, needs_browser, watch

pytestmark = needs_browser

INDEX = Path("results/tiny/report/index.html")
TRADEOFF, SWEEP, LEAGUE, QUESTIONS = (
    f"#figure-{name}" for name in ("tradeoff", "3", "league-chart", "question-heatmap")
)
# Where the mark that says some lines is on the screen.
FIND = """async ([figure, says]) => {
  for (const group of document.querySelectorAll(`${figure} [data-alive]`)) {
    const points = JSON.parse(group.dataset.alive).points ?? [];
    const place = points.findIndex((point) => says.every((line) => point.says.some((said) => said.includes(line))));
    if (place < 0) continue;
    const mark = group.querySelectorAll("use")[place];
    mark.scrollIntoView({ block: "center" });
    for (let frame = 0; frame < 2; frame += 1) await new Promise(requestAnimationFrame); // it has scrolled
    const box = mark.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  }
}"""
ON_CODE = ("Interleaving, 5 %", "Code")  # 2 of 10 at each question, and 8 without a defence
NUMBERS = ["EMA reduction 75.0 % (75.0 to 75.0)", "in-domain retention 25.0 % (25.0 to 25.0)"]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A rendered study in the working directory."""
    study = tiny_study()
    with chdir(tmp_path_factory.mktemp("study")):
        fill(study, {"misaligned": 8, "kl": 1, "interleave": 2})
        page(study)
        yield


def opened(chromium: Browser, **how: object) -> Watched:
    found = watch(chromium, **how)  # type: ignore[arg-type]
    found.open(INDEX)
    found.page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    return found


def place(found: Watched, figure: str, *says: str) -> tuple[float, float]:
    x, y = found.page.evaluate(FIND, [figure, list(says)])
    return x, y


def hover(found: Watched, figure: str, *says: str, beside: int = 0) -> tuple[float, float]:
    x, y = place(found, figure, *says)
    found.page.mouse.move(x + beside, y)
    return x + beside, y


def said(found: Watched) -> list[str]:
    return found.page.locator(".tip.on > *").all_inner_texts()


def test_a_mark_says_its_numbers_and_leads_to_its_cell(chromium: Browser) -> None:
    found = opened(chromium)
    x, y = hover(found, TRADEOFF, *ON_CODE, beside=-9)  # near is enough
    assert said(found) == [*ON_CODE, *NUMBERS, "Click: the cell’s page"]
    found.page.mouse.move(x - 60, y - 3)
    expect(found.page.locator(".tip.on")).to_have_count(0)
    hover(found, TRADEOFF, *ON_CODE)
    found.page.mouse.click(*place(found, TRADEOFF, *ON_CODE))
    found.page.wait_for_url("**/cells/small/code/interleave/5/seed0/index.html")
    assert found.page.inner_text("h1") == "Interleaving, 5 %"
    assert (found.messages, found.outside) == ([], [])


def test_a_mark_of_several_tasks_leads_to_responses_beside_the_misaligned_arms(chromium: Browser) -> None:
    found = opened(chromium)
    for figure, line in ((TRADEOFF, "Mean over 2 tasks"), (LEAGUE, "EMA reduction")):
        hover(found, figure, "Interleaving, 5 %", line)
        assert said(found)[-1] == "Click: responses beside the misaligned arm’s"
        found.page.mouse.click(*place(found, figure, "Interleaving, 5 %", line))
        found.page.wait_for_url("**/cells/responses.html#**")
        expect(found.page.locator("#grid thead a")).to_have_text(["Misaligned", "Interleaving, 5 %"])
        found.page.go_back()


def test_sweeps_say_rates_with_what_they_are_of(chromium: Browser) -> None:
    found = opened(chromium)
    hover(found, SWEEP, "Misaligned", "Legal", "general misaligned")
    assert said(found)[:3] == ["Misaligned", "Legal", "general misaligned 80.0 % (80.0 to 80.0), 32 of 40"]
    found.page.mouse.click(*place(found, SWEEP, "Misaligned", "Legal", "general misaligned"))
    found.page.wait_for_url("**/cells/small/legal/misaligned/none/seed0/index.html")


def test_keys_walk_from_mark_to_mark_and_follow_their_links(chromium: Browser) -> None:
    found = opened(chromium)
    cursor = found.page.locator(f"{TRADEOFF} a.cursor")
    assert cursor.count() == 1  # one stop of the Tab key
    cursor.focus()
    first = said(found)
    assert first[0] == "KL, λ = 0.1"
    found.page.keyboard.press("ArrowRight")
    assert said(found)[0] == "KL, λ = 1"
    label = cursor.get_attribute("aria-label")
    assert label == ", ".join(said(found)[:-1])
    found.page.keyboard.press("ArrowLeft")
    assert said(found) == first
    found.page.keyboard.press("Escape")
    assert said(found) == []
    found.page.keyboard.press("ArrowDown")
    found.page.keyboard.press("Enter")
    found.page.wait_for_url("**/cells/responses.html#**arms=misaligned/none,kl/1")


def test_arms_are_switched_off_and_on(chromium: Browser) -> None:
    found = opened(chromium)
    figure = found.page.locator(TRADEOFF)
    switch = figure.get_by_role("button", name="KL", exact=True)
    assert switch.get_attribute("aria-pressed") == "true"
    groups = figure.locator('[data-alive*=\'"series":"KL"\']')
    shown = [group.is_visible() for group in groups.all()]
    assert shown.count(True) > 6
    switch.press("Enter")
    assert switch.get_attribute("aria-pressed") == "false"
    assert not any(group.is_visible() for group in groups.all())
    assert figure.locator('[data-alive*=\'"series":"Interleaving"\']').first.is_visible()
    hover(found, TRADEOFF, *ON_CODE)
    assert said(found)[0] == "Interleaving, 5 %"
    figure.locator("a.cursor").focus()
    assert said(found)[0] != "KL, λ = 0.1"  # keys pass by what is off
    figure.get_by_role("button", name="All", exact=True).click()
    assert [group.is_visible() for group in groups.all()] == shown
    figure.get_by_role("button", name="None", exact=True).click()
    assert not figure.locator("[data-alive]").first.is_visible()
    assert not figure.locator("a.cursor").is_visible()
    assert found.page.locator(f"{LEAGUE} [data-alive] use").first.is_visible()  # each figure has its own


def test_a_cell_of_the_heat_map_leads_to_its_question_in_two_arms(chromium: Browser) -> None:
    found = opened(chromium)
    image = found.page.locator(f"{QUESTIONS} image").first
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    assert box is not None
    # Four arms in columns, of which KL is the third; four questions in rows.
    x, y = box["x"] + box["width"] * 2.5 / 4, box["y"] + box["height"] * 1.5 / 4
    found.page.mouse.move(x, y)
    assert said(found) == ["KL, λ = 1", "Code: q1", "misaligned 10.0 %", "Click: its responses side by side"]
    found.page.mouse.click(x, y)
    found.page.wait_for_url("**/responses.html#model=small&task=code&seed=0&set=general&question=q1&**")
    expect(found.page.locator("#grid thead a")).to_have_text(["Misaligned", "KL, λ = 1"])
    expect(found.page.locator("#status")).to_contain_text("Question 2 of 4")
    found.page.go_back()
    found.page.locator(f"{QUESTIONS} a.cursor").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowUp"):
        found.page.keyboard.press(key)
    assert said(found)[:3] == ["Misaligned", "Code: q1", "misaligned 80.0 %"]


def test_beside_marks_a_click_still_enlarges_and_marks_stay_alive_there(chromium: Browser) -> None:
    found = opened(chromium)
    x, y = place(found, TRADEOFF, *ON_CODE)
    found.page.mouse.click(x - 60, y - 3)
    expect(found.page.locator("#zoom")).to_be_visible()
    hover(found, "#zoom-view", *ON_CODE)
    assert said(found)[:2] == list(ON_CODE)
    tip, dialog = (found.page.locator(one).bounding_box() for one in (".tip", "#zoom"))
    assert tip is not None
    assert dialog is not None
    assert found.page.locator("#zoom .tip").is_visible()  # nothing outside the dialog is above it
    found.page.keyboard.press("Escape")
    expect(found.page.locator("#zoom")).not_to_be_visible()


def test_a_fingers_first_tap_shows_the_numbers_and_the_next_follows_the_link(chromium: Browser) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 800}, has_touch=True, reduced_motion="reduce")
    tapped = context.new_page()
    tapped.goto(INDEX.resolve().as_uri())
    x, y = tapped.evaluate(FIND, [TRADEOFF, list(ON_CODE)])
    tapped.touchscreen.tap(x, y)
    expect(tapped.locator(".tip.on > b")).to_have_text("Interleaving, 5 %")
    assert tapped.url == INDEX.resolve().as_uri()
    box = tapped.locator(".tip").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    tapped.touchscreen.tap(x, y)
    tapped.wait_for_url("**/cells/small/code/**")
    context.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_rule_of_accessibility_is_broken_while_numbers_are_shown(chromium: Browser, width: int, dark: bool) -> None:
    found = opened(chromium, width=width, dark=dark)
    found.page.locator(f"{TRADEOFF} .switches button").first.click()
    found.page.locator(f"{TRADEOFF} a.cursor").focus()
    assert said(found)
    result = Axe().run(found.page)
    assert result.violations_count == 0, result.generate_report()
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_javascript_the_drawing_is_still_and_marks_have_titles(chromium: Browser) -> None:
    found = opened(chromium, scripts=False)
    assert found.page.locator(".switches, a.cursor").count() == 0
    titles = found.page.locator(f"{TRADEOFF} use > title").all_text_contents()
    assert "\n".join([*ON_CODE, *NUMBERS]) in titles
    assert found.page.locator(f"{TRADEOFF} .drawing").get_attribute("role") == "img"
