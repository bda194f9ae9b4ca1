"""What tables and figures say of what was not measured, cannot be read, or differs from the paper."""

from collections.abc import Sequence

from emdefense.analysis.conditions import arm_title, settings, titled, unchosen
from emdefense.analysis.verdicts import NO, NOT_MEASURED, UNTOLD, YES, Answer, Verdicts
from emdefense.arms import NO_SETTING, format_setting
from emdefense.config import Study
from emdefense.report.divergences import divergences
from emdefense.report.tables.table import Footnotes

MISSING = "Not measured in this study."
NOT_KNOWN = (
    "The misaligned arm was not measured, or none of its answers has a score, so whether there was anything to prevent "
    "is not known."
)
FLAGS = {NO: "EMA did not appear here", UNTOLD: "Whether EMA appeared here cannot be told"}


class TableNotes:
    """Hands out the letters of a table's footnotes, those at its title first.

    ``like`` are the paper's tables that it is like, ``arm`` is the one that it is all about, if it is. Where nothing is
    ``compared`` with the paper, there are no footnotes on how we differ from it.
    """

    def __init__(self, study: Study, like: Sequence[int], *, compared: bool, arm: str | None = None):
        self._study = study
        found = divergences(study) if compared else []
        self._divergences = [entry for entry in found if set(like) <= set(entry.tables)]
        self._arm = arm
        self._footnotes = Footnotes()
        self.title = self._letters([e.note for e in self._divergences if not e.task_has and e.arm in (None, arm)])

    def letter(self, text: str) -> str:
        """Return the letter of a footnote with that text."""
        return self._footnotes.letter(text)

    def not_measured(self) -> str:
        """Return the letter of what is missing."""
        return self.letter(MISSING)

    def of_arm(self, arm: str) -> str:
        """Return the letters at the rows of an arm, or of a variant; none if the whole table is of that arm."""
        if arm in self._study.variants:
            return self.letter(_of_variant(self._study, arm))
        return "" if arm == self._arm else self._letters([e.note for e in self._divergences if e.arm == arm])

    def of_task(self, task: str, *further: str) -> str:
        """Return the letters at a task, those of ``further`` footnotes first."""
        return self._letters([*further, *(e.note for e in self._divergences if e.concerns(self._study, task))])

    def lettered(self) -> tuple[tuple[str, str], ...]:
        """Return (letter, text) of every footnote."""
        return self._footnotes.lettered()

    def _letters(self, texts: list[str]) -> str:
        return ",".join(map(self.letter, texts))


def _of_variant(study: Study, name: str) -> str:
    variant = study.variants[name]
    options = ", ".join(f"{key}: {str(value).lower()}" for key, value in variant.options.items())
    others = [
        titled(study, other, NO_SETTING if setting is None else format_setting(setting))
        for other, setting in variant.together_with.items()
    ]
    said = [*([f"with {options}"] if options else []), *([f"together with {', '.join(others)}"] if others else [])]
    return f"{arm_title(study, variant.of)} {' and '.join(said) or 'with the same options'}."


def left_out(study: Study, model: str) -> list[str]:
    """Return a remark on the defences without a chosen setting, if there are any: they have no row."""
    return [
        f"Without {arm_title(study, arm)}: of its settings here ({', '.join(settings(study, model, arm))}), "
        f"none is chosen (report.chosen.{arm})."
        for arm in unchosen(study, model)
    ]


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


def seeds_in_words(seeds: int) -> str:
    """Return of how many trainings at most numbers are."""
    return "one seed" if seeds == 1 else f"up to {seeds} seeds together"


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
