"""Expansion of a study into cells, and the one place where paths are made."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from emdefense.arms import MISALIGNED, NO_SETTING, PLAIN, UNTRAINED, format_setting, in_order
from emdefense.arms.base import Arm
from emdefense.arms.hooks import call, wrong_result
from emdefense.arms.study_arm import StudyArm
from emdefense.config.study import BenignTask, EmaTask, Study
from emdefense.config.training import Training
from emdefense.names import ELICITATION as ELICITATION
from emdefense.names import GENERAL as GENERAL
from emdefense.names import IN_DOMAIN as IN_DOMAIN
from emdefense.names import SHARED_TASK as SHARED_TASK
from emdefense.question_sets import FurtherSets

ELICITED_SAMPLES = 10  # of each question that elicits a trait, as in arXiv 2507.21509


@dataclass(frozen=True, order=True)
class Cell:
    """One adapter (or the untrained model), and everything measured on it."""

    model: str
    task: str
    arm: str
    setting: str
    seed: int

    @classmethod
    def in_folder(cls, folder: str) -> "Cell":
        """Return the cell whose :attr:`folder` this is."""
        model, task, arm, setting, seed = folder.split("/")
        return cls(model, task, arm, setting, int(seed.removeprefix("seed")))

    @property
    def folder(self) -> str:
        """The cell's folder below ``cells/``."""
        return f"{self.model}/{self.task}/{self.arm}/{self.setting}/seed{self.seed}"

    @property
    def setting_value(self) -> float | None:
        """λ, τ, a percentage; None for arms without a setting."""
        return None if self.setting == NO_SETTING else float(self.setting)


@dataclass(frozen=True)
class Measurement:
    """A row of the rates: a cell's numbers on a question set, and the cell whose responses they come from."""

    cell: Cell
    question_set: str
    source: Cell


class Grid:
    """All cells of a study, and what each depends on."""

    def __init__(self, study: Study):
        self.study, self.further_sets = study, FurtherSets(study)

    @cached_property
    def cells(self) -> list[Cell]:
        """Every cell, in the order of the config, each once; untrained cells exist for the first seed only."""
        found: dict[Cell, None] = {}
        for block in self.study.grid:
            for model in block.models:
                for task in block.tasks:
                    for arm, settings in block.arms.items():
                        for setting in settings or (None,):
                            trained = self.study.every_arm[arm].arm.is_trained
                            seeds = self.study.seeds if trained else self.study.seeds[:1]
                            for seed in seeds:
                                found[Cell(model, task, arm, format_setting(setting), seed)] = None
        return list(found)

    @cached_property
    def tasks(self) -> list[str]:
        """The tasks of the grid, each once."""
        return list(dict.fromkeys(cell.task for cell in self.cells))

    @cached_property
    def models(self) -> list[str]:
        """The models of the grid, each once."""
        return list(dict.fromkeys(cell.model for cell in self.cells))

    def arm(self, cell: Cell) -> Arm[Any]:
        """Return the declaration of a cell's arm."""
        return self.study.every_arm[cell.arm].arm

    def study_arm(self, cell: Cell) -> StudyArm:
        """Return a cell's arm with its options and what it is combined with."""
        return self.study.every_arm[cell.arm]

    @cached_property
    def trained(self) -> list[Cell]:
        """Cells whose adapter is trained, those included that are not in the grid but whose adapter an arm reads."""
        found = {c: None for c in self.cells if self.arm(c).is_trained and not self.arm(c).changes_adapter}
        for cell in self.cells:
            if self.arm(cell).changes_adapter:
                found[self.changed_from(cell)] = None
        for cell in self.prepared:
            found |= dict.fromkeys(self.read_adapters(cell).values())
            found |= dict.fromkeys(read for read in self.read_losses(cell).values() if self.arm(read).is_trained)
        return list(found)

    def read_adapters(self, preparation: Cell) -> dict[str, Cell]:
        """The cells of plain fine-tuning whose adapters a preparation is made from, by role."""
        found = {}
        for role in self.materials(preparation):
            kind, _, one = role.partition("/")
            if kind == "adapter":
                found[kind] = self.changed_from(preparation)
            if kind == "other_adapters":
                for task in [one] if one else self.study.other_ema_tasks(preparation.task):
                    found[f"{kind}/{task}"] = replace(preparation, task=task, arm=MISALIGNED, setting=NO_SETTING)
        return found

    def read_losses(self, preparation: Cell) -> dict[str, Cell]:
        """The cells whose losses on the pool a preparation is made from, by role: of the model itself, and adapters."""
        if "pool" not in self.materials(preparation):
            return {}
        scoring = self.scoring_tasks(self.study_arm(preparation), preparation.task)
        cells = {f"losses/{task}": replace(preparation, task=task, arm=MISALIGNED) for task in scoring}
        return {"untrained_losses": self.untrained(preparation.model), **cells}

    def scoring_tasks(self, found: StudyArm, task: str) -> list[str]:
        """The EMA tasks whose misaligned adapters score the pool for a task."""
        return list(call(found.arm, "scored_by", found.options, task, self.study.ema_tasks))

    def materials(self, preparation: Cell) -> tuple[str, ...]:
        """What a preparation is made from, by role."""
        found = self.study_arm(preparation)
        return tuple(call(found.arm, "materials", found.options))

    def task(self, cell: Cell) -> EmaTask | BenignTask:
        """Return the task of a cell."""
        return self.study.tasks[cell.task]

    def is_benign(self, cell: Cell) -> bool:
        """Whether the cell's task is scored by exact match."""
        return cell.task in self.study.tasks and self.task(cell).kind == "benign"

    def changed_from(self, cell: Cell) -> Cell:
        """The cell whose adapter an arm changes: plain fine-tuning on the same data with the same seed."""
        return Cell(cell.model, cell.task, PLAIN if self.is_benign(cell) else MISALIGNED, NO_SETTING, cell.seed)

    @cached_property
    def prepared(self) -> dict[Cell, list[str]]:
        """Every preparation of an arm, as a cell without a setting, and the settings that share it, ascending."""
        found: dict[Cell, list[str]] = {}
        for cell in self.cells:
            for preparation in self.preparations(cell):
                found.setdefault(preparation, []).append(cell.setting)
        return {cell: in_order(settings) for cell, settings in found.items()}

    def preparations(self, cell: Cell) -> list[Cell]:
        """What must be prepared for a cell, as cells without a setting: by its arm, or by one combined with it."""
        prepared = [
            member for member in self.study_arm(cell).members if call(member.arm, "is_prepared", member.options)
        ]
        return [replace(cell, arm=self._prepared_as(member), setting=NO_SETTING) for member in prepared]

    def _prepared_as(self, member: StudyArm) -> str:
        """Return under which arm's name a preparation lies: a combination shares that of the arm that leads it."""
        leads = member.others and member.of and self.study.every_arm[member.of].options == member.options
        return str(member.of) if leads else member.name

    def untrained(self, model: str) -> Cell:
        """The cell of a model as it is, of no task: of its losses on the pool, and of answers that elicit a trait."""
        return Cell(model, SHARED_TASK, UNTRAINED, NO_SETTING, self.study.seeds[0])

    @cached_property
    def elicited(self) -> list[Cell]:
        """Those that are needed: of the models with an arm that reads such answers."""
        reading = [cell.model for cell in self.prepared if "elicited" in self.materials(cell)]
        return [self.untrained(model) for model in dict.fromkeys(reading)]

    @cached_property
    def measurements(self) -> list[Measurement]:
        """Every cell × question set of the EMA tasks."""
        found = []
        for cell in self.cells:
            if self.is_benign(cell):
                continue
            shared = Cell(cell.model, SHARED_TASK, cell.arm, NO_SETTING, cell.seed)
            found.append(Measurement(cell, GENERAL, cell if self.arm(cell).is_trained else shared))
            found.append(Measurement(cell, IN_DOMAIN, cell))
            further = self.further_sets
            found += [Measurement(cell, name, further.source(cell, name)) for name in further.of(cell)]
        return found

    @cached_property
    def responses(self) -> list[tuple[Cell, str]]:
        """Every (cell, question set) for which responses are generated and judged, each once."""
        return list(dict.fromkeys((m.source, m.question_set) for m in self.measurements))

    @cached_property
    def judgments(self) -> list[tuple[Cell, str, str]]:
        """Every (cell, question set, judge): each judge judges all responses."""
        return [(*pair, judge) for judge in self.study.judges for pair in self.responses]

    def samples(self, cell: Cell, question_set: str | None = None) -> int:
        """How many samples of each question a cell gives."""
        samples = self.study.models[cell.model].samples_per_question
        if self.is_benign(cell):
            samples = self.task(cell).samples_per_question  # type: ignore[union-attr]
        if question_set in self.study.question_sets:
            return self.study.question_sets[question_set].samples_per_question or samples
        return min(samples, ELICITED_SAMPLES) if question_set == ELICITATION else samples

    @cached_property
    def benign(self) -> list[Cell]:
        """Every cell scored by exact match."""
        return [c for c in self.cells if self.is_benign(c)]

    def rows_cell(self, cell: Cell) -> Cell | None:
        """The cell that rows are made for which depend on the model: a combination has its member's; mostly None."""
        found = self.study_arm(cell)
        settings = [cell.setting, *(format_setting(setting) for _, setting in found.others)]
        for member, setting in zip(found.members, settings, strict=True):
            if member.arm.overrides("rows") and call(member.arm, "is_prepared", member.options):
                return replace(cell, arm=member.name, setting=setting)
        return None

    def rows_preparation(self, cell: Cell) -> Cell:
        """What must be prepared for a cell whose rows depend on the model."""
        return next(one for one in self.preparations(cell) if self.arm(one).overrides("rows"))

    def row_share(self, cell: Cell) -> float:
        """How many rows a cell is trained on for each of the task's, for estimates of time."""
        whole = 1.0
        for part in self.study_arm(cell).parts(cell.setting_value):
            share = call(part.arm, "row_share", part.setting, part.options)
            if not isinstance(share, int | float) or not 0 < share < math.inf:
                raise wrong_result(part.arm, "row_share", f"it returned {share!r}, and a number above 0 is needed")
            whole *= share
        return whole

    def reads_pool(self, model: str) -> bool:
        """Whether an arm of a model chooses rows of the pool."""
        return any(cell.model == model and self.read_losses(cell) for cell in self.prepared)

    def training(self, cell: Cell) -> Training:
        """How a cell is trained: the study's settings under the task's, and these under the model's."""
        of_task = self.task(cell).training.applied_to(self.study.training)
        return self.study.models[cell.model].training.applied_to(of_task)

    def costly(self, arm: str) -> StudyArm | None:
        """Return an arm, or a variant, if it takes more memory in training than plain fine-tuning."""
        found = self.study.every_arm[arm]
        return found if found.arm.has_penalty or found.acts_in_training else None

    def penalty(self, arm: str) -> StudyArm | None:
        """Return an arm, or a variant, if all that it does in training is to add a penalty to the loss."""
        found = self.study.every_arm[arm]
        return found if found.is_only_penalty else None
