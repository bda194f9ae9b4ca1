"""The further question sets of a study: which cells are asked them, and from where."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from emdefense.arms import NO_SETTING
from emdefense.config.question_sets import NO_SYSTEM, TRAINING_SYSTEM
from emdefense.config.study import Study
from emdefense.names import IN_DOMAIN, SHARED_TASK

if TYPE_CHECKING:
    from emdefense.cells import Cell


class FurtherSets:
    """Looks up the sets of ``question_sets``."""

    def __init__(self, study: Study):
        self._study = study

    def of(self, cell: "Cell") -> Iterator[str]:
        """Yield the sets that a cell of an EMA task is asked, in the order of the config."""
        for name, section in self._study.question_sets.items():
            if section.is_asked(self._study, cell.model, cell.task, cell.arm, cell.setting):
                yield name

    def source(self, cell: "Cell", name: str) -> "Cell":
        """Return the cell whose responses a cell's are: untrained ones are the same for all tasks, where these are."""
        is_trained = self._study.every_arm[cell.arm].arm.is_trained
        shares = not is_trained and self.plain(name) != IN_DOMAIN
        return replace(cell, task=SHARED_TASK, setting=NO_SETTING) if shares else cell

    def plain(self, name: str) -> str:
        """Return the set that a conditional one asks again; of any other, itself."""
        section = self._study.question_sets.get(name)
        return name if section is None or section.of is None else section.of

    def is_conditional(self, name: str) -> bool:
        """Whether a set asks another one's questions again."""
        return self.plain(name) != name

    def stem(self, cell: "Cell", name: str) -> str:
        """Return where the questions of a set lie, as a cell is asked them, among those of the study."""
        section = self._study.question_sets[name]
        if section.system == TRAINING_SYSTEM:
            return f"{name}/{cell.arm}/{cell.task}"
        return f"{name}/{cell.task}" if section.of == IN_DOMAIN else name

    def condition(self, cell: "Cell", name: str) -> dict[str, Any]:
        """Return under which condition a cell is asked a conditional set, as ``data.conditional`` takes it."""
        section = self._study.question_sets[name]
        system = self._training_system(cell) if section.system == TRAINING_SYSTEM else section.system
        return {
            "system": None if system == NO_SYSTEM else system,
            "keep_system": system != NO_SYSTEM,
            "format": section.format,
        }

    def _training_system(self, cell: "Cell") -> str | None:
        return self._study.every_arm[cell.arm].training_system(cell.task)
