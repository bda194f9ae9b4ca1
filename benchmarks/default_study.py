"""Where the time of a finished study goes: imports, training, sampling, judging, Snakemake.

    python benchmarks/default_study.py [--study microcosm] [--cores 2]

Reads the per-job times that Snakemake left in results/<study>/benchmarks and prints a Markdown table. Beside them
stands what each job's imports take in an interpreter of its own, measured now. The last line is the ratio of a run in
which every job imports for itself to this one, in which most jobs are forked from an interpreter that has imported.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import time
from pathlib import Path

SCRIPTS = Path("workflow/scripts")
# Stage: the rule's folder of measurements, and the modules that its script imports before it works.
STAGES = {
    "models": ("pretrain", "emdefense.microcosm.making"),
    "training": ("train", "emdefense.training.run"),
    "preparing arms": ("prepare_arm", "emdefense.training.preparation"),
    "losses of the pool": ("pool_losses", "emdefense.training.row_losses"),
    "sampling": ("generate", "emdefense.generation.transformers_engine"),
    "answering": ("answer", "emdefense.generation.transformers_engine"),
    "multiple choice": ("choose", "emdefense.choice.run"),
    "held-out answers": ("read_held_out", "emdefense.likelihood.run"),
    "judging": ("judge", "emdefense.judging.judge_file"),
    "checking models": ("check_model", "emdefense.model_checks.run"),
    "aggregating": ("aggregate", "emdefense.analysis.aggregate"),
    "curves of the trainings": ("cell_curves", "emdefense.report.figures.training_curves"),
    "pages of the cells": ("cell_pages", "emdefense.report.page.cells"),
}
# They import for themselves; the others are forked by emdefense.warm_start.
NOT_FORKED = {"models", "aggregating", "curves of the trainings", "pages of the cells"}


def wall_seconds(folder: Path) -> list[float]:
    """Wall seconds of every job of a rule."""
    found = []
    for path in sorted(folder.rglob("*.tsv")) or [folder.with_suffix(".tsv")]:
        if path.is_file():
            row = next(csv.DictReader(path.open(), delimiter="\t"))
            found.append(float(row["s"]))
    return found


def import_seconds(module: str, repeats: int = 3) -> float:
    """Median time that a fresh interpreter takes to import a module, less what it takes to import nothing."""

    def median(code: str) -> float:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, check=True)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    return median(f"import {module}") - median("")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="microcosm")
    parser.add_argument("--cores", type=int, default=2, help="that the study ran on")
    arguments = parser.parse_args()
    results = Path("results") / arguments.study
    started = min(path.stat().st_mtime for path in results.rglob("*"))  # the log of the first job, opened as it starts
    available = arguments.cores * ((results / "report/index.html").stat().st_mtime - started)

    print("| stage | jobs | core-seconds | seconds a job | imports a job, by itself | share of the cores' time |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    total = imports = 0.0
    for stage, (rule, module) in STAGES.items():
        jobs = wall_seconds(results / "benchmarks" / rule)
        if not jobs:
            continue
        wall, each = sum(jobs), import_seconds(module)
        total += wall
        imports += each * len(jobs) if stage not in NOT_FORKED else 0
        job, share = wall / len(jobs), 100 * wall / available
        print(f"| {stage} | {len(jobs)} | {wall:.0f} | {job:.1f} | {each:.1f} | {share:.1f} % |")
    rest = available - total
    print(f"| data, rendering, Snakemake, idle cores | | {rest:.0f} | | | {100 * rest / available:.1f} % |")
    print(f"| all, on {arguments.cores} cores in {available / arguments.cores:.0f} s | | {available:.0f} | | | 100 % |")
    print(f"| every job importing : this run | | {(available + imports) / available:.2f} : 1 | | | |")


if __name__ == "__main__":
    main()
