"""A dry run, the plan and the status of studies of more and more jobs: core-seconds, and how many jobs there are.

    python benchmarks/dry_run.py [--seeds 1 13]

The study is the default one with so many seeds, under a name of its own, so that nothing of it is there.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from measuring import core_seconds, markdown_table

HEADER = ["seeds", "jobs", "snakemake --dry-run, core-s", "plan", "status"]


def measured(config: Sequence[str], seeds: int) -> list[str]:
    """The table's row of a study with so many seeds."""
    named = [*config, "--config", "study=dry-run", f"seeds={list(range(seeds))}"]
    dry, _ = core_seconds([sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "all", *named])
    plan, said = core_seconds([sys.executable, "workflow/scripts/plan.py", "--json", *named])
    status, _ = core_seconds([sys.executable, "workflow/scripts/status.py", "--json", *named])
    jobs = sum(counts["jobs"] for counts in json.loads(said)["stages"].values())
    return [str(seeds), f"{jobs:,}", *(f"{seconds:.1f}" for seconds in (dry, plan, status))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 13])
    parser.add_argument("--quick", action="store_true", help="the smoke study, one seed")
    arguments = parser.parse_args()
    config = ["--configfile", "config/smoke.yaml"] if arguments.quick else []
    print(markdown_table(HEADER, [measured(config, seeds) for seeds in ([1] if arguments.quick else arguments.seeds)]))


if __name__ == "__main__":
    main()
