"""A table or a figure as the page shows it, read from its files, and whether there is anything in it to see."""

import re
from dataclasses import dataclass
from pathlib import Path

from emdefense.analysis.conditions import arms_like, ema_arms, is_defence, settings
from emdefense.cells import Grid
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.report.artefact import Artefact
from emdefense.report.benign import OPSWAP
from emdefense.report.figures.nothing import NOTHING
from emdefense.report.page.assets import inline_svg

FRAGMENT = re.compile(r"<main>\n(.*)</main>", re.DOTALL)
BODY = re.compile(r"<tbody>(.*?)</tbody>", re.DOTALL)
COMPARING = ("overview_table", "sweep_table")  # say something only with a second row
EXAMPLE, COURSE, RANKS = "opswap_example_table", "draw_sweep", "draw_league"
WIDTH = re.compile(r'<svg [^>]*?width="([\d.]+)pt"')


@dataclass(frozen=True)
class Shown:
    """A table or a figure as the page shows it, its ``files`` as links (kind, address) from the page.

    A table's ``markup`` has its caption; a figure's is an SVG.
    """

    artefact: Artefact
    markup: str
    files: list[tuple[str, str]]

    @property
    def name(self) -> str:
        """The artefact's name."""
        return self.artefact.name

    @property
    def width(self) -> str:
        """How wide a figure was drawn, in points."""
        found = WIDTH.search(self.markup)
        return found[1] if found else ""

    def has_something(self, study: Study) -> bool:
        """Whether there is anything to see: rows, and more than one where rows are compared, or marks in a figure."""
        made_by = self.artefact.made_by.rpartition(".")[2]
        if made_by == COURSE:
            return _has_course(study, self.artefact.given["arm"])
        if made_by == RANKS and not _has_ranks(study, str(self.artefact.model)):
            return False
        if made_by == EXAMPLE and not _has_opswap(study):
            return False
        if self.artefact.kind == "figure":
            return f'id="{_prefix(self.name)}-{NOTHING}"' not in self.markup
        rows = [body.count("<tr") for body in BODY.findall(self.markup)]
        return max(rows, default=0) > (1 if made_by in COMPARING else 0)


def read_artefact(results: Path, artefact: Artefact) -> Shown:
    """Return a rendered table or figure; :class:`InputError` if there is none."""
    links = [(path.rpartition(".")[2], f"../{path}") for path in artefact.files]
    stem = results / f"{artefact.kind}s" / artefact.name
    if artefact.kind == "figure":
        return Shown(artefact, inline_svg(stem.with_name(f"{stem.name}.svg")), links)
    path = stem.with_name(f"{stem.name}.html")
    found = FRAGMENT.search(path.read_text(encoding="utf-8")) if path.is_file() else None
    if found is None:
        raise InputError(f"{path}: there is no rendered table; render the tables first")
    return Shown(artefact, found[1], links)


def _prefix(name: str) -> str:
    return name.replace("_", "-")


def _has_course(study: Study, arm: str) -> bool:
    """Whether the main model has two settings of an arm or of its variants: one by itself shows no course."""
    of_main = {setting for one in arms_like(study, arm) for setting in settings(study, study.report.main_model, one)}
    return len(of_main) > 1


def _has_ranks(study: Study, model: str) -> bool:
    """Whether a model has two defences: of one, the picture of ranks is the trade-off once more."""
    return sum(is_defence(study, arm) for arm in ema_arms(study, model)) > 1


def _has_opswap(study: Study) -> bool:
    return any(study.tasks[cell.task].table == OPSWAP for cell in Grid(study).benign)  # type: ignore[union-attr]
