"""What a table or figure says where EMA did not appear, or where that cannot be told."""

from collections.abc import Sequence

from emdefense.analysis.verdicts import NO, NOT_MEASURED, UNTOLD, YES, Answer, Verdicts
from emdefense.config import Study

NOT_KNOWN = (
    "The misaligned arm was not measured, or none of its answers has a score, so whether there was anything to prevent "
    "is not known."
)
FLAGS = {NO: "EMA did not appear here", UNTOLD: "Whether EMA appeared here cannot be told"}


def task_note(study: Study, answer: Answer) -> str:
    """Return why the defences on a task cannot be read, in sentences; empty if they can."""
    if answer.says == YES:
        return ""
    if answer.says == NO:
        return (
            f"EMA did not appear in the misaligned arm ({little(study)}), so there is nothing that a defence could "
            "have prevented."
        )
    return NOT_KNOWN if answer.says == NOT_MEASURED else f"Whether EMA appeared cannot be told. {answer.full}"


def little(study: Study) -> str:
    """Return what is too little to be EMA."""
    least = f"{study.report.emergent_pct:g}"
    return f"its general misaligned rate, or what it exceeds the untrained model's by, is surely under {least} %"


def why_unreadable(study: Study, verdicts: Verdicts, model: str, tasks: Sequence[str]) -> str:
    """Return why the defences of a model can be read on none of its tasks; empty if they can be on one."""
    answers = [verdicts.ema(model, task) for task in tasks]
    if any(answer.says == YES for answer in answers):
        return ""
    if all(answer.says == NOT_MEASURED for answer in answers):
        return NOT_KNOWN
    if all(answer.says in (NO, NOT_MEASURED) for answer in answers):
        return "EMA did not appear in the misaligned arm of any task, so there is nothing to prevent."
    untold = next(answer for answer in answers if answer.says == UNTOLD)
    title = study.tasks[tasks[answers.index(untold)]].title
    first = f"On {title}: {untold.why}." if len(tasks) > 1 else untold.full
    return f"On no task is it shown that EMA appeared, so nothing can be said of what prevents it. {first}"
