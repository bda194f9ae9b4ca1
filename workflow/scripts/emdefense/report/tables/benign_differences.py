"""The table of paired differences on benign tasks: each arm less plain fine-tuning, and less the untrained model."""

import polars as pl

from emdefense.analysis.answers import match_of
from emdefense.analysis.benign_differences import AGAINST, asked, benign_differences
from emdefense.analysis.conditions import Condition, titled
from emdefense.analysis.differences import SIGNIFICANT, Difference
from emdefense.analysis.paired import SWAPS
from emdefense.analysis.printed import signed
from emdefense.analysis.question_groups import units
from emdefense.arms import PLAIN
from emdefense.config import Study
from emdefense.matching import TITLES
from emdefense.report.tables.differences import too_few
from emdefense.report.tables.notes import seeds_in_words
from emdefense.report.tables.table import DASH, Column, Table, TableCell, csv_setting

LEGEND = (
    "Right answers of each arm less plain fine-tuning's (sft), and less the untrained model's, on the same questions, "
    "in percentage points. Interval: 95 %, when whole {questions} are drawn anew for both arms at once."
)
TEST = (
    "Bold: p below {level:g} % in a permutation test that swaps the two arms' answers to whole {questions} (all ways, "
    "or {swaps:,} random ones), corrected by Holm's method over all benign tasks, arms and settings of a model."
)
TRAININGS = "For these trainings ({seeds}); what another seed would change is in neither."
NOTHING = (
    "Nothing to compare: the study has plain fine-tuning and the untrained model on no benign task, or no other arm."
)
HEADINGS = {arm: f"Less {'plain fine-tuning' if arm == PLAIN else 'the untrained model'}" for arm in AGAINST}
CSV_HEADER = (
    *("model", "task", "match", "arm", "setting", "against", "questions"),
    *("difference", "low", "high", "p", "test", "p_corrected", "significant"),
)


def benign_difference_table(study: Study, benign_questions: pl.DataFrame) -> Table:
    """Return the table, from ``benign_questions`` (columns of ``BENIGN_SCHEMA``): a block a model and task."""
    found = benign_differences(study, benign_questions)
    of = {(one.condition, one.against.arm): one for one in found}
    models = list(dict.fromkeys(one.condition.model for one in found))
    blocks: dict[tuple[str, str], list[tuple[TableCell, ...]]] = {}
    for condition in asked(study):
        differences = [of.get((condition, arm)) for arm in AGAINST]
        if any(difference is not None for difference in differences):
            rows = blocks.setdefault((condition.model, condition.task), [])
            cells = (cell for difference in differences for cell in _cells(difference))
            rows.append((*_names(study, condition, models, first=not rows), *cells))
    groups = units(study.scoring.question_groups)
    remarks = (
        LEGEND.format(questions=groups),
        TEST.format(level=100 * SIGNIFICANT, questions=groups, swaps=SWAPS),
        TRAININGS.format(seeds=seeds_in_words(len(study.seeds))),
        *too_few({HEADINGS[arm].lower(): [d for d in found if d.against.arm == arm] for arm in AGAINST}, groups),
    )
    names = (*(["Model"] if len(models) > 1 else []), "Task", "Match", "Arm")
    title = "benign tasks against plain fine-tuning and the untrained model, paired by question"
    return Table(
        title=f"{study.models[models[0]].title}: {title}" if len(models) == 1 else title[0].upper() + title[1:],
        columns=(
            *(Column(name, numeric=False) for name in names),
            *(Column(part, HEADINGS[arm]) for arm in AGAINST for part in ("points", "95 % interval")),
        ),
        blocks=tuple(map(tuple, blocks.values())),
        csv_header=CSV_HEADER,
        csv_rows=tuple(_csv_row(study, one) for one in found),
        remarks=remarks if found else (NOTHING,),
    )


def _names(study: Study, condition: Condition, models: list[str], *, first: bool) -> tuple[TableCell, ...]:
    task = study.tasks[condition.task].title if first else ""
    match = TITLES[match_of(study, condition.task)] if first else ""
    model = [TableCell(study.models[condition.model].title if first else "")] if len(models) > 1 else []
    return (*model, TableCell(task), TableCell(match), TableCell(titled(study, condition.arm, condition.setting)))


def _cells(difference: Difference | None) -> tuple[TableCell, ...]:
    if difference is None:
        return (TableCell(DASH),) * 2
    low, high = (signed(end, decimals=1) for end in difference.interval)
    p = f"p = {difference.p_corrected:.2g} after Holm's correction"
    points = TableCell(signed(difference.value, decimals=1), bold=difference.is_significant, hover=p)
    return points, TableCell(f"{low} to {high}")


def _csv_row(study: Study, difference: Difference) -> tuple[str, ...]:
    model, task, arm, setting = difference.condition
    return (
        *(model, task, match_of(study, task), arm, csv_setting(setting), difference.against.arm),
        str(difference.questions),
        *(f"{value:.6g}" for value in (difference.value, *difference.interval, difference.p)),
        "exact" if difference.is_exact else "random",
        f"{difference.p_corrected:.6g}",
        "yes" if difference.is_significant else "no",
    )
