"""What each job depends on besides its input files: a spec, one object of JSON; a change of it reruns the job."""

from typing import Any

from emdefense.arms import Arm, Options
from emdefense.arms.hooks import call
from emdefense.arms.study_arm import StudyArm
from emdefense.cells import Cell, Grid
from emdefense.choice.asked import asked_sets
from emdefense.config.chat import PLAIN as PLAIN_CHAT
from emdefense.config.path_checks import resolved_options
from emdefense.inputs import Inputs
from emdefense.matching import EXACT

# Raised by hand when a change alters what the stage produces; it stands in the spec and so triggers reruns.
STAGE_VERSIONS = {
    "data": 1,
    "checking": 2,
    "training": 1,
    "features": 1,
    "losses": 1,
    "projection": 2,
    "generation": 1,
    "choice": 1,
    "likelihood": 1,
    "judging": 2,
    "aggregating": 2,  # columns of the frames
    "microcosm": 2,
}

# Keys of a training's spec that had a meaning once: without them, what was trained with them would be trained again.
OF_EARLIER_VERSIONS = {"devices": 1}
# Of the training's settings, those on which what passes of the model give depends: reference features, preparations.
FEATURE_SETTINGS = {
    "precision",
    "attention",
    "padding_free",
    "batch_size",
    "max_length",
    "max_overlong_pct",
    "quantisation",
}
# Of the training's settings, those on which the losses of single rows depend.
LOSS_SETTINGS = {
    "precision",
    "attention",
    "batch_size",
    "max_length",
    "target_modules",
    "target_layers",
    "quantisation",
}
# Of a set of multiple-choice questions, what decides how it is asked; and of sampling's settings, how it is computed.
CHOICE_DRAW = {"options", "limit", "seed"}
CHOICE_SETTINGS = {"precision", "batch_size", "quantisation"}
# Of the training's settings, those that a file of rows may be unfit for.
LENGTH_SETTINGS = {"max_length", "max_overlong_pct"}
# Of the training's settings, those that a model may be unfit for.
TRIED_SETTINGS = {
    "precision",
    "attention",
    "padding_free",
    "target_modules",
    "target_layers",
    "quantisation",
    "lora_rank",
    "lora_alpha",
    "rank_stabilised",
}


class Specs:
    """The specs of a study's jobs."""

    def __init__(self, grid: Grid):
        self._grid, self._study, self._inputs = grid, grid.study, Inputs(grid)

    def rows(self, arm: str, setting: str, task: str) -> dict[str, Any]:
        """What the rows that an arm makes of a task's depend on besides its input files."""
        found = self._study.every_arm[arm]
        options = call(found.arm, "for_task", found.options, task)
        given = {} if found.arm.setting is None else {found.arm.setting.name: float(setting)}
        version = {"version": STAGE_VERSIONS["data"], "seed": self._study.data.seed}
        return {**version, **self._options(found, options), **given, **self._digest(found.arm)}

    def preparation(self, cell: Cell) -> dict[str, Any]:
        """What an arm's preparation, a cell without a setting, depends on besides its input files."""
        found = self._study.every_arm[cell.arm]
        options = self._options(found)
        runs: dict[str, Any] = {}
        if found.arm.runs_model:
            training = self._grid.training(cell).model_dump(mode="json", include=FEATURE_SETTINGS)
            runs = {"seed": cell.seed, "training": training, **self._chat(cell.model)}
        return {"version": STAGE_VERSIONS["projection"], **options, **runs, **self._digest(found.arm)}

    def adapter(self, cell: Cell) -> Any:
        """What a changed adapter depends on besides its input files: the setting alone where options were prepared."""
        found = self._study.every_arm[cell.arm]
        setting = {} if found.arm.setting is None else {found.arm.setting.name: cell.setting_value}
        if found.arm.file is None and found.arm.preparation:
            return cell.setting_value
        return {**self._options(found), **setting, **self._digest(found.arm)}

    def check(self, model: str) -> dict[str, Any]:
        """What a model's check depends on besides the content of its input files."""
        return {
            "version": STAGE_VERSIONS["checking"],
            "generation": self._study.generation.identity(),
            **self._tried_training(model),
            **self._choices(model),
            **self._matches(model),
            **self._chat(model),
        }

    def _choices(self, model: str) -> dict[str, Any]:
        """The files of multiple-choice questions that a model is asked, with how options are scored; mostly none."""
        sets = {name: self._study.multiple_choice[name] for name in asked_sets(self._grid, model)}
        scored = {self._inputs.layout.choice_questions(name): section.score for name, section in sets.items()}
        return {"choices": scored} if scored else {}

    def _matches(self, model: str) -> dict[str, Any]:
        """When answers to a model's benign tasks are right; nothing of those that are marked by exact match."""
        tasks = {c.task: self._study.tasks[c.task] for c in self._grid.benign if c.model == model}
        found = {
            f"{self._inputs.layout.data(name)}/test.jsonl": task.match
            for name, task in tasks.items()
            if task.kind == "benign" and task.match != EXACT
        }
        return {"matches": found} if found else {}

    def _tried_training(self, model: str) -> dict[str, Any]:
        """How a model is trained, as far as it or its rows can fail for it, and which arms are tried on it."""
        cells = [cell for cell in self._grid.trained if cell.model == model]
        if not cells:
            return {}
        tried = []
        for cell in [*cells, *(cell for cell in self._grid.cells if cell.model == model)]:
            of = self._study.every_arm[cell.arm]
            for found, part in zip(of.members, of.parts(cell.setting_value), strict=True):
                acts = found.arm.has_penalty or found.arm.acts_in_training
                idle = found.arm.preparation and not call(found.arm, "is_prepared", found.options)
                if not acts and (idle or not found.arm.overrides("check", "adapter")):
                    continue
                whole = found.arm.file is not None or found.arm.acts_in_training
                options = self._options(found) if whole else found.options.what_is_read()
                named = self._named(found, options)
                tried.append({**named, "setting": part.setting} if whole else named)
                if found.arm.stream:
                    tried[-1]["stream"] = self._inputs.stream(cell)
        return {
            **({"pool": self._inputs.layout.pool} if self._grid.reads_pool(model) else {}),
            "training": self._study.training.model_dump(mode="json", include=TRIED_SETTINGS),
            "arms": [one for place, one in enumerate(tried) if one not in tried[:place]],
            "limits": self._limits(cells),
        }

    def _limits(self, cells: list[Cell]) -> dict[str, dict[str, Any]]:
        """How long the rows of each file may be: of several trainings on one file, in the shortest's."""
        found: dict[str, dict[str, Any]] = {}
        for cell in cells:
            limits = self._grid.training(cell).model_dump(mode="json", include=LENGTH_SETTINGS)
            for file in filter(None, (self._inputs.known_rows(cell), self._inputs.stream(cell))):
                if file not in found or limits["max_length"] < found[file]["max_length"]:
                    found[file] = limits
        return found

    @staticmethod
    def _digest(arm: Arm[Any]) -> dict[str, str]:
        """Return the digest of the study's own file that declares an arm, under its name in specs; none for others."""
        return {} if arm.file is None else {"sha256": arm.digest}

    def _options(self, arm: StudyArm, options: Options | None = None) -> dict[str, Any]:
        """Return an arm's options, or those given of it, the placeholders in paths filled in."""
        return resolved_options(self._study, options or arm.options)

    def _named(self, arm: StudyArm, options: dict[str, Any]) -> dict[str, Any]:
        """Return an arm as specs name it: by its declaration, and the file that has it if it is a study's own."""
        own = {} if arm.arm.file is None else {"file": str(arm.arm.file), **self._digest(arm.arm)}
        return {"name": arm.arm.name, "options": options, **own}

    def _chat(self, model: str) -> dict[str, Any]:
        """How a model's chat template is called; nothing for one that is called as all are."""
        chat = self._study.models[model].chat
        return {} if chat == PLAIN_CHAT else {"chat": chat.model_dump(mode="json")}

    def training(self, cell: Cell) -> dict[str, Any]:
        """What a cell's training depends on besides its input files; a change reruns the cell."""
        penalty = self._grid.penalty(cell.arm)
        training = self._grid.training(cell).model_dump(mode="json", exclude=None if penalty else {"reference"})
        spec: dict[str, Any] = {
            "version": STAGE_VERSIONS["training"],
            "seed": cell.seed,
            "training": {**training, **OF_EARLIER_VERSIONS},
            "penalty": None,
        }
        spec |= self._chat(cell.model)
        if penalty is not None:
            named = self._named(penalty, self._options(penalty))
            spec["penalty"] = {**named, "coefficient": cell.setting_value}
        found = self._study.every_arm[cell.arm]
        if found.acts_in_training:
            acting = [
                {**self._named(member, self._options(member)), "setting": part.setting}
                for member, part in zip(found.members, found.parts(cell.setting_value), strict=True)
                if member.arm.acts_in_training or member.arm.has_penalty
            ]
            spec["arms"] = acting
        return spec

    def features(self, cell: Cell) -> dict[str, Any]:
        """What the reference features that a cell reads depend on besides model and rows."""
        penalty = self._grid.penalty(cell.arm)
        assert penalty is not None
        own = {} if penalty.arm.file is None else {"file": str(penalty.arm.file), **self._digest(penalty.arm)}
        return {
            "version": STAGE_VERSIONS["features"],
            "training": self._grid.training(cell).model_dump(mode="json", include=FEATURE_SETTINGS),
            "penalty": penalty.arm.name,
            "options": penalty.options.what_is_read(),
            **own,
            **self._chat(cell.model),
        }

    def losses(self, cell: Cell) -> dict[str, Any]:
        """What a model's losses on the pool, or an adapter's, depend on besides their input files."""
        training = self._study.models[cell.model].training.applied_to(self._study.training)
        return {
            "version": STAGE_VERSIONS["losses"],
            "training": training.model_dump(mode="json", include=LOSS_SETTINGS),
            **self._chat(cell.model),
        }

    def choice_questions(self, name: str) -> dict[str, Any]:
        """What a set of multiple-choice questions, as it is asked, depends on besides its file."""
        drawn = self._study.multiple_choice[name].model_dump(mode="json", include=CHOICE_DRAW)
        return {"version": STAGE_VERSIONS["data"], **drawn}

    def choice(self, model: str) -> dict[str, Any]:
        """What a model's log-probabilities of options depend on besides its input files."""
        return {
            "version": STAGE_VERSIONS["choice"],
            **self._study.generation.model_dump(mode="json", include=CHOICE_SETTINGS),
            **self._chat(model),
        }

    def held_out_rows(self) -> dict[str, Any]:
        """What the held-out answers of a task depend on besides their files."""
        section = self._study.likelihood
        drawn = {} if section is None else section.model_dump(mode="json", include={"rows", "seed"})
        return {"version": STAGE_VERSIONS["data"], **drawn}

    def likelihood(self, cell: Cell) -> dict[str, Any]:
        """What the likelihood of held-out answers under a cell's model depends on besides its input files."""
        return {
            "version": STAGE_VERSIONS["likelihood"],
            "training": self._grid.training(cell).model_dump(mode="json", include=LOSS_SETTINGS),
            **self._chat(cell.model),
        }

    def generation(self, cell: Cell, question_set: str | None = None) -> dict[str, Any]:
        """What a cell's sampling depends on besides its input files."""
        return {
            "version": STAGE_VERSIONS["generation"],
            "samples_per_question": self._grid.samples(cell, question_set),
            **self._study.generation.identity(),
            **self._chat(cell.model),
        }
