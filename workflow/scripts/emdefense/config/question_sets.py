"""Further question sets: files of questions, and sets that are asked once more under a condition."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal, NoReturn

from pydantic import Field

from emdefense.config.chosen import may_be_chosen
from emdefense.config.made_files import WORLD_TASKS
from emdefense.errors import InputError
from emdefense.names import GENERAL, IN_DOMAIN, RESERVED_SETS, check_distinct, check_free
from emdefense.section import PositiveInt, Section, key_path, shown

if TYPE_CHECKING:
    from emdefense.config.study import Study

NO_SYSTEM, TRAINING_SYSTEM = "none", "training"


class QuestionSet(Section):
    """Questions that cells are asked beside the general and the in-domain ones.

    Of a ``file``, or those ``of`` another set under a condition: another system prompt, an answer format, or both. One
    that selects no cell of the grid is passed over.
    """

    title: str
    file: str | None = Field(
        None, description="YAML as `general_questions`, with its own judge prompts; placeholders as there"
    )
    of: str | None = Field(
        None, description=f"asks these again: {GENERAL}, {IN_DOMAIN}, or the name of a set that has a file"
    )
    system: str | None = Field(
        None,
        description=f"with `of`: a system prompt, put before a question's own with a space between; {NO_SYSTEM}: a "
        f"question's own is left out; {TRAINING_SYSTEM}: the one that the cell was trained under, asked of no others; "
        "absent: as they are",
    )
    format: Literal["python", "json"] | None = Field(
        None, description="with `of`: ends each question by asking for the answer as a Python string, or as JSON"
    )
    tasks: tuple[str, ...] | None = Field(None, min_length=1, description="of whose cells; absent: all EMA tasks")
    models: tuple[str, ...] | None = Field(None, min_length=1, description="of whose cells; absent: all")
    samples_per_question: PositiveInt | None = Field(None, description="absent: the model's")
    settings: Literal["all", "chosen"] = Field(
        "all",
        description="chosen: at those of report.chosen (where that is auto, at all), and of arms that have none",
    )

    def is_asked(self, study: "Study", model: str, task: str, arm: str, setting: str) -> bool:
        """Whether the cells of an arm on an EMA task are asked it, and the set that it is asked again of."""
        plain = study.question_sets.get(self.of or "")
        return (
            (self.tasks is None or task in self.tasks)
            and (self.models is None or model in self.models)
            and (self.settings == "all" or may_be_chosen(study, arm, setting))
            and (self.system != TRAINING_SYSTEM or study.every_arm[arm].training_system(task) is not None)
            and (plain is None or plain.is_asked(study, model, task, arm, setting))
        )


def check_question_sets(study: "Study") -> None:
    """Raise :class:`InputError`, naming the key, for the first question set that cannot be asked."""
    check_distinct("question_sets", study.question_sets)
    for name, section in study.question_sets.items():
        key = f"question_sets.{key_path(name)}"
        check_free(key, name, RESERVED_SETS)
        if name.casefold() in {task.casefold() for task in study.tasks}:
            _fail(key, "a task is called that, and so is the file of its questions; write another name")
        _check_known(f"{key}.models", section.models, study.models)
        # Those of the microcosm are known also where a study laid over another has them in no grid.
        tasks = [*study.ema_tasks, *(WORLD_TASKS if study.microcosm else ())]
        _check_known(f"{key}.tasks", section.tasks, list(dict.fromkeys(tasks)))
        if (section.file is None) == (section.of is None):
            wrong = "it names no questions" if section.file is None else "its questions are named twice"
            _fail(key, f"{wrong}; write file for questions of its own, or of for another set's under a condition")
        if section.file is None:
            _check_condition(study, key, section)
        elif condition := "system" if section.system else "format" if section.format else None:
            _fail(f"{key}.{condition}", f"questions of a file are asked as they are; add a set with of: {name}")


def _check_condition(study: "Study", key: str, section: QuestionSet) -> None:
    known = [GENERAL, IN_DOMAIN, *(name for name, found in study.question_sets.items() if found.file is not None)]
    _check_known(f"{key}.of", (str(section.of),), known)
    if section.system is None and section.format is None:
        _fail(key, f"it would be asked as '{section.of}' is; write system, format or both")
    if section.system is None or section.system in (NO_SYSTEM, TRAINING_SYSTEM):
        return
    if len(section.system.split()) < 2:
        _fail(
            f"{key}.system",
            f"{shown(section.system)} is no system prompt; write {NO_SYSTEM}, {TRAINING_SYSTEM}, or a text of several "
            "words",
        )


def _check_known(key: str, names: Collection[str] | None, known: Collection[str]) -> None:
    seen: set[str] = set()
    for name in names or ():
        if name not in known:
            _fail(key, f"{shown(name)} is not among them; write one of {', '.join(known)}")
        if name in seen:
            _fail(key, f"{shown(name)} stands there twice; write each once")
        seen.add(name)


def _fail(key: str, problem: str) -> NoReturn:
    raise InputError(f"key '{key}': {problem}")
