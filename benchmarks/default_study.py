"""Where the time of a finished study goes: imports, training, sampling, judging, Snakemake.

    python benchmarks/default_study.py [--study microcosm] [--cores 2]

Reads the per-job measurements that Snakemake left in results/<study>/benchmarks, measures each stage's imports in fresh
interpreters, and prints core-seconds. The last line is the ratio of the whole run to its work alone (no imports, no
scheduling): what one process for everything could at best save.
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
    "models": ("microcosm_model", "emdefense.microcosm.creation"),
    "training": ("train", "emdefense.training.run"),
    "projecting": ("project", "emdefense.training.safelora"),
    "sampling": ("generate", "emdefense.generation.transformers_engine"),
    "answering": ("answer", "emdefense.generation.transformers_engine"),
    "judging": ("judge", "emdefense.judging.judge_file"),
    "aggregating": ("aggregate", "emdefense.analysis.aggregate"),
}


def measurements(folder: Path) -> list[dict[str, float]]:
    """Wall seconds and peak memory (MB) of every job of a rule."""
    found = []
    for path in sorted(folder.rglob("*.tsv")) or [folder.with_suffix(".tsv")]:
        if path.is_file():
            row = next(csv.DictReader(path.open(), delimiter="\t"))
            memory = row["max_rss"]
            found.append({"wall": float(row["s"]), "rss": float(memory) if memory not in {"-", "NA"} else 0.0})
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
    started = (results / "study.json").stat().st_mtime
    available = arguments.cores * ((results / "report/index.html").stat().st_mtime - started)

    print(f"{'stage':<12}{'jobs':>6}{'core-s':>9}{'s/job':>8}{'imports/job':>13}{'imports':>9}{'share':>8}{'MB':>7}")
    total = imports = 0.0
    for stage, (rule, module) in STAGES.items():
        jobs = measurements(results / "benchmarks" / rule)
        if not jobs:
            continue
        wall, each = sum(job["wall"] for job in jobs), import_seconds(module)
        total, imports = total + wall, imports + each * len(jobs)
        peak = max(job["rss"] for job in jobs)
        print(
            f"{stage:<12}{len(jobs):>6}{wall:>9.0f}{wall / len(jobs):>8.1f}{each:>13.2f}{each * len(jobs):>9.0f}"
            f"{wall / available:>8.1%}{peak:>7.0f}"
        )
    print(f"{'the rest':<12}{'':>6}{available - total:>9.0f}{'':>30}{1 - total / available:>8.1%}")
    print(
        f"{'available':<12}{'':>6}{available:>9.0f}    ({arguments.cores} cores, {available / arguments.cores:.0f} s)"
    )
    print("'the rest' is data preparation, rendering, Snakemake itself, and cores that had nothing to do")
    print(f"whole run : work without imports and the rest = {available / (total - imports):.2f} : 1")


if __name__ == "__main__":
    main()
