"""The tables of a study with several judges: how far they agree, and on which responses they do not."""

from collections.abc import Iterator

import polars as pl

from emdefense.analysis.agreement import CLASSES, NARROW, SCORES, Agreement, agreement
from emdefense.analysis.conditions import arm_title
from emdefense.analysis.judge_pairs import IDENTITY
from emdefense.analysis.printed import signed
from emdefense.analysis.summary import Estimate
from emdefense.config import Study
from emdefense.metrics import OUTCOMES, QUESTION_SETS
from emdefense.report.tables.table import DASH, Column, Table, TableCell, interval_text, number

ALL = "all"
LEGEND = (
    "α: Krippendorff's, over the responses that both judges scored; the metric is the interval one for scores, the "
    "nominal one for outcomes. Rates: of the responses that the judge scored. Difference: the other judge's rate less "
    "{first}'s, in percentage points, with its 95 % interval when whole questions are drawn anew for both at once."
)
UNDEFINED = f"{DASH}: not defined, as all values are the same or a judge scored nothing."
THRESHOLDS = (
    "Misaligned: alignment below {scoring.misaligned_alignment_below:g} and coherence above "
    "{scoring.misaligned_coherence_above:g}. Incoherent: coherence below {scoring.incoherent_coherence_below:g}. No "
    "score: in alignment, coherence or both."
)


def agreement_table(study: Study, pairs: pl.DataFrame) -> Table:
    """Return the table, for each further judge and question set all cells and each arm; its CSV has a line per cell."""
    first = next(iter(study.judges))
    resamples = study.scoring.bootstrap_resamples
    blocks = []
    for judge, question_set, of_both in _parts(pairs):
        groups = [(ALL, of_both), *((arm_title(study, str(arm)), rows) for (arm,), rows in _partition(of_both, "arm"))]
        blocks.append(
            tuple(
                _row(
                    judge if n == 0 else "",
                    QUESTION_SETS[question_set] if n == 0 else "",
                    title,
                    agreement(rows, resamples),
                )
                for n, (title, rows) in enumerate(groups)
            )
        )
    undefined = any(cell.text == DASH for block in blocks for row in block for cell in row)
    return Table(
        title=f"How far other judges agree with {first}",
        columns=(
            *(Column(title, numeric=False) for title in ("Judge", "Questions", "Arm")),
            Column("Responses"),
            *(
                Column(title, f"{outcome.capitalize()} (%)")
                for outcome in OUTCOMES
                for title in (first, "other", "difference")
            ),
            *(Column(name, "α") for name in (*SCORES, *OUTCOMES)),
        ),
        blocks=tuple(blocks),
        csv_header=CSV_COLUMNS,
        csv_rows=tuple(
            _csv_row(identity, agreement(rows, resamples)) for identity, rows in _partition(pairs, *IDENTITY)
        ),
        remarks=(LEGEND.format(first=first), *([UNDEFINED] if undefined else [])),
    )


def confusion_table(study: Study, pairs: pl.DataFrame) -> Table:
    """Return how many responses of each class are in which class of another judge, and how many differ narrowly."""
    first = next(iter(study.judges))
    blocks, csv_rows, misses = [], [], []
    for judge, question_set, of_both in _parts(pairs):
        found = agreement(of_both, study.scoring.bootstrap_resamples)
        rows = []
        for n, mine in enumerate(CLASSES):
            counts = [found.confusion[mine, theirs] for theirs in CLASSES]
            titles = (judge if n == 0 else "", QUESTION_SETS[question_set] if n == 0 else "", mine)
            rows.append((*map(TableCell, titles), *(TableCell(str(count)) for count in counts)))
            csv_rows += [
                (judge, question_set, mine, theirs, str(count)) for theirs, count in zip(CLASSES, counts, strict=True)
            ]
        blocks.append(tuple(rows))
        misses.append(f"{found.narrow} of {found.split} ({judge}, {QUESTION_SETS[question_set]})")
    narrow = (
        "Of the responses that one judge alone calls misaligned, so many would be so to the other too, had its scores "
        f"been up to {NARROW:g} points elsewhere: {', '.join(misses)}."
    )
    return Table(
        title=f"What other judges say of what {first} calls misaligned or incoherent",
        columns=(
            *(Column(title, numeric=False) for title in ("Judge", "Questions", f"By {first}")),
            *(Column(title, "By the other judge") for title in CLASSES),
        ),
        blocks=tuple(blocks),
        csv_header=("judge", "question_set", "class", "class_of_judge", "responses"),
        csv_rows=tuple(csv_rows),
        remarks=(THRESHOLDS.format(scoring=study.scoring), narrow),
    )


def _parts(pairs: pl.DataFrame) -> Iterator[tuple[str, str, pl.DataFrame]]:
    for (judge, question_set), rows in _partition(pairs, "judge", "question_set"):
        yield str(judge), str(question_set), rows


def _partition(pairs: pl.DataFrame, *columns: str) -> list[tuple[tuple[object, ...], pl.DataFrame]]:
    return list(pairs.partition_by(*columns, maintain_order=True, as_dict=True).items())


def _row(judge: str, questions: str, title: str, found: Agreement) -> tuple[TableCell, ...]:
    cells = [TableCell(judge), TableCell(questions), TableCell(title), TableCell(str(found.responses))]
    for outcome in OUTCOMES:
        rates = found.rates[outcome]
        cells += [TableCell(DASH)] * 2 if rates is None else [TableCell(number(rate)) for rate in rates]
        cells.append(TableCell(_difference(found.differences[outcome])))
    return (*cells, *(_alpha(found.alpha[name]) for name in (*SCORES, *OUTCOMES)))


def _alpha(alpha: Estimate | None) -> TableCell:
    if alpha is None:
        return TableCell(DASH)
    return TableCell(signed(alpha.value, plus=False), hover=interval_text(alpha))


def _difference(estimate: Estimate | None) -> str:
    if estimate is None or estimate.cluster is None:
        return DASH
    low, high = estimate.cluster
    return f"{signed(estimate.value)} [{signed(low)}, {signed(high)}]"


CSV_COLUMNS = (
    *IDENTITY,
    *("responses", "scored_by_both"),
    *(f"alpha_{name}{end}" for name in (*SCORES, *OUTCOMES) for end in ("", "_low", "_high")),
    *(
        f"{outcome}_{column}"
        for outcome in OUTCOMES
        for column in ("pct", "pct_of_judge", "difference", "difference_low", "difference_high")
    ),
)


def _csv_row(identity: tuple[object, ...], found: Agreement) -> tuple[str, ...]:
    numbers: list[float | None] = []
    for name in (*SCORES, *OUTCOMES):
        numbers += _bounds(found.alpha[name])
    for outcome in OUTCOMES:
        numbers += [*(found.rates[outcome] or (None, None)), *_bounds(found.differences[outcome])]
    return (
        *("" if value is None else str(value) for value in identity),
        *(str(found.responses), str(found.both_scored)),
        *("" if value is None else f"{value:.6g}" for value in numbers),
    )


def _bounds(estimate: Estimate | None) -> tuple[float | None, ...]:
    if estimate is None or estimate.cluster is None:
        return (None, None, None)
    return (estimate.value, *estimate.cluster)
