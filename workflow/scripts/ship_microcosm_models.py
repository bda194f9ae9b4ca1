"""Make the models that come with the repository: those of the default study."""

import argparse
from pathlib import Path

from emdefense.config import load_study
from emdefense.config.pretraining import SHIPPED, recipe, shipped_model
from emdefense.errors import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, default=Path("config.yaml"), help="whose models they are")
    parser.add_argument("--folder", type=Path, default=SHIPPED, help="where they are to lie; the package's own")
    parser.add_argument("--only", action="append", help="names of models; all unless given")
    arguments = parser.parse_args()
    study = load_study(arguments.study)

    from emdefense.microcosm.making import make_models

    assert study.microcosm is not None
    for name, seed in study.microcosm.models.items():
        if not arguments.only or name in arguments.only:
            make_models(recipe(study, name), name, (), shipped_model(seed, arguments.folder))


if __name__ == "__main__":
    run_cli(main)
