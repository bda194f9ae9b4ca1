"""The page that shows one question's responses in columns, an arm each: what its script needs to find them."""

from typing import Any
from urllib.parse import quote, urlencode

from emdefense.analysis.conditions import chosen_setting, titled
from emdefense.arms import MISALIGNED, NO_SETTING, PLAIN
from emdefense.cells import Cell, Grid
from emdefense.config import Study
from emdefense.report.page.assets import asset, content_policy
from emdefense.report.page.cell_list import reading_order
from emdefense.report.page.responses import ANSWERS, CHUNK, CUT, VERDICTS, ResponseSet
from emdefense.report.page.untrusted import MAX_CHARACTERS, script_json
from emdefense.report.tables.rendering import render_html

FILE = "responses.html"  # in the folder of the cells' pages
ROWS = 20  # samples at a time
SCROLLED = 800  # characters beyond which a text has a scroll bar of its own


def view(study: Study, cell: Cell) -> str:
    """Return the fragment that shows a cell beside the arm that all are compared with; the chosen arms for that one."""
    reference = PLAIN if study.tasks[cell.task].kind == "benign" else MISALIGNED
    arms = [f"{reference}/{NO_SETTING}", _arm(cell)]
    where = {"model": cell.model, "task": cell.task, "seed": str(cell.seed)}
    shown = {} if cell.arm == reference else {"arms": ",".join(arms)}
    return "#" + urlencode(where | shown, quote_via=quote, safe="/,")


class SideBySide:
    """Takes note of where each cell's responses lie, and is then the page."""

    def __init__(self, study: Study):
        self._study, self._grid = study, Grid(study)
        self._lists: dict[tuple[tuple[str, str, str], ...], int] = {}  # of questions, each once, by their places
        self._sets: dict[str, str] = {}  # titles, by name
        self._judges = list(study.judges) if study.judge else []
        self._columns: dict[Cell, dict[str, tuple[str, int, int | list[int]]]] = {}

    def add(self, cell: Cell, responses: ResponseSet, texts: str) -> None:
        """Take note of a cell's responses to a set, whose texts lie in the folder ``texts`` from the page."""
        self._sets[responses.name] = responses.title
        listed = self._lists.setdefault(tuple(responses.questions), len(self._lists))
        counts = responses.counts
        alike = len(set(counts)) == 1
        self._columns.setdefault(cell, {})[responses.name] = (texts, listed, counts[0] if alike else counts)

    def html(self) -> str:
        """Return the page."""
        study, cells = self._study, sorted(self._columns, key=reading_order(self._study))
        script = asset("texts.js") + asset("side_by_side.js")
        data = {
            "models": {model: study.models[model].title for model in dict.fromkeys(cell.model for cell in cells)},
            "tasks": {task: study.tasks[task].title for task in dict.fromkeys(cell.task for cell in cells)},
            "sets": self._sets,
            "lists": [list(listed) for listed in self._lists],
            "columns": [self._column(cell) for cell in cells],
            "judges": self._judges,
            "marked": ANSWERS,
            "verdicts": VERDICTS,
            "chunkSize": CHUNK,
            "rows": ROWS,
            "most": MAX_CHARACTERS,
            "scrolled": SCROLLED,
            "cut": CUT,
        }
        tree: dict[str, dict[str, list[tuple[str, str]]]] = {}
        for cell in cells:
            arms = tree.setdefault(study.models[cell.model].title, {}).setdefault(study.tasks[cell.task].title, [])
            seed = f", seed {cell.seed}" if len(study.seeds) > 1 else ""
            arms.append((titled(study, cell.arm, cell.setting) + seed, f"{cell.folder}/index.html"))
        return render_html(
            "side_by_side.html.jinja",
            study=study,
            tree=tree,
            data=script_json(data),
            style=asset("page.css") + asset("report.css") + asset("side_by_side.css"),
            script=script,
            policy=content_policy(script, files=True),
        )

    def _column(self, cell: Cell) -> dict[str, Any]:
        study = self._study
        chosen = chosen_setting(study, cell.arm)
        is_benign = study.tasks[cell.task].kind == "benign"
        return {
            "model": cell.model,
            "task": cell.task,
            # What is not trained is there for one seed, and stands beside all of them.
            "seed": str(cell.seed) if self._grid.arm(cell).is_trained else None,
            "arm": _arm(cell),
            "title": titled(study, cell.arm, cell.setting),
            "chosen": is_benign or chosen in (None, cell.setting),
            "page": f"{cell.folder}/index.html",
            "sets": self._columns[cell],
        }


def _arm(cell: Cell) -> str:
    return f"{cell.arm}/{cell.setting}"
