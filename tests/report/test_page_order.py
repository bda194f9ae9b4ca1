"""The page's order in a browser: what is folded, the contents that stay in view, and tables that sort."""

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest

from study_folder import fill, page, tiny_study

pytest.importorskip("playwright", reason="playwright is not installed")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, expect

from browser import Watched, needs_browser, watch

pytestmark = needs_browser

INDEX = Path("results/tiny/report/index.html")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A rendered study in the working directory."""
    grid = [
        {"models": ["small"], "tasks": ["code", "legal"], "arms": {"untrained": None, "misaligned": None}},
        {"models": ["small"], "tasks": ["code", "legal"], "arms": {"kl": [0.1, 1.0], "interleave": [5, 20]}},
        {"models": ["small"], "tasks": ["quiz"], "arms": {"sft": None, "kl": [1.0]}},
    ]
    study = tiny_study(grid=grid)
    with chdir(tmp_path_factory.mktemp("study")):
        fill(study, {"misaligned": 8, "kl": 1, "interleave": 2}, questions=12, in_domain={"misaligned": 9, "kl": 3})
        page(study)
        yield


def opened(chromium: Browser, at: str = "", **how: object) -> Watched:
    found = watch(chromium, **how)  # type: ignore[arg-type]
    found.page.goto(INDEX.resolve().as_uri() + at)
    return found


def fold(found: Watched, name: str) -> Locator:
    return found.page.locator(f"details[aria-labelledby='{name}']")


def in_view(found: Watched, selector: str) -> bool:
    box = found.page.locator(selector).bounding_box()
    return box is not None and -1 <= box["y"] < 890


def test_a_link_to_what_is_folded_opens_it(chromium: Browser) -> None:
    found = opened(chromium)
    assert found.page.locator("details.fold[open]").count() == 0
    link = found.page.locator("nav.contents a[href='#tables']")
    for _ in range(2):  # the second time the address stays as it is
        link.click()
        expect(fold(found, "tables")).to_have_attribute("open", "")
        assert in_view(found, "#tables")
        found.page.locator("#tables").click()
        expect(fold(found, "tables")).not_to_have_attribute("open", "")
    for at, of in (("#table-3", "tables"), ("#figure-3", "arm-kl"), ("#table-11", "arm-interleave")):
        found = opened(chromium, at)
        expect(found.page.locator(at)).to_be_visible()
        assert in_view(found, at)
        assert [fold(found, of).get_attribute("open")] == [""]
        assert found.page.locator("details.fold[open]").count() == 1
    assert opened(chromium, "#%E0%A4%A").messages == []  # no address of ours, nor of anybody's


def test_all_folds_open_and_close_at_once(chromium: Browser) -> None:
    found = opened(chromium)
    every = found.page.locator("details.fold").count()
    assert every > 6
    found.page.click("#open-all")
    assert found.page.locator("details.fold[open]").count() == every
    found.page.locator("#close-all").press("Enter")
    assert found.page.locator("details.fold[open]").count() == 0


def test_without_scripts_a_link_opens_a_fold_as_well_and_so_does_a_click(chromium: Browser) -> None:
    found = opened(chromium, "#tables", scripts=False)
    expect(found.page.locator("#table-3")).to_be_visible()
    expect(found.page.locator("#table-8")).not_to_be_visible()
    found.page.locator("#arm-kl").click()
    expect(found.page.locator("#table-8")).to_be_visible()
    assert not found.page.locator("#open-all").is_visible()
    assert found.page.locator("th button").count() == 0


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "without"])
def test_a_print_has_everything_in_it(chromium: Browser, scripts: bool) -> None:
    found = opened(chromium, scripts=scripts)
    found.page.emulate_media(media="print")
    for name in ("table-3", "figure-3", "table-paired_differences"):
        box = found.page.locator(f"#{name}").bounding_box()
        assert box is not None, name
        assert box["height"] > 100, name
    expect(found.page.locator("nav.contents")).not_to_be_visible()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_contents_stay_in_view_and_say_where_one_is(chromium: Browser, width: int) -> None:
    found = opened(chromium, width=width)
    nav = found.page.locator("nav.contents")
    for name, part in (("expert", "For the expert"), ("verdicts", "What happened")):
        found.page.evaluate(f"document.getElementById('{name}').scrollIntoView()")
        expect(nav.locator("a[aria-current]").first).to_have_text(part)
        box = nav.bounding_box()
        assert box is not None
        assert box["y"] >= -1
        current = nav.locator("a[aria-current]").first.bounding_box()
        assert current is not None
        assert 0 <= current["x"] < width
        if width == 390:
            assert box["height"] < 60
            assert found.page.locator(f"#{name}").bounding_box()["y"] >= box["height"] - 1  # type: ignore[index]


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_no_rule_of_accessibility_is_broken_with_all_folds_open(chromium: Browser, width: int, dark: bool) -> None:
    found = opened(chromium, width=width, dark=dark)
    found.page.evaluate("document.querySelectorAll('details.fold').forEach((fold) => { fold.open = true; })")
    result = Axe().run(found.page)
    assert result.violations_count == 0, result.generate_report()
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width
    assert found.messages == []


def column(table: Locator, number: int) -> list[list[str]]:
    """The texts of a column, block by block."""
    bodies = table.locator("tbody")
    return [bodies.nth(n).locator(f"tr > :nth-last-child({number})").all_inner_texts() for n in range(bodies.count())]


def value(text: str) -> float:
    return float(text.split()[0].replace("−", "-"))


def test_numbers_below_zero_and_before_intervals_sort_as_numbers(chromium: Browser) -> None:
    found = opened(chromium, "#table-paired_differences")
    table = found.page.locator("#table-paired_differences table").first
    for place, from_end in ((-4, 4), (-3, 3)):  # points, and from where to where
        button = table.locator("thead tr:last-child th").nth(place).get_by_role("button")
        for descending in (False, True):
            button.click()
            blocks = [[value(text) for text in block] for block in column(table, from_end)]
            assert {len(block) for block in blocks} == {2}
            assert all(block[0] != block[1] and block[0] < 0 for block in blocks)
            assert blocks == [sorted(block, reverse=descending) for block in blocks]


def test_a_table_sorts_within_each_task_and_back_again(chromium: Browser) -> None:
    found = opened(chromium, "#table-3")
    table = found.page.locator("#table-3 table").first
    before = table.inner_text()
    heading = table.locator("thead tr:last-child th").last
    button = heading.get_by_role("button")
    for order in ("ascending", "descending"):
        button.press("Enter")
        assert heading.get_attribute("aria-sort") == order
        blocks = [[value(text) for text in block] for block in column(table, 1)]
        assert len(blocks) == 2
        assert blocks == [sorted(block, reverse=order == "descending") for block in blocks]
        for body in table.locator("tbody").all():
            assert body.locator("th[rowspan]").count() == 1, "the task still stands once, beside the first of its rows"
            assert body.locator("tr").first.locator("th").count() == 2
    button.click()
    assert heading.get_attribute("aria-sort") is None
    assert table.inner_text() == before


def test_what_was_not_measured_stands_last_and_text_sorts_by_itself(chromium: Browser) -> None:
    found = opened(chromium, "#table-paired_benign")
    table = found.page.locator("#cell-table")
    button = table.get_by_role("button", name="Exact match")
    for descending in (False, True):
        button.click()
        (texts,) = column(table, 1)
        there = [text for text in texts if text]
        assert texts[: len(there)] == there
        assert there == sorted(there, key=float, reverse=descending)
    table.get_by_role("button", name="Arm").click()
    (arms,) = ([text for text in table.locator("tbody td:nth-child(3)").all_inner_texts()],)
    assert arms == sorted(arms)
    assert table.locator("thead th[aria-sort]").count() == 1
