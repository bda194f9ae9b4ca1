"""Recompute the paper's claims from its tables and from our rates."""

import argparse
from pathlib import Path

from emdefense.analysis.aggregate import benign_questions
from emdefense.analysis.automatic_choice import choose
from emdefense.analysis.claims import judge_claims
from emdefense.analysis.conditions import automatic
from emdefense.analysis.paper import paper_study, paper_summary
from emdefense.analysis.rates import EXACT_MATCH_SCHEMA
from emdefense.analysis.resampling import ResampledRates
from emdefense.analysis.summary import read_frame, read_summary
from emdefense.config import Study
from emdefense.errors import run_cli
from emdefense.files import read_json
from emdefense.report.claims import write_claims


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the study's effective config (JSON)")
    parser.add_argument("--rates", type=Path, required=True, help="rates.parquet")
    parser.add_argument("--benign", type=Path, required=True, help="exact_match.parquet")
    parser.add_argument("--questions", type=Path, required=True, help="questions.parquet")
    parser.add_argument("--out", type=Path, required=True, help="path of the files without their suffix")
    args = parser.parse_args()
    study = Study.model_validate(read_json(args.config))
    measured = read_summary(args.rates, args.benign, args.questions)
    if automatic(study):
        choice = choose(study, measured.questions)
        study, measured = choice.study, choice.summary(read_frame(args.benign, EXACT_MATCH_SCHEMA))
    scoring = study.scoring
    resampled = ResampledRates(
        measured.questions, scoring.bootstrap_resamples, scoring.question_groups, benign_questions(study)
    )
    write_claims(judge_claims(study, measured, paper_study(), paper_summary(), resampled), study, args.out)


if __name__ == "__main__":
    run_cli(main)
