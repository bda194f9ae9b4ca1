"""The tables of benign tasks that the paper does not have: those that a study names, and paired differences."""

from collections.abc import Iterator

from emdefense.cells import Grid
from emdefense.config import Study
from emdefense.report.artefact import TABLES, Artefact

OPSWAP, FOQA = OF_PAPER = ("opswap", "foqa")  # Tables 5 and 6


def own_benign(study: Study) -> Iterator[Artefact]:
    """Yield a table for each name that benign tasks of the grid give one, for each model that has such a task."""
    main = study.report.main_model
    for model in dict.fromkeys((main, *study.models)):
        tasks = (study.tasks[cell.task] for cell in Grid(study).benign if cell.model == model)
        for table in dict.fromkeys(task.table for task in tasks if task.kind == "benign"):
            if table not in OF_PAPER:
                yield Artefact(
                    f"benign_{table}" + ("" if model == main else f"_{model}"),
                    "table",
                    f"{TABLES}.benign.own_table",
                    f"Benign: {table}, {study.models[model].title}",
                    "tables",
                    ("summary",),
                    {"model": model, "table": table},
                    "Right answers of each arm to the study's own benign tasks",
                    model=model,
                )


def benign_differences(study: Study) -> Iterator[Artefact]:
    """Yield the table of paired differences on benign tasks, if the grid has any."""
    if Grid(study).benign:
        yield Artefact(
            "paired_benign",
            "table",
            f"{TABLES}.benign_differences.benign_difference_table",
            "Benign tasks, paired",
            "statistics",
            ("benign_questions",),
            caption="Right answers to benign tasks less plain fine-tuning's and the untrained model's, on the same "
            "questions: differences with intervals, corrected for how many were looked at",
        )
