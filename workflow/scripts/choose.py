"""Have a model weigh the options of multiple-choice questions by their log-probabilities."""

from emdefense.warm_caller import run_warm


def main() -> None:
    import argparse
    from pathlib import Path

    from emdefense.files import json_option

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json_option, required=True, help="precision, batch_size and version, as JSON")
    parser.add_argument("--model", type=Path, required=True, help="model: folder, or org/name[@revision] in the cache")
    parser.add_argument("--adapter", type=Path, help="folder of a LoRA adapter, merged into the weights first")
    parser.add_argument("--questions", type=Path, required=True, help="questions with their options, as prepared")
    parser.add_argument("--choices", type=Path, required=True, help="what was chosen, JSONL to write")
    parser.add_argument("--reuse", type=Path, help="folder of notes on earlier outputs, to copy equal ones from")
    parser.add_argument("--threads", type=int, default=1, help="threads of each operation on the CPU")
    given = parser.parse_args()

    # After the arguments are known to be right: these take longer to import.
    from emdefense.fast_imports import fast_imports
    from emdefense.generation.reuse import ReuseStore
    from emdefense.model_folder import model_folder

    with fast_imports():
        from emdefense.choice.run import choose

    files = (given.questions, given.choices)
    choose(given.spec, model_folder(given.model), given.adapter, *files, ReuseStore(given.reuse), given.threads)


if __name__ == "__main__":
    run_warm(main)
