"""Which models of several studies stand in one place: those of one name, else those of one role."""

from collections.abc import Sequence
from dataclasses import dataclass

from emdefense.config import Study


@dataclass(frozen=True)
class Place:
    """A model of each study, None for a study that has none here, and the place's title."""

    title: str
    models: tuple[str | None, ...]


def places(studies: Sequence[Study]) -> list[Place]:
    """Return the places of the studies' models, in the order of the configs.

    Models of one name share a place. Where main models have different names, of which no other study has any, they
    share one, too; so do second models.
    """
    named = dict.fromkeys(model for study in studies for model in study.models if model in _in_grid(study))
    rows = [tuple(model if model in _in_grid(study) else None for study in studies) for model in named]
    for role in ("main_model", "second_model"):
        rows = _merged(rows, [getattr(study.report, role) for study in studies])
    return [Place(_title(studies, row), row) for row in rows]


def _in_grid(study: Study) -> set[str]:
    return {model for block in study.grid for model in block.models}


def _merged(rows: list[tuple[str | None, ...]], of_role: Sequence[str | None]) -> list[tuple[str | None, ...]]:
    """Return the rows, those that hold nothing but models of a role put together, as far as no study is in two."""
    merged: list[tuple[str | None, ...]] = []
    first: int | None = None  # the row that others of the role join
    for row in rows:
        if all(model in (None, role) for model, role in zip(row, of_role, strict=True)):
            if first is None:
                first = len(merged)
            elif all(mine is None or other is None for mine, other in zip(merged[first], row, strict=True)):
                merged[first] = tuple(mine or other for mine, other in zip(merged[first], row, strict=True))
                continue
        merged.append(row)
    return merged


def _title(studies: Sequence[Study], row: tuple[str | None, ...]) -> str:
    found = [(model, study.models[model].title) for study, model in zip(studies, row, strict=True) if model is not None]
    names, titles = (list(dict.fromkeys(part)) for part in zip(*found, strict=True))
    return names[0] if len(names) == 1 and len(titles) > 1 else " / ".join(titles)
