"""A page for each cell: its numbers, its training, how it was made, and all of its responses to read."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from emdefense.analysis.conditions import titled
from emdefense.analysis.rates import LABELS
from emdefense.cells import Cell, Grid
from emdefense.config import Study
from emdefense.files import folder_written_whole
from emdefense.layout import Layout
from emdefense.metrics import OUTCOMES
from emdefense.report.measured import Measured
from emdefense.report.page.assets import asset, content_policy, inline_svg
from emdefense.report.page.cell_list import LABEL_TITLES, Numbers, read_numbers, reading_order
from emdefense.report.page.likelihood import held_out_lines
from emdefense.report.page.provenance import Line, cell_provenance
from emdefense.report.page.responses import CUT, VERDICTS, ResponseSet, benign_answers, judged_responses, set_titles
from emdefense.report.page.side_by_side import FILE, SideBySide, view
from emdefense.report.page.untrusted import MAX_CHARACTERS, script_json
from emdefense.report.tables.rendering import render_html
from emdefense.report.tables.table import DASH, number

SHOWN = 25  # responses at a time, and without JavaScript
SCROLLED = 1500  # characters beyond which a text has a scroll bar of its own
SETTINGS = {"verdicts": VERDICTS, "shown": SHOWN, "most": MAX_CHARACTERS, "scrolled": SCROLLED, "cut": CUT}
TEXTS = "texts"  # the folder of all texts; untrained cells of several tasks share theirs


def write_cell_pages(study: Study, results: Path, out: Path) -> None:
    """Write ``out/<cell>/index.html`` for every cell of the grid, and below ``out/texts`` what their responses say.

    ``out/responses.html`` shows the same texts side by side. One cell is in memory at a time. The folder appears whole
    or not at all.
    """
    pages = _CellPages(study, results)
    with folder_written_whole(out) as folder:
        for cell in Grid(study).cells:
            page = folder / cell.folder / "index.html"
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(pages.html(cell, folder), encoding="utf-8")
        (folder / FILE).write_text(pages.beside.html(), encoding="utf-8")


class _CellPages:
    """What the pages of a study's cells have in common."""

    def __init__(self, study: Study, results: Path):
        self._study, self._titles, self.beside = study, set_titles(study), SideBySide(study)
        self._numbers, self._benign = read_numbers(results / "rates.parquet", results / "exact_match.parquet")
        self._held_out = held_out_lines(Measured(study, results).likelihood) if study.likelihood else {}
        self._style, self._script = asset("page.css") + asset("report.css"), asset("texts.js") + asset("cell.js")
        self._policy = content_policy(self._script, files=True)
        grid = Grid(study)
        self._asked: dict[Cell, list[tuple[Cell, str]]] = {}
        for measurement in grid.measurements:
            self._asked.setdefault(measurement.cell, []).append((measurement.source, measurement.question_set))
        self._siblings: dict[tuple[str, str, int], list[Cell]] = {}
        for cell in sorted(grid.cells, key=reading_order(study)):
            self._siblings.setdefault((cell.model, cell.task, cell.seed), []).append(cell)

    def html(self, cell: Cell, folder: Path) -> str:
        """Return a cell's page; the texts of its responses are written below ``folder`` unless they are there."""
        asked, here = self._asked.get(cell, []), folder / cell.folder
        sets, indices = [], []
        for source, responses in self._responses(cell):
            texts = folder / TEXTS / source.folder / responses.name
            if not texts.exists():
                _write_chunks(responses, texts)
            sets.append(responses)
            indices.append(responses.index(os.path.relpath(texts, here)))
            self.beside.add(cell, responses, f"{TEXTS}/{source.folder}/{responses.name}")
        beside = os.path.relpath(folder / FILE, here) + view(self._study, cell)
        return render_html(
            "cell.html.jinja",
            study=self._study,
            cell=cell,
            title=titled(self._study, cell.arm, cell.setting),
            home=os.path.relpath(folder.parent / "index.html", here),
            siblings=[
                (
                    titled(self._study, other.arm, other.setting),
                    os.path.relpath(f"{other.folder}/index.html", cell.folder),
                )
                for other in self._siblings[cell.model, cell.task, cell.seed]
            ],
            numbers=[
                *_lines(self._titles, cell, self._numbers, self._benign.get(cell)),
                *self._held_out.get(cell, ()),
            ],
            sets=sets,
            training=_training(self._study, cell),
            provenance=cell_provenance(self._study, cell, asked),
            beside=beside,
            data=script_json({"sets": indices, "beside": beside, **SETTINGS}),
            style=self._style,
            script=self._script,
            policy=self._policy,
            **SETTINGS,
        )

    def _responses(self, cell: Cell) -> Iterator[tuple[Cell, ResponseSet]]:
        """Yield what there is of a cell's responses, with the cell that gave them."""
        asked = self._asked.get(cell)
        found = (
            [(cell, benign_answers(self._study, cell))]
            if asked is None
            else [(source, judged_responses(self._study, source, name)) for source, name in asked]
        )
        for source, responses in found:
            if responses is not None:
                yield source, responses


def _write_chunks(responses: ResponseSet, folder: Path) -> None:
    folder.mkdir(parents=True)
    for place, chunk in enumerate(responses.chunks()):
        (folder / f"{place}.js").write_text(chunk, encoding="utf-8")


def _lines(titles: Mapping[str, str], cell: Cell, numbers: Numbers, answered: dict[str, float] | None) -> list[Line]:
    """Return (what, value) lines of what was measured."""
    lines = []
    for name, title in titles.items():
        row = numbers.get((cell, name))
        if row is None:
            continue
        for outcome in OUTCOMES:
            low, high = row[f"{outcome}_cluster_low"], row[f"{outcome}_cluster_high"]
            spread = f" (95 % interval over questions: {number(low)} to {number(high)})" if low is not None else ""
            value = row[f"{outcome}_pct"]
            of = f"{row[outcome]} of {row['scored']}"
            lines.append((f"{title}, {outcome}", f"{DASH if value is None else number(value) + ' %'}, {of}{spread}"))
        missing = [f"{row[label]} {LABEL_TITLES[label]}" for label in LABELS.values() if row[label]]
        without = row["responses"] - row["scored"]
        lines.append((f"{title}, without a score", f"{without}" + (f": {', '.join(missing)}" if missing else "")))
    if answered is not None:
        lines.append(
            (
                "Exact match",
                f"{number(answered['exact_match_pct']) or DASH} %, {answered['correct']} of {answered['answers']} "
                f"answers to {answered['questions']} questions",
            )
        )
    return lines


def _training(study: Study, cell: Cell) -> str | None:
    """Return the figure of a cell's training, where it was drawn."""
    path = Path(Layout(study).cell(cell)) / "training.svg"
    return inline_svg(path) if path.is_file() else None
