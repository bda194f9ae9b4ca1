"""How far a study is: a state for each job, a matrix of its cells, and what to do about what failed."""

import platform
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from emdefense.cells import Cell, Grid
from emdefense.config.study import Study
from emdefense.planning.cell_parts import cells_of, jobs_of
from emdefense.planning.columns import aligned
from emdefense.planning.failed_jobs import last_line
from emdefense.planning.job import STAGES, Job
from emdefense.planning.made_again import Again, made_again, made_again_text
from emdefense.planning.snakemake_folder import Snapshot
from emdefense.planning.states import STATES, State, state_of, worst

WIDTH = 100
SHOWN = 20  # failures in the text; JSON has all
MARKS: Mapping[State, str] = {"done": "#", "running": ">", "failed": "X", "interrupted": "!", "waiting": "."}
# A cell's parts by the letter at the head of their column.
LETTERS = {
    "adapter": "T",
    "responses": "S",
    "judged_general": "G",
    "judged_in_domain": "D",
    "answers": "A",
    "choices": "C",
    "held_out": "L",
}
FURTHER = "F"  # of all further question sets together

Command = Callable[..., str]


@dataclass(frozen=True)
class Failure:
    """A job that failed; ``last_line`` is empty if it said nothing, as when it was killed for its memory."""

    rule: str
    job: str
    log: str
    last_line: str
    command: str


@dataclass(frozen=True)
class Status:
    """``snakemake``: process, start and host of the one that runs the study; ``locked`` if none does but it is locked.

    ``stages`` counts the jobs of each stage by state; ``again`` are those to be made again although they are there, and
    why; ``cells`` are the cells with the state of each of their parts.
    """

    study: str
    snakemake: dict[str, Any]
    stages: dict[str, dict[State, int]]
    again: list[Again]
    cells: list[tuple[Cell, dict[str, State]]]
    failures: list[Failure]
    commands: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return the same as lists and dictionaries; a cell's parts stand beside its keys."""
        return {
            "study": self.study,
            "snakemake": self.snakemake,
            "stages": self.stages,
            "again": [asdict(again) for again in self.again],
            "cells": [{**asdict(cell), "parts": parts} for cell, parts in self.cells],
            "failures": [asdict(failure) for failure in self.failures],
            "commands": self.commands,
        }


def study_status(study: Study, jobs: Sequence[Job], now: Snapshot, command: Command) -> Status:
    """Return the status of a study, whose ``jobs`` are all of them.

    ``command`` gives the Snakemake command line that ends with given words.
    """
    grid = Grid(study)
    states = {job.log: state_of(job, now) for job in jobs}
    stages: dict[str, dict[State, int]] = {}
    for stage in STAGES:
        counts = Counter(states[job.log] for job in jobs if job.stage == stage)
        if counts:
            stages[stage] = {state: counts[state] for state in reversed(STATES)}
    failures = [
        Failure(job.rule, job.name, job.log, last_line(job), command("--", job.outputs[0]))
        for job in jobs
        if states[job.log] == "failed"
    ]
    parts = jobs_of(grid, jobs)
    cells = [
        (cell, {part: worst(states[job.log] for job in behind) for part, behind in parts[cell].items()})
        for cell in cells_of(grid)
    ]
    return Status(
        study.study,
        _snakemake(jobs, now),
        stages,
        made_again(jobs),
        cells,
        failures,
        _commands(jobs, states, now, command),
    )


def _snakemake(jobs: Sequence[Job], now: Snapshot) -> dict[str, Any]:
    since = [now.locked[output] for job in jobs for output in job.outputs if output in now.locked]
    started = datetime.fromtimestamp(max(since)).isoformat(" ", "seconds") if since else None
    return {
        "process": now.process if since else None,
        "since": started,
        "locked": bool(since) and now.process is None,
        "host": platform.node(),
    }


def _commands(jobs: Sequence[Job], states: Mapping[str, State], now: Snapshot, command: Command) -> dict[str, str]:
    """Return what to type, in this order: to end jobs that nobody waits for, to unlock, to make what is missing."""
    found = {}
    outputs = {output for job in jobs for output in job.outputs}
    if now.process is None:
        ids = {external for output, external in now.making.items() if output in outputs and external in now.queue}
        if ids:
            found["cancel"] = " ".join(["scancel", *sorted(filter(None, ids))])
        if outputs & set(now.locked):
            found["unlock"] = command("--unlock")
    if any(state != "done" for state in states.values()):
        found["all"] = command()
    return found


def status_text(status: Status) -> str:
    """Return the status as plain text of at most ``WIDTH`` columns, but for commands."""
    finished = sum(set(parts.values()) == {"done"} for _, parts in status.cells)
    lines = [f"{status.study}: {finished} of {len(status.cells)} cells are done.", _running(status.snakemake), ""]
    lines += [*_stages(status), *made_again_text(status.again), "", *_matrix(status)]
    for failure in status.failures[:SHOWN]:
        said = failure.last_line or "(its log is empty: it was killed, or its outputs were removed)"
        lines += ["", f"failed: {failure.rule} {failure.job}"]
        lines += textwrap.wrap(said, WIDTH, initial_indent="  ", subsequent_indent="  ", max_lines=4, placeholder=" …")
        lines += [f"  log: {failure.log}", f"  again: {failure.command}"]
    if len(status.failures) > SHOWN:
        lines += ["", f"and {len(status.failures) - SHOWN} more failures; --json lists them all"]
    if status.commands:
        running = status.snakemake["process"] is not None
        lines += ["", "To make what is missing, once Snakemake has ended:" if running else "To make what is missing:"]
        lines += [f"  {line}" for line in status.commands.values()]
    return "\n".join(lines)


def _running(snakemake: Mapping[str, Any]) -> str:
    if snakemake["process"] is not None:
        return f"Snakemake runs since {snakemake['since']} (process {snakemake['process']})."
    if snakemake["locked"]:
        where = f"no Snakemake runs here on {snakemake['host']}"
        return f"Locked since {snakemake['since']}, but {where}: it was killed, or runs elsewhere."
    return "No Snakemake runs it."


def _stages(status: Status) -> list[str]:
    order: list[State] = list(reversed(STATES))
    rows = [["stage", "jobs", *order]]
    for stage, counts in status.stages.items():
        rows.append([stage, str(sum(counts.values())), *(str(counts[state] or "") for state in order)])
    return aligned(rows)


def _matrix(status: Status) -> list[str]:
    """Draw a table per model: a row per arm, setting and seed, a column per task with the marks of the cell's parts."""
    marks = ", ".join(f"{mark} {state}" for state, mark in MARKS.items())
    judged = {cell.task for cell, parts in status.cells if "judged_general" in parts}
    said = ", judged G on general questions and D in domain" if judged else ""
    lines = [marks, f"T trained or projected, S sampled{said}; A answers"]
    further = {cell.task for cell, parts in status.cells if set(parts) - set(LETTERS)}
    lines += ["F judged on further question sets"] if further else []
    benign = {cell.task for cell, parts in status.cells if "answers" in parts}
    choosing = {cell.task for cell, parts in status.cells if "choices" in parts}
    lines[-1] += ", C multiple choice" if choosing else ""
    likely = {cell.task for cell, parts in status.cells if "held_out" in parts}
    lines[-1] += ", L likelihood of held-out answers" if likely else ""
    seeds = len({cell.seed for cell, _ in status.cells}) > 1
    for model in dict.fromkeys(cell.model for cell, _ in status.cells):
        of_model = [(cell, parts) for cell, parts in status.cells if cell.model == model]
        rows: dict[str, dict[str, str]] = {}
        letters: dict[str, str] = {}
        for cell, parts in of_model:
            of_task = "TA" if cell.task in benign else "TSGD" if cell.task in judged else "TS"
            of_task += "F" * (cell.task in further)
            of_task += "C" * (cell.task in choosing) + "L" * (cell.task in likely)
            letters[cell.task] = of_task
            name = " ".join([cell.arm, *([cell.setting] if cell.setting != "none" else [])])
            of_letters: dict[str, list[State]] = {}
            for part, state in parts.items():
                of_letters.setdefault(LETTERS.get(part, FURTHER), []).append(state)
            by_letter = {letter: MARKS[worst(states)] for letter, states in of_letters.items()}
            row = rows.setdefault(f"{name}, seed {cell.seed}" if seeds else name, {})
            row[cell.task] = "".join(by_letter.get(letter, " ") for letter in of_task)
        lines += _wrapped(model, rows, letters)
    return lines


def _wrapped(model: str, rows: Mapping[str, Mapping[str, str]], letters: Mapping[str, str]) -> list[str]:
    """Return a model's table, its tasks in as many blocks as the width wants."""
    lines, tasks = [], list(letters)
    first = max(map(len, [model, *rows]))
    while tasks:
        width, taken = first, 0
        while taken < len(tasks) and (not taken or width + 2 + max(4, len(tasks[taken])) <= WIDTH):
            width += 2 + max(4, len(tasks[taken]))
            taken += 1
        block, tasks = tasks[:taken], tasks[taken:]
        table = [[model, *block], ["", *(letters[task] for task in block)]]
        table += [[name, *(row.get(task, "") for task in block)] for name, row in rows.items() if set(row) & set(block)]
        lines += ["", *aligned(table, left=1 + len(block))]
    return lines
