"""Render tables and figures of a study: a table as CSV, Markdown, LaTeX and HTML, a figure as SVG, PDF and PNG."""

from emdefense.warm_caller import run_warm


def main() -> None:
    import argparse
    from pathlib import Path

    from emdefense.errors import InputError
    from emdefense.files import read_json

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the study's effective config (JSON)")
    parser.add_argument("--results", type=Path, required=True, help="the study's results folder")
    parser.add_argument("--name", nargs="+", required=True, help="table_01, tradeoff, ...: the names of their files")
    args = parser.parse_args()

    # After the arguments are known to be right: these take longer to import.
    from emdefense.config import Study
    from emdefense.report.catalogue import artefacts
    from emdefense.report.measured import Measured

    study = Study.model_validate(read_json(args.config))
    measured, there = Measured(study, args.results), artefacts(study)
    for name in args.name:
        if name not in there:
            raise InputError(f"--name {name}: this study has no such table or figure; write one of {', '.join(there)}")
        there[name].write(study, measured, args.results)


if __name__ == "__main__":
    run_warm(main)
