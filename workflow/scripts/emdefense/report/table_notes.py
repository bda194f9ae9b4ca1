"""The footnotes of a table: what was not measured, what cannot be read, and where it differs from the paper."""

from emdefense.analysis.conditions import arm_title
from emdefense.config import Study
from emdefense.report.divergences import divergences
from emdefense.report.table import Footnotes

NOT_MEASURED = "Not measured in this study."


class TableNotes:
    """Hands out the letters of a table's footnotes, those at its title first.

    ``arm`` is the one that the table is all about, if it is. Where nothing is ``compared`` with the paper, there are no
    footnotes on how we differ from it.
    """

    def __init__(self, study: Study, table: int, *, compared: bool, arm: str | None = None):
        self._study = study
        self._divergences = [entry for entry in divergences(study) if table in entry.tables] if compared else []
        self._arm = arm
        self._footnotes = Footnotes()
        self.title = self._letters([e.note for e in self._divergences if not e.task_has and e.arm in (None, arm)])

    def letter(self, text: str) -> str:
        """Return the letter of a footnote with that text."""
        return self._footnotes.letter(text)

    def not_measured(self) -> str:
        """Return the letter of what is missing."""
        return self.letter(NOT_MEASURED)

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
    return f"{arm_title(study, variant.of)} with {options or 'the same options'}."
