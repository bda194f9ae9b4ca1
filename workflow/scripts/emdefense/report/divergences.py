"""Where and why we differ from the paper: the data, for the page and for docs/divergences.md."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from emdefense.config import Study

HEADER = """# Where we differ from the paper, and why

Generated from `workflow/scripts/emdefense/report/divergences.yaml` by `make schema`; a test fails when it is out of
date. The paper is Kaczér et al. 2025, arXiv 2508.06249 v1. "Switch" is the config key that takes a difference back,
where there is one.
"""


class Divergence(BaseModel):
    """One way in which the pipeline, or a kind of study, differs from the paper."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    topic: str
    paper: str
    here: str
    study: Literal["microcosm"] | None = None
    switch: str = ""


def all_divergences() -> list[Divergence]:
    """Return every divergence, in the order of the data file."""
    listed = yaml.safe_load((Path(__file__).parent / "divergences.yaml").read_text(encoding="utf-8"))
    return [Divergence.model_validate(entry) for entry in listed]


def divergences(study: Study) -> list[Divergence]:
    """Return where the study differs from the paper: what holds for every study, and what for this kind of it."""
    return [entry for entry in all_divergences() if entry.study is None or study.microcosm is not None]


def divergences_document() -> str:
    """Return docs/divergences.md: a table for every study, and one for the default study alone."""
    found = all_divergences()
    everywhere = _table([entry for entry in found if entry.study is None])
    microcosm = _table([entry for entry in found if entry.study == "microcosm"])
    about = (
        "The microcosm is a synthetic world with models of 0.2 million parameters. It shows the mechanism and\n"
        "exercises the whole pipeline; it says nothing about the size of an effect in a real model."
    )
    return f"{HEADER}\n## In every study\n\n{everywhere}\n## In the default study only\n\n{about}\n\n{microcosm}"


def _table(entries: list[Divergence]) -> str:
    rows = ["| topic | paper | here | switch |", "| --- | --- | --- | --- |"]
    rows += [f"| {e.topic} | {e.paper} | {e.here} | {f'`{e.switch}`' if e.switch else ''} |" for e in entries]
    return "\n".join(rows) + "\n"
