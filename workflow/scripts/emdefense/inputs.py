"""Which files each job reads: rows to train on, what arms have prepared, questions."""

import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from emdefense.arms import format_setting
from emdefense.arms.base import SIDES
from emdefense.arms.hooks import call
from emdefense.cells import Cell, Grid
from emdefense.choice.asked import asked_sets
from emdefense.layout import Layout
from emdefense.likelihood.read import reading
from emdefense.names import ELICITATION


class Inputs:
    """Looks up the input files of a study's jobs."""

    def __init__(self, grid: Grid):
        self._grid, self._study, self.layout = grid, grid.study, Layout(grid.study)

    def training_rows(self, cell: Cell) -> str:
        """The JSONL that a cell is trained on."""
        if made_for := self._grid.rows_cell(cell):
            return f"{self.layout.cell(made_for)}/rows.jsonl"
        found = self._grid.study_arm(cell)
        if found.arm.overrides("rows"):
            return f"{self.layout.data(cell.task)}/{cell.arm}/{cell.setting}.jsonl"
        for other, setting in found.others:
            if other.arm.overrides("rows"):
                return f"{self.layout.data(cell.task)}/{other.name}/{format_setting(setting)}.jsonl"
        return self.task_rows(cell.task, found.arm.side)

    def known_rows(self, cell: Cell) -> str:
        """The JSONL that a cell is trained on; or the task's, where it is made of these and a pool after trainings."""
        if self._grid.rows_cell(cell) is None:
            return self.training_rows(cell)
        return self.task_rows(cell.task, self._grid.arm(cell).side)

    def shared_rows(self) -> list[str]:
        """Every file of rows that an arm makes of a task's before anything is trained."""
        made = [
            cell
            for cell in self._grid.trained
            if self._grid.study_arm(cell).changes_rows and self._grid.rows_cell(cell) is None
        ]
        return list(dict.fromkeys(self.training_rows(cell) for cell in made))

    def task_rows(self, task: str, side: str) -> str:
        """The JSONL of a task's own rows; an EMA task's have two sides."""
        benign = self._study.tasks[task].kind == "benign"
        return f"{self.layout.data(task)}/train.jsonl" if benign else f"{self.layout.data(task)}/train_{side}.jsonl"

    def more_rows(self, arm: str, task: str) -> dict[str, str]:
        """The further rows that an arm makes a task's rows with, by role."""
        found = self._study.every_arm[arm]
        return {role: self._rows_of_role(role, task) for role in call(found.arm, "row_roles", found.options)}

    def _rows_of_role(self, role: str, task: str) -> str:
        """The JSONL of further rows."""
        if role == "safe":
            return self.layout.file(self._study.safe_data or "")
        return self.task_rows(task, role)

    def held_out_from(self, task: str) -> dict[str, str | list[str]]:
        """What the held-out answers of a task are drawn from, by role; ``trained`` are files that they keep out of."""
        found, study = self._study.tasks[task], self._study
        assert found.kind == "ema"
        assert study.likelihood is not None
        sides = [side for side in SIDES if side == "misaligned" or found.aligned is not None]
        trained = {self.task_rows(task, side): None for side in sides}
        trained |= {self.layout.file(path): None for path in (study.safe_data, study.safe_pool) if path is not None}
        for cell in (cell for cell in self._grid.prepared if cell.task == task):
            others = {role: path for role, path in self.prepared_from(cell).items() if role.partition("/")[0] in SIDES}
            trained |= dict.fromkeys(others.values())
        further = {"aligned": found.aligned, "safe": study.likelihood.safe}
        named = {role: self.layout.file(path) for role, path in further.items() if path is not None}
        holdout = f"{self.layout.data(task)}/holdout.jsonl"
        return {"holdout": holdout, **named, "trained": [path for path in trained if path not in named.values()]}

    def trained_on(self, cell: Cell) -> list[str]:
        """The files of rows that a cell is trained on; none for the model as it is."""
        if not self._grid.arm(cell).is_trained:
            return []
        return list(filter(None, (self.training_rows(cell), self.stream(cell))))

    def stream(self, cell: Cell) -> str | None:
        """The rows of a cell's second stream, or None."""
        roles = [member.arm.stream for member in self._grid.study_arm(cell).members if member.arm.stream]
        return self._rows_of_role(roles[0], cell.task) if roles else None

    def prepared_from(self, cell: Cell) -> dict[str, str]:
        """What a preparation is made from, by role: files, and folders of models."""
        model = self._study.models[cell.model]
        adapters = {role: self.layout.adapter(read) for role, read in self._grid.read_adapters(cell).items()}
        roles: dict[str, Callable[[], dict[str, str]]] = {
            "adapter": lambda: {"adapter": adapters["adapter"]},
            "other_adapters": lambda: {role: path for role, path in adapters.items() if "/" in role},
            "model": lambda: {"model": self.layout.file(model.instruct)},
            "base": lambda: {"base": self.layout.file(model.base or "")},
            "rows": lambda: {"rows": self.training_rows(self._grid.changed_from(cell))},
            "pool": lambda: {
                "pool": self.layout.pool,
                **{role: self.layout.losses(read) for role, read in self._grid.read_losses(cell).items()},
            },
            "elicited": lambda: {
                "responses": self.layout.responses(self._grid.untrained(cell.model), ELICITATION),
                "judgments": self.layout.judgments(self._grid.untrained(cell.model), ELICITATION),
                "questions": self.layout.asked(self._grid.untrained(cell.model), ELICITATION),
            },
            "other_rows": lambda: {
                f"{side}/{task}": self.task_rows(task, side)
                for task in self._study.other_ema_tasks(cell.task)
                for side in SIDES
            },
        }
        found: dict[str, str] = {}
        for role in (name.partition("/")[0] for name in self._grid.materials(cell)):
            found |= roles[role]() if role in roles else {role: self._rows_of_role(role, cell.task)}
        return found

    def prepared_for(self, cell: Cell) -> dict[str, str]:
        """The folders that a cell's training reads, by the names of the arms that prepared them."""
        found = [one for one in self._grid.preparations(cell) if self._grid.arm(one).acts_in_training]
        return {self._grid.arm(one).name: self.layout.preparation(one) for one in found}

    def option_files(self, cell: Cell) -> list[str]:
        """The files that options of a cell's arm name, or of those that it is combined with."""
        options = [member.options for member in self._grid.study_arm(cell).members]
        named = [getattr(one, key) for one in options for key in one.files]
        return [self.layout.file(path) for path in named if path is not None]

    def features(self, cell: Cell) -> str | None:
        """The folder of cached reference features that a cell's training reads, or None."""
        penalty = self._grid.penalty(cell.arm)
        if penalty is None or self._grid.training(cell).reference == "live":
            return None
        read = "".join(f"-{option}_{_in_path(value)}" for option, value in penalty.options.what_is_read().items())
        return f"{self.layout.results}/features/{cell.model}/{cell.task}/{penalty.arm.name}{read}"

    def checked_rows(self, model: str) -> list[str]:
        """Every file of rows that a model is trained on, and of held-out ones that it reads."""
        cells = [cell for cell in self._grid.trained if cell.model == model]
        streams = [self.stream(cell) for cell in cells]
        files = [*(self.known_rows(cell) for cell in cells), *filter(None, streams)]
        files += [self.layout.pool] if self._grid.reads_pool(model) else []
        held_out = [self.layout.held_out_rows(cell.task) for cell in reading(self._grid) if cell.model == model]
        return list(dict.fromkeys([*files, *held_out]))

    def checked_files(self, model: str) -> list[str]:
        """Every file that an option of an arm names which a model is tried with."""
        named = [self.option_files(cell) for cell in self._grid.cells if cell.model == model]
        return list(dict.fromkeys(path for paths in named for path in paths))

    def checked_questions(self, model: str) -> list[str]:
        """Every question set that a model is asked."""
        pairs = [*self._grid.responses, *((cell, ELICITATION) for cell in self._grid.elicited)]
        asked = [self.layout.asked(cell, question_set) for cell, question_set in pairs if cell.model == model]
        return list(dict.fromkeys(asked))

    def conditional_questions(self) -> dict[str, tuple[Cell, str]]:
        """Every file of questions that are asked under a condition; a cell that is asked them, and the set's name."""
        conditional = [pair for pair in self._grid.responses if self._grid.further_sets.is_conditional(pair[1])]
        return {self.layout.asked(*pair): pair for pair in reversed(conditional)}

    def checked_choices(self, model: str) -> list[str]:
        """Every file of multiple-choice questions that a model is asked."""
        return [self.layout.choice_questions(name) for name in asked_sets(self._grid, model)]

    def checked_tests(self, model: str) -> list[str]:
        """Every benign task's test that a model is asked."""
        return [
            f"{self.layout.data(task)}/test.jsonl"
            for task in dict.fromkeys(c.task for c in self._grid.benign if c.model == model)
        ]


def _in_path(value: Any) -> str:
    """Return an option's value as part of a path: a short digest if it could not be part of a name."""
    text = str(value)
    return text if re.fullmatch("[A-Za-z0-9._-]{0,39}[A-Za-z0-9_-]", text) else sha256(text.encode()).hexdigest()[:12]
