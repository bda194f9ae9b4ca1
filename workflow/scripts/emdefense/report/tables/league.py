"""The league of defences as a table, and in sentences: who is ahead, as far as chance allows, at which price."""

import polars as pl

from emdefense.analysis.conditions import arm_title, ema_tasks, setting_title, settings
from emdefense.analysis.league import League, Row, league
from emdefense.analysis.printed import bracketed, points
from emdefense.analysis.question_counts import QuestionCounts
from emdefense.analysis.question_groups import units
from emdefense.analysis.verdicts import Verdicts
from emdefense.arms import NO_SETTING
from emdefense.cells import Grid
from emdefense.config import Study
from emdefense.report.tables.notes import TableNotes, why_unreadable
from emdefense.report.tables.table import DASH, Block, Column, Table, TableCell, csv_setting
from emdefense.resources.relative import training_cost

RULE = (
    "Settings: the questions of each set are divided in two halves. On either half the setting with the highest "
    "harmonic mean of EMA reduction and in-domain retention, both cut to 0 to 100 %, is chosen, of equal ones the "
    "weaker; what stands here is of the other half, both halves together."
)
WHAT = (
    "EMA reduction: how much is gone of the general misalignment that the misaligned arm has above the untrained "
    "model; in-domain: how much is left of its in-domain misalignment above the untrained model; benign: the share of "
    "plain SFT's exact match; each a mean over tasks, the last two of shares capped at 100 %. Incoherent: of the "
    "answers to general questions."
)
RANKS = (
    "Rank: by that mean, from one more than how many defences are surely better to how many are not surely worse, by "
    "tests of all {pairs} pairs at 5 %, corrected by Holm's method."
)
FRONT = (
    "Bold: on the Pareto front, no other defence nor doing without is as good in all of {goods} and better in one; "
    "underlined: in at least 95 % of draws of {drawn} too."
)
COST = "Training: passes of the model relative to plain fine-tuning's, by arithmetic, without what is prepared first."
SPLIT = (
    "The halves choose different settings; each half's questions are reported under the setting chosen on the other."
)
WITHOUT = "No defence: plain fine-tuning, with which all are compared."
MEASURED = ("reduction", "retention", "benign", "incoherent")  # in the order of the columns
CSV_HEADER = (
    *("arm", "settings_first_half", "settings_second_half", "rank_best", "rank_worst", "score_pct"),
    *("score_low", "score_high", "ema_reduction_pct", "ema_reduction_low", "ema_reduction_high"),
    *("in_domain_retention_pct", "in_domain_retention_low", "in_domain_retention_high"),
    *("benign_pct", "benign_low", "benign_high", "general_incoherent_pct", "general_incoherent_low"),
    *("general_incoherent_high", "training_cost", "needs", "front", "front_share", "surely_better_than"),
)


def league_table(study: Study, questions: pl.DataFrame, benign_questions: pl.DataFrame, model: str) -> Table:
    """Return the league of a model: a row a defence, the best first, and doing without below."""
    found = league(study, questions, benign_questions, model)
    notes = TableNotes(study, (), compared=False)
    grid = Grid(study)
    costs = [_costs(grid, model, row) for row in found.rows]
    blocks: list[Block] = []
    if found.rows:
        blocks.append(tuple(_row(study, found, n, notes, of_row) for n, of_row in enumerate(costs)))
        if found.plain is not None:
            blocks.append((_plain(study, found.plain, notes, _costs(grid, model, found.plain)),))
    rate = "Per cent, with 95 % interval"
    return Table(
        title=f"{study.models[model].title}: the league of defences",
        columns=(
            *(Column(title, numeric=False) for title in ("Rank", "Defence")),
            *(Column(title, rate) for title in ("EMA reduction ↑", "in-domain ↑", "benign ↑", "incoherent ↓")),
            Column("training", "Costs"),
            Column("needs", "Costs", numeric=False),
        ),
        blocks=tuple(blocks),
        csv_header=CSV_HEADER,
        csv_rows=tuple(_csv_row(study, found, n, of_row) for n, of_row in enumerate(costs)),
        lead=tuple(sentences(study, found, questions)),
        remarks=tuple(_remarks(study, found)),
        footnotes=notes.lettered(),
    )


def sentences(study: Study, found: League, questions: pl.DataFrame) -> list[str]:
    """Return what the league says: who is on the front, what chance does not settle, and on which tasks."""
    if not found.rows:
        return [_why_empty(study, found, questions)]
    ranking, names = found.ranking, [arm_title(study, row.arm) for row in found.rows]
    sure = [name for n, name in enumerate(names) if ranking.surely_on_front(n)]
    front = [name for n, name in enumerate(names) if ranking.on_front[n] and name not in sure]
    said = []
    if sure:
        said.append(f"On the Pareto front of {_goods(found)} surely {_is(sure)}: {_list(sure)}.")
    if front:
        also = (
            "By the numbers alone, also" if sure else f"On the Pareto front of {_goods(found)}, by the numbers alone,"
        )
        said.append(f"{also} {_list(front)}; chance could have put {'it' if len(front) == 1 else 'them'} there.")
    if len(names) == 1:
        return said
    settled = len(ranking.better)
    if not settled:
        said.append(f"No defence is better than another by more than chance: all {len(names)} may be first or last.")
    else:
        first = [name for name, (best, _) in zip(names, ranking.ranks, strict=True) if best == 1]
        who = f"{first[0]} is first" if len(first) == 1 else f"First may be any of {_list(first)}"
        rest = ranking.pairs - settled
        open_ = (
            f"chance does not settle {rest} of {ranking.pairs} comparisons" if rest else "every comparison is settled"
        )
        said.append(f"{who}, by the mean of reduction and retention; {open_}.")
    return said


def _why_empty(study: Study, found: League, questions: pl.DataFrame) -> str:
    if found.tasks:
        return "No defence was measured on all tasks in which EMA appeared, so there is no league."
    verdicts = Verdicts(study, QuestionCounts.of(questions, study.scoring.question_groups))
    return f"No league: {_lower(why_unreadable(study, verdicts, found.model, ema_tasks(study, found.model)))}"


def _lower(text: str) -> str:
    return text if text.startswith("EMA") else text[:1].lower() + text[1:]


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _goods(found: League) -> str:
    goods = ["EMA reduction", "in-domain retention", "coherence", *(["benign learning"] if found.benign else [])]
    return _list(goods)


def setting_words(study: Study, row: Row) -> str:
    """Return the settings of a row as a reader sees them: ``λ = 1``, or ``λ = 0.3 and λ = 1``."""
    return " and ".join(setting_title(study, row.arm, setting) for setting in row.chosen if setting != NO_SETTING)


def rank_words(rank: tuple[int, int]) -> str:
    """Return a rank as a reader sees it: ``1``, or ``1–3``."""
    best, worst = rank
    return str(best) if best == worst else f"{best}–{worst}"


def _row(study: Study, found: League, n: int, notes: TableNotes, costs: list[float]) -> tuple[TableCell, ...]:
    row = found.rows[n]
    at = setting_words(study, row)
    letters = [notes.of_arm(row.arm), *([notes.letter(SPLIT)] if len(row.chosen) > 1 else [])]
    if row.cells[0] < row.cells[1]:
        letters.append(notes.letter(f"Of {row.cells[1]} trainings {row.cells[0]} are judged."))
    name = TableCell(
        ", ".join(filter(None, (arm_title(study, row.arm), at))),
        bold=found.ranking.on_front[n],
        underline=found.ranking.surely_on_front(n),
        footnote=",".join(filter(None, letters)),
    )
    return _cells(study, row, notes, costs, TableCell(rank_words(found.ranking.ranks[n])), name)


def _plain(study: Study, row: Row, notes: TableNotes, costs: list[float]) -> tuple[TableCell, ...]:
    """Return the row of doing without, whose shares are what they are by definition."""
    name = TableCell(arm_title(study, row.arm), footnote=notes.letter(WITHOUT))
    cells = list(_cells(study, row, notes, costs, TableCell(DASH), name))
    for n, measure in enumerate((row.reduction, row.retention, row.benign), 2):
        cells[n] = TableCell(DASH if measure is None else points(100 * measure.value))
    return tuple(cells)


def _cells(
    study: Study, row: Row, notes: TableNotes, costs: list[float], rank: TableCell, name: TableCell
) -> tuple[TableCell, ...]:
    about = []
    if row.benign_at:
        at = ", ".join(setting_title(study, row.arm, setting) for setting in row.benign_at)
        about.append(f"Benign tasks at {at}, the nearest setting that was measured on them.")
    if row.benign_without and row.benign is not None:
        about.append(f"Without {', '.join(study.tasks[task].title for task in row.benign_without)}.")
    letters = ",".join(notes.letter(text) for text in about)
    return (
        rank,
        name,
        _number(row, "reduction"),
        _number(row, "retention"),
        _number(row, "benign", letters),
        _number(row, "incoherent"),
        TableCell(_cost_words(costs)),
        TableCell(", ".join(study.every_arm[row.arm].needs)),
    )


def _number(row: Row, name: str, footnote: str = "") -> TableCell:
    measure = row.measure(name)
    if measure is None:
        return TableCell(DASH, footnote=footnote)
    return TableCell(f"{points(100 * measure.value)} {interval_words(row, name)}".strip(), footnote=footnote)


def interval_words(row: Row, name: str) -> str:
    """Return a measure's interval in whole per cent, rounded outwards; empty where nothing is known."""
    ends = row.interval(name)
    return "" if ends is None else bracketed(100 * ends[0], 100 * ends[1])


def _costs(grid: Grid, model: str, row: Row) -> list[float]:
    """Return what training costs at each of a row's settings, nothing unless it is known of all."""
    settings_of_row = [None if setting == NO_SETTING else float(setting) for setting in row.chosen]
    found = [training_cost(grid, model, row.arm, setting) for setting in settings_of_row]
    known = [cost for cost in found if cost is not None]
    return known if len(known) == len(found) else []


def _cost_words(costs: list[float]) -> str:
    shown = list(dict.fromkeys(f"{cost:.1f}" for cost in sorted(costs)))
    return f"{'–'.join(shown)}×" if shown else DASH


def _remarks(study: Study, found: League) -> list[str]:
    if not found.rows:
        return []
    groups = units(study.scoring.question_groups)
    over = f"{groups} and the {found.seeds} seeds" if found.seeds > 1 else groups
    one = "" if found.seeds > 1 else "; of one seed, what another would change is not known"
    choice = any(len(settings(study, found.model, row.arm)) > 1 for row in found.rows)
    said = [f"On {', '.join(study.tasks[task].title for task in found.tasks)}. {WHAT}"]
    if choice:
        said.append(RULE)
    said.append(f"Intervals: over {over}, or of the answers alone where that reaches further{one}.")
    if found.one_group:
        said.append("A set of a single question cannot be divided: its one half is chosen for blindly.")
    if len(found.rows) > 1:
        said.append(RANKS.format(pairs=found.ranking.pairs))
    drawn = f"{groups} and seeds" if found.seeds > 1 else groups
    said += [FRONT.format(goods=_goods(found), drawn=drawn), COST]
    if found.unmeasured:
        without = ", ".join(arm_title(study, arm) for arm in found.unmeasured)
        said.append(f"Without {without}: no setting was measured on all of these tasks.")
    return said


def _csv_row(study: Study, found: League, n: int, costs: list[float]) -> tuple[str, ...]:
    row, ranking = found.rows[n], found.ranking
    beaten = [found.rows[loser].arm for winner, loser in sorted(ranking.better) if winner == n]
    front = "surely" if ranking.surely_on_front(n) else "yes" if ranking.on_front[n] else "no"
    return (
        row.arm,
        *(csv_setting(setting) for setting in row.settings),
        *map(str, ranking.ranks[n]),
        *(text for name in ("score", *MEASURED) for text in _csv_numbers(row, name)),
        f"{sum(costs) / len(costs):.6g}" if costs else "",
        "; ".join(study.every_arm[row.arm].needs),
        front,
        f"{ranking.front_share[n]:.6g}",
        "; ".join(beaten),
    )


def _csv_numbers(row: Row, name: str) -> tuple[str, str, str]:
    measure, ends = row.measure(name), row.interval(name)
    if measure is None:
        return "", "", ""
    low, high = ("", "") if ends is None else (f"{100 * end:.6g}" for end in ends)
    return f"{100 * measure.value:.6g}", low, high
