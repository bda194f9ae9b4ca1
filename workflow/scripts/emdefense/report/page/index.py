"""The page: what a study's rendered files show, on one HTML file that needs no other, the league and verdicts first."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from emdefense.analysis.conditions import automatic
from emdefense.analysis.summary import read_summary
from emdefense.analysis.verdicts import Verdicts
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.files import read_json, write_text
from emdefense.metrics import JUDGED
from emdefense.report.artefact import Artefact
from emdefense.report.catalogue import OF_ARM, SECTION_OF_LEAGUE, artefacts
from emdefense.report.choices import SECTION_OF_CHOICES
from emdefense.report.claims import claims_html
from emdefense.report.divergences import divergences
from emdefense.report.further_sets import OF_SET, SECTION_OF_CONDITIONS
from emdefense.report.likelihood import SECTION_OF_LIKELIHOOD
from emdefense.report.measured import Measured
from emdefense.report.page.assets import asset, content_policy, inline_svg
from emdefense.report.page.cell_list import cell_rows, read_numbers, unscored_table
from emdefense.report.page.costs import hours_table, judge_table, nothing_paid
from emdefense.report.page.findings import Finding, findings
from emdefense.report.page.likelihood import likelihood_findings
from emdefense.report.page.provenance import made_differently, provenance, stage_records
from emdefense.report.page.unjudged import unjudged_findings
from emdefense.report.robustness import SECTION_OF_ROBUSTNESS
from emdefense.report.tables.rendering import html_table, render_html

FRAGMENT = re.compile(r"<main>\n(.*)</main>", re.DOTALL)
SECTIONS = {
    SECTION_OF_LEAGUE: "League",
    "verdicts": "Verdicts",
    "tables": "Tables",
    "figures": "Figures",
    SECTION_OF_CHOICES: "Multiple choice",
    SECTION_OF_LIKELIHOOD: "Held-out answers",
    SECTION_OF_ROBUSTNESS: "What the rates hang on",
    "claims": "The paper’s claims",
    "cells": "Cells and responses",
    "training": "Training",
    "statistics": "Differences and variance",
    "judges": "Judges",
    "costs": "Costs",
    "divergences": "Divergences",
    "provenance": "Provenance",
}
IF_SHOWN = {SECTION_OF_CHOICES, SECTION_OF_LIKELIHOOD}  # sections of what only some studies measure
# Without a judge, these are there if there is something to show.
IF_JUDGED = {SECTION_OF_LEAGUE, SECTION_OF_ROBUSTNESS, "tables", "figures", "claims", "statistics", "judges"}
AFTER = "training"  # the section that those of single arms follow
AFTER_FIGURES = "figures"  # the section that those of further question sets follow
CONDITIONAL = "Conditional misalignment"
DIVERGENCES = {None: "In this study", "microcosm": "Because it is a microcosm"}


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


def write_page(study: Study, results: Path, out: Path) -> None:
    """Write the page of a study from the rates, tables, figures and claims that lie in ``results``."""
    rates, exact_match, questions = (results / f"{name}.parquet" for name in ("rates", "exact_match", "questions"))
    summary = read_summary(rates, exact_match, questions)
    verdicts = Verdicts.of(study, summary)
    at_chosen, reported, said = study, summary, ""
    if automatic(study):
        measured = Measured(study, results)
        at_chosen, reported, said = measured.choice.study, measured.held_out.summary, measured.choice.said
    numbers, benign = read_numbers(rates, exact_match)
    stages = stage_records(study)
    script = asset("index.js") + asset("figures.js")
    shown: dict[str, list[Shown]] = {name: [] for name in SECTIONS}
    for artefact in artefacts(study).values():
        shown.setdefault(artefact.section, []).append(read_artefact(results, artefact))
    models = dict.fromkeys(one.artefact.model for one in shown["tables"] if one.artefact.model)
    page = render_html(
        "page.html.jinja",
        study=study,
        style=asset("page.css") + asset("report.css") + asset("figures.css"),
        script=script,
        policy=content_policy(script),
        sections=dict(_sections(study, shown)),
        of_arms=_of_arms(shown),
        of_sets=_of_sets(shown),
        shown=shown,
        models={model: study.models[model].title for model in models},
        metrics=JUDGED,
        groups=[(group, len(list(metrics))) for group, metrics in groupby(JUDGED, key=lambda metric: metric.group)],
        findings=[
            *unjudged_findings(study),
            *(findings(at_chosen, reported, Verdicts.of(at_chosen, reported)) if study.judge else []),
            *(likelihood_findings(study, Measured(study, results).likelihood) if study.likelihood else []),
            *([Finding("plain", "Settings were chosen by the data.", said)] if said else []),
            *made_differently(stages),
        ],
        claims=claims_html(read_json(results / "claims.json")) if study.judge else "",
        cells=cell_rows(study, numbers, benign, verdicts),
        unscored=(unscored := unscored_table(study, numbers)) and html_table(unscored),
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


def _sections(study: Study, shown: dict[str, list[Shown]]) -> Iterator[tuple[str, str]]:
    """Yield the sections and their titles: those of single arms are called after them."""
    for name, title in SECTIONS.items():
        if shown[name] or name not in (IF_SHOWN if study.judge else IF_SHOWN | IF_JUDGED):
            yield name, title if study.judge or name != "verdicts" else "What can be said"
        if name == AFTER_FIGURES:
            titles = {f"{OF_SET}{one}": found.title for one, found in study.question_sets.items()}
            yield from ((of_set, titles.get(of_set, CONDITIONAL)) for of_set in _of_sets(shown))
        if name == AFTER:
            yield from ((name, study.every_arm[name.removeprefix(OF_ARM)].title) for name in _of_arms(shown))


def _of_arms(shown: dict[str, list[Shown]]) -> list[str]:
    return [name for name in shown if name.startswith(OF_ARM)]


def _of_sets(shown: dict[str, list[Shown]]) -> list[str]:
    """Return the sections of further question sets, those of conditions last."""
    return [name for name in shown if name.startswith(OF_SET) or name == SECTION_OF_CONDITIONS]


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
