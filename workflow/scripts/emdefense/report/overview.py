"""Table 1: what each defence achieves, by thresholds that stand under the table."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from emdefense.analysis.conditions import (
    Condition,
    chosen_setting,
    conditions,
    ema_arms,
    ema_tasks,
    setting_title,
    summed_up,
    titled,
)
from emdefense.analysis.summary import (
    EXACT_MATCH,
    GENERAL_INCOHERENT,
    GENERAL_MISALIGNED,
    IN_DOMAIN_MISALIGNED,
    Summary,
)
from emdefense.analysis.tradeoff import readable_tasks
from emdefense.cells import NO_SETTING
from emdefense.config import Study
from emdefense.config.study import Verdicts
from emdefense.report.reference import benign_settings
from emdefense.report.table import DASH, Column, Table, TableCell, percent
from emdefense.report.table_notes import NOT_MEASURED, TableNotes

YES, PARTLY, NO = "✓", "~", "✗"
NOT_INTERPRETABLE = "EMA did not appear in the misaligned arm of any task, so there is nothing to prevent."
NO_BENIGN = "In domain alone: the arm was not measured on all benign tasks."
OTHER_SETTING = "Benign tasks at {settings}, since the chosen setting was not measured on them."


@dataclass(frozen=True)
class Overview:
    """What an arm at its chosen setting achieves, each a percentage averaged over tasks; None if not measured.

    ``benign_at`` names the settings on the benign tasks where the chosen one was not measured on them.
    """

    reduction: float | None
    in_domain_retention: float | None
    benign_retention: float | None
    incoherent: float | None
    benign_at: str = ""

    @property
    def learning(self) -> float | None:
        """The smaller of the two retentions; without benign tasks, the one in domain."""
        if self.in_domain_retention is None or self.benign_retention is None:
            return self.in_domain_retention
        return min(self.in_domain_retention, self.benign_retention)


def overview(study: Study, summary: Summary, arm: str) -> Overview:
    """Return an arm's achievements on the main model; tasks in which EMA did not appear are left out."""
    model, setting = study.report.main_model, chosen_setting(study, arm)
    if setting is None:
        return Overview(None, None, None, None)
    here = [Condition(model, task, arm, setting) for task in readable_tasks(study, summary)]
    general = [summary.relative_to_misaligned(c, GENERAL_MISALIGNED) for c in here]
    in_domain = [summary.relative_to_misaligned(c, IN_DOMAIN_MISALIGNED) for c in here]
    incoherent = [summary.value(Condition(model, task, arm, setting), GENERAL_INCOHERENT) for task in ema_tasks(study)]
    benign = _benign_conditions(study, arm)
    remaining = _mean(general)
    return Overview(
        reduction=None if remaining is None else 100 * (1 - remaining),
        in_domain_retention=_mean([None if share is None else 100 * min(share, 1) for share in in_domain]),
        benign_retention=_benign_retention(summary, benign),
        incoherent=_mean(incoherent),
        benign_at=", ".join(setting_title(arm, s) for s in dict.fromkeys(c.setting for c in benign) if s != setting),
    )


def overview_table(study: Study, summary: Summary, *, compared: bool) -> Table:
    """Return Table 1: the misaligned arm and each defence against the three aims, the thresholds under it.

    ``compared`` is whether it stands beside the paper's, so that footnotes say how the study differs.
    """
    model, verdicts = study.report.main_model, study.report.verdicts
    notes = TableNotes(study, 1, compared=compared)
    appeared = {task: summary.ema_appeared(model, task, study.report.emergent_pct) for task in ema_tasks(study)}
    without_ema = [study.tasks[task].title for task, has in appeared.items() if not has]
    why = NOT_INTERPRETABLE if False in appeared.values() and not any(appeared.values()) else NOT_MEASURED
    rows, csv_rows = [], []
    for arm in ema_arms(study, model):
        setting = chosen_setting(study, arm)
        if arm not in ("misaligned", *summed_up(study)) or setting is None:
            continue
        found = overview(study, summary, arm)
        about_benign = "" if arm == "misaligned" else _about_benign(found)
        judged = (
            (verdict(found.reduction, verdicts.ema_reduction_pct), found.reduction, why, ""),
            (verdict(found.learning, verdicts.retention_pct), found.learning, why, about_benign),
            (verdict_below(found.incoherent, verdicts.incoherent_pct), found.incoherent, NOT_MEASURED, ""),
        )
        cells = [TableCell(titled(arm, setting), footnote=notes.of_arm(arm))]
        for mark, value, if_missing, otherwise in judged:
            note = if_missing if value is None else otherwise
            text = DASH if value is None else f"{mark} {percent(value)}"
            cells.append(TableCell(text, footnote=notes.letter(note) if note else ""))
        rows.append(tuple(cells))
        numbers = (found.reduction, found.in_domain_retention, found.benign_retention, found.incoherent)
        csv_rows.append(
            (
                arm,
                "" if setting == NO_SETTING else setting,
                *(mark for mark, *_ in judged),
                *("" if value is None else f"{value:.2f}" for value in numbers),
            )
        )
    left_out = (
        f"The first two without {', '.join(without_ema)}, where EMA did not appear in the misaligned arm or was not "
        "measured."
    )
    return Table(
        number=1,
        title=f"{study.models[model].title}: what each defence achieves at its chosen setting",
        columns=(Column("Arm", numeric=False), Column("No EMA"), Column("Learns well"), Column("Stays coherent")),
        blocks=(tuple(rows),) if rows else (),
        csv_header=(
            *("arm", "setting", "no_ema", "learns_well", "stays_coherent"),
            *("ema_reduction_pct", "in_domain_retention_pct", "benign_retention_pct", "general_incoherent_pct"),
        ),
        csv_rows=tuple(csv_rows),
        remarks=(*thresholds(verdicts), *([left_out] if without_ema and any(appeared.values()) else [])),
        footnotes=notes.lettered(),
        title_footnote=notes.title,
    )


def _about_benign(found: Overview) -> str:
    """Return the footnote on what a defence's learning is judged by, if not by the benign tasks at its setting."""
    if found.benign_retention is None:
        return NO_BENIGN
    return OTHER_SETTING.format(settings=found.benign_at) if found.benign_at else ""


def thresholds(verdicts: Verdicts) -> tuple[str, ...]:
    """Return in words what each column of Table 1 measures, and from where it says ✓ and ~."""
    fall, kept, incoherent = verdicts.ema_reduction_pct, verdicts.retention_pct, verdicts.incoherent_pct
    return (
        "No EMA: mean over the tasks of the relative fall of general misalignment against the misaligned arm; "
        f"{YES} from {fall[0]:g} %, {PARTLY} from {fall[1]:g} %.",
        "Learns well: the smaller of what is left of the misaligned arm's in-domain misalignment and of plain SFT's "
        "exact match on the benign tasks, each a mean over tasks of shares capped at 100 %; "
        f"{YES} from {kept[0]:g} %, {PARTLY} from {kept[1]:g} %.",
        f"Stays coherent: mean incoherence on the general questions; {YES} up to {incoherent[0]:g} %, "
        f"{PARTLY} up to {incoherent[1]:g} %. Otherwise {NO}.",
    )


def verdict(value: float | None, thresholds: Sequence[float]) -> str:
    """Return ✓, ~ or ✗ for a value that should be high, by where ✓ and ~ begin; empty if it is missing."""
    if value is None:
        return ""
    return YES if value >= thresholds[0] else PARTLY if value >= thresholds[1] else NO


def verdict_below(value: float | None, thresholds: Sequence[float]) -> str:
    """Return ✓, ~ or ✗ for a value that should be low, by where ✓ and ~ end; empty if it is missing."""
    if value is None:
        return ""
    return YES if value <= thresholds[0] else PARTLY if value <= thresholds[1] else NO


def _benign_retention(summary: Summary, benign: Sequence[Condition]) -> float | None:
    """Return the mean share (%) of plain SFT's exact match on benign tasks.

    None if any of the grid is missing, or there is none.
    """
    shares: list[float | None] = []
    for condition in benign:
        mine = summary.value(condition, EXACT_MATCH)
        plain = summary.value(Condition(condition.model, condition.task, "sft"), EXACT_MATCH)
        if plain != 0:  # of nothing there is no share
            shares.append(None if mine is None or plain is None else 100 * min(mine / plain, 1))
    return _mean(shares)


def _benign_conditions(study: Study, arm: str) -> list[Condition]:
    """Return an arm on every benign task: at its chosen setting, or at those of Tables 5 and 6 if that is not there."""
    model, chosen = study.report.main_model, chosen_setting(study, arm)
    found: list[Condition] = []
    for name, task in study.tasks.items():
        in_grid = [c.setting for c in conditions(study) if (c.model, c.task, c.arm) == (model, name, arm)]
        if task.kind == "benign" and in_grid:
            there = benign_settings(study, arm, in_grid)
            found += [Condition(model, name, arm, s) for s in ([chosen] if chosen in there else there) if s is not None]
    return found


def _mean(values: list[float | None]) -> float | None:
    """Return the mean; None if any value is missing, or there is none."""
    present = [value for value in values if value is not None]
    return fmean(present) if present and len(present) == len(values) else None
