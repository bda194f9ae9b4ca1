"""Which models adapters belong to: by the hub's name, or as a copy where the study made the model itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emdefense.config.made_files import made_folders
from emdefense.config.path_checks import resolve
from emdefense.config.source_checks import record_path
from emdefense.config.sources import ModelSource
from emdefense.config.study import Study
from emdefense.errors import InputError
from emdefense.files import read_json
from emdefense.finished import Finished
from emdefense.model_folder import HUB_NAME

BASES = "base"  # folder of the models that come along, beside the adapters
SOURCES = "{sources}/"


@dataclass(frozen=True)
class Base:
    """A model that adapters belong to: ``name`` as the adapter's config has it.

    ``copied`` is its folder here where the study made it; else ``name`` is the hub's, at ``revision`` if that is known.
    """

    name: str
    revision: str | None = None
    copied: Path | None = None


def bases(study: Finished, named: Mapping[str, str]) -> dict[str, Base]:
    """Return the base of each model of the grid; ``named`` has the hub's names that the user gives, by model.

    Raises :class:`InputError` for a model that others could not find: one in a folder of this machine's.
    """
    if unknown := sorted(set(named) - set(study.study.models)):
        raise InputError(f"--base {unknown[0]}=...: the study has no such model; write {', '.join(study.study.models)}")
    for model, name in named.items():
        if not HUB_NAME.fullmatch(name):
            raise InputError(f"--base {model}={name}: no name of a hub's model; write org/name or org/name@revision")
    return {model: _base(study, model, named.get(model)) for model in study.grid.models}


def _base(study: Finished, model: str, named: str | None) -> Base:
    instruct = study.study.models[model].instruct
    if named is not None:
        return _hub(named)
    if instruct in made_folders(study.study):
        # The folder may lie in another checkout: its results name it from their own folder on.
        return Base(f"{BASES}/{model}", copied=study.folder / instruct.removeprefix("{results}/"))
    if instruct.startswith(SOURCES) and (found := _fetched(study.study, instruct.removeprefix(SOURCES))):
        return found
    path = resolve(study.study, instruct)
    if HUB_NAME.fullmatch(path) and not Path(path).is_dir():
        return _hub(path)
    raise InputError(
        f"key 'models.{model}.instruct': {instruct} lies on this machine, and others cannot load the adapters without "
        f"it; name where they get it: --base {model}=org/name"
    )


def _fetched(study: Study, name: str) -> Base | None:
    source = study.sources.get(name)
    if not isinstance(source, ModelSource) or source.repository is None:
        return None
    record = record_path(Path(study.sources_folder), name)
    revision = read_json(record).get("revision") if record.is_file() else None
    return Base(source.repository, source.revision or revision)


def _hub(name: str) -> Base:
    repository, _, revision = name.partition("@")
    return Base(repository, revision or None)
