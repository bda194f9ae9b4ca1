"""Show how far a study is: its jobs by stage, a matrix of its cells, and what to do about what failed.

What is left is what `snakemake --dry-run` would run; what runs or failed is told by the rules' logs, and by the locks
and marks in .snakemake. Nothing is written, and no lock is taken or heeded: it can be asked while Snakemake runs.
"""

import json

from emdefense.errors import run_cli
from emdefense.planning.command_line import snakemake_command, study_parser
from emdefense.planning.snakemake_folder import take_snapshot
from emdefense.planning.states import MEANING
from emdefense.planning.status import status_text, study_status


def main() -> None:
    parser = study_parser(f"{__doc__}\nStates:\n\n{MEANING}")
    parser.add_argument("--profile", help="put into the commands that are shown, for example slurm")
    arguments = parser.parse_args()
    from emdefense.snakemake_dag import planned_study  # here, as it takes a second, which --help need not wait for

    def command(*words: str) -> str:
        return snakemake_command(arguments, *words)

    now = take_snapshot()  # first: what ends meanwhile is still running then, and not waiting
    study, jobs = planned_study(arguments.configfile, arguments.config)
    status = study_status(study, jobs, now, command)
    print(json.dumps(status.as_json(), indent=2) if arguments.json else status_text(status))


if __name__ == "__main__":
    run_cli(main)
