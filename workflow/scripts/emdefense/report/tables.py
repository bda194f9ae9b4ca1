"""Every table by its number, and its files."""

import csv
import io
from pathlib import Path

from emdefense.analysis.summary import Summary
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.files import write_text
from emdefense.report.benign_tables import foqa_table, opswap_table
from emdefense.report.overview import overview_table
from emdefense.report.rate_tables import SWEEPS, chosen_table, sweep_table
from emdefense.report.reference import Reference
from emdefense.report.rendering import html_table, latex_table, markdown_table, standalone_html
from emdefense.report.setup_tables import opswap_example_table, training_table
from emdefense.report.table import Table

NUMBERS = tuple(range(1, 12))


def build_table(number: int, study: Study, summary: Summary, reference: Reference | None = None) -> Table:
    """Return Table ``number`` of a study, with the paper's values beside ours where ``reference`` is given."""
    if number in SWEEPS:
        return sweep_table(number, study, summary, reference)
    if number in (3, 4):
        return chosen_table(number, study, summary, reference)
    if number == 1:
        return overview_table(study, summary, compared=reference is not None)
    if number == 2:
        return opswap_example_table()
    if number == 5:
        return opswap_table(study, summary, reference)
    if number == 6:
        return foqa_table(study, summary, reference)
    if number == 7:
        return training_table(study, reference)
    raise InputError(f"--number {number}: there is no such table; write a number from 1 to 11")


def write_table(table: Table, folder: Path) -> None:
    """Write a table as Markdown, LaTeX, HTML and CSV, named ``table_NN`` if it has a number."""
    title = table.title if table.number is None else f"Table {table.number}"
    write_text(folder / f"{table.stem}.md", markdown_table(table))
    write_text(folder / f"{table.stem}.tex", latex_table(table))
    write_text(folder / f"{table.stem}.html", standalone_html(title, html_table(table)))
    write_text(folder / f"{table.stem}.csv", csv_table(table))


def csv_table(table: Table) -> str:
    """Return a table's CSV: a header and a line a row, missing values empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.csv_header)
    writer.writerows(table.csv_rows)
    return out.getvalue()
