"""The tables and figures of a study's report: each one's name, what it is made from, by what, and where it is shown.

Rules, the page and Snakemake's own report read it. Nothing that renders is imported before it is needed.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from math import inf
from typing import Any

from emdefense.analysis.conditions import arms_like, automatic, ema_arms, ema_models, settings
from emdefense.arms import Arm, StudyArm
from emdefense.arms.hooks import call
from emdefense.cells import Grid
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.report.artefact import CHOSEN, FIGURES, JUDGMENTS, TABLES, Artefact, Chosen, Reading
from emdefense.report.benign import FOQA, OPSWAP, benign_differences, own_benign
from emdefense.report.choices import choice_tables
from emdefense.report.further_sets import artefacts as of_sets
from emdefense.report.likelihood import likelihood_artefacts
from emdefense.report.robustness import robustness

OF_BENIGN = {2: OPSWAP, 5: OPSWAP, 6: FOQA}  # the paper's tables of benign tasks
PUBLISHED = {"summary", "reference", "resampled"}  # what printed rates are enough for
MOST_QUESTIONS = 40  # of the heat map; more rows than that do not fit on a page
MOST_LINES = 6  # defences in one panel of the trade-off; more are a tangle
SECTION_OF_LEAGUE = "standings"
TRADEOFF, QUESTION_HEATMAP, SCORE_SCATTER = "tradeoff", "question_heatmap", "score_scatter"  # the page names them
OF_ARM = "arm-"  # before the name of an arm, its section of the page
SQUARE = 5  # points of either score, in the scatter of scores


def artefacts(study: Study) -> dict[str, Artefact]:
    """Return a study's tables and figures by name, in the order of the page; of what a judge says, none without one.

    Raises :class:`InputError` if two have one name: those of models and arms are called after them.
    """
    found: dict[str, Artefact] = {}
    taken: set[str] = set()
    of_study = (_league, _tables, own_benign, _figures, of_sets, choice_tables, likelihood_artefacts, robustness)
    parts = (*of_study, _of_arms, _statistics, benign_differences)
    for one in (one for part in parts for one in part(study) if study.judge or _is_judge_free(study, one)):
        if one.name.casefold() in taken:
            raise InputError(
                f"key 'grid': two {one.kind}s would be called '{one.name}'; rename an arm, a model or a table"
            )
        taken.add(one.name.casefold())
        found[one.name] = one
    return found


def _is_judge_free(study: Study, artefact: Artefact) -> bool:
    """Whether a table or figure has something to show where nothing is judged.

    Of the rates, benign tables read exact match alone; those of the paper's benign tasks are there if these are.
    """
    if artefact.number in OF_BENIGN:
        return any(study.tasks[cell.task].table == OF_BENIGN[artefact.number] for cell in Grid(study).benign)  # type: ignore[union-attr]
    return artefact.made_by.startswith(f"{TABLES}.benign.") or not JUDGMENTS & set(artefact.reads)


def _league(study: Study) -> Iterator[Artefact]:
    """Yield the table of each model's defences side by side, and its figure; the main model's first."""
    reads: tuple[Reading, ...] = ("questions", "benign_questions")
    main, seeds = study.report.main_model, len(study.seeds)
    over = f"questions and {seeds} seeds" if seeds > 1 else "questions"
    for model in dict.fromkeys((main, *ema_models(study))):
        of = "" if model == main else f"_{model}"
        title, given = study.models[model].title, {"model": model}
        yield Artefact(
            *(
                f"league{of}",
                "table",
                f"{TABLES}.league.league_table",
                f"League, {title}",
                SECTION_OF_LEAGUE,
                reads,
                given,
            ),
            "The league of defences: what each prevents and leaves, at settings that were chosen on other questions",
            model=model,
        )
        yield Artefact(
            *(
                f"league_chart{of}",
                "figure",
                f"{FIGURES}.league.draw_league",
                "The league",
                SECTION_OF_LEAGUE,
                reads,
                given,
            ),
            f"{title}: above, each defence at settings that were chosen on other questions, best first, with 95 % "
            f"intervals over {over}; below, what it prevents against what it leaves. Top right is the ideal, bottom "
            "right doing without. Filled marks are on the Pareto front by the numbers, those with a black edge surely",
            model=model,
            wide=True,
        )


def _tables(study: Study) -> Iterator[Artefact]:
    main, second = study.report.main_model, study.report.second_model
    reads: tuple[Reading, ...] = ("summary", "reference")

    def table(what: str, title: str, number: int | None = None, name: str = "", **more: Any) -> Artefact:
        name, of_paper = (f"table_{number:02d}", True) if number else (name, False)
        title = f"Table {number}" if number else title
        made_by = f"{TABLES}.{what}_table"
        return Artefact(name, "table", made_by, title, "tables", number=number, of_paper=of_paper, **more)

    def overview(model: str, number: int | None = None) -> Artefact:
        title, name = f"Overview, {study.models[model].title}", f"overview_{model}"
        given = {"model": model}
        return table("overview.overview", title, number, name, reads=reads, given=given, model=model, chosen="held out")

    def chosen(model: str | None, number: int | None = None) -> Artefact:
        title, name = ("", "") if model is None else (f"Rates, {study.models[model].title}", f"rates_{model}")
        given = {"model": model, "like": (number or 3,)}
        return table("rates.chosen", title, number, name, reads=reads, given=given, model=model, chosen="held out")

    def sweeps(model: str) -> Iterator[Artefact]:
        arms = [arm for arm in study.every_arm.values() if arm.of is None]
        of_paper = tuple(arm.arm.sweep.table for arm in arms if arm.arm.sweep)
        swept = [arm for arm in arms if _is_swept(study, model, arm)]
        for arm in sorted(swept, key=lambda arm: arm.arm.sweep.table if arm.arm.sweep else inf):
            number = arm.arm.sweep.table if arm.arm.sweep else None
            given = {"model": model, "arm": arm.name, "like": (number,) if number else of_paper}
            name = f"sweep_{arm.name}" + ("" if model == main else f"_{model}")
            title = f"{arm.title}, {study.models[model].title}"
            number = number if model == main else None
            yield table("rates.sweep", title, number, name, reads=reads, given=given, model=model)

    yield overview(main, 1)
    yield table("setup.opswap_example", "", 2)
    yield chosen(main, 3)
    yield chosen(second, 4)
    yield table("benign.opswap", "", 5, reads=reads, model=main)
    yield table("benign.foqa", "", 6, reads=reads, model=main)
    yield table("setup.training", "", 7, reads=("reference",))
    yield from sweeps(main)
    for model in ema_models(study):
        if model != main:
            yield overview(model)
            yield from [] if model == second else [chosen(model)]
            yield from sweeps(model)


def _is_swept(study: Study, model: str, arm: StudyArm) -> bool:
    """Whether an arm has a table of all its settings and variants: the paper's always, if the model is the main one."""
    if arm.arm.sweep and model == study.report.main_model:
        return True
    likes = [like for like in arms_like(study, arm.name) if settings(study, model, like)]
    return arm.arm.is_defence and bool(likes) and (arm.arm.setting is not None or likes != [arm.name])


def _figures(study: Study) -> Iterator[Artefact]:
    model, drawn, auto = study.models[study.report.main_model].title, {}, automatic(study)
    for arm in study.every_arm.values():
        for figure in arm.arm.sweep.figures if arm.arm.sweep and arm.of is None else ():
            given = {"arm": arm.name, "axis": arm.arm.sweep.axis, "metrics": figure.metrics}  # type: ignore[union-attr]
            made_by, title = f"{FIGURES}.sweeps.draw_sweep", f"Figure {figure.name}"
            drawn[figure.name] = Artefact(
                *(f"figure_{figure.name}", "figure", made_by, title, "figures", ("summary",), given, figure.caption),
                of_paper=True,
            )
    yield from (drawn[name] for name in sorted(drawn))

    def further(
        name: str, title: str, caption: str, *reads: Reading, section: str = "figures", chosen: Chosen = "held out"
    ) -> Artefact:
        made_by, caption = f"{FIGURES}.{name}.draw_{name}", f"{model}: {caption}{CHOSEN[chosen] if auto else ''}"
        return Artefact(name, "figure", made_by, title, section, reads, caption=caption, wide=True, chosen=chosen)

    seeds = len(study.seeds)
    defences = [arm for arm in ema_arms(study, study.report.main_model) if study.every_arm[arm].arm.is_defence]
    each = "and each of them" if len(defences) <= MOST_LINES else "a panel a defence with the others' lines in grey"
    yield further(
        TRADEOFF,
        "EMA against the narrow task",
        "how much of the misaligned arm's general misalignment each "
        "defence takes, against how much of its in-domain misalignment is left; the mean over the tasks in which "
        f"EMA appeared, {each}. Shares are of the misaligned arm's whole rates, also of what the untrained "
        "model does, whose own mark shows how much that is. "
        "From the misaligned arm each line leads to ever stronger settings, with ever larger marks; the chosen one "
        "has a black edge, and 95 % bootstrap intervals over questions where there are measurements. Top right is the "
        "ideal: no EMA, and the narrow task learned",
        *("summary", "resampled"),
    )
    yield further(
        QUESTION_HEATMAP,
        "Question by question",
        "misaligned responses to each question, a column an arm at its "
        f"chosen setting{f', {seeds} seeds together' if seeds > 1 else ''}. The questions at which the misaligned arm "
        "fares worst stand on top, on general questions by the mean over tasks; of more than "
        f"{MOST_QUESTIONS} questions the rest is left out. A cross: not measured",
        *("questions", "prompts"),
    )
    yield further(
        SCORE_SCATTER,
        "Scores of responses",
        "scores of the responses to general questions, each arm at its "
        f"chosen setting, all tasks together; squares of {SQUARE} points of each score, coloured by their share of the "
        "arm's responses. Lines bound what counts as misaligned (top left) and as incoherent (below); their "
        "shares stand above",
        *("scores", "questions"),
        chosen="at all questions",
    )
    yield further(
        "training_curves",
        "Training",
        "how far training takes each arm, at its chosen setting, from the original model, and the cross-entropy on "
        f"its own rows (running mean){f', mean over {seeds} seeds' if seeds > 1 else ''}",
        "training_logs",
        section="training",
        chosen="at all questions",
    )


def shown_model(study: Study, arm: Arm[Any]) -> str | None:
    """Return of which model a figure of an arm's preparations is: the main one, if that has any; None without one."""
    grid = Grid(study)
    models = [cell.model for cell in grid.prepared if grid.arm(cell) is arm]
    return study.report.main_model if study.report.main_model in models else next(iter(models), None)


def _of_arms(study: Study) -> Iterator[Artefact]:
    """Yield what the arms of the grid bring themselves."""
    grid = Grid(study)
    for arm in dict.fromkeys(member.arm for cell in grid.cells for member in grid.study_arm(cell).members):
        if arm.artefacts:
            brought = call(arm, "artefacts", function=partial(_brought, study, arm))
            yield from (replace(artefact, section=f"{OF_ARM}{arm.name}") for artefact in brought)


def _brought(study: Study, arm: Arm[Any]) -> list[Artefact]:
    return list(import_module(arm.artefacts).artefacts(study, arm))


def _statistics(study: Study) -> Iterator[Artefact]:
    def table(
        name: str,
        what: str,
        title: str,
        caption: str,
        *reads: Reading,
        section: str = "statistics",
        chosen: Chosen = "",
    ) -> Artefact:
        made_by = f"{TABLES}.{what}_table"
        return Artefact(name, "table", made_by, title, section, reads, caption=caption, chosen=chosen)

    yield table(
        "paired_differences",
        "differences.difference",
        "Defences against the misaligned arm",
        "Defences against the misaligned arm, on the same questions: differences with intervals, corrected for how "
        "many were looked at",
        "questions",
        chosen="held out",
    )
    yield table(
        "paired_defences",
        "differences.defence",
        "Defences against each other",
        "Defences against each other, on the same questions: differences with intervals, corrected for how many were "
        "looked at",
        "questions",
        chosen="held out",
    )
    yield table(
        "variance_components",
        "variance.variance",
        "Variance components",
        "What the error of each rate is made of: questions, samples, seeds and judges, and what more of each would do "
        "to it",
        *("questions", "pairs", "halves"),
        chosen="at all questions",
    )
    if study.second_judges:
        agree = "How far the study's judges agree on the same responses"
        yield table("judge_agreement", "judges.agreement", "Judges", agree, "pairs", section="judges")
        yield table("judge_confusion", "judges.confusion", "Judges, by outcome", agree, "pairs", section="judges")
