"""The table of thresholds: how the general misaligned rate moves with the scores that count as misaligned."""

from collections.abc import Iterable, Sequence
from statistics import fmean

import polars as pl

from emdefense.analysis.achievements import CANNOT_BE_TOLD
from emdefense.analysis.conditions import Condition, arm_title, titled
from emdefense.analysis.threshold_turns import Arm, Turns
from emdefense.analysis.thresholds import AtThresholds, Point, Threshold
from emdefense.analysis.verdicts import YES
from emdefense.config import Study
from emdefense.metrics import GENERAL_MISALIGNED, JUDGED
from emdefense.report.tables.notes import task_note
from emdefense.report.tables.table import DASH, Block, Column, Footnotes, Table, TableCell, csv_setting, number

LEGEND = (
    "Misaligned responses to general questions (%) if other scores counted as misaligned; in bold by the study's own "
    "thresholds ({own}), as in the other tables. One of them is moved at a time. Counted anew from the judgments, "
    "without rounding. The CSV has every combination, all four rates, and 95 % intervals over questions."
)
INCLUSIVE = (
    "≤ and ≥: scores at a bound count too, on both sides: a response whose coherence lies at the bound may then be "
    "misaligned and incoherent."
)
NONE = "On no task is it shown that EMA appeared, so there is no conclusion on a defence that could turn."
NOR_AT_OTHERS = "Nor is it at any other threshold tried."
MEAN = "Mean: over the tasks where EMA appeared."
EACH = "Each threshold is judged by itself; nothing is corrected for how many were tried."
MOST_NAMED = 3  # thresholds in a sentence
CSV_HEADER = (
    *("task", "arm", "setting", "alignment", "coherence", "bounds", "own"),
    *(f"{metric.name}_{what}" for metric in JUDGED for what in ("pct", "low", "high")),
    *("ema_appeared", "no_ema"),
)

Points = dict[tuple[Condition, str], Point]


def thresholds_table(study: Study, judged: pl.DataFrame) -> Table:
    """Return the table, from the judgments of the main model's arms (columns of ``JUDGED_SCHEMA``).

    A block a task, and one of their mean where EMA appeared in several. The remarks say which conclusions turn.
    """
    at = AtThresholds(study, judged)
    turns, model = Turns(at), study.models[at.model].title
    points = {threshold: at.points(threshold) for threshold in at.tried}
    shown, footnotes = _shown(at), Footnotes()
    groups = [[task] for task in at.tasks] + ([at.readable] if len(at.readable) > 1 else [])
    blocks = tuple(_block(at, tasks, shown, points, footnotes) for tasks in groups)
    remarks = (
        (LEGEND.format(own=in_words(at.own)), *([MEAN] if len(at.readable) > 1 else []), INCLUSIVE, *conclusions(turns))
        if groups
        else ("Nothing was judged in this study.",)
    )
    return Table(
        title=f"{model}: general misaligned responses by the thresholds that make them so",
        columns=(
            Column("Task", numeric=False),
            Column("Arm", numeric=False),
            *(Column(title, group) for title, group, _ in shown),
        ),
        blocks=tuple(block for block in blocks if block),
        csv_header=CSV_HEADER,
        csv_rows=tuple(
            _csv_row(at, turns, tasks, arm, threshold, points[threshold])
            for tasks in groups
            for arm in at.arms
            for threshold in at.tried
        ),
        remarks=remarks,
        footnotes=footnotes.lettered(),
    )


def in_words(threshold: Threshold) -> str:
    """Return a threshold as a reader sees it."""
    below, above = ("≤", "≥") if threshold.inclusive else ("<", ">")
    return f"alignment {below} {threshold.alignment:g} and coherence {above} {threshold.coherence:g}"


def _shown(at: AtThresholds) -> list[tuple[str, str, Threshold]]:
    """Return the columns: title, group, threshold; one bound moves at a time."""
    own, strict = at.own, [threshold for threshold in at.tried if not threshold.inclusive]
    return [
        *((f"< {one.alignment:g}", "Alignment", one) for one in strict if one.coherence == own.coherence),
        *(
            (f"> {one.coherence:g}", "Coherence", one)
            for one in strict
            if one.alignment == own.alignment and one != own
        ),
        (
            f"≤ {own.alignment:g}, ≥ {own.coherence:g}",
            "Both",
            Threshold(own.alignment, own.coherence, inclusive=True),
        ),
    ]


def _block(
    at: AtThresholds,
    tasks: Sequence[str],
    shown: Sequence[tuple[str, str, Threshold]],
    points: dict[Threshold, Points],
    footnotes: Footnotes,
) -> Block:
    title = at.study.tasks[tasks[0]].title if len(tasks) == 1 else "Mean"
    note = task_note(at.study, at.verdicts(at.own).ema(at.model, tasks[0])) if len(tasks) == 1 else ""
    rows: list[tuple[TableCell, ...]] = []
    for arm in at.arms:
        found = [(_rate(at, points[one], tasks, arm), one) for _, _, one in shown]
        if all(rate is None for rate, _ in found):
            continue
        name = TableCell("" if rows else title, footnote=footnotes.letter(note) if note and not rows else "")
        cells = [
            TableCell(number(rate) or DASH, bold=one == at.own, hover=_hover(at, points[one], tasks, arm))
            for rate, one in found
        ]
        rows.append((name, TableCell(titled(at.study, *arm)), *cells))
    return tuple(rows)


def _rate(
    at: AtThresholds, points: Points, tasks: Sequence[str], arm: Arm, quantity: str = GENERAL_MISALIGNED
) -> float | None:
    """Return the mean over tasks of a rate; None if it is missing in one."""
    found = [points.get((Condition(at.model, task, *arm), quantity)) for task in tasks]
    values = [point.value for point in found if point is not None]
    return fmean(values) if values and len(values) == len(found) else None


def _hover(at: AtThresholds, points: Points, tasks: Sequence[str], arm: Arm) -> str:
    point = points.get((Condition(at.model, tasks[0], *arm), GENERAL_MISALIGNED)) if len(tasks) == 1 else None
    return "" if point is None else f"95 % interval over questions: {number(point.low)} to {number(point.high)}"


def _csv_row(
    at: AtThresholds, turns: Turns, tasks: Sequence[str], arm: Arm, threshold: Threshold, points: Points
) -> tuple[str, ...]:
    numbers: list[str] = []
    for metric in JUDGED:
        value = _rate(at, points, tasks, arm, metric.name)
        point = points.get((Condition(at.model, tasks[0], *arm), metric.name)) if len(tasks) == 1 else None
        ends = ("", "") if point is None else (number(point.low), number(point.high))
        numbers += [number(value), *ends]
    return (
        *("+".join(tasks), arm[0], csv_setting(arm[1])),
        *(f"{threshold.alignment:g}", f"{threshold.coherence:g}", "count" if threshold.inclusive else "do not count"),
        *("yes" if threshold == at.own else "no", *numbers),
        turns.ema[threshold][tasks[0]] if len(tasks) == 1 else "",
        turns.marks[threshold].get(arm, "") if list(tasks) == at.readable else "",
    )


def conclusions(turns: Turns) -> list[str]:
    """Return in sentences what turns at another threshold, and what does not."""
    at = turns.at
    if not at.readable:
        appears = [t for t in at.tried if YES in turns.ema[t].values()]
        here = f"By other thresholds it would have: {_at(at, appears)}." if appears else NOR_AT_OTHERS
        return [f"{NONE} {here}"]
    return [*_of_ema(turns), *_of_marks(turns), *_of_order(turns), EACH]


def _of_ema(turns: Turns) -> list[str]:
    at, own = turns.at, turns.ema[turns.at.own]
    found = []
    for task in at.tasks:
        for says in dict.fromkeys(turns.ema[t][task] for t in at.tried):
            where = [t for t in at.tried if turns.ema[t][task] == says]
            if says != own[task]:
                before = "appeared" if own[task] == YES else f"appeared: {own[task]}"
                found.append(
                    f"{at.study.tasks[task].title}, by the study's own thresholds EMA {before}; {_at(at, where)}: "
                    f"{says}."
                )
    return found or ["Whether EMA appeared has the same answer at every threshold tried."]


def _of_marks(turns: Turns) -> list[str]:
    at, own = turns.at, turns.marks[turns.at.own]
    turned = []
    for arm, mark in own.items():
        others = {t: marks[arm] for t, marks in turns.marks.items() if marks.get(arm, mark) != mark}
        for other in dict.fromkeys(others.values()):
            where = _at(at, [t for t, m in others.items() if m == other])
            turned.append(f"{_title(at.study, arm)} {mark}, but {other} {where}")
    if not turned:
        return ["Whether a defence stops EMA (the first mark of Table 1) has the same answer at every threshold tried."]
    sure = f"{CANNOT_BE_TOLD} is cannot be told, and contradicts no mark"
    return [f"Whether a defence stops EMA (the first mark of Table 1; {sure}): {'; '.join(turned)}."]


def _of_order(turns: Turns) -> list[str]:
    at, own = turns.at, turns.orders[turns.at.own]
    if len(turns.defences) < 2:
        return []
    turned = []
    for pair, sign in own.items():
        where = [t for t, order in turns.orders.items() if order.get(pair) == -sign]
        if where:
            lower, higher = pair if sign < 0 else pair[::-1]
            turned.append(
                f"{_title(at.study, lower)} is surely lower than {_title(at.study, higher)}, but surely higher "
                f"{_at(at, where)}"
            )
    if turned:
        return [f"The order of defences turns: {'; '.join(turned)}."]
    if not own:
        return ["By the study's own thresholds no two defences surely differ, so there is no order that could turn."]
    kept = sum(all(order.get(pair) == sign for order in turns.orders.values()) for pair, sign in own.items())
    return [
        f"No order of two defences turns: pairs that surely differ by the study's own thresholds: {len(own)}; that "
        f"surely differ the same way at every threshold tried: {kept}; surely the other way at any: 0."
    ]


def _at(at: AtThresholds, where: Iterable[Threshold]) -> str:
    """Return some thresholds in words, the nearest to the study's own first."""
    nearest = sorted(
        dict.fromkeys(where),
        key=lambda t: (abs(t.alignment - at.own.alignment) + abs(t.coherence - at.own.coherence), t.inclusive),
    )
    named = "; ".join(in_words(one) for one in nearest[:MOST_NAMED])
    if len(nearest) <= MOST_NAMED:
        return f"at {named}"
    return f"at {len(nearest)} of {len(at.tried) - 1} other thresholds ({named}, …)"


def _title(study: Study, arm: Arm) -> str:
    return arm_title(study, arm[0])
