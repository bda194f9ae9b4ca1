"""The comparison as a folder: one page, and beside it its tables and its figure."""

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from emdefense.comparison.alike import judge_title
from emdefense.comparison.config_differences import config_differences, provenance_differences
from emdefense.comparison.findings import findings
from emdefense.comparison.pairs import Comparison
from emdefense.comparison.tables import benign_table, difference_table, differing_table, rate_table
from emdefense.comparison.unjudged import choice_tables, likelihood_table
from emdefense.files import check_replaceable, folder_written_whole, write_text
from emdefense.finished import Finished
from emdefense.names import LONGEST
from emdefense.report.artefact import FORMATS
from emdefense.report.page.assets import asset, content_policy, inline_svg
from emdefense.report.tables.rendering import html_table, render_html, write_table
from emdefense.report.tables.table import Table

COMPARISONS = Path("results/comparisons")
PAGE, FIGURE = "index.html", "rates"
PARTS = {PAGE, "tables", "figures"}


def comparison_folder(studies: Sequence[Finished]) -> Path:
    """Return where a comparison lies unless the user says otherwise: in a folder called after its studies."""
    name = "-and-".join(one.study.study for one in studies)
    if len(name) <= LONGEST and len({one.study.study for one in studies}) == len(studies):
        return COMPARISONS / name
    digest = sha256("\n".join(str(one.folder.resolve()) for one in studies).encode()).hexdigest()[:8]
    return COMPARISONS / f"{studies[0].study.study[: LONGEST - 30]}-and-{len(studies) - 1}-more-{digest}"


def write_comparison(studies: Sequence[Finished], out: Path) -> Path:
    """Write the page, tables and figure of a comparison, whole or not at all, in the place of an earlier one.

    Returns the page. Only what the studies' folders hold is read; :class:`InputError` if something there is broken.
    """
    check_replaceable(out, PARTS, "a comparison")
    comparison = Comparison(studies)
    labels = [one.label for one in studies]
    differing, made = config_differences(studies), provenance_differences(studies)
    found, benign = comparison.differences(), comparison.benign_differences()
    rows = [row for row in comparison.rows() if any(one.study.judge for one in studies)]
    sections: dict[str, tuple[str, list[Table]]] = {
        "differs": (
            "What differs",
            [
                *([differing_table("config", "Configs", differing, labels)] if differing else []),
                *([differing_table("provenance", "What the results were made by", made, labels)] if made else []),
            ],
        ),
        "rates": ("Rates", [rate_table(comparison)] if rows else []),
        "differences": ("Paired differences", [difference_table(comparison, found)] if found else []),
        "benign": (
            "Benign tasks",
            [
                *([benign_table(comparison)] if comparison.benign_rows() else []),
                *([difference_table(comparison, benign, benign=True)] if benign else []),
            ],
        ),
        "choice": ("Multiple choice", choice_tables(comparison)),
        "likelihood": ("Held-out answers", [table] if (table := likelihood_table(comparison)) else []),
    }
    with folder_written_whole(out) as folder:
        for _, tables in sections.values():
            for one in tables:
                write_table(one, folder / "tables")
        if rows:
            _draw(comparison, folder)
        page = render_html(
            "comparison.html.jinja",
            labels=labels,
            style=asset("page.css") + asset("report.css") + asset("order.css"),
            policy=content_policy(""),
            studies=[(one.label, os.path.relpath(one.page, out), _described(one)) for one in studies],
            findings=findings(comparison, differing, found),
            sections={
                name: (title, [(html_table(one), one.name) for one in tables])
                for name, (title, tables) in sections.items()
                if tables
            },
            drawing=inline_svg(folder / "figures" / f"{FIGURE}.svg") if rows else "",
            formats=FORMATS,
        )
        write_text(folder / PAGE, page)
    return out / PAGE


def _draw(comparison: Comparison, folder: Path) -> None:
    from emdefense.comparison.figure import draw_rates
    from emdefense.report.figures.style import save, styled

    with styled():
        save(draw_rates(comparison, comparison.rows()), folder / "figures" / FIGURE)


def _described(study: Finished) -> str:
    """Return in a line what a study is of."""
    models = ", ".join(study.study.models[model].title for model in study.grid.models)
    seeds = ", ".join(map(str, study.study.seeds))
    return (
        f"{models}; {len(study.grid.cells)} cells; {'seed' if len(study.study.seeds) == 1 else 'seeds'} {seeds}; judge "
        f"{judge_title(study)}"
    )
