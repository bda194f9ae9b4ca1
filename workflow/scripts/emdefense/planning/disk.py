"""Bytes that a study is still to write, by arithmetic, and those that it has written."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from emdefense.cells import GENERAL, IN_DOMAIN, Grid
from emdefense.config.judges import OpenAIJudge
from emdefense.config.sources import ModelSource
from emdefense.inputs import Inputs
from emdefense.layout import Layout
from emdefense.planning.job import Job
from emdefense.planning.judge_tokens import RESPONSE_TOKENS
from emdefense.planning.work import CHARACTERS_PER_TOKEN, Work
from emdefense.resources.jobs import Requests
from emdefense.resources.memory import OPTIMISER_BYTES, blocks_read
from emdefense.training.costs import feature_bytes

ADAPTER_BYTES = 4  # a parameter, saved in fp32
CHOICE_BYTES = 350  # what was chosen of a question with four options
READ_BYTES = 90  # a held-out row's tokens and log-probability
ROW_BYTES = 400  # a response's row without the response: question, ids
ORACLE_ROW, REMOTE_ROW = 220, 1350  # a judgment's; a remote judge's with both lists of 20 log probabilities


@dataclass(frozen=True)
class Disk:
    """``to_come``: bytes by what they are for. ``passing`` is the most that one training's checkpoints take meanwhile.

    ``there``: bytes in the results folder. ``free``: on its disk. ``unknown``: models whose size is not known.
    """

    to_come: dict[str, int]
    passing: int
    there: int
    free: int
    unknown: list[str]


def disk_needed(grid: Grid, requests: Requests, work: Work, to_run: Sequence[Job]) -> Disk:
    """Return what the jobs ``to_run`` will write. Data sets, logs, figures and tables are small, and left out."""
    study, layout = grid.study, Layout(grid.study)
    found = dict.fromkeys(("model weights", "adapters", "reference features", "responses and answers", "judgments"), 0)
    unknown: dict[str, None] = {}
    passing = 0
    sizes = {
        layout.file(path): name for name, model in study.models.items() for path in (model.instruct, model.base) if path
    }
    readers = {folder: cell for cell in grid.trained if (folder := Inputs(grid).features(cell))}
    prepared = {layout.preparation(cell): cell for cell in grid.prepared}
    for job in to_run:
        cell = job.cell
        if job.stage == "sources" and isinstance(study.sources[job.wildcards["source"]], ModelSource):
            shape = requests.shape(sizes.get(job.outputs[0], "")) if job.outputs[0] in sizes else None
            found["model weights"] += 2 * shape.parameters if shape else 0
            unknown |= {} if shape else {job.wildcards["source"]: None}
        elif job.stage == "features":
            cell = readers[job.outputs[0]]
            penalty, shape = grid.penalty(cell.arm), requests.shape(cell.model)
            if penalty and shape:
                rows, length = work.rows(cell)
                blocks = blocks_read(shape, penalty)
                precision = grid.training(cell).precision
                found["reference features"] += feature_bytes(round(rows * length), shape.hidden_size, blocks, precision)
        elif job.stage in ("training", "changing"):
            cell = cell or prepared[job.outputs[0]]  # taken to be as large as an adapter
            shape, training = requests.shape(cell.model), grid.training(cell)
            if shape:
                parameters = shape.adapter_parameters(training)
                found["adapters"] += ADAPTER_BYTES * parameters
                if job.stage == "training" and training.checkpoint_minutes:
                    # The newest checkpoint goes when the next one is whole.
                    one = parameters * (ADAPTER_BYTES + OPTIMISER_BYTES[training.optimiser])
                    passing = max(passing, int(2 * one))
        elif job.stage == "answering" and cell:
            found["responses and answers"] += requests.responses(cell) * ROW_BYTES
        elif job.stage == "choosing":
            found["responses and answers"] += work.choices(job.wildcards["name"])[0] * CHOICE_BYTES
        elif job.stage == "reading" and cell:
            found["responses and answers"] += work.held_out(cell.task)[0] * READ_BYTES
        elif job.stage == "sampling" and cell:
            sets = [job.question_set] if job.question_set else [GENERAL, IN_DOMAIN]
            length = min(RESPONSE_TOKENS, study.generation.max_new_tokens) * CHARACTERS_PER_TOKEN
            found["responses and answers"] += sum(work.responses(cell, name) for name in sets) * (ROW_BYTES + length)
        elif job.stage == "judging" and cell and job.question_set:
            row = REMOTE_ROW if isinstance(study.judges[job.judge or ""], OpenAIJudge) else ORACLE_ROW
            found["judgments"] += work.responses(cell, job.question_set) * row
    results = Path(layout.results)
    nearest = next(folder for folder in (results, *results.parents) if folder.exists())
    return Disk(found, passing, _size(results), shutil.disk_usage(nearest).free, list(unknown))


def _size(folder: Path) -> int:
    """Return the bytes of all files below a folder in which jobs may be writing."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # it has just gone
            size += path.lstat().st_size if path.is_file() else 0
    return size
