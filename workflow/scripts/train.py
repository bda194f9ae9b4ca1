"""Train one cell's adapter."""

from emdefense.warm_caller import run_warm


def main() -> None:
    import argparse
    from pathlib import Path

    from emdefense.fast_imports import fast_imports
    from emdefense.files import role_and_path

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, help="JSON: version, seed, training, penalty, arms")
    parser.add_argument(
        "--model", required=True, type=Path, help="instruction-tuned model: folder, or org/name[@revision]"
    )
    parser.add_argument("--rows", required=True, type=Path, help="JSON Lines of conversations")
    parser.add_argument(
        "--cell", required=True, type=Path, help="folder for adapter/, train_log.jsonl, provenance.json"
    )
    parser.add_argument("--features", type=Path, help="cached reference features, if training.reference is cached")
    parser.add_argument(
        "--prepared", type=role_and_path, action="append", default=[], help="ARM=FOLDER of what an arm has prepared"
    )
    parser.add_argument("--stream", type=Path, help="JSON Lines of conversations, an arm's second stream")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; the result depends on them")
    arguments = parser.parse_args()

    # After the arguments are known to be right: these take longer to import.
    from emdefense.model_folder import model_folder
    from emdefense.training.spec import TrainSpec, parse_spec

    spec = parse_spec(TrainSpec, arguments.spec)
    model = model_folder(arguments.model)

    with fast_imports():
        from emdefense.training.run import train_cell  # after the spec is known to be right
    train_cell(
        spec,
        model,
        arguments.rows,
        arguments.cell,
        arguments.threads,
        arguments.features,
        dict(arguments.prepared),
        arguments.stream,
    )


if __name__ == "__main__":
    run_warm(main)
