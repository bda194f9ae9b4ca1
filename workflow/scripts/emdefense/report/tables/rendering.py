"""Tables as files: templates, and the escapes of the formats that they write."""

import csv
import io
import re
import unicodedata
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from emdefense.files import write_text
from emdefense.report.tables.panels import floats, is_wide, panels
from emdefense.report.tables.table import Table, percent

TEMPLATES = Path(__file__).parents[1] / "templates"
LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"$\sim$",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "→": r"$\to$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "✓": r"$\checkmark$",
    "✗": r"$\times$",
    "×": r"$\times$",
    "÷": r"$\div$",
    "−": r"$-$",
    "λ": r"$\lambda$",
    "Λ": r"$\Lambda$",
    "–": "--",
}
# Other Greek letters, of which the symbols of settings are; some capitals look like Latin ones and have no command.
for letter in "αβγδεζηθικμνξπρστυφχψωΓΔΘΞΠΣΦΨΩ":
    name = unicodedata.name(letter).rpartition(" ")[2]
    LATEX[letter] = rf"$\{name.lower() if letter.islower() else name.title()}$"
# What LaTeX's standard fonts have besides ASCII: letters with these accents up to U+017F, and some further signs.
ACCENTS = frozenset("\u0300\u0301\u0302\u0303\u0306\u0307\u0308\u030a\u030b\u030c\u0327")
SIGNS = frozenset("ßøØłŁæÆœŒı…‘’“”—·°²³½¼€")


def write_table(table: Table, folder: Path) -> None:
    """Write a table in each format of tables, under its name."""
    title = table.title if table.number is None else f"Table {table.number}"
    write_text(folder / f"{table.name}.md", markdown_table(table))
    write_text(folder / f"{table.name}.tex", latex_table(table))
    write_text(folder / f"{table.name}.html", standalone_html(title, html_table(table)))
    write_text(folder / f"{table.name}.csv", csv_table(table))


def csv_table(table: Table) -> str:
    """Return a table's CSV: a header and a line per row, missing values empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.csv_header)
    writer.writerows(table.csv_rows)
    return out.getvalue()


def latex(text: str) -> str:
    """Escape plain text for LaTeX; the symbols that our tables use become their commands, and no % starts a line.

    What LaTeX has no sign for is spelt out (``[U+4E2D]``), so that a title cannot keep a table from compiling; nor can
    what would be an option of the line break before it.
    """
    escaped = "".join(map(_in_latex, " ".join(text.split()))).replace(r" \%", r"\,\%")
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped


def _in_latex(character: str) -> str:
    if character in LATEX:
        return LATEX[character]
    base, *marks = list(unicodedata.normalize("NFD", character))
    accented = character <= "\u017f" and base.isascii() and base.isalpha() and ACCENTS.issuperset(marks)
    plain = character.isascii() and character.isprintable()
    return character if plain or accented or character in SIGNS else f"[U+{ord(character):04X}]"


def markdown(text: str) -> str:
    """Escape plain text for a cell of a Markdown table."""
    flat = " ".join(text.split())
    return re.sub(r"([\\|*_`<\[\]])", r"\\\1", flat)


def markdown_table(table: Table) -> str:
    """Return a table as GitHub-flavoured Markdown."""
    return render_markdown("table.md.jinja", table=table)


def latex_table(table: Table) -> str:
    """Return a table as a LaTeX file that compiles on its own, and as part of a paper with ``\\input``.

    On its own it is a document of one page or more with the table's number. In a paper it is its float or floats; the
    paper loads booktabs and amssymb.
    """
    return _environment("tex").get_template("table.tex.jinja").render(table=table, wide=is_wide(table))


def html_table(table: Table) -> str:
    """Return a table as an HTML fragment."""
    return _environment("html").get_template("table.html.jinja").render(table=table)


def standalone_html(title: str, fragment: str) -> str:
    """Return an HTML document that holds ``fragment`` (markup of ours) and its style."""
    return render_html("document.html.jinja", title=title, fragment=fragment)


def render_html(template: str, **values: object) -> str:
    """Return an HTML template filled in; every value is escaped unless the template marks it as ours."""
    return _environment("html").get_template(template).render(**values)


def render_markdown(template: str, **values: object) -> str:
    """Return a Markdown template filled in; the template escapes its values."""
    return _environment("md").get_template(template).render(**values)


def stylesheet() -> str:
    """Return the CSS of the page and of the tables."""
    return (TEMPLATES / "page.css").read_text(encoding="utf-8")


@cache
def _environment(kind: str) -> Environment:
    opening, closing = ("<<", ">>") if kind == "tex" else ("{{", "}}")  # braces mean something else in LaTeX
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=kind == "html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        variable_start_string=opening,
        variable_end_string=closing,
    )
    environment.filters["latex"] = latex
    environment.filters["markdown"] = markdown
    environment.filters["percent"] = percent
    environment.globals |= {"stylesheet": stylesheet, "panels": panels, "floats": floats}
    return environment
