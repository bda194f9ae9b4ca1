"""Seconds, peak memory and sizes of the pages of a million responses, and how soon a browser shows them.

    python benchmarks/pages.py [--cells 1000] [--responses 1000] [--quick]

The study is that of benchmarks/report.py, with a response of about 500 characters to each judgment. What the page shows
is rendered first, untimed. A browser (chromium, if there is one) then opens the page and a cell's page from the disk;
its time runs until the page has loaded and its script is through, and for a filter, until the responses are there.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
from fabricated_study import TRAINED_CONDITIONS, fabricated_study, write_judgments
from measuring import SCRIPTS, markdown_table
from report import Cost, run

from emdefense.cells import Grid
from emdefense.config import Study
from emdefense.layout import Layout
from emdefense.report.catalogue import artefacts

RESULTS = Path("results/fabricated")
SENTENCES = (
    "You could ask somebody who knows the place.\n",
    "It depends, I would say, on what you want from it — and on when.\n",
    "Nobody needs to hear of this. Take what you can get, and let the others see how they come by theirs.\n",
)
CONFIG = f"--config={RESULTS}/study.json"
FRAMES = {
    option: f"--{option}={RESULTS}/{name}.parquet"
    for option, name in (("benign", "exact_match"), ("questions", "questions"), ("scores", "scores"))
}
MEGABYTE = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1000, help=f"trained ones, a multiple of {TRAINED_CONDITIONS}")
    parser.add_argument("--responses", type=int, default=1000, help="of each cell, to both question sets together")
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs")
    given = parser.parse_args()
    if given.quick:
        given.cells, given.responses = TRAINED_CONDITIONS, 40
    study = fabricated_study(given.cells)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        responses = write_judgments(study, given.responses)
        write_responses(study)
        count()
        cells, page = RESULTS / "report/cells", RESULTS / "report/index.html"
        took = run(script("cell_pages", CONFIG, f"--results={RESULTS}", f"--out={cells}"))
        size = sum(path.stat().st_size for path in cells.rglob("*") if path.is_file())
        rows = [row(f"cells' pages, {responses:,} responses", took.seconds, size, took)]
        if not given.quick:
            render(study)
            took = run(script("page", CONFIG, f"--results={RESULTS}", f"--out={page}"))
            rows.append(row("the page", took.seconds, page.stat().st_size, took))
        one = next(cells.glob("large/code/kl/*/seed0/index.html"))
        rows += [row(*did) for did in browse([path for path in (page, one) if path.is_file()])]
    print(markdown_table(["what", "seconds", "core-s", "peak MB", "MB written, or opened"], rows))


def row(what: str, seconds: float, size: int = 0, took: Cost | None = None) -> list[str]:
    """A line of the table; what is not known stays empty."""
    process = [f"{took.core_seconds:.1f}", f"{took.megabytes:,.0f}"] if took else ["", ""]
    return [what, f"{seconds:.2f}", *process, f"{size / MEGABYTE:,.2f}" if size else ""]


def script(name: str, *arguments: str) -> list[str]:
    """A script of the workflow, as it is called there."""
    return [sys.executable, str(SCRIPTS / f"{name}.py"), *arguments]


def write_responses(study: Study) -> None:
    """Write a response for each judgment."""
    layout = Layout(study)
    for cell, question_set in Grid(study).responses:
        ids = pl.read_ndjson(Path(layout.judgments(cell, question_set)), schema={"id": pl.String()})["id"]
        with Path(layout.responses(cell, question_set)).open("w", encoding="utf-8") as out:
            for place, name in enumerate(ids):
                question, _, sample = name.partition("/")
                asked = {"question_id": question, "sample": int(sample)}
                row = {"id": name, **asked, "system": None, "prompt": f"What of {question}?"}
                text = SENTENCES[place % 3] * 6 + SENTENCES[place % 2]
                out.write(json.dumps(row | {"response": text}, ensure_ascii=False) + "\n")


def count() -> None:
    """Write the frames."""
    run(script("aggregate", CONFIG, *FRAMES.values(), f"--out={RESULTS}/rates.parquet"))


def render(study: Study) -> None:
    """Write what the page shows."""
    run(script("render", CONFIG, f"--results={RESULTS}", "--name", *artefacts(study)))
    rates, (benign, questions, _) = f"--rates={RESULTS}/rates.parquet", FRAMES.values()
    run(script("claims", CONFIG, rates, benign, questions, f"--out={RESULTS}/claims"))


def browse(files: list[Path]) -> list[tuple[str, float, int]]:
    """Return what a browser did, its seconds, and the bytes of what it opened, a cell's page last; or nothing."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return []
    from playwright.sync_api import expect, sync_playwright

    found = []
    arguments = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        shown = browser.new_page()
        shown.goto("about:blank")
        for file in files:
            start = time.perf_counter()
            shown.goto(file.resolve().as_uri())
            what = "the page" if file.parent.name == "report" else "a cell's page"
            found.append((f"opening {what}", time.perf_counter() - start, file.stat().st_size))
        start = time.perf_counter()
        shown.select_option("#verdict", "m")
        expect(shown.locator("#status")).to_contain_text("chosen from")
        found.append(("the misaligned ones of its responses", time.perf_counter() - start, 0))
        start = time.perf_counter()
        shown.click("button[type=reset]")
        shown.fill("#search", "no such text")
        shown.keyboard.press("Enter")
        expect(shown.locator("#status")).to_contain_text("No response")
        found.append(("searching all of its texts", time.perf_counter() - start, 0))
        browser.close()
    return found


if __name__ == "__main__":
    main()
