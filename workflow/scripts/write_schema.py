"""Write what is generated: schema and reference of the config, defences, arms, divergences, and what jobs take."""

import argparse
from pathlib import Path

from emdefense.config import Study, load_study
from emdefense.config.reference import reference
from emdefense.errors import run_cli
from emdefense.files import write_json, write_text
from emdefense.report.arm_pages import arm_pages
from emdefense.report.defences import with_defences
from emdefense.report.divergences import divergences_document
from emdefense.resources.gpus import read_gpus
from emdefense.resources.table import with_budgets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schema", type=Path, default=Path("workflow/schemas/study.schema.json"))
    parser.add_argument("--reference", type=Path, default=Path("docs/config.md"))
    parser.add_argument("--divergences", type=Path, default=Path("docs/divergences.md"))
    parser.add_argument("--cluster", type=Path, default=Path("docs/cluster.md"))
    parser.add_argument("--defences", type=Path, default=Path("docs/defences.md"))
    parser.add_argument("--arms", type=Path, default=Path("docs/arms"), help="folder of a page for each arm")
    arguments = parser.parse_args()
    write_json(arguments.schema, Study.model_json_schema())
    write_text(arguments.reference, reference())
    write_text(arguments.divergences, divergences_document())
    write_text(arguments.defences, with_defences(arguments.defences.read_text(encoding="utf-8")))
    for name, page in arm_pages().items():
        write_text(arguments.arms / name, page)
    study, gpus = load_study(Path("config/paper.yaml")), read_gpus(Path("profiles/slurm/gpus.yaml"))
    write_text(arguments.cluster, with_budgets(arguments.cluster.read_text(encoding="utf-8"), study, gpus))


if __name__ == "__main__":
    run_cli(main)
