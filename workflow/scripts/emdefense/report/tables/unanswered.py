"""The table of what answers nothing: refusals, empty and cut responses of each arm, beside its misaligned rate."""

from collections.abc import Iterator

import polars as pl

from emdefense.analysis.conditions import Condition, titled
from emdefense.analysis.differences import SIGNIFICANT
from emdefense.analysis.printed import signed
from emdefense.analysis.question_groups import units
from emdefense.analysis.unanswered import KINDS, Share, Unanswered
from emdefense.arms import UNTRAINED
from emdefense.config import Study
from emdefense.metrics import QUESTION_SETS
from emdefense.report.tables.differences import too_few
from emdefense.report.tables.table import DASH, Column, Footnotes, Table, TableCell, csv_setting, number

SHOWN = {
    "misaligned": "misaligned",
    "refused_by_judge": "refused (judge)",
    "refused_by_rule": "refused (rule)",
    "empty": "empty",
    "cut": "cut",
}
LEGEND = (
    "Per cent of the responses, misaligned of those with both scores. Refused (judge): the judge's label REFUSAL, "
    "whose scores are missing. Refused (rule): begins like a refusal in English{more}. Empty: nothing but white space. "
    "Cut: at the length limit. A response may be several of these. Intervals over questions are in the CSV."
)
RULE = (
    "Italic: lower than the misaligned arm's, while surely more is unanswered (refused or empty) than of the untrained "
    "model: the paired difference is above 0 with p below {level:g} %, by Holm's method over all tasks and defences. "
    "What is then not misaligned may be not answered."
)
NOTHING = "Nothing was asked in this study."
NO_UNTRAINED = "Without an untrained arm nothing shows what the model refused before, and nothing is marked."
CSV_KINDS = ("misaligned", *KINDS)
CSV_HEADER = (
    *("task", "arm", "setting"),
    *(
        f"{question_set}_{name}"
        for question_set in QUESTION_SETS
        for name in (
            *(f"{kind}_{what}" for kind in CSV_KINDS for what in ("pct", "low", "high")),
            *("misaligned_of_answers_pct", "unanswered_less_untrained", "unanswered_less_untrained_low"),
            *("unanswered_less_untrained_high", "p", "p_corrected", "marked"),
        )
    ),
)


def unanswered_table(study: Study, questions: pl.DataFrame, model: str) -> Table:
    """Return the table of a model, from ``questions.parquet``: its arms at their chosen settings, a block a task."""
    found, footnotes = Unanswered(study, questions, model), Footnotes()
    conditions = found.conditions
    blocks: dict[str, list[tuple[TableCell, ...]]] = {}
    for condition in conditions:
        rows = blocks.setdefault(condition.task, [])
        names = (
            TableCell("" if rows else study.tasks[condition.task].title),
            TableCell(titled(study, condition.arm, condition.setting)),
        )
        cells = (cell for name in QUESTION_SETS for cell in _cells(found, (condition, name), footnotes))
        rows.append((*names, *cells))
    arms = {condition.arm for condition in conditions}
    more = ", or as scoring.refusal_phrases says" if study.scoring.refusal_phrases else ""
    mark = RULE.format(level=100 * SIGNIFICANT) if UNTRAINED in arms else NO_UNTRAINED
    return Table(
        title=f"{study.models[model].title}: responses that answer nothing",
        columns=(
            Column("Task", numeric=False),
            Column("Arm", numeric=False),
            *(Column(title, group.capitalize()) for group in QUESTION_SETS.values() for title in SHOWN.values()),
        ),
        blocks=tuple(map(tuple, blocks.values())),
        csv_header=CSV_HEADER,
        csv_rows=tuple(tuple(_csv_row(found, condition)) for condition in conditions),
        remarks=(LEGEND.format(more=more), mark, *_too_few(study, found)) if conditions else (NOTHING,),
        footnotes=footnotes.lettered(),
    )


def _too_few(study: Study, found: Unanswered) -> list[str]:
    """Return on which questions nothing could be marked, however much were unanswered."""
    drawn = units(study.scoring.question_groups)
    families = {
        f"{title} questions": [
            d for (_, name), d in found.differences.items() if name == question_set and d.p_corrected is not None
        ]
        for question_set, title in QUESTION_SETS.items()
    }
    return too_few(families, drawn)


def _cells(found: Unanswered, place: tuple[Condition, str], footnotes: Footnotes) -> Iterator[TableCell]:
    shares, owed = found.shares(place), found.is_owed(place)
    for kind in SHOWN:
        share = shares.get(kind)
        first = kind == "misaligned"
        yield TableCell(
            DASH if share is None else number(share.value),
            italic=owed and first,
            footnote=footnotes.letter(_why(found, place)) if owed and first else "",
            hover=_hover(share),
        )


def _why(found: Unanswered, place: tuple[Condition, str]) -> str:
    """Return in a sentence how much more is unanswered, and what the rate is without that."""
    difference, unanswered = found.differences[place], found.shares(place)["unanswered"]
    low, high = (signed(end, decimals=1) for end in difference.interval)
    rest = found.misaligned_of_answers(place)
    alone = (
        "Nothing is left with a score." if rest is None else f"Of its answers alone {number(rest)} % are misaligned."
    )
    return (
        f"{number(unanswered.value)} % are unanswered, {signed(difference.value, decimals=1)} points against the "
        f"untrained model (95 % interval {low} to {high}). {alone}"
    )


def _hover(share: Share | None) -> str:
    if share is None:
        return ""
    return "95 % interval over questions: {} to {}".format(*map(number, share.interval))


def _csv_row(found: Unanswered, condition: Condition) -> Iterator[str]:
    yield from (condition.task, condition.arm, csv_setting(condition.setting))
    for question_set in QUESTION_SETS:
        place = (condition, question_set)
        shares, difference = found.shares(place), found.differences.get(place)
        for kind in CSV_KINDS:
            share = shares.get(kind)
            yield from ("", "", "") if share is None else map(number, (share.value, *share.interval))
        yield number(found.misaligned_of_answers(place))
        if difference is None:
            yield from ("", "", "", "", "")
        else:
            yield from (f"{value:.6g}" for value in (difference.value, *difference.interval, difference.p))
            yield "" if difference.p_corrected is None else f"{difference.p_corrected:.6g}"
        yield "yes" if found.is_owed(place) else "no"
