"""The comparison's page in a browser: accessible, no wider than the window, and asking for nothing."""

from contextlib import chdir
from pathlib import Path

import pytest

from emdefense.comparison.page import write_comparison
from emdefense.finished import read_several
from finished_studies import OTHER_JUDGE, finished

pytest.importorskip("playwright", reason="playwright is not installed")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from browser import needs_browser, watch

pytestmark = needs_browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of three studies, one of which has another judge."""
    folder = tmp_path_factory.mktemp("studies")
    with chdir(folder):
        studies = [
            finished("first", {"misaligned": 8, "kl": 1}),
            finished("second", {"misaligned": 8, "kl": 9}, seeds=[0, 1]),
            finished("third", {"misaligned": 5}, judge=OTHER_JUDGE),
        ]
        write_comparison(read_several(studies), Path("results/comparisons/three"))
    return folder / "results/comparisons/three/index.html"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_accessible_and_fits(chromium: Browser, page: Path, width: int, dark: bool) -> None:
    found = watch(chromium, width=width, dark=dark, scripts=True)
    found.open(page)
    result = Axe().run(found.page)
    assert result.violations_count == 0, result.generate_report()
    assert len(result.response["passes"]) > 15
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width
    assert found.messages == []
    assert found.requests == [page.resolve().as_uri()]


def test_its_links_lead_to_the_studies_and_to_its_files(chromium: Browser, page: Path) -> None:
    found = watch(chromium)
    found.open(page)
    links = found.page.locator("a[href]:not([href^='#'])").evaluate_all(
        "all => all.map(one => one.getAttribute('href'))"
    )
    assert "../../first/report/index.html" in links
    assert len(links) > 20
    assert [link for link in links if not (page.parent / link).is_file()] == []
