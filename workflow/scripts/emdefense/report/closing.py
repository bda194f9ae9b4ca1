"""What a run says at its end: the verdicts' headlines, the trade-off as a small table, and where the page lies."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from emdefense.analysis.conditions import chosen_setting, conditions, headline_defences, titled
from emdefense.analysis.intervals import Interval
from emdefense.analysis.resampling import ResampledRates
from emdefense.analysis.summary import Summary
from emdefense.analysis.tradeoff import effect, effect_intervals
from emdefense.analysis.verdicts import Verdicts
from emdefense.config import Study
from emdefense.layout import Layout
from emdefense.planning.columns import aligned
from emdefense.report.measured import Measured
from emdefense.report.page.happened import what_happened

MARKS = {"good": "+", "bad": "-", "plain": "·"}
HEAD = ("", "EMA reduction", "in-domain retention")


def closing_text(study: Study) -> str:
    """Return the lines for the end of a run; :class:`InputError` if what was measured is missing or broken."""
    measured = Measured(study)
    parts = [[f"{MARKS[one.tone]} {one.headline}" for one in what_happened(study, measured)]]
    if study.judge:
        reported = measured.reported
        parts.append(tradeoff_lines(measured.chosen, reported.summary, measured.verdicts, reported.resampled))
    parts.append([f"Page: {Path(Layout(study).results) / 'report/index.html'}"])
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def tradeoff_lines(study: Study, summary: Summary, verdicts: Verdicts, resampled: ResampledRates | None) -> list[str]:
    """Return a line for each defence of the main model at its chosen setting: per cent and 95 % intervals.

    They are means over the tasks in which EMA appeared; there is no line if it did in none.
    """
    model = study.report.main_model
    tasks = verdicts.readable(model)
    rows = list(_rows(study, summary, resampled, model, tasks)) if tasks else []
    return aligned([HEAD, *rows]) if rows else []


def _rows(
    study: Study, summary: Summary, resampled: ResampledRates | None, model: str, tasks: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    in_grid = {condition.arm for condition in conditions(study) if condition.model == model}
    for arm in headline_defences(study):
        setting = chosen_setting(study, arm)
        at = None if setting is None or arm not in in_grid else effect(summary, model, tasks, arm, setting)
        if setting is None or at is None:
            continue
        bounds = None if resampled is None else effect_intervals(resampled, model, tasks, arm, setting)
        yield (
            titled(study, arm, setting),
            _percent(at.reduction, None if bounds is None else bounds.reduction),
            _percent(at.retention, None if bounds is None else bounds.retention),
        )


def _percent(value: float, interval: Interval | None) -> str:
    return f"{value:.1f} %" if interval is None else f"{value:.1f} % [{interval[0]:.1f}, {interval[1]:.1f}]"
