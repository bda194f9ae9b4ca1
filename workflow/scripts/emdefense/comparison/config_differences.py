"""What differs between studies: keys of their configs, and what their results were made by and from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emdefense.cells import Grid
from emdefense.config import Study
from emdefense.finished import Finished
from emdefense.report.page.provenance import provenance, stage_records

# What a reader looks for first; the other keys follow in the order of the alphabet.
FIRST = ("seeds", "models", "grid", "tasks", "arms", "variants", "training", "generation", "judge", "scoring")
LEFT_OUT = {"study", "grid"}
OF_PROVENANCE = ("Model ", "Code that ", "Packages that ", "Machines that ")
GIVEN = "given"  # a whole section that another study has not


@dataclass(frozen=True)
class Differing:
    """A key, or something of the provenance, and what each study has there; None where a study has it not."""

    what: str
    values: tuple[str | None, ...]


def config_differences(studies: Sequence[Finished]) -> list[Differing]:
    """Return the keys of the configs that differ, dotted, those that matter most first; names of studies do not count.

    Defaults are filled in, so that a key that one study writes and another leaves at its default does not differ. A
    section that a study has not at all is one entry. The grid has an entry for each model and arm.
    """
    configs = [_without(study.study.model_dump(mode="json")) for study in studies]
    found = list(_compare("", configs))
    grids = [_grid(study.study) for study in studies]
    keys = dict.fromkeys(key for grid in grids for key in grid)
    found += [Differing(f"grid, {key}", tuple(grid.get(key) for grid in grids)) for key in keys]
    differing = [one for one in found if len(set(one.values)) > 1]
    return sorted(differing, key=lambda one: _place(one.what))


def provenance_differences(studies: Sequence[Finished]) -> list[Differing]:
    """Return where the studies were made by other code, packages or machines, or from other weights."""
    lines = [_provenance(study) for study in studies]
    keys = dict.fromkeys(key for of_study in lines for key in of_study)
    found = (Differing(key, tuple(of_study.get(key) for of_study in lines)) for key in keys)
    return [one for one in found if len(set(one.values)) > 1]


def _without(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in LEFT_OUT}


def _compare(prefix: str, values: Sequence[Any]) -> list[Differing]:
    """Return every entry below a key, alike or not; a mapping is one entry where a study has nothing there."""
    if all(isinstance(value, Mapping) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        dotted = ((key, f"{prefix}.{key}" if prefix else key) for key in keys)
        return [one for key, below in dotted for one in _compare(below, [value.get(key, _ABSENT) for value in values])]
    return [Differing(prefix, tuple(map(_written, values)))]


def _grid(study: Study) -> dict[str, str]:
    """Return each model and arm of the grid with its settings, and on which tasks."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for cell in Grid(study).cells:
        settings = found.setdefault(f"{cell.model}, {cell.arm}", {})
        settings.setdefault(cell.setting, {})[cell.task] = None
    written = {}
    for key, settings in found.items():
        on: dict[tuple[str, ...], list[str]] = {}
        for setting, tasks in settings.items():
            on.setdefault(tuple(tasks), []).append(setting)
        written[key] = "; ".join(f"{', '.join(of)} on {', '.join(tasks)}" for tasks, of in on.items())
    return {key: value.removeprefix("none ") for key, value in written.items()}


def _place(what: str) -> tuple[int, str]:
    top = what.partition(".")[0].partition(",")[0]
    return (FIRST.index(top) if top in FIRST else len(FIRST), what)


def _written(value: Any) -> str | None:
    if value is _ABSENT:
        return None
    if isinstance(value, Mapping):
        return GIVEN if value else "none"
    if isinstance(value, list):
        return ", ".join(str(_written(one)) for one in value) or "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def _provenance(study: Finished) -> dict[str, str]:
    """Return the lines of the study's own page that say by what and from what it was made, its folder left out."""
    lines = provenance(study.study, stage_records(study.study, study.layout), study.folder / "rates.parquet")
    here = f"results/{study.study.study}"
    kept = {what.replace(here, "{results}"): said for what, said in lines if what.startswith(OF_PROVENANCE)}
    return {what: said.replace(here, "{results}") for what, said in kept.items()}


_ABSENT = object()
