"""Cache the reference features of a task's rows."""

from emdefense.warm_caller import run_warm


def main() -> None:
    import argparse
    from pathlib import Path

    from emdefense.fast_imports import fast_imports
    from emdefense.model_folder import model_folder
    from emdefense.training.spec import FeaturesSpec, parse_spec

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, help="JSON: version, training, penalty, options")
    parser.add_argument(
        "--model", required=True, type=Path, help="instruction-tuned model: folder, or org/name[@revision]"
    )
    parser.add_argument("--rows", required=True, type=Path, help="JSON Lines of conversations")
    parser.add_argument("--out", required=True, type=Path, help="folder for the features")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    spec = parse_spec(FeaturesSpec, arguments.spec)
    model = model_folder(arguments.model)

    with fast_imports():
        from emdefense.training.reference_features import cache_features  # after the spec is known to be right
    cache_features(spec, model, arguments.rows, arguments.out, arguments.threads)


if __name__ == "__main__":
    run_warm(main)
