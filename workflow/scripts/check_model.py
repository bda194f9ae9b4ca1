"""Check a model and all that it will be trained on and asked, before anything is trained."""

from emdefense.warm_caller import run_warm


def main() -> None:
    import argparse
    from pathlib import Path

    from emdefense.fast_imports import fast_imports

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, help="JSON: version, generation, training, penalties, limits, chat")
    parser.add_argument(
        "--model", required=True, type=Path, help="instruction-tuned model: folder, or org/name[@revision]"
    )
    parser.add_argument("--rows", type=Path, action="append", default=[], help="training rows, JSON Lines; repeatable")
    parser.add_argument("--questions", type=Path, action="append", default=[], help="questions, JSON; repeatable")
    parser.add_argument("--test", type=Path, action="append", default=[], help="a benign task's test, JSON Lines")
    parser.add_argument("--base", type=Path, help="the model before alignment, if an arm reads it; named like --model")
    parser.add_argument("--out", required=True, type=Path, help="JSON file of what was found")
    given = parser.parse_args()

    # After the arguments are known to be right: these take longer to import.
    from emdefense.model_folder import model_folder
    from emdefense.training.spec import parse_spec

    with fast_imports():
        from emdefense.model_checks.run import check_model
        from emdefense.model_checks.subject import CheckSpec, Subject
    spec = parse_spec(CheckSpec, given.spec)
    base = model_folder(given.base) if given.base else None
    files = (tuple(given.rows), tuple(given.questions), tuple(given.test))
    subject = Subject(spec, model_folder(given.model), *files, base=base)
    check_model(subject, given.out)


if __name__ == "__main__":
    run_warm(main)
