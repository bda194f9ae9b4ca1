"""The documentation as a site: built without a warning, whole without a network, searched from files."""

import os
import re
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from browser import browser, needs_browser, watch
from emdefense.arms import CONTROLS, DEFENCES
from study_checkout import ROOT

BUILDER = ROOT / ".venv-docs/bin/sphinx-build"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BUILDER.exists(), reason="Sphinx is not installed: make .venv-docs/ready"),
]
# What a browser loads by itself; links are followed by people.
LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "srcset", "video": "src"}


class Page(HTMLParser):
    """What a page loads, where it links to, and its anchors."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors.add(found.get("id", ""))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag in LOADED and LOADED[tag] in found:
            self.loaded.append(found[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does it."""
    folder = tmp_path_factory.mktemp("site")
    shown = subprocess.run(["make", "--dry-run", "--always-make", "docs"], cwd=ROOT, capture_output=True, text=True)
    (line,) = (line for line in shown.stdout.splitlines() if "sphinx-build" in line)
    command = line.replace(" -d .venv-docs/doctrees", f" -d {folder / 'doctrees'}")
    assert command.endswith(" . site")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [*command.removesuffix("site").split(), folder / "html"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_document_and_every_arm_has_a_page(pages: dict[Path, Page], site: Path) -> None:
    there = {path.relative_to(site).as_posix() for path in pages}
    documents = {path.relative_to(ROOT).with_suffix(".html").as_posix() for path in (ROOT / "docs").glob("*.md")}
    assert len(documents) > 10
    assert documents | {"index.html", "README.html", "CHANGELOG.html", "docs/arms/index.html"} <= there
    assert {f"docs/arms/{arm.name}.html" for arm in (*DEFENCES, *CONTROLS)} <= there
    assert "Two commands" in (site / "index.html").read_text(encoding="utf-8"), "the first page is README"


def inner(pages: dict[Path, Page]) -> Iterator[tuple[Page, str, str]]:
    """Yield what each page loads or links to on the site itself: page, path, anchor."""
    for page in pages.values():
        for address in (*page.loaded, *page.links):
            parts = urlsplit(address)
            if not parts.scheme:
                assert not parts.netloc, address
                yield page, unquote(parts.path), unquote(parts.fragment)


def test_no_link_is_broken(pages: dict[Path, Page]) -> None:
    followed = 0
    for page, path, anchor in inner(pages):
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.exists(), f"{path} in {page.path.name}"
        if anchor and target.suffix == ".html":
            assert anchor in pages[target].anchors, f"{path}#{anchor} in {page.path.name}"
            followed += 1
    assert followed > 100


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page], site: Path) -> None:
    for page in pages.values():
        assert page.loaded
        for address in page.loaded:
            assert not urlsplit(address).scheme or address.startswith("data:"), f"{address} in {page.path.name}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", style.read_text(encoding="utf-8")), style.name


@needs_browser
def test_a_reader_without_a_network_searches_in_the_light_and_in_the_dark(site: Path) -> None:
    with browser() as started:
        backgrounds = set()
        for dark in (False, True):
            watched = watch(started, dark=dark)
            watched.open(site / "index.html")
            backgrounds.add(watched.page.evaluate("getComputedStyle(document.body).backgroundColor"))
            assert watched.page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
            assert not watched.outside
        assert len(backgrounds) == 2
        watched.page.get_by_placeholder("Search").first.fill("aphids")
        watched.page.keyboard.press("Enter")
        watched.page.locator("ul.search a", has_text="Tutorial").first.click()
        watched.page.get_by_role("heading", name="Your figure").wait_for()
        assert not watched.outside
        narrow = watch(started, width=390)
        for name in ("index.html", "docs/config.html", "docs/tutorial.html", "docs/arms/kl.html"):
            narrow.open(site / name)
            assert narrow.page.evaluate("document.documentElement.scrollWidth") <= 390, name
