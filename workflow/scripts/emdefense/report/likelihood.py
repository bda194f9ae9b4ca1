"""What the report shows of the likelihood of held-out answers: a table and a figure for each model that read them."""

from collections.abc import Iterator

from emdefense.cells import Grid
from emdefense.config import Study
from emdefense.likelihood.read import reading
from emdefense.report.artefact import FIGURES, TABLES, Artefact

SECTION_OF_LIKELIHOOD = "likelihood"  # of the page


def likelihood_artefacts(study: Study) -> Iterator[Artefact]:
    """Yield each model's table and figure, the main model's first; none without the section of the config."""
    main, models = study.report.main_model, {cell.model for cell in reading(Grid(study))}
    for model in (model for model in dict.fromkeys((main, *study.models)) if model in models):
        of, title = "" if model == main else f"_{model}", study.models[model].title
        yield Artefact(
            f"likelihood{of}",
            "table",
            f"{TABLES}.likelihood.likelihood_table",
            f"Held-out answers, {title}",
            SECTION_OF_LIKELIHOOD,
            ("likelihood",),
            {"model": model},
            f"{title}: how much likelier held-out answers became, a token, without a judge",
            model=model,
        )
        yield Artefact(
            f"likelihood_chart{of}",
            "figure",
            f"{FIGURES}.likelihood.draw_likelihood",
            "How much likelier held-out answers became",
            SECTION_OF_LIKELIHOOD,
            ("likelihood",),
            {"model": model},
            f"{title}: mean log-probability a token of held-out answers, less the untrained model's on the same rows, "
            "a mark a task, with 95 % intervals over rows. To the right of the line an answer became likelier than it "
            "was before training",
            model=model,
            wide=True,
        )
