"""Judge a cell's responses to one question set."""

from emdefense.warm_caller import run_warm


def main() -> None:
    import argparse
    from pathlib import Path

    from emdefense.files import json_objects_option, json_option

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json_option, required=True, help="the config's judge section, as JSON")
    parser.add_argument(
        "--running",
        type=json_objects_option,
        default={},
        help="by judge, as JSON: settings that no judgment depends on",
    )
    parser.add_argument("--questions", type=Path, required=True, help="questions, JSON")
    parser.add_argument("--responses", type=Path, required=True, help="responses, JSONL")
    parser.add_argument("--judgments", type=Path, required=True, help="judgments to write, JSONL")
    parser.add_argument("--cache", type=Path, help="folder of replies that were paid for; judge_cache if not given")
    parser.add_argument("--ledger", type=Path, help="folder in which the study's calls, tokens and dollars are entered")
    parser.add_argument("--cell", default="", help="the cell and question set that pays, for the ledger")
    parser.add_argument("--max-usd", type=float, help="stop, with status 3, before the ledger passes this")
    parser.add_argument("--cache-only", action="store_true", help="ask nothing that is not there")
    arguments = parser.parse_args()

    # After the arguments are known to be right: these take longer to import.
    from emdefense.judging.budget import Account
    from emdefense.judging.judge_file import CACHE, judge_file

    cache = arguments.cache or CACHE
    judge_file(
        arguments.spec,
        arguments.questions,
        arguments.responses,
        arguments.judgments,
        running=arguments.running.get(str(arguments.spec.get("name")), {}),
        cache=cache,
        cache_only=arguments.cache_only,
        account=Account(arguments.ledger or cache / "ledger", arguments.max_usd, arguments.cell),
    )


if __name__ == "__main__":
    run_warm(main)
