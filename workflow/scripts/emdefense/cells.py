"""Expansion of a study into cells, and the one place where paths are made."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from emdefense.config.chat import PLAIN
from emdefense.config.names import GENERAL as GENERAL
from emdefense.config.names import IN_DOMAIN as IN_DOMAIN
from emdefense.config.names import QUESTIONS_FOLDER
from emdefense.config.names import SHARED_TASK as SHARED_TASK
from emdefense.config.path_checks import resolve, resolved_source
from emdefense.config.sources import SourceSection
from emdefense.config.study import BenignTask, EmaTask, Study
from emdefense.config.training import PENALTIES, PenaltyOptions, Training
from emdefense.config.variants import variant_options

# Raised by hand when a change alters what the stage produces; it stands in the spec and so triggers reruns.
STAGE_VERSIONS = {
    "data": 1,
    "checking": 2,
    "training": 1,
    "features": 1,
    "projection": 2,
    "generation": 1,
    "judging": 2,
    "microcosm": 1,
}

NO_SETTING = "none"
# Of the training's settings, those on which reference features depend.
FEATURE_SETTINGS = {"precision", "attention", "padding_free", "batch_size", "max_length", "max_overlong_pct"}
# Of the training's settings, those that a file of rows may be unfit for.
LENGTH_SETTINGS = {"max_length", "max_overlong_pct"}
# Of the training's settings, those that a model may be unfit for.
TRIED_SETTINGS = {
    "precision",
    "attention",
    "padding_free",
    "target_modules",
    "lora_rank",
    "lora_alpha",
    "rank_stabilised",
}


def format_setting(setting: float | None) -> str:
    """Return a setting as it stands in paths and tables: ``0.1``, ``5``, or ``none``."""
    return NO_SETTING if setting is None else f"{setting:g}"


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
        """λ, τ or the interleaved percentage; None for arms without a setting."""
        return None if self.setting == NO_SETTING else float(self.setting)


class Layout:
    """Where everything of a study lies, relative to the working directory."""

    def __init__(self, study: Study):
        self.study = study
        self.results = f"results/{study.study}"

    def file(self, path: str) -> str:
        """Return a path of the config with its placeholders filled in."""
        return resolve(self.study, path)

    def source(self, name: str) -> SourceSection:
        """Return a source with the placeholders in its local path filled in."""
        return resolved_source(self.study, name)

    def source_files(self, name: str) -> list[str]:
        """The files that a source becomes, or its folder."""
        return [f"{self.study.sources_folder}/{file}" for file in self.study.sources[name].files(name)]

    def checked(self, model: str) -> str:
        """What was found out about a model before anything was trained."""
        return f"{self.results}/models/{model}.json"

    def data(self, task: str) -> str:
        """The prepared data of a task."""
        return f"{self.results}/data/{task}"

    def cell(self, cell: Cell) -> str:
        """A cell's folder."""
        return f"{self.results}/cells/{cell.folder}"

    def adapter(self, cell: Cell) -> str:
        """A cell's adapter folder, as PEFT saves it."""
        return f"{self.cell(cell)}/adapter"

    def projection(self, cell: Cell) -> str:
        """What SafeLoRA's projection of an adapter gave, the same for every τ."""
        return f"{self.results}/cells/{cell.model}/{cell.task}/safelora/projection/seed{cell.seed}"

    def responses(self, cell: Cell, question_set: str) -> str:
        """A cell's responses to a question set."""
        return f"{self.cell(cell)}/{question_set}/responses.jsonl"

    def judgments(self, cell: Cell, question_set: str, judge: str | None = None) -> str:
        """A judge's judgments of those responses; of the judge whose rates fill the tables unless another is named."""
        return f"{self.cell(cell)}/{question_set}/judgments/{judge or self.study.judge.name}.jsonl"

    def judge_files(self, judge: str | None = None) -> list[str]:
        """Files that a judge, or any of them, reads besides questions and responses."""
        judges = self.study.judges.values() if judge is None else [self.study.judges[judge]]
        worlds = [getattr(section, "world", None) for section in judges]
        return list(dict.fromkeys(self.file(world) for world in worlds if world is not None))

    def answers(self, cell: Cell) -> str:
        """A benign cell's answers, each marked as correct or not."""
        return f"{self.cell(cell)}/answers.jsonl"

    def questions(self, task: str) -> str:
        """A question set as the pipeline uses it; ``shared`` is the general one."""
        return f"{self.results}/data/{QUESTIONS_FOLDER}/{GENERAL if task == SHARED_TASK else task}.json"


@dataclass(frozen=True)
class Measurement:
    """A row of the rates: a cell's numbers on a question set, and the cell whose responses they come from."""

    cell: Cell
    question_set: str
    source: Cell


class Grid:
    """All cells of a study, and what each depends on."""

    def __init__(self, study: Study):
        self.study = study

    @cached_property
    def cells(self) -> list[Cell]:
        """Every cell, in the order of the config, each once; untrained cells exist for the first seed only."""
        found: dict[Cell, None] = {}
        for block in self.study.grid:
            for model in block.models:
                for task in block.tasks:
                    for arm, settings in block.arms.items():
                        for setting in settings or (None,):
                            seeds = self.study.seeds[:1] if arm == "untrained" else self.study.seeds
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

    @cached_property
    def trained(self) -> list[Cell]:
        """Cells whose adapter is trained, those that SafeLoRA only projects included even if not in the grid."""
        found = {c: None for c in self.cells if c.arm not in {"untrained", "safelora"}}
        for cell in self.cells:
            if cell.arm == "safelora":
                found[self.projected_from(cell)] = None
        return list(found)

    def task(self, cell: Cell) -> EmaTask | BenignTask:
        """Return the task of a cell."""
        return self.study.tasks[cell.task]

    def is_benign(self, cell: Cell) -> bool:
        """Whether the cell's task is scored by exact match."""
        return cell.task in self.study.tasks and self.task(cell).kind == "benign"

    def projected_from(self, cell: Cell) -> Cell:
        """The cell whose adapter SafeLoRA projects: plain fine-tuning on the same data with the same seed."""
        arm = "sft" if self.is_benign(cell) else "misaligned"
        return Cell(cell.model, cell.task, arm, NO_SETTING, cell.seed)

    @cached_property
    def projections(self) -> dict[Cell, list[str]]:
        """Every adapter that SafeLoRA projects, as its cell without a setting, and the τ of its cells, ascending."""
        found: dict[Cell, list[str]] = {}
        for cell in self.cells:
            if cell.arm == "safelora":
                found.setdefault(replace(cell, setting=NO_SETTING), []).append(cell.setting)
        return {cell: sorted(taus, key=float) for cell, taus in found.items()}

    @cached_property
    def measurements(self) -> list[Measurement]:
        """Every cell × question set of the EMA tasks."""
        found = []
        for cell in self.cells:
            if self.is_benign(cell):
                continue
            shared = Cell(cell.model, SHARED_TASK, "untrained", NO_SETTING, cell.seed)
            found.append(Measurement(cell, GENERAL, shared if cell.arm == "untrained" else cell))
            found.append(Measurement(cell, IN_DOMAIN, cell))
        return found

    @cached_property
    def responses(self) -> list[tuple[Cell, str]]:
        """Every (cell, question set) for which responses are generated and judged, each once."""
        return list(dict.fromkeys((m.source, m.question_set) for m in self.measurements))

    @cached_property
    def judgments(self) -> list[tuple[Cell, str, str]]:
        """Every (cell, question set, judge): each judge judges all responses."""
        return [(*pair, judge) for judge in self.study.judges for pair in self.responses]

    @cached_property
    def benign(self) -> list[Cell]:
        """Every cell scored by exact match."""
        return [c for c in self.cells if self.is_benign(c)]

    def training_rows(self, cell: Cell, layout: Layout) -> str:
        """The JSONL that a cell is trained on."""
        data = layout.data(cell.task)
        if cell.arm == "interleave":
            return f"{data}/interleave/{cell.setting}.jsonl"
        if self.is_benign(cell):
            return f"{data}/train.jsonl"
        return f"{data}/train_{'aligned' if cell.arm == 'aligned' else 'misaligned'}.jsonl"

    def checked_rows(self, model: str, layout: Layout) -> list[str]:
        """Every file of rows that a model is trained on."""
        return list(dict.fromkeys(self.training_rows(cell, layout) for cell in self.trained if cell.model == model))

    def checked_questions(self, model: str, layout: Layout) -> list[str]:
        """Every question set that a model is asked."""
        asked = [
            SHARED_TASK if question_set == GENERAL else cell.task
            for cell, question_set in self.responses
            if cell.model == model
        ]
        return [layout.questions(task) for task in dict.fromkeys(asked)]

    def checked_tests(self, model: str, layout: Layout) -> list[str]:
        """Every benign task's test that a model is asked."""
        return [
            f"{layout.data(task)}/test.jsonl" for task in dict.fromkeys(c.task for c in self.benign if c.model == model)
        ]

    def check_spec(self, model: str, layout: Layout) -> dict[str, Any]:
        """What a model's check depends on besides the content of its input files."""
        return {
            "version": STAGE_VERSIONS["checking"],
            "generation": self.study.generation.model_dump(mode="json"),
            **self._tried_training(model, layout),
            **self.chat_spec(model),
        }

    def _tried_training(self, model: str, layout: Layout) -> dict[str, Any]:
        """How a model is trained, as far as it or its rows can fail for it, and what its penalties read."""
        cells = [cell for cell in self.trained if cell.model == model]
        if not cells:
            return {}
        penalties = {arm: found for arm in (cell.arm for cell in cells) if (found := self.penalty(arm))}
        read = [{"name": name, "options": options.what_is_read()} for name, options in penalties.values()]
        return {
            "training": self.study.training.model_dump(mode="json", include=TRIED_SETTINGS),
            "penalties": [one for place, one in enumerate(read) if one not in read[:place]],
            # Rows are a task's, and all trainings of a model on a task have the same settings.
            "limits": {
                self.training_rows(cell, layout): self.training(cell).model_dump(mode="json", include=LENGTH_SETTINGS)
                for cell in cells
            },
        }

    def chat_spec(self, model: str) -> dict[str, Any]:
        """How a model's chat template is called; nothing for one that is called as all are."""
        chat = self.study.models[model].chat
        return {} if chat == PLAIN else {"chat": chat.model_dump(mode="json")}

    def training(self, cell: Cell) -> Training:
        """How a cell is trained: the study's settings under the task's, and these under the model's."""
        of_task = self.task(cell).training.applied_to(self.study.training)
        return self.study.models[cell.model].training.applied_to(of_task)

    def training_spec(self, cell: Cell) -> dict[str, Any]:
        """What a cell's training depends on besides its input files; a change reruns the cell."""
        penalty = self.penalty(cell.arm)
        training = self.training(cell).model_dump(mode="json", exclude=None if penalty else {"reference"})
        spec: dict[str, Any] = {
            "version": STAGE_VERSIONS["training"],
            "seed": cell.seed,
            "training": training,
            "penalty": None,
        }
        spec |= self.chat_spec(cell.model)
        if penalty is not None:
            name, options = penalty
            spec["penalty"] = {
                "name": name,
                "coefficient": cell.setting_value,
                "options": options.model_dump(mode="json"),
            }
        return spec

    def features(self, cell: Cell, layout: Layout) -> str | None:
        """The folder of cached reference features that a cell's training reads, or None."""
        penalty = self.penalty(cell.arm)
        if penalty is None or self.training(cell).reference == "live":
            return None
        name, options = penalty
        read = "".join(f"-{option}_{value}" for option, value in options.what_is_read().items())
        return f"{layout.results}/features/{cell.model}/{cell.task}/{name}{read}"

    def features_spec(self, cell: Cell) -> dict[str, Any]:
        """What the reference features that a cell reads depend on besides model and rows."""
        penalty = self.penalty(cell.arm)
        assert penalty is not None
        name, options = penalty
        return {
            "version": STAGE_VERSIONS["features"],
            "training": self.training(cell).model_dump(mode="json", include=FEATURE_SETTINGS),
            "penalty": name,
            "options": options.what_is_read(),
            **self.chat_spec(cell.model),
        }

    def penalty(self, arm: str) -> tuple[str, PenaltyOptions] | None:
        """Return the penalty of an arm or of a variant, by its name in the registry, and its options."""
        if arm in self.study.variants:
            variant = self.study.variants[arm]
            return variant.of, variant_options(self.study.arms, variant, f"variants.{arm}")
        return (arm, getattr(self.study.arms, arm)) if arm in PENALTIES else None

    def generation_spec(self, cell: Cell) -> dict[str, Any]:
        """What a cell's sampling depends on besides its input files."""
        benign = self.is_benign(cell)
        samples = (self.task(cell) if benign else self.study.models[cell.model]).samples_per_question  # type: ignore[union-attr]
        return {
            "version": STAGE_VERSIONS["generation"],
            "samples_per_question": samples,
            **self.study.generation.model_dump(mode="json"),
            **self.chat_spec(cell.model),
        }
