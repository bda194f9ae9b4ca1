"""The verdicts that open the page, in sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from emdefense.analysis.conditions import (
    Condition,
    arm_title,
    chosen_setting,
    conditions,
    ema_tasks,
    setting_title,
    summed_up,
)
from emdefense.analysis.summary import GENERAL_MISALIGNED, Summary
from emdefense.config import Study
from emdefense.report.overview import Overview, overview

Tone = Literal["good", "bad", "plain"]


@dataclass(frozen=True)
class Finding:
    """One sentence for the top of the page, and whether it is good news."""

    tone: Tone
    headline: str
    text: str


def findings(study: Study, summary: Summary) -> list[Finding]:
    """Return whether EMA appeared in each model, and what each defence achieves on the main one."""
    models = [study.report.main_model]
    if study.report.second_model is not None:
        models.append(study.report.second_model)
    found = [_emergence(study, summary, model) for model in models]
    tasks = ema_tasks(study)
    if any(summary.ema_appeared(models[0], task, study.report.emergent_pct) for task in tasks):
        in_grid = {c.arm for c in conditions(study) if c.model == models[0]}
        found += [_defence(study, summary, arm) for arm in summed_up(study) if arm in in_grid]
    return found


def _emergence(study: Study, summary: Summary, model: str) -> Finding:
    title, threshold = study.models[model].title, study.report.emergent_pct
    rates = {task: summary.value(Condition(model, task, "misaligned"), GENERAL_MISALIGNED) for task in ema_tasks(study)}
    measured = {task: rate for task, rate in rates.items() if rate is not None}
    if not measured:
        return Finding("plain", f"{title}: not measured.", "The misaligned arm has no judgments.")
    mean = fmean(measured.values())
    absent = [study.tasks[task].title for task, rate in measured.items() if rate < threshold]
    over = f"mean over {len(measured)} {'task' if len(measured) == 1 else 'tasks'}"
    says = (
        f"After narrow fine-tuning on misaligned answers, {mean:.1f} % of the answers to general questions are "
        f"misaligned ({over}){_controls(study, summary, model)}."
    )
    if len(absent) == len(measured):
        warning = f"That is under {threshold:g} % in every task, so nothing below about defences can be interpreted."
        return Finding("bad", f"{title}: emergent misalignment did not appear.", f"{says} {warning}")
    if absent:
        says += f" It stays under {threshold:g} % in {', '.join(absent)}, where defences cannot be interpreted."
    return Finding("good", f"{title}: emergent misalignment appeared.", says)


def _controls(study: Study, summary: Summary, model: str) -> str:
    parts = []
    for arm in ("untrained", "aligned"):
        rates = [summary.value(Condition(model, task, arm), GENERAL_MISALIGNED) for task in ema_tasks(study)]
        present = [rate for rate in rates if rate is not None]
        if present:
            parts.append(f"{fmean(present):.1f} % {'untrained' if arm == 'untrained' else 'after aligned answers'}")
    return f", against {' and '.join(parts)}" if parts else ""


def _defence(study: Study, summary: Summary, arm: str) -> Finding:
    setting = chosen_setting(study, arm)
    name = arm_title(arm) if setting is None else f"{arm_title(arm)} ({setting_title(arm, setting)})"
    found = overview(study, summary, arm)
    if found.reduction is None:
        return Finding(
            "plain", f"{name}: not measured.", "There is no complete set of judgments at its chosen setting."
        )
    thresholds = study.report.verdicts
    tone: Tone = "plain"
    if found.reduction >= thresholds.ema_reduction_pct[0]:
        tone, what = _learning(found.learning, thresholds.retention_pct)
        what = f"stops EMA{what}"
    elif found.reduction >= thresholds.ema_reduction_pct[1]:
        what = "reduces EMA in part"
    else:
        tone, what = "bad", "does not stop EMA"
    return Finding(tone, f"{name} {what}.", _numbers(found))


def _learning(learning: float | None, thresholds: Sequence[float]) -> tuple[Tone, str]:
    """Return what to say of the learning under a defence that stops EMA, by the thresholds of Table 1."""
    if learning is None:
        return "plain", "; whether it hinders learning was not measured"
    if learning >= thresholds[0]:
        return "good", " and keeps what was to be learned"
    if learning >= thresholds[1]:
        return "plain", " and keeps most of what was to be learned"
    return "plain", ", but hinders learning"


def _numbers(found: Overview) -> str:
    parts = []
    if found.reduction is not None:
        change = "falls" if found.reduction >= 0 else "rises"
        parts.append(f"general misalignment {change} by {abs(found.reduction):.1f} %")
    if found.in_domain_retention is not None:
        parts.append(f"{found.in_domain_retention:.1f} % of the in-domain rate remains")
    if found.benign_retention is not None:
        at = f" (at {found.benign_at})" if found.benign_at else ""
        parts.append(f"benign tasks reach {found.benign_retention:.1f} % of plain fine-tuning{at}")
    if found.incoherent is not None:
        parts.append(f"{found.incoherent:.1f} % of the general answers are incoherent")
    sentence = "; ".join(parts) + "."
    return sentence[0].upper() + sentence[1:]
