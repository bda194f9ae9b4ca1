"""An artefact of a report, a table or a figure: its name, what it is made from, by what, and where it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emdefense.analysis.conditions import automatic, ema_tasks
from emdefense.cells import Grid
from emdefense.config import Study
from emdefense.layout import Layout
from emdefense.metrics import QUESTION_SETS
from emdefense.names import SHARED_TASK

if TYPE_CHECKING:
    from emdefense.report.measured import Measured

Kind = Literal["table", "figure"]
Reading = Literal[
    "summary",
    "reference",
    "resampled",
    "questions",
    "benign_questions",
    "scores",
    "pairs",
    "halves",
    "training_logs",
    "preparations",
    "multiple_choice",
    "likelihood",
    "judged",
    "prompts",
]
TABLES, FIGURES = "emdefense.report.tables", "emdefense.report.figures"
Chosen = Literal["", "at all questions", "held out"]
CHOSEN: dict[Chosen, str] = {
    "at all questions": ". Settings that the data chose were chosen on half of these questions",
    "held out": ". Of the questions on which the data did not choose settings",
}
# A layout settles a little more with each drawing: another order of a figure's formats makes other bytes.
FORMATS: dict[Kind, tuple[str, ...]] = {"table": ("csv", "md", "tex", "html"), "figure": ("pdf", "svg", "png")}
FRAMES: dict[str, tuple[str, ...]] = {
    "summary": ("rates", "exact_match", "questions"),
    "resampled": ("questions",),
    "questions": ("questions",),
    "scores": ("scores",),
    "multiple_choice": ("multiple_choice",),
    "likelihood": ("likelihood",),
}
# What is counted of judgments.
JUDGMENTS = {"summary", "resampled", "questions", "scores", "pairs", "halves", "judged"}
OF_PAPER = {
    "table": "The paper's values stand beside ours where the config asks for them; what marks mean is said below it.",
    "figure": "Bands are 95 % bootstrap intervals over questions; at 0 stands the misaligned arm.",
}


def questions_of(study: Study) -> list[str]:
    """Return what files of questions are called: the general ones, and those in domain by their tasks."""
    return [SHARED_TASK, *ema_tasks(study)]


@dataclass(frozen=True)
class Artefact:
    """A table or a figure.

    The function ``made_by`` gets the study, what it reads (attributes of ``Measured``) and ``given``, by their names,
    and returns a ``Table`` or a ``Figure``. It is imported when it is called.
    """

    name: str  # of its files, without suffix
    kind: Kind
    made_by: str
    title: str
    section: str = ""  # of the page; those of an arm have one of their own
    reads: tuple[Reading, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    caption: str = ""  # sentences without the last stop; tables have their own notes
    number: int | None = None  # of a table that the paper has
    of_paper: bool = False
    model: str | None = None  # that it is about, if it is about one
    arm: str | None = None  # whose preparations it reads
    wide: bool = False
    chosen: Chosen = ""  # whether it is about chosen settings, and where those

    @property
    def files(self) -> list[str]:
        """Its files, from the study's results on."""
        return [f"{self.kind}s/{self.name}.{ending}" for ending in FORMATS[self.kind]]

    @property
    def described(self) -> str:
        """What it shows, for Snakemake's own report."""
        paper = f"{self.title} of the paper, from this study. {OF_PAPER[self.kind]}" if self.of_paper else ""
        return " ".join(filter(None, (paper, self.caption and f"{self.caption}."))) or f"{self.title}."

    def inputs(self, grid: Grid, layout: Layout) -> list[str]:
        """Return the files and folders that it is made from."""
        found = [f"{layout.results}/{frame}.parquet" for reading in self.reads for frame in FRAMES.get(reading, ())]
        if self.chosen and automatic(grid.study):
            found += [f"{layout.results}/{frame}.parquet" for frame in ("questions", "exact_match")]
        if {"pairs", "halves"} & set(self.reads):
            found += [layout.judgments(*triple) for triple in grid.judgments if triple[1] in QUESTION_SETS]
        if "judged" in self.reads:
            measured = [
                (m.source, m.question_set)
                for m in grid.measurements
                if m.cell.model == self.model and m.question_set in QUESTION_SETS
            ]
            found += [layout.judgments(*pair) for pair in measured] + [layout.responses(*pair) for pair in measured]
        if "prompts" in self.reads:
            found += [layout.questions(name) for name in questions_of(grid.study)]
        if "benign_questions" in self.reads:
            found += [layout.answers(cell) for cell in grid.benign if self.model in (None, cell.model)]
        if "training_logs" in self.reads:
            found += [f"{layout.cell(cell)}/train_log.jsonl" for cell in grid.trained]
        if "preparations" in self.reads:
            found += [layout.preparation(cell) for cell in grid.prepared if grid.arm(cell).name == self.arm]
        return list(dict.fromkeys(found))

    def make(self, study: Study, measured: "Measured") -> Any:
        """Return the table, with its number and name, or the figure."""
        module, _, function = self.made_by.rpartition(".")
        said = ""
        if self.chosen and automatic(study):
            study, said = measured.choice.study, measured.choice.said
            measured = measured.held_out if self.chosen == "held out" else measured
        read = {reading: getattr(measured, reading) for reading in self.reads}
        made = getattr(import_module(module), function)(study, **read, **self.given)
        if self.kind == "figure":
            return made
        remarks = (*made.remarks, said) if said and self.chosen == "held out" else made.remarks
        return replace(made, name=self.name, number=self.number, remarks=remarks)

    def write(self, study: Study, measured: "Measured", results: Path) -> None:
        """Write its files below the study's results; :class:`InputError` if what it reads is missing or broken."""
        stem = results / f"{self.kind}s" / self.name
        if self.kind == "table":
            from emdefense.report.tables.rendering import write_table

            write_table(self.make(study, measured), stem.parent)
        else:
            from emdefense.report.figures.style import save, styled

            with styled():
                save(self.make(study, measured), stem)
