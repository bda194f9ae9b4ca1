"""The table of paired differences: each defence against the misaligned arm on the same questions."""

import polars as pl

from emdefense.analysis.conditions import Condition, ema_tasks, titled
from emdefense.analysis.differences import SIGNIFICANT, Difference, differences
from emdefense.analysis.paired import SWAPS
from emdefense.analysis.summary import QUANTITIES
from emdefense.cells import GENERAL, NO_SETTING
from emdefense.config import Study
from emdefense.report.table import DASH, Block, Column, Footnotes, Table, TableCell, signed

NAME = "paired_differences"
TITLES = {
    "general_misaligned": "General misaligned",
    "general_incoherent": "General incoherent",
    "in_domain_misaligned": "In-domain misaligned",
    "in_domain_incoherent": "In-domain incoherent",
}
LEGEND = (
    "The defence's rate less the misaligned arm's on the same questions, in percentage points{seeds}. Interval: 95 %, "
    "when whole questions are drawn anew for both arms at once."
)
TEST = (
    "Bold: p below {level:g} % in a permutation test that swaps the two arms' responses to whole questions ({ways}), "
    "corrected by Holm's method over all tasks and defences of a model and quantity."
)
DECIMALS = 1
EXACT, RANDOM = "all ways to swap", "{swaps:,} random ways to swap"
ONE_SEED = "One seed: the differences are those of these trainings; another seed may give others."
CSV_ONLY = "The CSV has the p-values, every setting and arm, and the chosen defences against each other."
CSV_HEADER = (
    *("model", "task", "arm", "setting", "against", "against_setting", "quantity", "questions"),
    *("difference", "low", "high", "p", "test", "p_corrected", "significant", "ema_appeared"),
)


def difference_table(study: Study, questions: pl.DataFrame) -> Table:
    """Return the table from ``questions.parquet``: a row a task and defence at its chosen setting, a block a task.

    Its CSV has a line a comparison and quantity. Tasks in which EMA did not appear are flagged.
    """
    found = differences(study, questions)
    appeared = _ema_appeared(study, questions)
    shown: dict[tuple[str, str], dict[Condition, dict[str, Difference]]] = {}
    for difference in found:
        if difference.p_corrected is not None and difference.against.arm == "misaligned":
            condition = difference.condition
            rows = shown.setdefault((condition.model, condition.task), {})
            rows.setdefault(condition, {})[difference.quantity] = difference
    footnotes = Footnotes()
    blocks: list[Block] = []
    models = list(dict.fromkeys(model for model, _ in shown))
    for model, task in shown:
        flag = "" if appeared.get((model, task)) else footnotes.letter(_no_ema(study))
        block = []
        for n, (condition, of_quantities) in enumerate(shown[model, task].items()):
            first = [study.models[model].title] if len(models) > 1 else []
            names = [TableCell(text if n == 0 else "") for text in first]
            names.append(TableCell(study.tasks[task].title if n == 0 else "", footnote=flag if n == 0 else ""))
            names.append(TableCell(titled(condition.arm, condition.setting)))
            block.append((*names, *(cell for q in QUANTITIES for cell in _cells(of_quantities.get(q)))))
        blocks.append(tuple(block))
    words = (*(["Model"] if len(models) > 1 else []), "Task", "Defence")
    prefix = f"{study.models[models[0]].title}: " if len(models) == 1 else ""
    title = f"{prefix}defences against the misaligned arm, paired by question"
    return Table(
        number=None,
        name=NAME,
        title=title[0].upper() + title[1:],
        columns=(
            *(Column(word, numeric=False) for word in words),
            *(Column(part, TITLES[q]) for q in QUANTITIES for part in ("points", "95 % interval")),
        ),
        blocks=tuple(blocks),
        csv_header=CSV_HEADER,
        csv_rows=tuple(_csv_row(difference, appeared) for difference in found),
        remarks=_remarks(study, [d for rows in shown.values() for row in rows.values() for d in row.values()]),
        footnotes=footnotes.lettered(),
    )


def _remarks(study: Study, shown: list[Difference]) -> tuple[str, ...]:
    if not shown:
        return ("Nothing to compare: the study measured no defence, at a setting that it chose, and misaligned arm.",)
    seeds = f", {len(study.seeds)} seeds together" if len(study.seeds) > 1 else ""
    exact, random = any(d.is_exact for d in shown), any(not d.is_exact for d in shown)
    ways = " or ".join(text for text, used in ((EXACT, exact), (RANDOM.format(swaps=SWAPS), random)) if used)
    test = TEST.format(ways=ways, level=100 * SIGNIFICANT)
    return (LEGEND.format(seeds=seeds), test, *([] if seeds else [ONE_SEED]), CSV_ONLY)


def _cells(difference: Difference | None) -> tuple[TableCell, ...]:
    if difference is None or difference.p_corrected is None:
        return (TableCell(DASH),) * 2
    low, high = difference.interval
    p = f"p = {difference.p_corrected:.2g} after Holm's correction"
    return (
        TableCell(signed(difference.value, decimals=DECIMALS), bold=difference.is_significant, interval=p),
        TableCell(f"{signed(low, decimals=DECIMALS)} to {signed(high, decimals=DECIMALS)}"),
    )


def _csv_row(difference: Difference, appeared: dict[tuple[str, str], bool]) -> tuple[str, ...]:
    corrected = difference.p_corrected
    settings = ["" if c.setting == NO_SETTING else c.setting for c in (difference.condition, difference.against)]
    model, task, arm, _ = difference.condition
    return (
        *(model, task, arm, settings[0], difference.against.arm, settings[1], difference.quantity),
        str(difference.questions),
        *(f"{value:.6g}" for value in (difference.value, *difference.interval, difference.p)),
        "exact" if difference.is_exact else "random",
        *(("", "") if corrected is None else (f"{corrected:.6g}", "yes" if difference.is_significant else "no")),
        {True: "yes", False: "no", None: ""}[appeared.get((model, task))],
    )


def _ema_appeared(study: Study, questions: pl.DataFrame) -> dict[tuple[str, str], bool]:
    """Return for each model and task whose misaligned arm was measured whether EMA appeared in it."""
    misaligned = questions.filter(pl.col("scored") > 0, arm="misaligned", question_set=GENERAL)
    rates = misaligned.group_by("model", "task").agg(100 * pl.col("misaligned").sum() / pl.col("scored").sum())
    tasks = set(ema_tasks(study))
    return {(model, task): rate >= study.report.emergent_pct for model, task, rate in rates.rows() if task in tasks}


def _no_ema(study: Study) -> str:
    return (
        f"EMA did not appear in the misaligned arm (under {study.report.emergent_pct:g} % general misaligned), so "
        "there is nothing that a defence could have prevented."
    )
