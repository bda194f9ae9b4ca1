"""The trade-off on further question sets."""

import polars as pl
from matplotlib.figure import Figure

from emdefense.analysis.further_sets import in_place_of_general
from emdefense.analysis.rates import EXACT_MATCH_SCHEMA, rates_of
from emdefense.analysis.resampling import ResampledRates
from emdefense.analysis.summary import Summary
from emdefense.config import Study
from emdefense.report.figures.tradeoff import draw_tradeoff


def draw_tradeoff_on(study: Study, questions: pl.DataFrame, question_set: str) -> Figure:
    """Return the trade-off with a set of a file in the place of the general questions."""
    asked, scoring = in_place_of_general(questions, question_set), study.scoring
    summary = Summary(rates_of(asked, scoring), pl.DataFrame(schema=EXACT_MATCH_SCHEMA), asked)
    return draw_tradeoff(study, summary, ResampledRates(asked, scoring.bootstrap_resamples, scoring.question_groups))
