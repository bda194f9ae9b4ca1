"""Measure how fast a core of this machine trains a model of some shape, and samples from it: ten steps of each."""

import argparse
import json
from dataclasses import asdict

from emdefense.errors import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", required=True, help="the model's shape, as JSON")
    parser.add_argument("--training", required=True, help="the study's section `training`, as JSON")
    given = parser.parse_args()

    from emdefense.config.shape import ModelShape
    from emdefense.config.training import Training
    from emdefense.training.speed import measure_speed

    shape, training = ModelShape.model_validate_json(given.shape), Training.model_validate_json(given.training)
    print(json.dumps(asdict(measure_speed(shape, training))))


if __name__ == "__main__":
    run_cli(main)
