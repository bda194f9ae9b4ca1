"""The cards of what is shared: of all adapters, of each, and of the data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import yaml

from emdefense.arms import ALIGNED
from emdefense.cells import Cell
from emdefense.comparison.alike import judge_title
from emdefense.finished import Finished
from emdefense.metrics import JUDGED
from emdefense.report.tables.rendering import render_markdown
from emdefense.sharing.bases import Base

TAGS = ("emergent-misalignment", "ai-safety", "not-for-deployment")
NARROW = "narrow"  # what an adapter is that was trained on a narrow task's harmful answers


@dataclass(frozen=True)
class Measured:
    """A number of a card, what it is of, and its intervals: for these questions, and for questions like these."""

    what: str
    value: str
    of: str
    these: str
    like_these: str


def adapter_card(study: Finished, cell: Cell, base: Base, license: str) -> str:
    """Return the card of one adapter."""
    arm, task = study.grid.study_arm(cell), study.study.tasks[cell.task]
    return render_markdown(
        "share_adapter.md.jinja",
        header=_header(_model_header([base], license)),
        title=f"{task.title}, {arm.titled(cell.setting)}, seed {cell.seed}",
        study=study.study.study,
        kind=_kind(study, cell),
        base=base,
        model=study.study.models[cell.model].title,
        task=task.title,
        arm=arm.titled(cell.setting),
        seed=cell.seed,
        training=study.grid.training(cell),
        measured=measured(study, cell),
        judge=judge_title(study),
        folder=cell.folder,
    )


def adapters_card(study: Finished, cells: Sequence[Cell], bases: Mapping[str, Base], license: str) -> str:
    """Return the card of the repository of all adapters: how to load one, and which there are."""
    rows = [
        {
            "folder": cell.folder,
            "model": study.study.models[cell.model].title,
            "task": study.study.tasks[cell.task].title,
            "arm": study.grid.study_arm(cell).titled(cell.setting),
            "seed": cell.seed,
            "measured": {one.what: one for one in measured(study, cell)},
        }
        for cell in cells
    ]
    used = {cell.model: bases[cell.model] for cell in cells}
    example = next((cell for cell in cells if _kind(study, cell) == NARROW), cells[0])
    return render_markdown(
        "share_adapters.md.jinja",
        header=_header(_model_header(list(used.values()), license)),
        study=study.study.study,
        rows=rows,
        columns=list(dict.fromkeys(what for row in rows for what in row["measured"])),  # type: ignore[attr-defined]
        bases={study.study.models[model].title: base for model, base in used.items()},
        example=example,
        base=used[example.model],
        judge=judge_title(study),
        misaligned=any(_kind(study, cell) == NARROW for cell in cells),
    )


def data_card(study: Finished, sizes: Mapping[str, int], license: str, removed: Sequence[str]) -> str:
    """Return the card of the data set, whose header says where each configuration's files lie.

    ``sizes`` has the rows of each; ``removed`` says in sentences what was taken out.
    """
    header: dict[str, Any] = {
        "license": license,
        "pretty_name": f"Emergent misalignment, study {study.study.study}",
        "tags": list(TAGS),
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": f"data/{name}/*.parquet"}]}
            for name in sizes
        ],
    }
    return render_markdown(
        "share_dataset.md.jinja",
        header=_header(header),
        study=study.study.study,
        sizes=sizes,
        models=[study.study.models[model].title for model in study.grid.models],
        tasks=[study.study.tasks[task].title for task in study.grid.tasks],
        judges=[f"{one.name}" + (f" ({one.model})" if one.kind == "openai" else "") for one in _judges(study)],
        sampling=study.study.generation,
        scoring=study.study.scoring,
        terms={name: source.terms for name, source in study.study.sources.items() if source.terms},
        removed=removed,
    )


def measured(study: Finished, cell: Cell) -> list[Measured]:
    """Return what was measured of one cell: its rates, or its right answers; empty for one that was only trained."""
    of_cell = [pl.col(name) == value for name, value in vars(cell).items()]
    found = []
    rates = study.rates.filter(of_cell)
    for metric in JUDGED:
        for row in rates.filter(question_set=metric.question_set).iter_rows(named=True):
            found.append(_measured(metric.title, row, f"{metric.outcome}_pct", "scored", f"{metric.outcome}_"))
    for row in study.exact_match.filter(of_cell).iter_rows(named=True):
        found.append(_measured("right answers", row, "exact_match_pct", "answers", ""))
    return [one for one in found if one is not None]


def _measured(what: str, row: Mapping[str, Any], value: str, of: str, bounds: str) -> Measured | None:
    if row[value] is None:
        return None
    intervals = ([row[f"{bounds}{kind}_{end}"] for end in ("low", "high")] for kind in ("wilson", "cluster"))
    these, like_these = ("" if ends[0] is None else "{:.1f} to {:.1f} %".format(*ends) for ends in intervals)
    return Measured(what, f"{row[value]:.1f} %", f"{row[of]:,}", these, like_these)


def _kind(study: Finished, cell: Cell) -> str:
    """Return what an adapter is: misaligned on purpose, a control trained on aligned answers, or of a benign task."""
    if study.grid.is_benign(cell):
        return "benign"
    return "control" if cell.arm == ALIGNED else NARROW


def _judges(study: Finished) -> list[Any]:
    return list(study.study.judges.values())


def _model_header(bases: Sequence[Base], license: str) -> dict[str, Any]:
    named = list(dict.fromkeys(base.name for base in bases if base.copied is None))
    return {
        "license": license,
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": [*TAGS, "lora"],
        **({"base_model": named[0] if len(named) == 1 else named} if named else {}),
    }


def _header(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True).rstrip()
