"""Sample a model's answers to a benign task's test questions, and mark them by exact match."""

from emdefense.warm_caller import run_warm


def main() -> None:
    import argparse
    from pathlib import Path

    from emdefense.files import json_option
    from emdefense.generation.environment import enter_environment

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json_option, required=True, help="sampling settings, as JSON")
    parser.add_argument("--model", type=Path, required=True, help="model: folder, or org/name[@revision] in the cache")
    parser.add_argument("--adapter", type=Path, help="folder of a LoRA adapter, merged before sampling")
    parser.add_argument("--test", type=Path, required=True, help="test questions with their answers, JSONL")
    parser.add_argument("--answers", type=Path, required=True, help="marked answers to write, JSONL")
    parser.add_argument("--reuse", type=Path, help="folder of notes on earlier outputs, to copy equal ones from")
    parser.add_argument("--threads", type=int, default=1, help="threads of each operation on the CPU")
    given = parser.parse_args()

    enter_environment(str(given.spec.get("engine")))

    # After the arguments are known to be right: these take longer to import.
    from emdefense.generation.reuse import ReuseStore
    from emdefense.generation.run import answer
    from emdefense.model_folder import model_folder

    store = ReuseStore(given.reuse)
    answer(given.spec, model_folder(given.model), given.adapter, given.test, given.answers, store, given.threads)


if __name__ == "__main__":
    run_warm(main)
