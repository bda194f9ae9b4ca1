"""The paper's values that stand beside ours."""

from dataclasses import dataclass

from emdefense.analysis.conditions import Condition, Role, chosen_condition, model_in_role
from emdefense.analysis.paper import later_rates, paper_study, paper_summary
from emdefense.analysis.summary import Summary
from emdefense.config import Study
from emdefense.metrics import EXACT_MATCH

OPSWAP, FOQA = "opswap", "foqa"  # the paper's tables of benign tasks


@dataclass(frozen=True)
class Reference:
    """A published study and its numbers, looked up by the part that a condition plays in our tables."""

    study: Study
    summary: Summary

    def chosen(self, role: Role, task: str, arm: str, quantity: str) -> float | None:
        """Return the rate (%) of an arm at the setting that the paper chose; None if it has none."""
        condition = chosen_condition(self.study, role, task, arm)
        return None if condition is None else self.summary.value(condition, quantity)

    def same_setting(self, role: Role, task: str, arm: str, setting: str, quantity: str) -> float | None:
        """Return the rate (%) of an arm at the very setting; None if the paper has none."""
        model = model_in_role(self.study, role)
        return None if model is None else self.summary.value(Condition(model, task, arm, setting), quantity)

    def later(self, role: Role, task: str, arm: str, setting: str, quantity: str) -> float | None:
        """Return the rate (%) that the paper's later version has at the very setting, second-hand; None if unknown."""
        return later_rates().get((task, arm, setting, quantity)) if role == "main" else None

    def exact_match(self, table: str, tier: int | None, arm: str, setting: str) -> float | None:
        """Return the exact match (%) on a benign task; None if the paper has no such setting."""
        task = benign_task(self.study, table, tier)
        if task is None:
            return None
        return self.summary.value(Condition(self.study.report.main_model, task, arm, setting), EXACT_MATCH)


def benign_tasks(study: Study, table: str) -> list[str]:
    """Return the benign tasks that name a table, in the order of the config."""
    return [name for name, task in study.tasks.items() if task.kind == "benign" and task.table == table]


def benign_task(study: Study, table: str, tier: int | None) -> str | None:
    """Return the name of the benign task that fills a table (``opswap`` with its tier, or ``foqa``)."""
    for name, task in study.tasks.items():
        if task.kind == "benign" and task.table == table and task.tier == tier:
            return name
    return None


def paper_reference() -> Reference:
    """Return the paper itself as the reference."""
    return Reference(paper_study(), paper_summary())
