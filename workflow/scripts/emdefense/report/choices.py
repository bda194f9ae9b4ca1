"""What the report shows of multiple choice: a table for each set."""

from collections.abc import Iterator

from emdefense.config import Study
from emdefense.report.artefact import TABLES, Artefact

SECTION_OF_CHOICES = "multiple_choice"  # of the page


def choice_tables(study: Study) -> Iterator[Artefact]:
    """Yield the table of each set of multiple-choice questions, in the order of the config."""
    for name, section in study.multiple_choice.items():
        yield Artefact(
            f"multiple_choice_{name}",
            "table",
            f"{TABLES}.multiple_choice.multiple_choice_table",
            section.title,
            SECTION_OF_CHOICES,
            ("multiple_choice",),
            {"name": name},
            f"{section.title}: multiple choice by log-probability, without a judge, and how many points each arm lost",
        )
