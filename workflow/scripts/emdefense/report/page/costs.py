"""What a study took: hours of machines, and what its judges were paid."""

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

from emdefense.config import Study
from emdefense.judging.ledger import Spending, read_ledger
from emdefense.layout import Layout
from emdefense.report.page.provenance import Records, machine_name
from emdefense.report.tables.table import Column, Table, TableCell

DOINGS = {
    "trained": "Training",
    "changed": "Changing adapters",
    "sampled": "Sampling",
    "judged": "Judging",
    "weighed": "Weighing options",
    "read": "Reading held-out answers",
}


def hours_table(stages: dict[str, Records]) -> Table:
    """Return the hours of each stage on each kind of machine, as the records of its parts give them."""
    rows = []
    total = 0.0
    for stage, records in stages.items():
        hours: dict[str, list[float]] = defaultdict(list)
        for record in records.values():
            if "seconds" in record and "copied_from" not in record:
                hours[machine_name(record["machine"])].append(record["seconds"]["all"] / 3600)
        for machine, each in sorted(hours.items()):
            rows.append((DOINGS[stage], machine, str(len(each)), _hours(sum(each))))
            total += sum(each)
    rows.append(("All", "all", str(sum(int(row[2]) for row in rows)), _hours(total)))
    blocks = tuple(tuple(tuple(TableCell(text) for text in row) for row in block) for block in (rows[:-1], rows[-1:]))
    return Table(
        title="Hours of each stage",
        name="hours",
        columns=(Column("Stage", numeric=False), Column("Machine", numeric=False), Column("Parts"), Column("Hours")),
        blocks=tuple(block for block in blocks if block),
        csv_header=("stage", "machine", "parts", "hours"),
        csv_rows=tuple(rows),
        remarks=(
            "A part is a cell, or a cell's question set. Hours are what each took by its own record, those of a run "
            "that died before its end not included, nor fetching and preparing data, nor rendering.",
        ),
    )


def _hours(hours: float) -> str:
    return f"{hours:.2f}" if hours >= 0.01 or hours == 0 else "< 0.01"


def judge_table(study: Study) -> Table | None:
    """Return what remote judges were asked and paid, from the study's ledger; None if nothing was entered there."""
    spent: dict[str, Spending] = defaultdict(Spending)
    for (judge, _), entry in read_ledger(Path(Layout(study).results) / "judge_ledger").items():
        spent[judge].add(asdict(entry))
    if not spent:
        return None
    rows = [
        (judge, *(f"{n:,}" for n in (s.calls, s.unanswered, s.input_tokens, s.output_tokens)), f"{s.usd:.4f}")
        for judge, s in sorted(spent.items())
    ]
    return Table(
        title="What the judges were asked and paid",
        name="judge_costs",
        columns=(
            Column("Judge", numeric=False),
            Column("Replies"),
            Column("Unanswered"),
            Column("Input tokens"),
            Column("Output tokens"),
            Column("USD"),
        ),
        blocks=(tuple(tuple(TableCell(text) for text in row) for row in rows),),
        csv_header=("judge", "replies", "unanswered", "input_tokens", "output_tokens", "usd"),
        csv_rows=tuple(rows),
        remarks=(
            "Unanswered calls may have been charged for and are counted. Replies that another study had paid for cost "
            "nothing here. Where no price of a judge is known, its dollars are 0.",
        ),
    )


def nothing_paid(study: Study) -> str:
    """Return why there is no ledger."""
    if study.judge is None:
        return "There is no judge: nothing was paid."
    if all(judge.kind == "oracle" for judge in study.judges.values()):
        return "The oracle computes its scores: nothing was paid."
    return "No call of a remote judge has been entered for this study: nothing was paid."
