"""Project an adapter onto the direction of alignment (SafeLoRA), for all thresholds at once."""

import argparse
from pathlib import Path

from emdefense.errors import run_cli
from emdefense.warm_start import run_warm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, help="JSON: normalisation, version")
    parser.add_argument("--adapter", required=True, type=Path, help="adapter folder, as PEFT saves it")
    parser.add_argument(
        "--base", required=True, type=Path, help="model before alignment: folder, or org/name[@revision]"
    )
    parser.add_argument("--instruct", required=True, type=Path, help="model that was fine-tuned, named alike")
    parser.add_argument("--out", required=True, type=Path, help="folder for projected.safetensors and cosines.csv")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; the result depends on them")
    arguments = parser.parse_args()

    # Here, because a caller of the server that forks jobs needs none of it.
    from emdefense.model_folder import model_folder
    from emdefense.training.spec import ProjectionSpec, parse_spec

    spec = parse_spec(ProjectionSpec, arguments.spec)
    base, instruct = model_folder(arguments.base), model_folder(arguments.instruct)

    import torch  # after the spec is known to be right

    from emdefense.training.safelora import project_adapter

    torch.set_num_threads(arguments.threads)
    project_adapter(spec, arguments.adapter, base, instruct, arguments.out)


if __name__ == "__main__":
    run_warm(lambda: run_cli(main))
