"""The paper's published numbers, in the frames that our own measurements have."""

from functools import cache
from pathlib import Path

import polars as pl
import yaml

from emdefense.analysis.rates import CELL_SCHEMA, CUTS, EXACT_MATCH_SCHEMA, RATES_SCHEMA
from emdefense.analysis.summary import Summary
from emdefense.arms import NO_SETTING, UNTRAINED, format_setting
from emdefense.cells import GENERAL, IN_DOMAIN
from emdefense.config import Study
from emdefense.metrics import JUDGED, OUTCOMES

FOLDER = Path(__file__).parent / "paper_values"
GENERAL_QUESTIONS = 24
ARMS = {"baseline": UNTRAINED}  # what Tables 5 and 6 call the untrained model
MODELS = {"Qwen2.5-7B-Instruct": "qwen2.5-7b", "Qwen2.5-32B-Instruct": "qwen2.5-32b"}


@cache
def paper_study() -> Study:
    """Return the paper's study as a config: its models, tasks, arms and chosen settings."""
    return Study.model_validate(yaml.safe_load((FOLDER / "study.yaml").read_text(encoding="utf-8")))


@cache
def paper_summary() -> Summary:
    """Return the paper's numbers for the renderers; they have no intervals."""
    return Summary(paper_rates(), paper_exact_match(), paper_questions(), published=True)


def paper_questions() -> pl.DataFrame:
    """Return the paper's rates as counts by question, as if the answers to all questions had been alike.

    What verdicts take from it is the number of responses: the paper prints no more. Counts need not be whole.
    """
    study, responses = paper_study(), pl.col("responses")
    asked = {GENERAL: GENERAL_QUESTIONS, IN_DOMAIN: study.data.holdout_questions}
    samples = {name: model.samples_per_question for name, model in study.models.items()}
    ids = pl.concat(
        pl.DataFrame({"question_id": [f"{name}_{n}" for n in range(number)]}).with_columns(question_set=pl.lit(name))
        for name, number in asked.items()
    )
    counted = paper_rates().select(*CELL_SCHEMA, "question_set", *(f"{outcome}_pct" for outcome in OUTCOMES))
    return (
        counted.join(ids, on="question_set")
        .with_columns(pl.col("model").replace_strict(samples, return_dtype=pl.Float64).alias("responses"))
        .with_columns(
            responses.alias("scored"),
            *((responses * pl.col(f"{outcome}_pct") / 100).alias(outcome) for outcome in OUTCOMES),
            *(pl.lit(0.0).alias(name) for name in CUTS),
        )
    )


def paper_rates() -> pl.DataFrame:
    """Return Tables 3, 4 and 8-11 with the columns of ``RATES_SCHEMA``, nulls where the paper gives nothing."""
    published = _read("misalignment.csv").rename({"dataset": "task"})
    frames = []
    there = [metric for metric in JUDGED if f"{metric.name}_pct" in published.columns]
    for question_set in dict.fromkeys(metric.question_set for metric in there):
        frames.append(
            published.with_columns(
                pl.col("model").replace_strict(MODELS),
                pl.lit(question_set).alias("question_set"),
                *(
                    pl.col(f"{metric.name}_pct").alias(f"{metric.outcome}_pct")
                    for metric in there
                    if metric.question_set == question_set
                ),
            )
        )
    # Tables 8-11 repeat rows of Table 3.
    rates = _completed(pl.concat(frames), RATES_SCHEMA)
    return rates.unique(maintain_order=True)


@cache
def later_rates() -> dict[tuple[str, str, str, str], float]:
    """Return rates (%) of the paper's later version by task, arm, setting and metric, of the main model.

    They are second-hand, read in a summary of it, and must be marked so wherever they are shown.
    """
    found = {}
    for row in _read("later_version.csv").iter_rows(named=True):
        for metric in JUDGED:
            value = row.get(f"{metric.name}_pct")
            if value is not None and MODELS[row["model"]] == paper_study().report.main_model:
                found[row["dataset"], row["arm"], row["setting"], metric.name] = float(value)
    return found


def paper_exact_match() -> pl.DataFrame:
    """Return Tables 5 and 6 with the columns of ``EXACT_MATCH_SCHEMA``, nulls where the paper gives nothing."""
    tiers = _read("opswap.csv").unpivot(
        [f"tier_{k}" for k in range(4)],
        index=["arm", "setting", "setting_value"],
        variable_name="task",
        value_name="exact_match_pct",
    )
    foqa = _read("foqa.csv").with_columns(pl.lit("foqa").alias("task"))
    both = pl.concat([tiers.with_columns(pl.col("task").str.replace("tier", "opswap")), foqa], how="diagonal")
    model = paper_study().report.main_model
    return _completed(both.with_columns(pl.lit(model).alias("model")), EXACT_MATCH_SCHEMA)


def _read(name: str) -> pl.DataFrame:
    published = pl.read_csv(FOLDER / name, schema_overrides={"hyperparameter": pl.Float64})
    return published.with_columns(
        pl.col("method").replace(ARMS).alias("arm"),
        pl.col("hyperparameter").alias("setting_value"),
        pl.col("hyperparameter")
        .map_elements(format_setting, return_dtype=pl.String)
        .fill_null(NO_SETTING)
        .alias("setting"),
    )


def _completed(frame: pl.DataFrame, schema: dict[str, pl.DataType]) -> pl.DataFrame:
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in frame.columns]
    return frame.with_columns(*absent).with_columns(pl.lit(0, pl.Int64).alias("seed")).select(list(schema))
