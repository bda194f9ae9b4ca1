"""The config's sets of multiple-choice questions: which file, how options are shown and scored, and who is asked."""

from typing import Literal

from pydantic import Field

from emdefense.section import FilePath, PositiveInt, Section, Seed

OptionForm = Literal["letter", "text"]
Score = Literal["sum", "mean"]
SCORES: tuple[Score, ...] = ("sum", "mean")


class MultipleChoice(Section):
    """Questions with options, answered by the option that the model finds most probable: no judge is asked.

    Asked are the cells of the grid, and each of their models once as it is.
    """

    title: str
    file: FilePath
    options: OptionForm = Field(
        "letter",
        description="letter: options are listed under the question with letters, and the letters are scored; text: the "
        "question stands alone, and each option is scored as its answer",
    )
    score: Score = Field(
        "sum",
        description="the log-probability of an option's tokens, added up, or their mean; both are measured, and this "
        "one is shown",
    )
    limit: PositiveInt | None = Field(None, description="questions drawn from the file, seeded; absent: all")
    seed: Seed = Field(0, description="of that draw")
    models: tuple[str, ...] | None = Field(None, min_length=1, description="the models asked; absent: all of the grid")
    tasks: tuple[str, ...] | None = Field(None, min_length=1, description="the tasks of their cells; absent: all")
    settings: Literal["all", "chosen"] = Field(
        "chosen",
        description="chosen: of arms with settings, the one that the report chose (report.chosen, for benign tasks "
        "report.chosen_benign where it names the arm), and all where the data choose; all: every cell",
    )
