"""The verdicts that open the page, in sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from emdefense.analysis.achievements import (
    CANNOT_BE_TOLD,
    MISSED,
    PARTLY,
    REACHED,
    Achievement,
    achievement,
)
from emdefense.analysis.conditions import (
    Condition,
    arm_title,
    chosen_setting,
    conditions,
    ema_models,
    ema_tasks,
    headline_defences,
    setting_title,
)
from emdefense.analysis.summary import Gaps, Summary
from emdefense.analysis.verdicts import NO, NOT_MEASURED, UNTOLD, YES, Answer, Verdicts
from emdefense.arms import ALIGNED, MISALIGNED, UNTRAINED
from emdefense.cells import GENERAL
from emdefense.config import Study
from emdefense.metrics import GENERAL_MISALIGNED, QUESTION_SETS

NO_JUDGMENTS = "The misaligned arm has no judgments."
Tone = Literal["good", "bad", "plain"]


@dataclass(frozen=True)
class Finding:
    """One sentence for the top of the page, and whether it is good news."""

    tone: Tone
    headline: str
    text: str


def findings(study: Study, summary: Summary, verdicts: Verdicts | None = None) -> list[Finding]:
    """Return whether EMA appeared in each model, and what each defence achieves on the main one."""
    verdicts = verdicts or Verdicts.of(study, summary)
    named = (study.report.main_model, study.report.second_model)
    models = list(dict.fromkeys(model for model in (*named, *ema_models(study)) if model))
    found = [_emergence(study, summary, verdicts, model) for model in models]
    if verdicts.readable(models[0]):
        in_grid = {c.arm for c in conditions(study) if c.model == models[0]}
        found += [
            defence_finding(
                study, arm, achievement(study, summary, verdicts, models[0], arm), _gaps_of(study, summary, arm)
            )
            for arm in headline_defences(study)
            if arm in in_grid
        ]
    return found


def _emergence(study: Study, summary: Summary, verdicts: Verdicts, model: str) -> Finding:
    title = study.models[model].title
    rates = {task: summary.value(Condition(model, task, MISALIGNED), GENERAL_MISALIGNED) for task in ema_tasks(study)}
    measured = {task: rate for task, rate in rates.items() if rate is not None}
    overall = verdicts.ema_anywhere(model)
    if not measured or overall.says == NOT_MEASURED:
        asked = sum((summary.gaps(Condition(model, task, MISALIGNED), GENERAL) for task in rates), Gaps()).responses
        why = f"None of the misaligned arm's {asked:,} answers has a score." if asked else NO_JUDGMENTS
        return Finding("plain", f"{title}: not measured.", why)
    over = f"mean over {len(measured)} {'task' if len(measured) == 1 else 'tasks'}"
    says = (
        f"After narrow fine-tuning on misaligned answers, {fmean(measured.values()):.1f} % of the answers to general "
        f"questions are misaligned ({over}){_controls(study, summary, model)}."
    )
    gaps = _gaps(summary, [Condition(model, task, MISALIGNED) for task in ema_tasks(study)])
    text = " ".join(filter(None, (says, gaps, *_by_task(study, verdicts, model, list(measured)))))
    if overall.says == YES:
        return Finding("good", f"{title}: emergent misalignment appeared.", text)
    if overall.says == NO:
        return Finding("bad", f"{title}: emergent misalignment did not appear.", text)
    return Finding("plain", f"{title}: whether emergent misalignment appeared cannot be told.", text)


def _by_task(study: Study, verdicts: Verdicts, model: str, tasks: Sequence[str]) -> list[str]:
    """Return, in sentences, on which tasks defences cannot be read, and why."""
    overall = verdicts.ema_anywhere(model)
    answers = {task: verdicts.ema(model, task) for task in tasks}
    absent, untold = (
        [study.tasks[task].title for task, answer in answers.items() if answer.says == says] for says in (NO, UNTOLD)
    )
    least = f"{study.report.emergent_pct:g}"
    if overall.says == NO:
        return [
            f"That, or what it exceeds the untrained model's rate by, is surely under {least} % in every task, so "
            "nothing below about defences can be interpreted."
        ]
    if overall.says == UNTOLD:
        why = _why(study, answers, overall)
        return [why, "Until it is told, nothing is said of defences."]
    found = []
    if absent:
        found.append(f"It did not appear in {', '.join(absent)}.")
    if untold:
        found.append(f"Whether it appeared in {', '.join(untold)} cannot be told: {_first_untold(answers).why}.")
    return [*found, "There, defences cannot be interpreted."] if found else []


def _why(study: Study, answers: dict[str, Answer], overall: Answer) -> str:
    """Return why it cannot be told whether EMA appeared in a model; a reason that is one task's names the task."""
    if {answer.why for answer in answers.values()} == {overall.why}:
        return overall.full
    if overall not in answers.values():
        return f"In the mean over tasks, {overall.why}. {overall.settle}".strip()
    task = next(task for task, answer in answers.items() if answer == overall)
    further = ", for one" if sum(answer.says == UNTOLD for answer in answers.values()) > 1 else ""
    return f"On {study.tasks[task].title}{further}, {overall.why}. {overall.settle}".strip()


def _first_untold(answers: dict[str, Answer]) -> Answer:
    return next(answer for answer in answers.values() if answer.says == UNTOLD)


def _controls(study: Study, summary: Summary, model: str) -> str:
    parts = []
    for arm in (UNTRAINED, ALIGNED):
        rates = [summary.value(Condition(model, task, arm), GENERAL_MISALIGNED) for task in ema_tasks(study)]
        present = [rate for rate in rates if rate is not None]
        if present:
            parts.append(
                f"{fmean(present):.1f} % {'after aligned answers' if arm == ALIGNED else arm_title(study, arm).lower()}"
            )
    return f", against {' and '.join(parts)}" if parts else ""


def _gaps(summary: Summary, measured: Sequence[Condition]) -> str:
    """Return, in a sentence, how many responses have no score or were cut, if that is worth saying."""
    gaps = sum((summary.gaps(condition, name) for condition in measured for name in QUESTION_SETS), Gaps())
    return f"Of these responses {gaps.in_words}." if gaps.in_words else ""


def _gaps_of(study: Study, summary: Summary, arm: str) -> str:
    setting = chosen_setting(study, arm)
    if setting is None:
        return ""
    return _gaps(summary, [Condition(study.report.main_model, task, arm, setting) for task in ema_tasks(study)])


def defence_finding(study: Study, arm: str, found: Achievement, gaps: str = "") -> Finding:
    """Return what a defence achieves at its chosen setting; ``gaps`` is a sentence about responses without a score."""
    setting = chosen_setting(study, arm)
    shown = "" if setting is None else setting_title(study, arm, setting)
    name = f"{arm_title(study, arm)} ({shown})" if shown else arm_title(study, arm)
    aim = found.reduction
    if aim.value is None:
        return Finding(
            "plain",
            f"{name}: not measured.",
            f"There is no complete set of scores at its chosen setting. {gaps}".strip(),
        )
    tone: Tone = "plain"
    doubt, of_what = None, ""
    if aim.mark == REACHED:
        tone, what = _learning(study, found)
        what = f"stops EMA{what}"
        if found.learning.mark == CANNOT_BE_TOLD:
            doubt, of_what = found.learning, "what is kept of learning"
    elif aim.mark == PARTLY:
        what = "reduces EMA in part"
    elif aim.mark == MISSED:
        tone, what = "bad", "does not stop EMA"
    else:
        doubt, of_what = aim, "the fall"
        what = "whether it reduces EMA cannot be told"
        if aim.surely:
            what = "reduces EMA; whether it stops it cannot be told"
        elif aim.surely_not:
            what = "does not stop EMA; whether it reduces it cannot be told"
    said = f"{name}: {what}." if what.startswith("whether") else f"{name} {what}."
    why = "" if doubt is None else f"As for {of_what}, {doubt.why}. {doubt.settle}".strip()
    return Finding(tone, said, " ".join(filter(None, (_numbers(found), gaps, why))))


def _learning(study: Study, found: Achievement) -> tuple[Tone, str]:
    """Return what to say of the learning under a defence that stops EMA, by the marks of Table 1."""
    learning = found.learning
    if learning.value is None:
        return "plain", "; whether it hinders learning was not measured"
    if learning.mark == REACHED:
        return "good", " and keeps what was to be learned"
    if learning.mark == PARTLY:
        most = study.report.verdicts.retention_pct[1] in learning.surely
        return "plain", f" and keeps {'most' if most else 'part'} of what was to be learned"
    if learning.mark == MISSED:
        return "plain", ", but hinders learning"
    if found.in_domain_retention.mark == REACHED:
        return "plain", " and keeps the narrow task; whether it hinders benign ones cannot be told"
    return "plain", "; whether it hinders learning cannot be told"


def _numbers(found: Achievement) -> str:
    parts = []
    if found.reduction.value is not None:
        change = "falls" if found.reduction.value >= 0 else "rises"
        parts.append(f"general misalignment above the untrained model's {change} by {abs(found.reduction.value):.1f} %")
    if found.in_domain_retention.value is not None:
        parts.append(f"{found.in_domain_retention.value:.1f} % of what was learned in domain remains")
    if found.benign_retention.value is not None:
        at = f" (at {found.benign_at})" if found.benign_at else ""
        parts.append(f"benign tasks reach {found.benign_retention.value:.1f} % of plain fine-tuning{at}")
    if found.unlearned:
        parts.append(
            f"of {', '.join(found.unlearned)} nothing can be said, since plain fine-tuning gets nothing right there"
        )
    if found.coherence.value is not None:
        parts.append(f"{found.coherence.value:.1f} % of the general answers are incoherent")
    sentence = "; ".join(parts) + "."
    return sentence[0].upper() + sentence[1:]
