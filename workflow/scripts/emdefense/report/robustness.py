"""The tables and figures of what the rates hang on: the thresholds, and that questions are answered at all."""

from collections.abc import Iterator

from emdefense.analysis.conditions import automatic, ema_models
from emdefense.config import Study
from emdefense.report.artefact import CHOSEN, FIGURES, TABLES, Artefact

SECTION_OF_ROBUSTNESS = "robustness"  # of the page


def robustness(study: Study) -> Iterator[Artefact]:
    """Yield a study's artefacts of the section, in its order."""
    main = study.report.main_model
    title, said = study.models[main].title, CHOSEN["held out"] if automatic(study) else ""
    yield Artefact(
        "thresholds",
        "table",
        f"{TABLES}.thresholds.thresholds_table",
        f"Thresholds, {title}",
        SECTION_OF_ROBUSTNESS,
        ("judged",),
        caption="The general misaligned rate by other thresholds, and what would be concluded otherwise",
        model=main,
        chosen="held out",
    )
    yield Artefact(
        "threshold_curves",
        "figure",
        f"{FIGURES}.threshold_curves.draw_threshold_curves",
        "Thresholds",
        SECTION_OF_ROBUSTNESS,
        ("judged",),
        caption=f"{title}: the general misaligned rate of each arm at its chosen setting when one bound is moved and "
        "the other is the study's own, the mean over the tasks in which EMA appeared (over all, if it did in none). "
        "Dashed: the study's own bound. Where a line is steep, the rate hangs on where the bound was drawn"
        f"{said}",
        model=main,
        wide=True,
        chosen="held out",
    )
    for model in dict.fromkeys((main, *ema_models(study))):
        yield Artefact(
            "not_answered" if model == main else f"not_answered_{model}",
            "table",
            f"{TABLES}.unanswered.unanswered_table",
            f"Unanswered, {study.models[model].title}",
            SECTION_OF_ROBUSTNESS,
            ("questions",),
            {"model": model},
            "Refusals, empty and cut responses of each arm at its chosen setting, beside its misaligned rate",
            model=model,
            chosen="held out",
        )
