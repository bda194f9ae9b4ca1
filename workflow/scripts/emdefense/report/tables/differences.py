"""The tables of paired differences: defences against the misaligned arm, and each other, on the same questions."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from emdefense.analysis.conditions import arm_title, titled
from emdefense.analysis.differences import SIGNIFICANT, Difference, against_misaligned, among_defences
from emdefense.analysis.paired import SWAPS
from emdefense.analysis.printed import signed
from emdefense.analysis.question_counts import QuestionCounts
from emdefense.analysis.question_groups import units
from emdefense.analysis.verdicts import NOT_MEASURED, Verdicts
from emdefense.config import Study
from emdefense.metrics import JUDGED
from emdefense.report.tables.notes import seeds_in_words, task_note
from emdefense.report.tables.table import DASH, Block, Column, Footnotes, Table, TableCell, csv_setting

LEGEND = (
    "{first} rate less {second} on the same questions, in percentage points. Interval: 95 %, when whole "
    "{questions} are drawn anew for both arms at once."
)
TEST = (
    "Bold: p below {level:g} % in a permutation test that swaps the two arms' responses to whole {questions} ({ways}), "
    "corrected by Holm's method over all tasks and {compared} of a model and quantity."
)
DECIMALS = 1
EXACT, RANDOM = "all ways to swap", "{swaps:,} random ways to swap"
TOO_FEW = (
    "No p can be below {level:g} % for {what}: with {groups} {units} and {compared} comparisons the smallest that the "
    "test allows is {least:.2g}. Nothing is marked there for that reason alone; go by the intervals."
)
TRAININGS = "Interval and p are for these trainings ({seeds}); what another seed would change is in neither."
CSV_HEADER = (
    *("model", "task", "arm", "setting", "against", "against_setting", "quantity", "questions"),
    *("difference", "low", "high", "p", "test", "p_corrected", "significant", "ema_appeared"),
)


class _Words(NamedTuple):
    """What is compared, in the words of a table."""

    title: str
    heading: str
    first: str
    second: str
    compared: str
    note: str


def difference_table(study: Study, questions: pl.DataFrame) -> Table:
    """Return the table of defences less the misaligned arm, from ``questions.parquet``.

    A row per task and defence at its chosen setting; the CSV has a line per condition and quantity. Tasks in which EMA
    is not shown to have appeared are flagged.
    """
    words = _Words(
        title="defences against the misaligned arm, paired by question",
        heading="Defence",
        first="The defence's",
        second="the misaligned arm's",
        compared="defences",
        note="The CSV has the p-values, and every setting and arm.",
    )
    found = against_misaligned(study, questions)
    return _table(study, questions, found, words, lambda d: titled(study, d.condition.arm, d.condition.setting))


def defence_table(study: Study, questions: pl.DataFrame) -> Table:
    """Return the table of chosen defences less each other, as :func:`difference_table`."""
    found = among_defences(study, questions)
    chosen = dict.fromkeys(titled(study, c.arm, c.setting) for d in found for c in (d.condition, d.against))
    words = _Words(
        title="defences against each other, paired by question",
        heading="Defences",
        first="The first defence's",
        second="the second's",
        compared="pairs of defences",
        note=f"At the chosen settings: {'; '.join(chosen)}. The CSV has the p-values.",
    )
    return _table(
        study,
        questions,
        found,
        words,
        lambda d: f"{arm_title(study, d.condition.arm)} − {arm_title(study, d.against.arm)}",
    )


def _table(
    study: Study, questions: pl.DataFrame, found: list[Difference], words: _Words, label: Callable[[Difference], str]
) -> Table:
    verdicts = Verdicts(study, QuestionCounts.of(questions, study.scoring.question_groups))
    shown: dict[tuple[str, str], dict[str, dict[str, Difference]]] = {}
    for difference in found:
        if difference.p_corrected is not None:
            rows = shown.setdefault(difference.condition[:2], {})
            rows.setdefault(label(difference), {})[difference.quantity] = difference
    footnotes = Footnotes()
    blocks: list[Block] = []
    models = list(dict.fromkeys(model for model, _ in shown))
    for (model, task), rows in shown.items():
        note = task_note(study, verdicts.ema(model, task))
        flag = footnotes.letter(note) if note else ""
        block = []
        for n, (text, of_quantities) in enumerate(rows.items()):
            first = [study.models[model].title] if len(models) > 1 else []
            names = [TableCell(left if n == 0 else "") for left in first]
            names.append(TableCell(study.tasks[task].title if n == 0 else "", footnote=flag if n == 0 else ""))
            names.append(TableCell(text))
            block.append((*names, *(cell for m in JUDGED for cell in _cells(of_quantities.get(m.name)))))
        blocks.append(tuple(block))
    headings = (*(["Model"] if len(models) > 1 else []), "Task", words.heading)
    title = f"{study.models[models[0]].title}: {words.title}" if len(models) == 1 else words.title
    return Table(
        title=title[0].upper() + title[1:],
        columns=(
            *(Column(heading, numeric=False) for heading in headings),
            *(Column(part, metric.title.capitalize()) for metric in JUDGED for part in ("points", "95 % interval")),
        ),
        blocks=tuple(blocks),
        csv_header=CSV_HEADER,
        csv_rows=tuple(_csv_row(difference, verdicts) for difference in found),
        remarks=_remarks(study, [d for d in found if d.p_corrected is not None], words),
        footnotes=footnotes.lettered(),
    )


def _remarks(study: Study, shown: list[Difference], words: _Words) -> tuple[str, ...]:
    if not shown:
        return ("Nothing to compare: the study did not measure two such arms at chosen settings.",)
    groups = units(study.scoring.question_groups)
    exact, random = any(d.is_exact for d in shown), any(not d.is_exact for d in shown)
    ways = " or ".join(text for text, used in ((EXACT, exact), (RANDOM.format(swaps=SWAPS), random)) if used)
    return (
        LEGEND.format(first=words.first, second=words.second, questions=groups),
        TEST.format(level=100 * SIGNIFICANT, ways=ways, compared=words.compared, questions=groups),
        TRAININGS.format(seeds=seeds_in_words(len(study.seeds))),
        words.note,
        *too_few({metric.title: [d for d in shown if d.quantity == metric.name] for metric in JUDGED}, groups),
    )


def too_few(families: Mapping[str, Sequence[Difference]], units: str) -> list[str]:
    """Return in sentences in which families, by their titles, no difference, however large, could be significant."""
    found: dict[tuple[int, int, float], list[str]] = {}
    for title, family in families.items():
        if family and all(d.least_p >= SIGNIFICANT for d in family):
            best = min(family, key=lambda d: d.least_p)
            found.setdefault((best.groups, best.compared, best.least_p), []).append(title)
    return [
        TOO_FEW.format(
            level=100 * SIGNIFICANT,
            what=", ".join(titles),
            groups=groups,
            units=units,
            compared=compared,
            least=least,
        )
        for (groups, compared, least), titles in found.items()
    ]


def _cells(difference: Difference | None) -> tuple[TableCell, ...]:
    if difference is None or difference.p_corrected is None:
        return (TableCell(DASH),) * 2
    low, high = difference.interval
    p = f"p = {difference.p_corrected:.2g} after Holm's correction"
    return (
        TableCell(signed(difference.value, decimals=DECIMALS), bold=difference.is_significant, hover=p),
        TableCell(f"{signed(low, decimals=DECIMALS)} to {signed(high, decimals=DECIMALS)}"),
    )


def _csv_row(difference: Difference, verdicts: Verdicts) -> tuple[str, ...]:
    corrected = difference.p_corrected
    settings = [csv_setting(c.setting) for c in (difference.condition, difference.against)]
    model, task, arm, _ = difference.condition
    return (
        *(model, task, arm, settings[0], difference.against.arm, settings[1], difference.quantity),
        str(difference.questions),
        *(f"{value:.6g}" for value in (difference.value, *difference.interval, difference.p)),
        "exact" if difference.is_exact else "random",
        *(("", "") if corrected is None else (f"{corrected:.6g}", "yes" if difference.is_significant else "no")),
        "" if (says := verdicts.ema(model, task).says) == NOT_MEASURED else says,
    )
