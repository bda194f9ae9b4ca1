"""Write what is generated: the config's JSON schema and reference, and the list of divergences from the paper."""

import argparse
from pathlib import Path

from emdefense.config import Study
from emdefense.config.reference import reference
from emdefense.errors import run_cli
from emdefense.files import write_json, write_text
from emdefense.report.divergences import divergences_document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schema", type=Path, default=Path("workflow/schemas/study.schema.json"))
    parser.add_argument("--reference", type=Path, default=Path("docs/config.md"))
    parser.add_argument("--divergences", type=Path, default=Path("docs/divergences.md"))
    arguments = parser.parse_args()
    write_json(arguments.schema, Study.model_json_schema())
    write_text(arguments.reference, reference())
    write_text(arguments.divergences, divergences_document())


if __name__ == "__main__":
    run_cli(main)
