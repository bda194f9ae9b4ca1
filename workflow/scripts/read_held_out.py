"""Compute how likely held-out answers are to a model, or to one of its adapters."""

from emdefense.warm_caller import run_warm


def main() -> None:
    import argparse
    from pathlib import Path

    from emdefense.fast_imports import fast_imports

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, help="JSON: version, training")
    parser.add_argument("--model", required=True, type=Path, help="model: folder, or org/name[@revision] in the cache")
    parser.add_argument("--adapter", type=Path, help="LoRA adapter; without one, the model as it is")
    parser.add_argument("--rows", required=True, type=Path, help="JSONL of held-out answers, as drawn")
    parser.add_argument("--trained", type=Path, action="append", default=[], help="JSONL that the cell is trained on")
    parser.add_argument("--out", required=True, type=Path, help="JSONL to write: a row's tokens and log-probability")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    given = parser.parse_args()

    # After the arguments are known to be right: these take longer to import.
    from emdefense.model_folder import model_folder
    from emdefense.training.spec import LossesSpec, parse_spec

    spec = parse_spec(LossesSpec, given.spec)
    model = model_folder(given.model)

    with fast_imports():
        from emdefense.likelihood.run import read_held_out  # after the spec is known to be right
    read_held_out(spec, model, given.adapter, given.rows, given.trained, given.out, given.threads)


if __name__ == "__main__":
    run_warm(main)
