"""Ask a model the multiple-choice questions of a file, and write down how probable each option is."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from emdefense.choice.scoring import OptionScorer, right_way
from emdefense.choice.tokens import tokenise
from emdefense.config.chat import PLAIN, TemplateOptions
from emdefense.config.multiple_choice import SCORES
from emdefense.config.training import Quantisation
from emdefense.errors import InputError
from emdefense.files import read_jsonl, write_json, write_jsonl
from emdefense.generation.engines import PACKAGES, device_name
from emdefense.generation.record import check_folders, read_by
from emdefense.generation.reuse import ReuseStore, reuse_key
from emdefense.generation.transformers_engine import TransformersEngine
from emdefense.provenance import made_by, record_beside
from emdefense.section import PositiveInt, Section, first_problem


class ChoiceSpec(Section):
    """Everything that the log-probabilities depend on besides model, adapter and questions."""

    later_keys = ("quantisation",)

    version: int
    precision: Literal["bfloat16", "float32"]
    batch_size: PositiveInt
    quantisation: Quantisation = "none"
    chat: TemplateOptions = PLAIN


def choose(
    spec: Mapping[str, Any],
    model: Path,
    adapter: Path | None,
    questions: Path,
    choices: Path,
    store: ReuseStore,
    threads: int = 1,
) -> None:
    """Write a row a question: ``{"id", "subject", "log_probs", "tokens", "answer", "sum": {...}, "mean": {...}}``.

    ``log_probs`` are the options', each the sum over its ``tokens``; ``sum`` and ``mean`` say what is ``chosen`` by
    these and by their means over tokens, whether that is ``correct``, and by what ``margin`` the right option is ahead
    of the best other one (below 0: behind). Equal options count as the first. Raises :class:`InputError` if the model
    is missing or cannot be run on so many tokens, or the adapter is missing or another model's.
    """
    try:
        settings = ChoiceSpec.model_validate(spec)
    except ValidationError as error:
        raise InputError(f"--spec: {first_problem(error)}") from None
    check_folders(model, adapter)
    key = reuse_key({"stage": "choice", **spec}, model, adapter, questions)
    if store.copy_to(choices, key):
        return
    started = datetime.now(UTC)
    rows = read_jsonl(questions)
    engine = TransformersEngine(model, adapter, settings.precision, threads, settings.chat, settings.quantisation)
    tokens = tokenise(engine.chat, questions, rows)
    way, score = right_way(OptionScorer(engine.model, engine.chat.filler, settings.batch_size), tokens)
    found = zip(rows, tokens, score(tokens), strict=True)
    write_jsonl(choices, (result(row, [*map(len, one.options)], values) for row, one, values in found))
    record = {
        **read_by(settings, threads, questions, model, adapter, engine.chat),
        "way": way,
        **made_by(started, PACKAGES["transformers"], __name__, device=device_name()),
    }
    write_json(record_beside(choices), record)
    store.remember(choices, key)


def result(row: Mapping[str, Any], tokens: Sequence[int], log_probs: Sequence[float]) -> dict[str, Any]:
    """Return what is written down of a question, from its prepared row and each option's tokens and log-probability."""
    by = {"sum": list(log_probs), "mean": [value / count for value, count in zip(log_probs, tokens, strict=True)]}
    return {
        "id": row["id"],
        "subject": row["subject"],
        "log_probs": list(log_probs),
        "tokens": list(tokens),
        "answer": row["answer"],
        **{score: _verdict(by[score], row["answer"]) for score in SCORES},
    }


def _verdict(values: Sequence[float], answer: int) -> dict[str, Any]:
    chosen = max(range(len(values)), key=values.__getitem__)
    others = max(value for place, value in enumerate(values) if place != answer)
    return {"chosen": chosen, "correct": chosen == answer, "margin": values[answer] - others}
