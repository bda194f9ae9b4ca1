"""The page: what a study's rendered files show, on one HTML file that needs no other."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from emdefense.analysis.conditions import automatic
from emdefense.analysis.verdicts import NOT_MEASURED, Verdicts
from emdefense.config import Study
from emdefense.files import read_json, write_text
from emdefense.metrics import JUDGED
from emdefense.report.catalogue import artefacts
from emdefense.report.claims import claims_html
from emdefense.report.divergences import divergences
from emdefense.report.measured import Measured
from emdefense.report.page.assets import asset, content_policy
from emdefense.report.page.cell_list import cell_rows, read_numbers, unscored_table
from emdefense.report.page.costs import hours_table, judge_table, nothing_paid
from emdefense.report.page.findings import Finding
from emdefense.report.page.happened import what_happened
from emdefense.report.page.parts import parts
from emdefense.report.page.provenance import made_differently, provenance, stage_records
from emdefense.report.page.shown import read_artefact
from emdefense.report.tables.rendering import html_table, render_html

STYLES = ("page.css", "report.css", "order.css", "figures.css")
SCRIPTS = ("index.js", "sorting.js", "folding.js", "figures.js")
DIVERGENCES = {None: "In this study", "microcosm": "Because it is a microcosm"}


def write_page(study: Study, results: Path, out: Path) -> None:
    """Write the page of a study from the rates, tables, figures and claims that lie in ``results``."""
    rates, exact_match = (results / f"{name}.parquet" for name in ("rates", "exact_match"))
    measured = Measured(study, results)
    said = measured.choice.said if automatic(study) else ""
    numbers, benign = read_numbers(rates, exact_match)
    stages = stage_records(study)
    script = "".join(map(asset, SCRIPTS))
    rendered = [read_artefact(results, artefact) for artefact in artefacts(study).values()]
    shown = [one for one in rendered if one.has_something(study)]
    claims = read_json(results / "claims.json") if study.judge else []
    models = dict.fromkeys(one.artefact.model for one in shown if one.artefact.model)
    page = render_html(
        "page.html.jinja",
        study=study,
        style="".join(map(asset, STYLES)),
        script=script,
        policy=content_policy(script),
        parts=parts(study, shown, _further(study, claims)),
        models={model: study.models[model].title for model in models},
        metrics=JUDGED,
        groups=[(group, len(list(metrics))) for group, metrics in groupby(JUDGED, key=lambda metric: metric.group)],
        findings=[
            *what_happened(study, measured),
            *([Finding("plain", "Settings were chosen by the data.", said)] if said else []),
            *made_differently(stages),
        ],
        claims=claims_html(claims) if claims else "",
        cells=cell_rows(study, numbers, benign, Verdicts.of(study, measured.summary)),
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


def _further(study: Study, claims: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what the page says beside tables and figures; no claims where nothing of them was measured."""
    if any(row["verdict"] != NOT_MEASURED for row in claims):
        yield "claims"
    yield from ("costs", "provenance")
    if divergences(study):
        yield "divergences"
