"""Compute the loss of every row of a pool under a model, or one of its adapters."""

from emdefense.warm_caller import run_warm


def main() -> None:
    import argparse
    from pathlib import Path

    from emdefense.fast_imports import fast_imports

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, help="JSON: version, training")
    parser.add_argument(
        "--model", required=True, type=Path, help="instruction-tuned model: folder, or org/name[@revision]"
    )
    parser.add_argument("--adapter", type=Path, help="LoRA adapter; without one, the model as it is")
    parser.add_argument("--rows", required=True, type=Path, help="JSON Lines of conversations")
    parser.add_argument("--out", required=True, type=Path, help="JSON Lines to write: a row's number, tokens and loss")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    given = parser.parse_args()

    # After the arguments are known to be right: these take longer to import.
    from emdefense.model_folder import model_folder
    from emdefense.training.spec import LossesSpec, parse_spec

    spec = parse_spec(LossesSpec, given.spec)
    model = model_folder(given.model)

    with fast_imports():
        from emdefense.training.row_losses import write_losses  # after the spec is known to be right
    write_losses(spec, model, given.rows, given.out, given.adapter, given.threads)


if __name__ == "__main__":
    run_warm(main)
