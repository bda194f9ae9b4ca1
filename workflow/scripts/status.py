"""Show how far a study is: its jobs by stage, a matrix of its cells, and what to do about what failed.

Only files are read, also while Snakemake runs: the outputs, the rules' logs, and the locks and marks in .snakemake.
"""

import json

from emdefense.errors import run_cli
from emdefense.planning.command_line import named_study, snakemake_command, study_parser
from emdefense.planning.snakemake_folder import take_snapshot
from emdefense.planning.states import MEANING
from emdefense.planning.status import status_text, study_status


def main() -> None:
    parser = study_parser(f"{__doc__}\nStates:\n\n{MEANING}")
    parser.add_argument("--profile", help="put into the commands that are shown, for example slurm")
    arguments = parser.parse_args()

    def command(*words: str) -> str:
        return snakemake_command(arguments, *words)

    status = study_status(named_study(arguments), take_snapshot(), command)
    print(json.dumps(status.as_json(), indent=2) if arguments.json else status_text(status))


if __name__ == "__main__":
    run_cli(main)
