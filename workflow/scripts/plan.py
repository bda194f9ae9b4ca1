"""Show what a study still takes: jobs by stage, GPU-hours by partition, the judge's calls and dollars, and disk.

What is to run is what `snakemake --dry-run` would run. Nothing is written into the study, and no lock is taken or
heeded: it can be asked while Snakemake runs.
"""

import json
from pathlib import Path

from emdefense.config import Study
from emdefense.errors import run_cli
from emdefense.planning.command_line import study_parser
from emdefense.planning.gpu_hours import CPU
from emdefense.planning.plan import plan_text, study_plan
from emdefense.resources.gpus import Gpu, read_gpus
from emdefense.resources.jobs import Requests
from emdefense.resources.machine import ASSUMED, this_machine
from emdefense.resources.speed import speed_here


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument(
        "--gpus", type=Path, default=Path("profiles/slurm/gpus.yaml"), help="the site's partitions with GPUs"
    )
    parser.add_argument(
        "--here",
        action="store_true",
        help="the hours on this machine's cores instead, all at work, by ten steps of its own",
    )
    arguments = parser.parse_args()
    from emdefense.snakemake_dag import planned_study  # here, as it takes a second, which --help need not wait for

    study, jobs = planned_study(arguments.configfile, arguments.config)
    gpus = _this_machine(study) if arguments.here else read_gpus(arguments.gpus)
    plan = study_plan(study, gpus, jobs)
    print(json.dumps(plan.as_json(), indent=2) if arguments.json else plan_text(plan, gpus))


def _this_machine(study: Study) -> dict[str, Gpu]:
    """Return this machine's cores as the only partition, as fast as they are on the main model."""
    machine = this_machine()
    shape = Requests(study, {}).shape(study.report.main_model)
    speed = speed_here(machine, shape, study.training) if shape else None
    return {CPU: machine.as_gpu(machine.cores, speed or ASSUMED)}


if __name__ == "__main__":
    run_cli(main)
