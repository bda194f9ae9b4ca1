"""The page: what a study's rendered files show, on one HTML file that needs no other, verdicts first."""

import re
from dataclasses import dataclass
from pathlib import Path

from emdefense.analysis.summary import read_summary
from emdefense.analysis.verdicts import Verdicts
from emdefense.arms.safelora.cosines import read_projections
from emdefense.arms.safelora.figure import NAME as COSINES
from emdefense.arms.safelora.figure import caption
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.files import read_json, write_text
from emdefense.report.assets import asset, content_policy
from emdefense.report.cell_rows import cell_rows, read_numbers, unscored_table
from emdefense.report.claims import claims_html
from emdefense.report.costs import hours_table, judge_table, nothing_paid
from emdefense.report.divergences import divergences
from emdefense.report.figures import DRAWINGS
from emdefense.report.findings import findings
from emdefense.report.further_figures import FURTHER
from emdefense.report.provenance import made_differently, provenance, stage_records
from emdefense.report.rendering import html_table, render_html
from emdefense.report.svg import inline_svg
from emdefense.report.tables import NUMBERS
from emdefense.report.training_curves import OVERVIEW, overview_caption

TABLE_KINDS = ("csv", "md", "tex", "html")
FIGURE_KINDS = ("svg", "pdf", "png")
FRAGMENT = re.compile(r"<main>\n(.*)</main>", re.DOTALL)
FURTHER_TABLES = ("paired_differences", "paired_defences", "variance_components")
SECTIONS = {
    "verdicts": "Verdicts",
    "tables": "Tables",
    "figures": "Figures",
    "claims": "The paper’s claims",
    "cells": "Cells and responses",
    "training": "Training",
    "safelora": "SafeLoRA",
    "statistics": "Differences and variance",
    "judges": "Judges",
    "costs": "Costs",
    "divergences": "Divergences",
    "provenance": "Provenance",
}
DIVERGENCES = {None: "In this study", "microcosm": "Because it is a microcosm"}


@dataclass(frozen=True)
class Shown:
    """A table or a figure as the page shows it, its ``files`` as links (kind, address) from the page.

    A table's ``markup`` has its caption; a figure is an SVG and has ``label`` and ``caption`` apart.
    """

    name: str
    markup: str
    files: list[tuple[str, str]]
    label: str = ""
    caption: str = ""
    wide: bool = False


def write_page(study: Study, results: Path, out: Path) -> None:
    """Write the page of a study from the rates, tables, figures and claims that lie in ``results``."""
    rates, exact_match, questions = (results / f"{name}.parquet" for name in ("rates", "exact_match", "questions"))
    summary = read_summary(rates, exact_match, questions)
    verdicts = Verdicts.of(study, summary)
    numbers, benign = read_numbers(rates, exact_match)
    stages = stage_records(study)
    projections = read_projections(study)
    safelora = [read_table(results, "safelora_matrices")] if projections else []
    compared = ("judge_agreement", "judge_confusion") if study.second_judges else ()
    script = asset("index.js")
    page = render_html(
        "page.html.jinja",
        study=study,
        style=asset("page.css") + asset("report.css"),
        script=script,
        policy=content_policy(script),
        sections={name: title for name, title in SECTIONS.items() if name != "safelora" or projections},
        findings=[*findings(study, summary, verdicts), *made_differently(stages)],
        tables=[read_table(results, f"table_{number:02d}") for number in NUMBERS],
        figures=[
            read_figure(results, f"figure_{name}", f"Figure {name}", drawing.caption)
            for name, drawing in DRAWINGS.items()
        ],
        further_figures=[
            read_figure(results, name, figure.title, figure.caption(study), wide=True)
            for name, figure in FURTHER.items()
        ],
        claims=claims_html(read_json(results / "claims.json")),
        cells=cell_rows(study, numbers, benign, verdicts),
        unscored=(unscored := unscored_table(study, numbers)) and html_table(unscored),
        training=read_figure(results, OVERVIEW, "", overview_caption(study), wide=True),
        safelora_tables=safelora,
        safelora_figure=read_figure(results, COSINES, "", caption(study, projections), wide=True)
        if projections
        else None,
        statistics=[read_table(results, name) for name in FURTHER_TABLES],
        judges=[read_table(results, name) for name in compared],
        hours=html_table(hours_table(stages)),
        paid=(paid := judge_table(study)) and html_table(paid),
        nothing_paid=nothing_paid(study),
        divergences={
            title: entries
            for kind, title in DIVERGENCES.items()
            if (entries := [entry for entry in divergences(study) if entry.study == kind])
        },
        provenance=provenance(study, stages, rates),
    )
    write_text(out, page)


def read_table(results: Path, name: str) -> Shown:
    """Return a rendered table; :class:`InputError` if there is none."""
    path = results / "tables" / f"{name}.html"
    found = FRAGMENT.search(path.read_text(encoding="utf-8")) if path.is_file() else None
    if found is None:
        raise InputError(f"{path}: there is no rendered table; render the tables first")
    return Shown(name, found[1], _links("tables", name, TABLE_KINDS))


def read_figure(results: Path, name: str, label: str, caption: str, *, wide: bool = False) -> Shown:
    """Return a drawn figure; :class:`InputError` if there is none."""
    svg = inline_svg(results / "figures" / f"{name}.svg")
    return Shown(name, svg, _links("figures", name, FIGURE_KINDS), label, caption, wide)


def _links(folder: str, name: str, kinds: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(kind, f"../{folder}/{name}.{kind}") for kind in kinds]
