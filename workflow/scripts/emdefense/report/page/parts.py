"""The page's parts in the order in which a reader asks, and what of each is folded."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from emdefense.config import Study
from emdefense.report.benign import own_benign
from emdefense.report.catalogue import OF_ARM, QUESTION_HEATMAP, SCORE_SCATTER, SECTION_OF_LEAGUE, TRADEOFF
from emdefense.report.choices import SECTION_OF_CHOICES
from emdefense.report.further_sets import OF_SET, SECTION_OF_CONDITIONS
from emdefense.report.likelihood import SECTION_OF_LIKELIHOOD
from emdefense.report.page.shown import Shown
from emdefense.report.robustness import SECTION_OF_ROBUSTNESS

MOST_NAMED = 5  # of the things in a fold, beside its title
OPEN = {TRADEOFF: SECTION_OF_LEAGUE, QUESTION_HEATMAP: "defences"}  # figures that stand unfolded in a part
CELLS = "Cells and responses"
NOTES = {
    SECTION_OF_CHOICES: "No judge is asked: of each question’s options, the one counts as chosen that the model finds "
    "the likeliest answer. The model’s cells are compared with the model as it is, question by question.",
    SECTION_OF_LIKELIHOOD: "No judge is asked, and nothing is sampled: each model reads answers that nothing was "
    "trained on, and what counts is how likely it finds them, row by row against the model as it is.",
    "training": "Each training’s own figure, with its penalty and the gradient norms, is on its cell’s page.",
}
OF_SWEEPS = (
    "Bands: 95 % bootstrap intervals over questions. At 0 stands the misaligned arm. Settings are evenly spaced."
)
ONE_JUDGE = (
    "One judge, {name}, scored all responses; how far another would agree is not known. A second one is a line of the "
    "config: second_judges."
)


@dataclass(frozen=True)
class Fold:
    """A piece of the page that is closed at first: its name is its place in links, ``note`` stands on top."""

    name: str
    title: str
    shown: tuple[Shown, ...] = ()
    note: str = ""

    @property
    def inside(self) -> str:
        """What is in it, as far as its title does not say so."""
        titles = dict.fromkeys(one.artefact.title for one in self.shown)
        named = [title for title in titles if not title.startswith(self.title)]
        return " · ".join(named[:MOST_NAMED] + (["…"] if len(named) > MOST_NAMED else []))


@dataclass(frozen=True)
class Part:
    """A part of the page: what stands open in it, and the folds that follow."""

    name: str
    title: str
    shown: tuple[Shown, ...] = ()
    folds: tuple[Fold, ...] = ()


def parts(study: Study, shown: Sequence[Shown], further: Iterable[str]) -> list[Part]:
    """Return the parts that have something to show, of the tables and figures that are not empty.

    ``further`` names the folds that are there without either: claims, costs and the like.
    """
    found, named = _Found(study, shown), set(further)
    plain = {
        "claims": "The paper’s claims, recomputed",
        "costs": "Costs",
        "divergences": "Where this differs from the paper",
        "provenance": "Provenance",
    }
    also = {name: [Fold(name, title)] for name, title in plain.items() if name in named}
    main = [one for one in found.of(SECTION_OF_LEAGUE) if one.artefact.model == study.report.main_model]
    every = (
        Part("verdicts", "What happened" if study.judge else "What can be said"),
        Part(SECTION_OF_LEAGUE, "League and trade-off", (*main, *found.open(SECTION_OF_LEAGUE)), found.other_leagues()),
        Part("defences", "Each defence", tuple(found.open("defences")), (*found.defences(), Fold("cells", CELLS))),
        Part("further", "Further evaluations", (), tuple(found.evaluations())),
        Part(
            "paper",
            "The paper’s tables and claims",
            (),
            (*found.fold("tables", "Tables 1 to 7"), *also.get("claims", []), *also.get("divergences", [])),
        ),
        Part(
            "expert",
            "For the expert",
            (),
            (
                *found.fold("scores", "Scores of responses"),
                *found.fold("statistics", "Differences and variance"),
                *found.fold("judges", "Judges"),
                *found.fold("training", "Training"),
                *also.get("costs", []),
                *also.get("provenance", []),
            ),
        ),
    )
    return [part for part in every if part.name == "verdicts" or part.shown or part.folds]


class _Found:
    """The tables and figures of a study by the fold that they belong to."""

    def __init__(self, study: Study, shown: Sequence[Shown]):
        self._study = study
        self._places: dict[str, list[Shown]] = {}
        own = {artefact.name for artefact in own_benign(study)}
        for one in shown:
            self._places.setdefault("benign" if one.name in own else _place(one), []).append(one)

    def of(self, place: str) -> list[Shown]:
        return self._places.get(place, [])

    def open(self, part: str) -> Iterator[Shown]:
        for name, place in OPEN.items():
            if place == part:
                yield from self.of(name)

    def fold(self, name: str, title: str, note: str = "") -> Iterator[Fold]:
        if self.of(name):
            yield Fold(name, title, tuple(self.of(name)), note or NOTES.get(name, ""))

    def other_leagues(self) -> tuple[Fold, ...]:
        """The leagues of the models but the main one, a fold each."""
        of_models: dict[str, list[Shown]] = {}
        for one in self.of(SECTION_OF_LEAGUE):
            if one.artefact.model and one.artefact.model != self._study.report.main_model:
                of_models.setdefault(one.artefact.model, []).append(one)
        titles = {model: f"League, {self._study.models[model].title}" for model in of_models}
        return tuple(Fold(f"league-of-{model}", titles[model], tuple(found)) for model, found in of_models.items())

    def defences(self) -> Iterator[Fold]:
        """A fold for each arm of which there is a sweep, or that brings something of its own."""
        for name, arm in self._study.every_arm.items():
            swept = any(one.artefact.of_paper and one.artefact.kind == "figure" for one in self.of(f"{OF_ARM}{name}"))
            yield from self.fold(f"{OF_ARM}{name}", arm.title, OF_SWEEPS if swept else "")

    def evaluations(self) -> Iterator[Fold]:
        for name, found in self._study.question_sets.items():
            yield from self.fold(f"{OF_SET}{name}", found.title)
        yield from self.fold(SECTION_OF_CONDITIONS, "Conditional misalignment")
        yield from self.fold("benign", "Benign tasks")
        yield from self.fold(SECTION_OF_CHOICES, "Multiple choice")
        yield from self.fold(SECTION_OF_LIKELIHOOD, "Held-out answers")
        alone = self._study.judge is not None and not self._study.second_judges
        note = ONE_JUDGE.format(name=self._study.judge.name) if alone and self._study.judge else ""
        yield from self.fold(SECTION_OF_ROBUSTNESS, "What the rates hang on", note)


def _place(one: Shown) -> str:
    """Return the fold of a table or figure; the name of those that stand open, or alone in one."""
    if one.name in OPEN:
        return one.name
    if one.name == SCORE_SCATTER:
        return "scores"
    arm = one.artefact.given.get("arm")
    return one.artefact.section if arm is None else f"{OF_ARM}{arm}"
