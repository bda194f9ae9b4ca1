"""The tables of a comparison: what differs between the studies, their rates, and the paired differences."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from emdefense.analysis.differences import SIGNIFICANT, Difference
from emdefense.analysis.paired import SWAPS
from emdefense.analysis.printed import signed
from emdefense.analysis.question_groups import units
from emdefense.analysis.summary import Estimate
from emdefense.comparison.alike import judge_title
from emdefense.comparison.config_differences import Differing
from emdefense.comparison.pairs import Compared, Comparison, Row
from emdefense.config import Study
from emdefense.metrics import EXACT_MATCH, JUDGED, METRICS, Metric
from emdefense.report.tables.differences import DECIMALS, too_few
from emdefense.report.tables.table import DASH, Block, Column, Table, TableCell, csv_setting, number

LONGEST = 60  # characters of a value in a table; the CSV has all of it
NOT_POOLED = "Each study's rates are its own: nothing is pooled over studies. "
RATE = "In brackets: 95 % interval for questions like these, all of the study's seeds together."
SHOWN = "Shown is what two studies measured, or more"
CSV_RATES = (
    *("study", "judge", "model", "task", "arm", "setting", "quantity", "pct", "low", "high"),
    *("successes", "trials", "seeds", "seed_sd"),
)
CSV_DIFFERENCES = (
    *("study", "model", "against_study", "against_model", "task", "arm", "setting", "quantity", "questions"),
    *("other_words", "difference", "low", "high", "p", "test", "p_corrected", "significant", "judged_unlike"),
)
LEGEND = (
    "The study's rate less {first}'s, in percentage points, on the questions that both asked in the same "
    "words{left_out}. Interval: 95 %, when whole {questions} are drawn anew for both studies at once."
)
TEST = (
    "Bold: p below {level:g} % in a permutation test that swaps the two studies' responses to whole {questions} (all "
    "ways, or {swaps:,} random ones), corrected by Holm's method over a study's {compared} in the column."
)
UNLIKE = "‡ Judged unlike: the difference may be the judge's, and nothing is tested."
TRAININGS = (
    "Interval and p are for these trainings; what other seeds would change is in neither. Studies that differ in "
    "nothing but their seeds show how much that is."
)


def differing_table(name: str, title: str, found: Sequence[Differing], labels: Sequence[str]) -> Table:
    """Return a table of what differs, a column a study."""
    blocks = [
        tuple(
            (TableCell(one.what), *(TableCell(_cut(value), hover=_hover(value)) for value in one.values))
            for one in of_section
        )
        for _, of_section in groupby(found, key=lambda one: one.what.partition(".")[0].partition(",")[0].split()[0])
    ]
    return Table(
        title=title,
        columns=tuple(Column(heading, numeric=False) for heading in ("What", *labels)),
        blocks=tuple(blocks),
        csv_header=("what", *labels),
        csv_rows=tuple((one.what, *(value or "" for value in one.values)) for one in found),
        name=name,
    )


def rate_table(comparison: Comparison) -> Table:
    """Return the studies' rates side by side: a row a task and arm at a chosen setting, a column a metric and study.

    Of what two studies have, or more; the CSV has everything. Where judges differ, each column names its own.
    """
    rows = comparison.rows()
    return Table(
        title="Rates side by side",
        columns=(
            *_headings(comparison, rows),
            *(Column(label, f"{m.title.capitalize()} (%)") for m in JUDGED for label in _columns(comparison)),
        ),
        blocks=_blocks(comparison, rows, {row: _rates(comparison, row, JUDGED) for row in rows}),
        csv_header=CSV_RATES,
        csv_rows=tuple(_rate_rows(comparison, comparison.rows(every=True), JUDGED)),
        remarks=(
            NOT_POOLED + RATE,
            f"{SHOWN}; the CSV has the rest, and every setting.",
            *_model_remarks(comparison),
            *_chosen_remarks(comparison),
        ),
        name="rates",
    )


def benign_table(comparison: Comparison) -> Table:
    """Return the studies' right answers to benign tasks side by side, as :func:`rate_table`."""
    metric, rows = METRICS[EXACT_MATCH], comparison.benign_rows()
    return Table(
        title="Benign tasks side by side",
        columns=(
            *_headings(comparison, rows),
            *(Column(one.label, "Right answers (%)") for one in comparison.studies),
        ),
        blocks=_blocks(comparison, rows, {row: _rates(comparison, row, (metric,)) for row in rows}),
        csv_header=CSV_RATES,
        csv_rows=tuple(_rate_rows(comparison, rows, (metric,))),
        remarks=(NOT_POOLED + RATE, f"{SHOWN}.", *_model_remarks(comparison)),
        name="benign",
    )


def difference_table(comparison: Comparison, found: Sequence[Compared], *, benign: bool = False) -> Table:
    """Return the table of paired differences, a row a study, task and arm at a chosen setting.

    The CSV has every setting, and every p-value.
    """
    metrics = (METRICS[EXACT_MATCH],) if benign else JUDGED
    shown = comparison.benign_rows() if benign else comparison.rows()
    of: dict[tuple[int, Row], dict[str, Compared]] = {}
    for one in found:
        of.setdefault((one.study, one.row), {})[one.difference.quantity] = one
    shown = [row for row in shown if any((n, row) in of for n in range(len(comparison.studies)))]
    blocks: list[Block] = []
    for n, other in enumerate(comparison.studies[1:], start=1):
        cells = {row: _differences(of[n, row], metrics) for row in shown if (n, row) in of}
        blocks += _blocks(comparison, shown, cells, other.label)
    several = [Column("Study", numeric=False)] if len(comparison.studies) > 2 else []
    title = "Benign tasks, paired by question" if benign else "Differences, paired by question"
    if not several:
        title += f": {comparison.studies[1].label} less {comparison.studies[0].label}"
    return Table(
        title=title,
        columns=(
            *several,
            *_headings(comparison, shown),
            *(Column(part, metric.title.capitalize()) for metric in metrics for part in ("points", "95 % interval")),
        ),
        blocks=tuple(blocks),
        csv_header=CSV_DIFFERENCES,
        csv_rows=tuple(_difference_row(comparison, one) for one in found),
        remarks=_difference_remarks(comparison, found, metrics),
        name="benign_differences" if benign else "differences",
    )


def _cut(value: str | None) -> str:
    if value is None:
        return DASH
    return value if len(value) <= LONGEST else f"{value[: LONGEST - 1]}…"


def _hover(value: str | None) -> str:
    return "" if value is None or len(value) <= LONGEST else value


def _study_with(comparison: Comparison, task: str) -> Study:
    return next(one.study for one in comparison.studies if task in one.study.tasks)


def titled(comparison: Comparison, row: Row) -> str:
    """Return a row's arm and setting as a reader sees them."""
    found = next(one.study for one in comparison.studies if row.arm in one.study.every_arm)
    return found.every_arm[row.arm].titled(row.setting)


def _several_places(rows: Iterable[Row]) -> bool:
    return len({row.place for row in rows}) > 1


def _headings(comparison: Comparison, rows: Sequence[Row]) -> list[Column]:
    names = [*(["Model"] if _several_places(rows) else []), "Task", "Arm"]
    return [Column(name, numeric=False) for name in names]


def _blocks(
    comparison: Comparison, rows: Sequence[Row], cells: Mapping[Row, list[TableCell]], study: str = ""
) -> tuple[Block, ...]:
    """Return a block a place and task, whose names stand in its first row; ``study`` before them, if several are.

    Of the ``rows`` of the whole table, those that have ``cells``.
    """
    several = _several_places(rows)
    blocks = []
    for (place, task), here in groupby((row for row in rows if row in cells), key=lambda row: (row.place, row.task)):
        names = [
            *([study] if study and len(comparison.studies) > 2 else []),
            *([place.title] if several else []),
            _study_with(comparison, task).tasks[task].title,
        ]
        block = [
            (*(TableCell(name if n == 0 else "") for name in names), TableCell(titled(comparison, row)), *cells[row])
            for n, row in enumerate(here)
        ]
        blocks.append(tuple(block))
    return tuple(blocks)


def _columns(comparison: Comparison) -> list[str]:
    """Return the studies' labels, each with its judge where these are not the same."""
    judges = [judge_title(one) for one in comparison.studies]
    if len(set(judges)) == 1:
        return [one.label for one in comparison.studies]
    return [f"{one.label}, judge {judge}" for one, judge in zip(comparison.studies, judges, strict=True)]


def estimate(comparison: Comparison, row: Row, number: int, metric: Metric) -> Estimate | None:
    """Return the estimate of a study's rate in a row; None if it did not measure it."""
    condition = row.condition(number)
    return None if condition is None else comparison.studies[number].summary.estimate(condition, metric.name)


def _rates(comparison: Comparison, row: Row, metrics: Sequence[Metric]) -> list[TableCell]:
    found = (estimate(comparison, row, n, m) for m in metrics for n in range(len(comparison.studies)))
    return [_rate(one) for one in found]


def _rate(found: Estimate | None) -> TableCell:
    if found is None:
        return TableCell(DASH)
    interval = "" if found.cluster is None else " [{:.1f}, {:.1f}]".format(*found.cluster)
    hover = "" if found.successes is None else f"{found.successes:,} of {found.trials:,}"
    return TableCell(f"{found.value:.1f}{interval}", hover=hover)


def _rate_rows(comparison: Comparison, rows: Sequence[Row], metrics: Sequence[Metric]) -> Iterable[tuple[str, ...]]:
    for n, one in enumerate(comparison.studies):
        for row in rows:
            for metric in metrics:
                if (found := estimate(comparison, row, n, metric)) is not None:
                    counts = ("", "") if found.successes is None else (str(found.successes), str(found.trials))
                    judge = judge_title(one) if metric.name != EXACT_MATCH else ""
                    yield (
                        *(one.label, judge, str(row.place.models[n]), row.task, row.arm, csv_setting(row.setting)),
                        *(metric.name, number(found.value), *map(number, found.cluster or (None, None))),
                        *(*counts, str(found.seeds), number(found.seed_sd)),
                    )


def _differences(found: dict[str, Compared], metrics: Sequence[Metric]) -> list[TableCell]:
    return [cell for metric in metrics for cell in _difference(found.get(metric.name))]


def _difference(one: Compared | None) -> list[TableCell]:
    if one is None:
        return [TableCell(DASH)] * 2
    found = one.difference
    low, high = (signed(end, decimals=DECIMALS) for end in found.interval)
    hover = "; ".join(one.unlike) or f"p = {found.p:.2g}, {found.p_corrected:.2g} after Holm's correction"
    mark = "‡" if one.unlike else ""
    value = TableCell(signed(found.value, decimals=DECIMALS), bold=found.is_significant, hover=hover, footnote=mark)
    return [value, TableCell(f"{low} to {high}")]


def _difference_row(comparison: Comparison, one: Compared) -> tuple[str, ...]:
    found, first = one.difference, comparison.studies[0]
    p = ("", "") if found.p_corrected is None else (f"{found.p_corrected:.6g}", "yes" if found.is_significant else "no")
    return (
        *(comparison.studies[one.study].label, found.condition.model, first.label, found.against.model),
        *(one.row.task, one.row.arm, csv_setting(one.row.setting), found.quantity, str(found.questions)),
        *(str(one.other_words), *(f"{value:.6g}" for value in (found.value, *found.interval, found.p))),
        *("exact" if found.is_exact else "random", *p, "; ".join(one.unlike)),
    )


def _difference_remarks(
    comparison: Comparison, found: Sequence[Compared], metrics: Sequence[Metric]
) -> tuple[str, ...]:
    if not found:
        return ("Nothing to compare: no two studies have an arm and setting on the same questions.",)
    first = comparison.studies[0]
    used = [comparison.scoring(n).question_groups for n in range(1, len(comparison.studies))]
    groups = units(next((one for one in used if one is not None), None))
    most = max(one.other_words for one in found)
    left_out = f"; up to {most} of one id and other words are left out" if most else ""
    compared = "benign tasks and arms" if metrics is not JUDGED else "tasks and arms at chosen settings"
    families: dict[str, list[Difference]] = {
        f"{metric.title} ({comparison.studies[n].label})": [
            one.difference
            for one in found
            if one.study == n and one.difference.quantity == metric.name and one.difference.p_corrected is not None
        ]
        for metric in metrics
        for n in range(1, len(comparison.studies))
    }
    unlike = dict.fromkeys(f"{comparison.studies[one.study].label}: {said}" for one in found for said in one.unlike)
    return (
        LEGEND.format(first=first.label, questions=groups, left_out=left_out),
        TEST.format(level=100 * SIGNIFICANT, questions=groups, swaps=SWAPS, compared=compared),
        *([f"{UNLIKE} {'; '.join(unlike)}."] if unlike else []),
        TRAININGS,
        *_group_remarks(comparison),
        *_model_remarks(comparison),
        *too_few(families, groups),
    )


def _group_remarks(comparison: Comparison) -> list[str]:
    """Return whose groups of questions are drawn, where the studies have not the same."""
    given = [one.study.scoring.question_groups for one in comparison.studies]
    if all(groups == given[0] for groups in given):
        return []
    return ["Studies name different groups of questions: the first one's are drawn, the other's where it names none."]


def _model_remarks(comparison: Comparison) -> list[str]:
    """Return which models of different names stand in one row."""
    said = []
    for place in comparison.places:
        found = [(one, model) for one, model in zip(comparison.studies, place.models, strict=True) if model is not None]
        if len({model for _, model in found}) > 1:
            said.append(", ".join(f"{one.study.models[model].title} of {one.label}" for one, model in found))
    return [f"In one row, as models in one role: {'; '.join(said)}."] if said else []


def _chosen_remarks(comparison: Comparison) -> list[str]:
    """Return at which questions the rates of studies are whose settings the data chose."""
    said = [one.label for one in comparison.studies if one.at_chosen is not one.study]
    if not said:
        return []
    return [f"Of {', '.join(said)}: settings chosen by the data, and rates at the questions they were not chosen on."]
