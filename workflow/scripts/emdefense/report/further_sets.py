"""The tables and figures of further question sets, for the report's catalogue."""

from collections.abc import Iterator

from emdefense.analysis.asked_sets import conditional_sets, file_sets
from emdefense.analysis.conditions import automatic, ema_models
from emdefense.config import Study
from emdefense.report.artefact import CHOSEN, FIGURES, TABLES, Artefact

SECTION_OF_CONDITIONS = "conditional"
OF_SET = "set-"  # before the name of a set, its section of the page


def artefacts(study: Study) -> Iterator[Artefact]:
    """Yield a set's table for each model, the main one's with its trade-off; then each model's table of conditions."""
    main = study.report.main_model
    models = [model for model in dict.fromkeys((main, *ema_models(study))) if model in ema_models(study)]
    for name, found in study.question_sets.items():
        for model in (model for model in models if name in file_sets(study, model)):
            of, section = "" if model == main else f"_{model}", f"{OF_SET}{name}"
            title, given = study.models[model].title, {"model": model, "question_set": name}
            yield Artefact(
                *(f"questions_{name}{of}", "table", f"{TABLES}.further_sets.set_table"),
                f"{found.title}, {title}",
                section,
                ("questions",),
                given,
                f"{title}: misaligned and incoherent responses of every arm that is asked these questions",
                model=model,
            )
            if model == main:
                yield Artefact(
                    *(f"tradeoff_{name}", "figure", f"{FIGURES}.further_sets.draw_tradeoff_on"),
                    f"EMA on these questions against the narrow task: {found.title}",
                    section,
                    ("questions",),
                    {"question_set": name},
                    f"{title}: as the trade-off on the general questions, with these in their place. Settings that "
                    "are not asked are missing; the mean is over the tasks in which EMA appeared on these questions"
                    + (CHOSEN["held out"] if automatic(study) else ""),
                    wide=True,
                    chosen="held out",
                )
    for model in models:
        for plain, sets in conditional_sets(study, model).items():
            yield Artefact(
                f"conditional_{plain}" + ("" if model == main else f"_{model}"),
                "table",
                f"{TABLES}.further_sets.conditional_table",
                f"Conditional misalignment, {study.models[model].title}",
                SECTION_OF_CONDITIONS,
                ("questions",),
                {"model": model, "plain": plain, "sets": tuple(sets)},
                "What the same questions bring out under other system prompts and answer formats, and how far that is "
                "from the questions as they are",
                model=model,
                chosen="held out",
            )
