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
What a switch takes back, or what a study has no use for, is absent from its page and its tables.
"""


class Divergence(BaseModel):
    """One way in which the pipeline, or a kind of study, differs from the paper.

    ``when`` names config keys and the values at which it holds, ``source`` and ``task_has`` the sources or the tasks
    that it is about, ``arm`` the arm, ``judged`` that it is about rates, which a study without a judge does not have.
    ``note`` is what it says as a footnote to ``tables``: at the rows of an arm, at the tasks that it is about, or else
    at the title.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    topic: str
    paper: str
    here: str
    study: Literal["microcosm"] | None = None
    switch: str = ""
    when: dict[str, bool | float | str] = {}
    judged: bool = False
    tables: tuple[int, ...] = ()
    arm: str | None = None
    source: str | None = None
    task_has: dict[str, str] = {}
    note: str = ""

    def holds(self, study: Study) -> bool:
        """Whether it is one of the study's: by what the study's config says."""
        if self.study == "microcosm" and study.microcosm is None:
            return False
        if self.judged and study.judge is None:
            return False
        if self.source is not None and all(source.kind != self.source for source in study.sources.values()):
            return False
        if self.arm is not None and self.arm not in _arms(study):
            return False
        if self.task_has and not any(self.concerns(study, task) for task in study.tasks):
            return False
        return all(_value(study, key) == value for key, value in self.when.items())

    def concerns(self, study: Study, task: str) -> bool:
        """Whether it is about a task."""
        section = study.tasks[task]
        return bool(self.task_has) and all(getattr(section, k, None) == value for k, value in self.task_has.items())


def all_divergences() -> list[Divergence]:
    """Return every divergence, in the order of the data file."""
    listed = yaml.safe_load((Path(__file__).parent / "divergences.yaml").read_text(encoding="utf-8"))
    return [Divergence.model_validate(entry) for entry in listed]


def divergences(study: Study) -> list[Divergence]:
    """Return where the study differs from the paper."""
    return [entry for entry in all_divergences() if entry.holds(study)]


def divergences_document() -> str:
    """Return docs/divergences.md: a table for every study, and one for the default study alone."""
    found = all_divergences()
    everywhere, microcosm = (_table([entry for entry in found if entry.study == kind]) for kind in (None, "microcosm"))
    about = (
        "The microcosm is a synthetic world with models of 0.2 million parameters. It shows the mechanism and\n"
        "exercises the whole pipeline; it says nothing about the size of an effect in a real model."
    )
    return f"{HEADER}\n## In every study\n\n{everywhere}\n## In the default study only\n\n{about}\n\n{microcosm}"


def _arms(study: Study) -> set[str]:
    """Return the arms that a study has in its grid, those included that variants are of or are combined with."""
    found = [study.every_arm[arm] for block in study.grid for arm in block.arms]
    return {member.arm.name for whole in found for member in whole.members}


def _value(study: Study, key: str) -> object:
    """Return what a dotted key of the config says, None where a section is absent."""
    found: object = study
    for part in key.split("."):
        found = None if found is None else getattr(found, part)
    return found


def _table(entries: list[Divergence]) -> str:
    rows = ["| topic | paper | here | switch |", "| --- | --- | --- | --- |"]
    rows += [f"| {e.topic} | {e.paper} | {e.here} | {f'`{e.switch}`' if e.switch else ''} |" for e in entries]
    return "\n".join(rows) + "\n"
