"""What a study still takes: jobs, GPU-hours, the judge's calls and dollars, and disk."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from emdefense.cells import Grid
from emdefense.config.study import Study
from emdefense.planning.cell_parts import cells_of, jobs_of
from emdefense.planning.columns import aligned
from emdefense.planning.disk import Disk, disk_needed
from emdefense.planning.gpu_hours import CPU, Estimates, Hours, scenarios
from emdefense.planning.job import STAGES, Job
from emdefense.planning.judge_cost import JudgeCost, judge_cost
from emdefense.planning.made_again import Again, made_again, made_again_text
from emdefense.planning.work import Work
from emdefense.resources.gpus import Gpu
from emdefense.resources.jobs import Requests

WIDTH = 100
GB = 10**9
UNKNOWN = (
    "not known: a model whose size is not known yet (fetch it, or give models.<name>.shape), or a small one of which "
    "no such job has finished."
)
BY_ARITHMETIC = (
    "arithmetic: nothing was measured. Rows as prepared or, before they are, as in the paper's data; responses of "
    "200 tokens with vLLM, and with transformers, which waits for the longest of a batch, as long as allowed."
)


@dataclass(frozen=True)
class Plan:
    """``stages``: jobs done and to run; ``cells``: the same, done if all of it is. Hours are of what is to run.

    ``again``: why jobs are to run of which everything is there; what follows from these is counted, but not named.

    ``scenarios``: hours by partition if all that fits on the partition named first runs there. ``judge`` is None for a
    judge that costs nothing, and for none; ``second_judges`` are those that cost something.
    """

    study: str
    cells: dict[str, int]
    stages: dict[str, dict[str, int]]
    again: list[Again]
    hours: list[Hours]
    scenarios: dict[str, dict[str, float]]
    judge: JudgeCost | None
    second_judges: list[JudgeCost]
    disk: Disk

    def as_json(self) -> dict[str, Any]:
        """Return the same as lists and dictionaries."""
        return {**asdict(self), "hours": [{**asdict(row), "basis": row.basis} for row in self.hours]}


def study_plan(study: Study, gpus: Mapping[str, Gpu], jobs: Sequence[Job]) -> Plan:
    """Return the plan of a study, whose ``jobs`` are all of them; what runs at this moment counts as to run."""
    grid = Grid(study)
    requests = Requests(study, gpus)
    done = {job.log for job in jobs if not job.needs_run}
    to_run = [job for job in jobs if job.needs_run]
    work = Work(grid, requests, to_come={output for job in to_run for output in job.outputs})
    stages = {}
    for stage in STAGES:
        of_stage = [job for job in jobs if job.stage == stage]
        if of_stage:
            finished = sum(not job.needs_run for job in of_stage)
            stages[stage] = {"jobs": len(of_stage), "done": finished, "to_run": len(of_stage) - finished}
    parts = jobs_of(grid, jobs)
    cells = cells_of(grid)
    whole = sum(all(not job.needs_run for behind in parts[cell].values() for job in behind) for cell in cells)
    estimates = Estimates(study, gpus, work, [job for job in jobs if not job.needs_run])
    hours = estimates.hours(to_run)
    return Plan(
        study.study,
        {"cells": len(cells), "done": whole, "to_run": len(cells) - whole},
        stages,
        made_again(jobs),
        hours,
        scenarios(hours, gpus),
        judge_cost(grid, work, jobs, done, study.judge),
        [cost for judge in study.second_judges if (cost := judge_cost(grid, work, jobs, done, judge))],
        disk_needed(grid, requests, work, to_run),
    )


def plan_text(plan: Plan, gpus: Mapping[str, Gpu]) -> str:
    """Return the plan as plain text of at most ``WIDTH`` columns."""
    counts = plan.cells
    lines = [f"{plan.study}: {counts['cells']} cells, {counts['done']} done, {counts['to_run']} to run", ""]
    rows = [["stage", "jobs", "done", "to run"]]
    rows += [
        [stage, *(str(counts[key]) for key in ("jobs", "done", "to_run"))] for stage, counts in plan.stages.items()
    ]
    lines += [*aligned(rows), *made_again_text(plan.again), ""]
    lines += [*_hours(plan, gpus), ""] if plan.hours else []
    if "judging" not in plan.stages:
        lines += ["judge: none, nothing is judged", ""]
    for cost in (plan.judge, *plan.second_judges) if "judging" in plan.stages else ():
        lines += [*_judge(cost), ""]
    lines += _disk(plan.disk)
    return "\n".join(lines)


def _hours(plan: Plan, gpus: Mapping[str, Gpu]) -> list[str]:
    columns = [name for name in dict.fromkeys((*gpus, CPU)) if any(name in row.hours for row in plan.hours)]
    rows = [["GPU-hours to run" if CPU not in columns else "hours to run", "", "jobs", *columns, ""]]
    for row in plan.hours:
        hours = [_number(row.hours[name]) if name in row.hours else "-" for name in columns]
        rows.append([row.model, row.stage, str(row.jobs), *hours, row.basis])
    table = aligned([row[:-1] for row in rows], left=2)
    width = max(map(len, table))
    lines = [f"{line.ljust(width)}  {row[-1]}".rstrip() for line, row in zip(table, rows, strict=True)]
    for preferred, sums in plan.scenarios.items():
        said = " + ".join(f"{_number(hours)} on {name}" for name, hours in sums.items())
        lines.append(f"all that fits on {preferred} there: {said}")
    if any(row.unknown for row in plan.hours):
        lines += _wrapped(UNKNOWN)
    if any(row.by_arithmetic for row in plan.hours):
        lines += _wrapped(BY_ARITHMETIC)
    return lines


def _judge(cost: JudgeCost | None) -> list[str]:
    if cost is None:
        return ["judge: the oracle, at no cost"]
    rows = [
        ["calls", f"{cost.calls:,}"],
        ["  judged", f"{cost.judged:,}"],
        ["  paid, kept", f"{cost.journalled:,}"],
        ["  repeated", f"{cost.repeated:,}"],
        ["  to make", f"{cost.to_make:,}"],
        ["input tokens", f"{cost.input_tokens:,}"],
        ["output tokens", f"{cost.output_tokens:,}"],
    ]
    lines = [f"judge: {cost.model}, asked twice about each response", *aligned(rows)]
    lines += _wrapped(f"tokens: {cost.basis}; 4 characters each.") if cost.basis else []
    if cost.price is None or cost.dollars is None:
        return [*lines, "dollars: not known; prices.yaml has no price of this model at this endpoint"]
    price = f"{cost.price.input:g} and {cost.price.output:g} USD a million tokens in and out, {cost.price.as_of}"
    return [*lines, *_wrapped(f"dollars: {cost.dollars:,.2f} ({price})")]


def _disk(disk: Disk) -> list[str]:
    total = sum(disk.to_come.values())
    rows = [[f"  {what}", _size(size)] for what, size in disk.to_come.items() if size]
    rows = [["disk to come", _size(total)], *rows]
    if disk.passing:
        rows.append(["checkpoints, each training meanwhile, at most", _size(disk.passing)])
    rows += [["written so far", _size(disk.there)], ["free", _size(disk.free)]]
    lines = aligned(rows)
    lines += (
        [f"not counted, as the size of these models is not known: {', '.join(disk.unknown)}"] if disk.unknown else []
    )
    if total > disk.free:
        lines.append("That does not fit: make `results` or `sources` a link to where there is room.")
    return lines


def _number(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 1 else f"{hours:.2g}"


def _size(size: int) -> str:
    return f"{size / GB:,.1f} GB" if size >= GB else f"{size / 10**6:,.1f} MB"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH)
