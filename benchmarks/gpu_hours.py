"""GPU-hours of a study, by arithmetic or from what training_step.py measured; as data, docs/gpu_hours.csv.

    python benchmarks/gpu_hours.py [--config config/paper.yaml] [--measured measured.json] [--out docs/gpu_hours.csv]

A row of the file is a model, a task and an arm, all its settings and seeds together. `basis` says where its training
time is from: `arithmetic, not measured` is FLOP / (assumed share × the GPU's peak), otherwise the GPU it was measured
on. Sampling is always arithmetic. What is assumed stands in the constants of `emdefense/planning/`. Prints the sums as
Markdown.
"""

import argparse
import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import markdown_table

from emdefense.cells import Cell, Grid
from emdefense.config.load import load_study
from emdefense.config.shape import ModelShape
from emdefense.config.study import Generation, Study
from emdefense.files import read_json, write_text
from emdefense.planning.gpu_hours import expected_generation, training_seconds, training_tokens
from emdefense.planning.work import Work
from emdefense.resources.duration import generation_seconds
from emdefense.resources.gpus import Gpu
from emdefense.resources.jobs import Requests
from emdefense.resources.memory import generation_budget

ARITHMETIC = "arithmetic, not measured"
A100 = Gpu(memory_gib=79, tflops=312, gb_per_s=1935)  # 80 GB, from its data sheet
MEASURED_AS = {"kl": "KL", "ldifs": "LDIFS"}  # the arms of training_step.py; the others train as SFT does

COLUMNS = (
    *("model", "task", "arm", "trainings", "rows_per_training", "tokens_per_training", "training_gpu_hours"),
    *("responses", "sampling_gpu_hours", "basis"),
)


def estimate(
    study: Study, measured: Sequence[dict[str, Any]] = (), sampling_batch: int | None = None
) -> list[dict[str, Any]]:
    """Return a row of ``COLUMNS`` for each model, task and arm; hours of one GPU, padding included in the tokens.

    ``sampling_batch``, where it fits on the GPU, is taken instead of the study's.
    """
    grid, requests = Grid(study), Requests(study, {"a100": A100})
    work, trainings = Work(grid, requests, prepared=False), grid.trained
    sampled = Counter[Cell]()
    for cell, question_set in grid.responses:
        sampled[cell] += work.responses(cell, question_set)
    for cell in grid.benign:
        sampled[cell] += requests.responses(cell)
    keys = dict.fromkeys((cell.model, cell.task, cell.arm) for cell in [*trainings, *sampled])
    rows = []
    for key in keys:
        shape = study.models[key[0]].shape
        assert shape is not None
        of_key = [cell for cell in trainings if (cell.model, cell.task, cell.arm) == key]
        lengths = [work.rows(cell) for cell in of_key]
        tokens = sum(training_tokens(grid.training(cell), *of) for cell, of in zip(of_key, lengths, strict=True))
        timed = [_training(grid, cell, shape, *of, measured) for cell, of in zip(of_key, lengths, strict=True)]
        responses = {cell: n for cell, n in sampled.items() if (cell.model, cell.task, cell.arm) == key}
        sampling = sum(
            generation_seconds(shape, _generation(grid, cell, shape, sampling_batch), n, A100)
            for cell, n in responses.items()
        )
        values = (
            *key,
            len(of_key),
            round(sum(count for count, _ in lengths) / len(of_key)) if of_key else 0,
            round(tokens / len(of_key)) if of_key else 0,
            round(sum(seconds for seconds, _ in timed) / 3600, 3),
            sum(responses.values()),
            round(sampling / 3600, 3),
            timed[-1][1] if timed else ARITHMETIC,
        )
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _generation(grid: Grid, cell: Cell, shape: ModelShape, batch: int | None) -> Generation:
    """Return how a cell is sampled, in batches of ``batch`` where that is given and fits."""
    generation = expected_generation(grid, cell)
    larger = generation.model_copy(update={"batch_size": batch or generation.batch_size})
    fits = sum(generation_budget(shape, larger).values()) <= A100.usable_bytes
    return larger if fits else generation


def _training(
    grid: Grid, cell: Cell, shape: ModelShape, rows: int, length: float, measured: Sequence[dict[str, Any]]
) -> tuple[float, str]:
    """Return the seconds of a cell's training on one GPU, and where they are from."""
    training, penalty = grid.training(cell), grid.penalty(cell.arm)
    name = penalty.arm.name if penalty else None
    arm = MEASURED_AS.get(name or "", "SFT") + (", cached" if name and training.reference == "cached" else "")
    wanted = (cell.model, arm, training.activation_checkpointing)
    for record in reversed(measured):
        for entry in record["arms"]:
            if (record["model"], entry["arm"], entry["activation_checkpointing"]) == wanted:
                tokens = training.epochs * training_tokens(training, rows, length)
                return tokens / entry["tokens_per_second"], record["device"]
    return training_seconds(training, grid.study_arm(cell), shape, A100, rows, length), ARITHMETIC


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/paper.yaml"))
    parser.add_argument("--measured", type=Path, nargs="+", default=[], help="JSON of benchmarks/training_step.py")
    parser.add_argument("--sampling-batch", type=int, help="where it fits, instead of generation.batch_size")
    parser.add_argument("--padded", action="store_true", help="whatever the study says")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    study = load_study(arguments.config)
    if arguments.padded:
        study = study.model_copy(update={"training": study.training.model_copy(update={"padding_free": False})})
    measured = [read_json(path) for path in arguments.measured]
    rows = estimate(study, measured, arguments.sampling_batch)
    if arguments.out:
        write_text(arguments.out, as_csv(rows))
    header = ["", "trainings", "GPU-hours", "responses", "GPU-hours"]
    table = []
    for model in [*study.models, "all"]:
        of_model = [row for row in rows if model in {row["model"], "all"}]
        sums = [sum(row[column] for row in of_model) for column in COLUMNS if column in {"trainings", "responses"}]
        hours = [sum(row[f"{what}_gpu_hours"] for row in of_model) for what in ("training", "sampling")]
        table.append([model, f"{sums[0]}", f"{hours[0]:.1f}", f"{sums[1]:,}", f"{hours[1]:.1f}"])
    print(markdown_table(header, table))
    print(f"\nOf one GPU; training {', '.join(dict.fromkeys(row['basis'] for row in rows))}; sampling {ARITHMETIC}.")


if __name__ == "__main__":
    main()
