"""What the page says about how its numbers came to be."""

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from emdefense.cells import Cell, Grid
from emdefense.choice.asked import Asked, asked
from emdefense.config import Study
from emdefense.files import file_digest, read_json
from emdefense.layout import Layout
from emdefense.likelihood.read import reading
from emdefense.provenance import record_beside
from emdefense.report.page.findings import Finding

DIGEST_LENGTH = 12
NAMED = 5  # of the cells that other code made
Records = dict[str, dict[str, Any]]  # by what they are of: a cell, or a cell and a question set
Line = tuple[str, str]


def provenance(study: Study, stages: Mapping[str, Records], rates: Path) -> list[Line]:
    """Return (what, value) lines: the study, its cells, and the code, packages, models and machines of each stage."""
    grid = Grid(study)
    sampling = study.generation
    adapters = len(stages["trained"]) + len(stages["changed"])
    lines = [
        ("Study", study.study),
        ("Seeds", ", ".join(map(str, study.seeds))),
        ("Cells", f"{len(grid.cells)}; there are {adapters} adapters, those included that are in no cell of their own"),
        ("Judge", ", ".join(f"{judge.name} ({judge.kind})" for judge in study.judges.values()) or "none"),
        (
            "Sampling",
            f"{sampling.engine}, temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, at most "
            f"{sampling.max_new_tokens} tokens, seed {sampling.seed}",
        ),
        (
            "Samples a question",
            ", ".join(f"{model.title} {model.samples_per_question}" for model in study.models.values()),
        ),
        ("Rates", f"SHA-256 {file_digest(rates)[:DIGEST_LENGTH]}…"),
        *_models(stages),
    ]
    for stage, records in stages.items():
        lines += _stage(stage, records)
    packages = ", ".join(f"{name} {version(name)}" for name in ("polars", "numpy", "matplotlib", "jinja2"))
    return [*lines, ("Packages of this page", packages), ("Python of this page", platform.python_version())]


def stage_records(study: Study, layout: Layout | None = None) -> dict[str, Records]:
    """Return the records of each stage, by what they are of; those that are not there are left out.

    ``layout`` says where they lie, if not where the study puts them from here on.
    """
    grid = Grid(study)
    adapters = list(dict.fromkeys([*grid.trained, *(cell for cell in grid.cells if grid.arm(cell).is_trained)]))
    return _read(layout or Layout(study), adapters, grid.responses, grid.benign, asked(grid), reading(grid))


def made_differently(stages: Mapping[str, Records]) -> list[Finding]:
    """Return a warning for each stage in which not all was made by the same code."""
    return [
        Finding("bad", f"Not all was {stage} by the same code.", _code(records))
        for stage, records in stages.items()
        if len({record["code_digest"] for record in records.values()}) > 1
    ]


def cell_provenance(study: Study, cell: Cell, responses: Sequence[tuple[Cell, str]]) -> list[Line]:
    """Return (what, value) lines of one cell: its models, and the code, packages, machine and time of each stage.

    ``responses`` are its question sets, each with the cell that was asked.
    """
    adapters = [cell] if Grid(study).arm(cell).is_trained else []
    stages = _read(Layout(study), adapters, responses, [cell] if Grid(study).is_benign(cell) else [])
    return [*_models(stages), *(line for stage, records in stages.items() for line in _stage(stage, records))]


def _read(
    layout: Layout,
    adapters: Iterable[Cell],
    responses: Sequence[tuple[Cell, str]],
    benign: Iterable[Cell],
    choices: Sequence[Asked] = (),
    readers: Sequence[Cell] = (),
) -> dict[str, Records]:
    study, grid = layout.study, Grid(layout.study)
    records = {cell: Path(layout.cell(cell)) / "provenance.json" for cell in adapters}
    files: dict[str, dict[str, Path]] = {
        "trained": {cell.folder: path for cell, path in records.items() if not grid.arm(cell).changes_adapter},
        "changed": {cell.folder: path for cell, path in records.items() if grid.arm(cell).changes_adapter},
        "sampled": {
            **{f"{c.folder}/{name}": record_beside(Path(layout.responses(c, name))) for c, name in responses},
            **{cell.folder: record_beside(Path(layout.answers(cell))) for cell in benign},
        },
        "judged": {
            f"{c.folder}/{name}": record_beside(Path(layout.judgments(c, name)))
            for c, name in (responses if study.judge else ())
        },
        "weighed": {f"{c.folder}/{name}": record_beside(Path(layout.choices(c, name))) for c, name in choices},
        "read": {cell.folder: record_beside(Path(layout.held_out(cell))) for cell in readers},
    }
    return {
        stage: {name: read_json(path) for name, path in paths.items() if path.is_file()}
        for stage, paths in files.items()
    }


def _models(stages: Mapping[str, Records]) -> Iterator[Line]:
    """Yield each model that was fine-tuned or asked, by its folder, with its revision and its weights' digest."""
    found = [record["model"] for records in stages.values() for record in records.values() if "model" in record]
    for folder in sorted({model["folder"] for model in found}):
        seen = {_model(model) for model in found if model["folder"] == folder}
        warning = "; there were different models in it" if len(seen) > 1 else ""
        yield f"Model {folder}", ", ".join(sorted(seen)) + warning


def _model(identity: Mapping[str, Any]) -> str:
    revision = identity.get("revision")
    weights = f"weights {identity['weights_digest'][:DIGEST_LENGTH]}…"
    return f"revision {revision}, {weights}" if revision else weights


def _stage(stage: str, records: Records) -> Iterator[Line]:
    """Yield what the records of a stage say: its code, packages, machines and time."""
    if not records:
        return
    yield f"Code that {stage}", _code(records)
    packages = {f"{name} {number}" for record in records.values() for name, number in record["packages"].items()}
    yield f"Packages that {stage}", ", ".join(sorted(packages))
    yield f"Machines that {stage}", _machines(records.values())
    made = [record for record in records.values() if "copied_from" not in record]
    hours = sum(record["seconds"]["all"] for record in made if "seconds" in record) / 3600
    copied = len(records) - len(made)
    aside = f"; {copied} were copied from the same adapter's" if copied else ""
    yield f"Hours that {stage}", f"{hours:.2f} in {len(made)} parts{aside}"


def _code(records: Records) -> str:
    """Return the digest of the code; where there are several, with the cells that were not made by the commonest."""
    digests = Counter(record["code_digest"] for record in records.values())
    (commonest, count), *others = digests.most_common()
    if not others:
        return f"{commonest[:DIGEST_LENGTH]}…"
    parts = [f"{commonest[:DIGEST_LENGTH]}… made {count}"]
    for digest, count in others:
        names = [name for name, record in records.items() if record["code_digest"] == digest]
        more = f" and {count - NAMED} more" if count > NAMED else ""
        parts.append(f"{digest[:DIGEST_LENGTH]}… made {', '.join(names[:NAMED])}{more}")
    return f"Different code made these cells: {'; '.join(parts)}. To make them alike, delete and rerun them."


def machine_name(machine: Mapping[str, Any]) -> str:
    """Return the device and processor of a record's machine, the processor alone where nothing else computed."""
    device, processor = machine.get("device", "cpu"), str(machine["processor"])
    return processor if device == "cpu" else f"{device}, {processor}"


def _machines(records: Iterable[Mapping[str, Any]]) -> str:
    return "; ".join(sorted({machine_name(record["machine"]) for record in records}))
