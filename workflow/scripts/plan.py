"""Show what a study still takes: jobs by stage, GPU-hours by partition, the judge's calls and dollars, and disk.

Only files are read, also while Snakemake runs. What is done is what has all of its outputs: whether settings or inputs
changed since, and so how much would be made again, `snakemake -n` knows.
"""

import json
from pathlib import Path

from emdefense.errors import run_cli
from emdefense.planning.command_line import named_study, study_parser
from emdefense.planning.plan import plan_text, study_plan
from emdefense.planning.snakemake_folder import take_snapshot
from emdefense.resources.gpus import read_gpus


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument(
        "--gpus", type=Path, default=Path("profiles/slurm/gpus.yaml"), help="the site's partitions with GPUs"
    )
    arguments = parser.parse_args()
    study, gpus = named_study(arguments), read_gpus(arguments.gpus)
    plan = study_plan(study, gpus, take_snapshot())
    print(json.dumps(plan.as_json(), indent=2) if arguments.json else plan_text(plan, gpus))


if __name__ == "__main__":
    run_cli(main)
