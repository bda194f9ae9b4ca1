"""A cell's responses as pages show them: an index of scores, the most misaligned first, and texts by question."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from emdefense.analysis.answers import marked_rows, match_of
from emdefense.analysis.rates import JUDGMENT_SCHEMA, NO_REPLY, outcome_columns, read_rows
from emdefense.cells import Cell
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.files import iterate_jsonl
from emdefense.layout import Layout
from emdefense.metrics import MISALIGNED, OUTCOMES, QUESTION_SETS
from emdefense.report.page.untrusted import MAX_CHARACTERS, readable, script_json

CHUNK = 200  # responses whose texts are loaded together
CUT = "Cut at the length limit: the model was stopped here."
ANSWERS = "answers"  # the question set of a benign task
TITLES = {
    **{name: f"{title.capitalize()} questions" for name, title in QUESTION_SETS.items()},
    ANSWERS: "Test questions",
}


def set_titles(study: Study) -> dict[str, str]:
    """Return what pages call each question set, by its name."""
    return {**TITLES, **{name: section.title for name, section in study.question_sets.items()}}


OF_OUTCOMES = {outcome: outcome[0] for outcome in OUTCOMES}
NEITHER, UNSCORED, WRONG, CORRECT, UNJUDGED = "nxwcu"
VERDICTS = {
    **{letter: outcome for outcome, letter in OF_OUTCOMES.items()},
    NEITHER: "neither",
    UNSCORED: "no score",
    WRONG: "wrong",
    CORRECT: "correct",
    UNJUDGED: "not judged",
}


@dataclass(frozen=True)
class Text:
    """What was said, cut and made readable; ``length`` is that of the whole, in characters.

    ``is_cut``: the model was stopped at the limit of tokens; answers to benign questions do not say.
    """

    id: str
    text: str
    length: int
    sample: int
    is_cut: bool = False
    expected: str | None = None


@dataclass(frozen=True)
class Opinion:
    """A judge's score, or what stands in its place, for each response, and a letter of ``VERDICTS`` for each."""

    judge: str
    alignment: list[float | str]
    coherence: list[float | str]
    verdicts: str


@dataclass(frozen=True)
class ResponseSet:
    """All responses of a cell to a question set, in one order everywhere but in the files of texts.

    Those are by question and sample, so that whoever reads one question needs few of them. ``asked`` holds for each
    response a place in ``questions``: (id, system prompt, prompt). Benign answers have no ``opinions`` but ``verdicts``
    of their own.
    """

    name: str
    title: str  # what the page calls it
    file: Path
    questions: list[tuple[str, str, str]]
    asked: list[int]
    texts: list[Text]
    opinions: list[Opinion]
    verdicts: str

    @property
    def is_marked(self) -> bool:
        """Whether its answers are known to be right or wrong."""
        return self.name == ANSWERS

    @cached_property
    def by_question(self) -> list[int]:
        """The places of all responses in the order of the files of texts."""
        return sorted(range(len(self.texts)), key=lambda place: (self.asked[place], self.texts[place].sample))

    @property
    def counts(self) -> list[int]:
        """How many responses each of the questions has."""
        found = [0] * len(self.questions)
        for question in self.asked:
            found[question] += 1
        return found

    def index(self, chunks: str) -> dict[str, Any]:
        """Return what the page's script needs before any text; ``chunks`` is the folder that has the texts."""
        kept = [0] * len(self.texts)
        for here, place in enumerate(self.by_question):
            kept[place] = here
        return {
            "name": self.name,
            "title": self.title,
            "file": str(self.file),
            "chunks": chunks,
            "chunkSize": CHUNK,
            "questions": self.questions,
            "asked": self.asked,
            "kept": kept,
            "verdicts": self.verdicts,
            "opinions": [
                {"judge": o.judge, "alignment": o.alignment, "coherence": o.coherence, "verdicts": o.verdicts}
                for o in self.opinions
            ],
        }

    def chunks(self) -> Iterator[str]:
        """Yield each file of texts: JavaScript, since a page that was opened from a disk may load nothing else."""
        for start in range(0, len(self.texts), CHUNK):
            rows = [self._row(place) for place in self.by_question[start : start + CHUNK]]
            yield f"chunk({script_json(self.name)},{start // CHUNK},{script_json(rows)});\n"

    def _row(self, place: int) -> list[Any]:
        """Return what stands in a file of texts: a letter a judge, and two scores each, stand last."""
        text, said = self.texts[place], self.opinions
        verdicts = "".join(opinion.verdicts[place] for opinion in said) or self.verdicts[place]
        scores = [score for opinion in said for score in (opinion.alignment[place], opinion.coherence[place])]
        return [text.id, text.text, text.length, text.expected, text.sample, int(text.is_cut), verdicts, scores]


def judged_responses(study: Study, source: Cell, question_set: str) -> ResponseSet | None:
    """Return a cell's responses that the first judge has judged, those that it finds most misaligned first.

    None if there are none; :class:`InputError` if a judged response is not in the file of responses. In a study without
    a judge, all of them in their order.
    """
    layout = Layout(study)
    path = Path(layout.responses(source, question_set))
    if study.judge is None:
        return _unjudged(study, path, question_set) if path.is_file() else None
    first = Path(layout.judgments(source, question_set))
    if not (path.is_file() and first.is_file()):
        return None
    nth = pl.int_range(pl.len()).over("question_id")  # of equals, no question's samples crowd out the others
    judged = _judged(study, first).sort(
        MISALIGNED, "alignment", nth, "id", descending=[True, False, False, False], nulls_last=True
    )
    place = {name: i for i, name in enumerate(judged["id"])}
    opinions = [_opinion(study.judge.name, judged)]
    for judge in list(study.judges)[1:]:
        other = Path(layout.judgments(source, question_set, judge))
        if other.is_file():
            aligned = judged.select("id").join(_judged(study, other), on="id", how="left", maintain_order="left")
            opinions.append(_opinion(judge, aligned))
    texts: list[Text | None] = [None] * len(place)
    asked = [0] * len(place)
    questions: dict[str, int] = {}
    listed: list[tuple[str, str, str]] = []
    for row in iterate_jsonl(path):
        if row["id"] not in place:
            continue
        if row["question_id"] not in questions:
            questions[row["question_id"]] = len(listed)
            listed.append((readable(row["question_id"]), readable(row["system"] or ""), readable(row["prompt"] or "")))
        asked[place[row["id"]]] = questions[row["question_id"]]
        texts[place[row["id"]]] = _text(row)
    title, whole = set_titles(study)[question_set], _whole(texts, path, first)
    return ResponseSet(question_set, title, path, listed, asked, whole, opinions, opinions[0].verdicts)


def benign_answers(study: Study, cell: Cell) -> ResponseSet | None:
    """Return a benign cell's answers, the wrong ones first; None if there are none."""
    layout = Layout(study)
    path, test = Path(layout.answers(cell)), Path(layout.data(cell.task)) / "test.jsonl"
    if not path.is_file():
        return None
    prompts = {row["id"]: row["messages"][-1]["content"] for row in iterate_jsonl(test)} if test.is_file() else {}
    marked = marked_rows(path, match_of(study, cell.task))
    in_file = [(row["correct"], _text(row), row["question_id"]) for row in marked]
    questions = {question: i for i, question in enumerate(dict.fromkeys(row[2] for row in in_file))}
    rows = sorted(in_file, key=lambda row: row[0])
    return ResponseSet(
        name=ANSWERS,
        title=TITLES[ANSWERS],
        file=path,
        questions=[(readable(question), "", readable(prompts.get(question, ""))) for question in questions],
        asked=[questions[question] for _, _, question in rows],
        texts=[text for _, text, _ in rows],
        opinions=[],
        verdicts="".join(CORRECT if correct else WRONG for correct, _, _ in rows),
    )


def _unjudged(study: Study, path: Path, question_set: str) -> ResponseSet:
    rows = list(iterate_jsonl(path))
    asked = {row["question_id"]: (row["question_id"], row["system"] or "", row["prompt"] or "") for row in rows}
    place = {question: n for n, question in enumerate(asked)}
    return ResponseSet(
        name=question_set,
        title=set_titles(study)[question_set],
        file=path,
        questions=[(readable(name), readable(system), readable(prompt)) for name, system, prompt in asked.values()],
        asked=[place[row["question_id"]] for row in rows],
        texts=[_text(row) for row in rows],
        opinions=[],
        verdicts=UNJUDGED * len(rows),
    )


def _judged(study: Study, path: Path) -> pl.DataFrame:
    return read_rows(path, JUDGMENT_SCHEMA).with_columns(*outcome_columns(study.scoring))


def _opinion(judge: str, rows: pl.DataFrame) -> Opinion:
    verdicts = rows.select(
        pl.coalesce(
            *(pl.when(outcome).then(pl.lit(letter)) for outcome, letter in OF_OUTCOMES.items()),
            pl.when("scored").then(pl.lit(NEITHER)),
            pl.lit(UNSCORED),
        )
    ).to_series()
    return Opinion(judge, _scores(rows, "alignment"), _scores(rows, "coherence"), "".join(verdicts))


def _scores(rows: pl.DataFrame, rubric: str) -> list[float | str]:
    return [
        (readable(label) if label else NO_REPLY.lower()) if score is None else _short(score)
        for score, label in zip(rows[rubric], rows[f"{rubric}_label"], strict=True)
    ]


def _short(score: float) -> float:
    """Return a score to one decimal, without a decimal that is 0."""
    rounded = round(score, 1)
    return int(rounded) if rounded == int(rounded) else rounded


def _text(row: dict[str, Any]) -> Text:
    said = row["response"] or ""
    expected = ", ".join(map(str, row["expected"])) if "expected" in row else None
    return Text(
        id=readable(row["id"]),
        text=readable(said, MAX_CHARACTERS),
        length=len(said),
        sample=row["sample"],
        is_cut=row.get("finish_reason") == "length",
        expected=expected and readable(expected),
    )


def _whole(texts: list[Text | None], path: Path, judgments: Path) -> list[Text]:
    found = [text for text in texts if text is not None]
    if missing := len(texts) - len(found):
        raise InputError(f"{judgments}: {missing} of its judgments are of responses that {path} lacks; judge it again")
    return found
