"""A table that is too wide for a page as panels below each other, and panels as floats that fit on a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from emdefense.report.tables.table import Block, Column, Table, TableCell

TEXT_WIDTH = 455.0  # points, over both columns of a paper
COLUMN_WIDTH = 229.0  # points, of one column
CHARACTER = 4.3  # points, of a digit in LaTeX's \footnotesize
WIDTHS = {**dict.fromkeys("ijl.,:;'|!()[]tfr I", 3.0), **dict.fromkeys("mwMW%×÷+−=<>~→✓✗", 7.0)}
UPPER, LETTER = 5.8, 4.2  # of the others
GAP = 6.0  # points between two columns
FLOAT_LINES = 54.0  # of \footnotesize on a page below a caption
HEADING_LINES = 4.0
RULE_LINES = 0.6


@dataclass(frozen=True)
class Panel:
    """Some columns of a table with their rows: a table of its own, without caption and notes."""

    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The shared headings and how many columns each spans; empty if no column has one."""
        found = [(self.columns[unit[0]].group, len(unit)) for unit in units(self.columns)]
        return found if any(title for title, _ in found) else []

    @property
    def headers(self) -> int:
        """How many columns at the left say what a row is about: those of words, and at least one."""
        words = next((n for n, column in enumerate(self.columns) if column.numeric), len(self.columns))
        return max(1, min(words, len(self.columns) - 1))

    def spanned(self, block: Block) -> list[tuple[tuple[TableCell, ...], list[int]]]:
        """Return a block's rows, each with how many rows each of its headers spans: 0 for one spanned from above.

        An empty header is spanned from above; the last header is of its own row alone.
        """
        found = []
        for n, row in enumerate(block):
            spans = [1] * self.headers
            for column in range(self.headers - 1):
                if n and not row[column].text:
                    spans[column] = 0
                else:
                    below = (m for m in range(n + 1, len(block)) if block[m][column].text)
                    spans[column] = next(below, len(block)) - n
            found.append((row, spans))
        return found

    def widest_paper(self, column: int) -> str:
        """Return the longest of the paper's values that stand in a column in brackets, empty if there is none."""
        return max((row[column].paper for block in self.blocks for row in block), key=len, default="")

    @property
    def lines(self) -> float:
        """About how many lines it takes in LaTeX."""
        return HEADING_LINES + sum(map(_lines, self.blocks))

    @property
    def width(self) -> float:
        """About how many points it takes in LaTeX."""
        found = 0.0
        for unit in units(self.columns):
            heading = _width(self.columns[unit[0]].group) + GAP
            found += max(heading, sum(width(self, column) for column in unit))
        return found - GAP


def panels(table: Table) -> list[Panel]:
    """Return a table's panels: as few as fit, alike in width; the columns at the left stand in each.

    Columns with the same shared heading stay together. The columns at the left are those before the first shared
    heading; a table without one is a single panel however wide it is.
    """
    whole = Panel(table.columns, table.blocks)
    found = units(table.columns)
    keys = [column for unit in found if not table.columns[unit[0]].group for column in unit]
    parts = [unit for unit in found if table.columns[unit[0]].group]
    if whole.width <= TEXT_WIDTH or len(parts) < 2 or keys != list(range(len(keys))):
        return [whole]

    def packed(limit: int) -> list[Panel]:
        chosen: list[list[list[int]]] = [[]]
        for part in parts:
            wider = [*keys, *(column for unit in (*chosen[-1], part) for column in unit)]
            if chosen[-1] and (len(chosen[-1]) == limit or _of(table, wider).width > TEXT_WIDTH):
                chosen.append([])
            chosen[-1].append(part)
        return [_of(table, [*keys, *(column for unit in some for column in unit)]) for some in chosen]

    fewest = packed(len(parts))
    even = packed(ceil(len(parts) / len(fewest)))
    return even if len(even) == len(fewest) else fewest


def floats(table: Table) -> list[list[Panel]]:
    """Return a table's panels as they share pages; a panel longer than a page is split between its blocks."""
    room = FLOAT_LINES - _note_lines(table)
    pages: list[list[Panel]] = [[]]
    for panel in panels(table):
        if pages[-1] and sum(p.lines for p in pages[-1]) + panel.lines > room:
            pages.append([])
        rest = panel
        while rest.lines > room and len(rest.blocks) > 1:
            count = _fitting(rest.blocks, room)
            pages[-1].append(Panel(rest.columns, rest.blocks[:count]))
            pages.append([])
            rest = Panel(rest.columns, rest.blocks[count:])
        pages[-1].append(rest)
    return pages


def is_wide(table: Table) -> bool:
    """Whether a table needs both columns of a paper."""
    return any(panel.width > COLUMN_WIDTH for panel in panels(table))


def units(columns: Sequence[Column]) -> list[list[int]]:
    """Return the places of the columns, neighbours under one shared heading together."""
    found: list[list[int]] = []
    for n, column in enumerate(columns):
        if found and column.group and columns[found[-1][0]].group == column.group:
            found[-1].append(n)
        else:
            found.append([n])
    return found


def width(panel: Panel, column: int) -> float:
    """Return about how many points a column takes in LaTeX with the gap beside it."""
    texts = [panel.columns[column].title, *(_printed(row[column]) for block in panel.blocks for row in block)]
    return max(map(_width, texts)) + GAP


def _width(text: str) -> float:
    def of(character: str) -> float:
        if character.isdigit():
            return CHARACTER
        return WIDTHS.get(character, UPPER if character.isupper() else LETTER)

    return sum(map(of, text))


def _printed(cell: TableCell) -> str:
    return cell.text + (f" ({cell.paper})" if cell.paper else "") + cell.footnote


def _of(table: Table, columns: Sequence[int]) -> Panel:
    rows = tuple(tuple(tuple(row[n] for n in columns) for row in block) for block in table.blocks)
    return Panel(tuple(table.columns[n] for n in columns), rows)


def _lines(block: Block) -> float:
    return RULE_LINES + len(block)


def _note_lines(table: Table) -> int:
    """Return about how many lines the notes under a table take."""
    line = (TEXT_WIDTH if is_wide(table) else COLUMN_WIDTH) / CHARACTER
    texts = [*table.lead, *table.remarks, *(text for _, text in table.footnotes)]
    return sum(ceil(len(text) / line) for text in texts)


def _fitting(blocks: Sequence[Block], room: float) -> int:
    """Return how many blocks fit on a page, at least one."""
    lines, count = HEADING_LINES, 0
    while count < len(blocks) and lines + _lines(blocks[count]) <= room:
        lines += _lines(blocks[count])
        count += 1
    return max(1, count)
