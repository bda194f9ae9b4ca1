"""Write the JSON schema of the config, generated from the models that validate it."""

import argparse
from pathlib import Path

from emdefense.config import Study
from emdefense.errors import run_cli
from emdefense.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("workflow/schemas/study.schema.json"))
    write_json(parser.parse_args().out, Study.model_json_schema())


if __name__ == "__main__":
    run_cli(main)
