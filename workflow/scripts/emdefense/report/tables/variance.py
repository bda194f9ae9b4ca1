"""The table of variance components: what the error of a rate is made of, and what would make it smaller."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import polars as pl

from emdefense import metrics
from emdefense.analysis.conditions import Condition, chosen_arms, conditions, ema_tasks, headline_defences, titled
from emdefense.analysis.study_variance import RateKey, study_variances
from emdefense.analysis.variance import Variance
from emdefense.arms import MISALIGNED
from emdefense.config import Study
from emdefense.metrics import GENERAL_MISALIGNED, JUDGED
from emdefense.report.tables.table import DASH, Block, Column, Table, TableCell, csv_setting, number

SHOWN = {metric.name: metric.group for metric in JUDGED if metric.outcome == metrics.MISALIGNED}
PARTS = {"question": "questions", "seed": "seeds", "sample": "samples", "judge": "judge"}
MORE = ("questions", "seeds", "samples")  # that a user can buy twice as many of
LEGEND = (
    "Standard error of one task's misaligned rate, and what it is made of: which questions were asked, what the seed "
    "changed (also on single questions), the sampling, the judge; squared errors are means over the tasks. Components "
    "by the method of moments on the outcomes (Searle, Casella and McCulloch 1992)."
)
GROUPED = "Questions: groups of them are drawn (scoring.question_groups), and each counts as one."
SET_TO_0 = "Estimates below 0 count as 0: {below} of {all} components here."
ONE_SEED = "One seed: the seed's share is not known and hides, in part, in the questions'."
ONE_JUDGE = "One judge: its share cannot be told from the others; name second_judges to know it."
OWED = {
    "question": "{:.0f} % due to which questions were asked",
    "seed": "{:.0f} % to the seed",
    "sample": "{:.0f} % to sampling",
    "judge": "{:.0f} % to the judge",
}
AS_GOOD = 1.0  # per cent of the standard error
ALL_ALIKE = "A dash: all outcomes are alike and do not tell the error; Wilson's interval of the rate does."
ASKED_AGAIN = (
    "Judge: what it says otherwise when asked again, from its several answers; what another judge would say is not "
    "known, name second_judges to know it."
)
CSV_HEADER = (
    *("model", "task", "arm", "setting", "quantity", "questions", "seeds"),
    *("variance_question", "variance_seed", "variance_question_seed", "variance_sample_of_a_question_and_seed"),
    *("variance_judge", "variance_judge_question", "variance_judge_response_of_a_question"),
    *(f"{part}_share_pct" for part in PARTS),
    "standard_error",
    *(f"standard_error_twice_the_{what}" for what in MORE),
    "set_to_0",
)


@dataclass(frozen=True)
class _Mean:
    """Squared standard errors, the mean of some rates, and what they would be."""

    rates: Sequence[Variance]

    @property
    def knows_seeds(self) -> bool:
        return all(map(_knows_seeds, self.rates))

    @property
    def knows_judges(self) -> bool:
        return all(map(_knows_judges, self.rates))

    def squared_error(self, **times: float) -> float:
        return sum(rate.squared_error(**times) for rate in self.rates) / len(self.rates)

    def share(self, part: str) -> float | None:
        """The share (%) of a part; None if it is not known, or if there is no error."""
        unknown = (part == "seed" and not self.knows_seeds) or (part == "judge" and not self.knows_judges)
        whole = self.squared_error()
        if unknown or not whole:
            return None
        return 100 * sum(rate.parts()[part] for rate in self.rates) / len(self.rates) / whole

    def error(self, twice: str | None = None) -> float | None:
        """The standard error (points), with twice the questions, seeds or samples; None if that is not known."""
        if twice == "seeds" and not self.knows_seeds:
            return None
        return 100 * sqrt(self.squared_error(**({} if twice is None else {twice: 2})))

    def change(self, twice: str) -> float | None:
        """By how much (%) the standard error changes with twice as many; None if that is not known."""
        now, then = self.error(), self.error(twice)
        return None if then is None or not now else 100 * (then / now - 1)


def variance_table(
    study: Study, questions: pl.DataFrame, pairs: pl.DataFrame | None = None, halves: pl.DataFrame | None = None
) -> Table:
    """Return the table from ``questions.parquet`` and, for the judge's share, from ``study_pairs`` or ``study_halves``.

    A row per arm at its chosen setting, over all tasks; a sentence a model says what to buy more of. Its CSV has a line
    a condition and quantity; variances there are of shares, standard errors in percentage points.
    """
    groups = study.scoring.question_groups
    found = study_variances(questions, pairs, halves, groups)
    models = [model for model in study.models if any(condition.model == model for condition, _ in found)]
    hidden = {
        part
        for part, known in (("seed", _knows_seeds), ("judge", _knows_judges))
        if not any(map(known, found.values()))
    }
    parts = [part for part in PARTS if part not in hidden]
    more = [what for what in MORE if what != "seeds" or "seed" not in hidden]
    blocks: list[Block] = []
    advice = []
    counted: list[Variance] = []
    for model in models:
        for quantity, title in SHOWN.items():
            rows = _rows(study, found, model, quantity)
            first = [study.models[model].title] if len(models) > 1 else []
            block = []
            for n, (arm, setting) in enumerate(rows):
                left = [*first, title] if n == 0 else [""] * (len(first) + 1)
                cells = (TableCell(text) for text in (*left, titled(study, arm, setting)))
                block.append((*cells, *_cells(_Mean(rows[arm, setting]), parts, more)))
            if block:
                blocks.append(tuple(block))
            of_all = [rate for rates in rows.values() for rate in rates]
            counted += of_all
            if quantity == GENERAL_MISALIGNED and of_all:
                advice.append(_advice(study.models[model].title, _Mean(of_all)))
    words = (*(["Model"] if len(models) > 1 else []), "Questions", "Arm")
    return Table(
        title="What the error of a rate is made of, and what would make it smaller",
        columns=(
            *(Column(word, numeric=False) for word in words),
            *(Column(PARTS[part], "Share of the squared error (%)") for part in parts),
            *(Column(title, "Standard error (points)") for title in ("now", *(f"2 × {what}" for what in more))),
        ),
        blocks=tuple(blocks),
        csv_header=CSV_HEADER,
        csv_rows=tuple(_csv_row(measured, found[measured]) for measured in _in_order(study, found)),
        remarks=(
            *_remarks(advice, counted, any(row[-1].text == DASH for block in blocks for row in block)),
            *([GROUPED] if groups is not None and counted else []),
        ),
    )


def _rows(
    study: Study, found: dict[RateKey, Variance], model: str, quantity: str
) -> dict[tuple[str, str], list[Variance]]:
    """Return the components of each task for the misaligned arm and every defence at its chosen setting."""
    rows = {}
    for arm, setting in chosen_arms(study, model):
        places = [(Condition(model, task, arm, setting), quantity) for task in ema_tasks(study)]
        rates = [found[place] for place in places if place in found]
        if rates and (arm == MISALIGNED or arm in headline_defences(study)):
            rows[arm, setting] = rates
    return rows


def _cells(mean: _Mean, parts: Sequence[str], more: Sequence[str]) -> tuple[TableCell, ...]:
    shares = [mean.share(part) for part in parts]
    errors = [mean.error(), *(mean.error(what) for what in more)]
    return (
        *(TableCell(DASH if share is None else f"{share:.0f}") for share in shares),
        *(TableCell(number(error) if error else DASH) for error in errors),
    )


def _advice(title: str, mean: _Mean) -> str:
    """Return, in one sentence, what the errors of a model's general misaligned rates are made of, and what to buy."""
    changes = {what: change for what in MORE if (change := mean.change(what)) is not None}
    if not changes:
        return f"{title}: the general misaligned rates have no error that more of anything would lower."
    parts = [OWED[part].format(share) for part in PARTS if (share := mean.share(part)) is not None]
    lowered = [f"twice the {what} by {-change:.0f} %" for what, change in changes.items()]
    best = [what for what, change in changes.items() if change < min(changes.values()) + AS_GOOD]
    end = "" if mean.knows_seeds else ", or a second seed to know what seeds add"
    return (
        f"{title}: the squared standard error of a general misaligned rate is {_listed(parts)}; the standard error "
        f"would fall with {_listed(lowered)}: buy more {' or '.join(best)}{end}."
    )


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _remarks(advice: Sequence[str], counted: Sequence[Variance], all_alike: bool) -> tuple[str, ...]:
    if not counted:
        return ("Nothing to take apart: no rate of a chosen setting was measured on two questions, twice each.",)
    below = sum(len(_below_0(rate)) for rate in counted)
    components = sum(1 + 2 * _knows_seeds(rate) + 2 * _knows_others(rate) for rate in counted)
    mean = _Mean(counted)
    notes = [
        *([SET_TO_0.format(below=below, all=components)] if below else []),
        *([ALL_ALIKE] if all_alike else []),
        *([] if mean.knows_seeds else [ONE_SEED]),
        *([] if mean.knows_judges else [ONE_JUDGE]),
        *([ASKED_AGAIN] if mean.knows_judges and not all(map(_knows_others, counted)) else []),
    ]
    return (*advice, LEGEND, *notes)


def _in_order(study: Study, found: dict[RateKey, Variance]) -> list[RateKey]:
    place = {condition: n for n, condition in enumerate(conditions(study))}
    return sorted(found, key=lambda measured: (place.get(measured[0], len(place)), measured[1]))


def _csv_row(measured: RateKey, rate: Variance) -> tuple[str, ...]:
    condition, quantity = measured
    judges = rate.judges
    mean = _Mean([rate])
    values = (
        *(rate.question, rate.seed, rate.interaction, rate.sampling),
        *((None,) * 3 if judges is None else (judges.judge, judges.by_question, judges.by_response)),
        *(mean.share(part) for part in PARTS),
        *(mean.error(), *(mean.error(what) for what in MORE)),
    )
    return (
        *condition[:3],
        csv_setting(condition.setting),
        *(quantity, str(rate.questions), str(rate.seeds)),
        *("" if value is None else f"{value:.6g}" for value in values),
        " ".join(_below_0(rate)),
    )


def _knows_seeds(rate: Variance) -> bool:
    return rate.seed is not None


def _knows_judges(rate: Variance) -> bool:
    return rate.judges is not None


def _knows_others(rate: Variance) -> bool:
    return rate.judges is not None and rate.judges.others


def _below_0(rate: Variance) -> tuple[str, ...]:
    return rate.set_to_0 if rate.judges is None else (*rate.set_to_0, *rate.judges.set_to_0)
