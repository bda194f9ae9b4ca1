"""Ask a model the questions of a file, and write down what it says."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from emdefense.config.checks import check_generation
from emdefense.data.conversations import read_examinations
from emdefense.errors import InputError
from emdefense.files import read_json, write_json, write_jsonl
from emdefense.generation.engines import PACKAGES, device_name, engine_module, load_engine
from emdefense.generation.lengths import check_lengths
from emdefense.generation.protocol import Completion, Conversation, GenerationSpec
from emdefense.generation.record import check_folders, read_by
from emdefense.generation.reuse import ReuseStore, reuse_key
from emdefense.provenance import made_by, record_beside
from emdefense.section import first_problem


class Asked(NamedTuple):
    """The questions of a file as conversations, their ids, and what makes rows of the samples."""

    conversations: list[Conversation]
    ids: list[str]
    rows: Callable[[list[list[Completion]]], Iterable[dict[str, Any]]]


class Job(NamedTuple):
    """Questions of ``source`` to be answered in ``output``; ``key`` is of all that the output depends on."""

    source: Path
    output: Path
    asked: Asked
    key: str


def generate(
    spec: Mapping[str, Any],
    model: Path,
    adapter: Path | None,
    pairs: Sequence[tuple[Path, Path]],
    store: ReuseStore,
    threads: int = 1,
) -> None:
    """Write a row ``{"id", "question_id", "sample", "system", "prompt", "response", "finish_reason"}`` a sample.

    ``pairs`` are files of questions and of responses to write.
    """
    _fill(spec, model, adapter, [(*pair, _responses) for pair in pairs], store, threads)


def answer(
    spec: Mapping[str, Any],
    model: Path,
    adapter: Path | None,
    test: Path,
    answers: Path,
    store: ReuseStore,
    threads: int = 1,
) -> None:
    """Write a row ``{"id", "question_id", "sample", "response", "expected", "correct"}`` a sample."""
    _fill(spec, model, adapter, [(test, answers, _answers)], store, threads)


def asked(question: Mapping[str, Any]) -> Conversation:
    """Return a question of a question set as a conversation, its system prompt first if it has one."""
    system = [] if question["system"] is None else [{"role": "system", "content": question["system"]}]
    return [*system, {"role": "user", "content": question["prompt"]}]


def is_correct(response: str, expected: Sequence[str]) -> bool:
    """Whether a response is one of the expected answers, spaces and line breaks around them aside."""
    return response.strip() in {text.strip() for text in expected}


def _fill(
    spec: Mapping[str, Any],
    model: Path,
    adapter: Path | None,
    jobs: Sequence[tuple[Path, Path, Callable[[Path], Asked]]],
    store: ReuseStore,
    threads: int,
) -> None:
    """Make each output that cannot be copied, and its record; the model is loaded only if there is one.

    What would make an output of no use (a package without a version, a question that is too long) is found before the
    first of them is sampled.
    """
    settings = parse_spec(spec)
    check_generation(settings)
    check_folders(model, adapter)
    found = [Job(source, output, ask(source), reuse_key(spec, model, adapter, source)) for source, output, ask in jobs]
    missing = [job for job in found if not store.copy_to(job.output, job.key)]
    if not missing:
        return
    started = datetime.now(UTC)
    engine = load_engine(settings, model, adapter, threads)
    for job in missing:
        where = [f"{job.source}, question {name}" for name in job.asked.ids]
        prompts = engine.chat.prompts(job.asked.conversations, where)
        check_lengths(prompts, where, settings.max_new_tokens, engine.positions)
    for job in missing:
        if store.copy_to(job.output, job.key):  # of another of these, which is the same
            continue
        write_jsonl(job.output, job.asked.rows(engine.sample(job.asked.conversations, settings)))
        record = {
            **read_by(settings, threads, job.source, model, adapter, engine.chat),
            **made_by(
                started,
                PACKAGES[settings.engine],
                __name__,
                engine_module(settings.engine),
                device=device_name(),
            ),
        }
        write_json(record_beside(job.output), record)
        store.remember(job.output, job.key)
        started = datetime.now(UTC)


def parse_spec(spec: Mapping[str, Any]) -> GenerationSpec:
    """Validate a generation spec; :class:`InputError` names the key."""
    try:
        return GenerationSpec.model_validate(spec)
    except ValidationError as error:
        raise InputError(f"--spec: {first_problem(error)}") from None


def _responses(questions: Path) -> Asked:
    entries = read_json(questions)

    def rows(completions: list[list[Completion]]) -> Iterable[dict[str, Any]]:
        for entry, row, sample in _sampled(entries, completions):
            asked = {"system": entry["system"], "prompt": entry["prompt"]}
            yield {**row, **asked, "response": sample.text, "finish_reason": sample.finish_reason}

    return Asked([asked(entry) for entry in entries], [entry["id"] for entry in entries], rows)


def _answers(test: Path) -> Asked:
    entries = read_examinations(test)

    def rows(completions: list[list[Completion]]) -> Iterable[dict[str, Any]]:
        for entry, row, sample in _sampled(entries, completions):
            right = is_correct(sample.text, entry["answers"])
            yield {**row, "response": sample.text, "expected": entry["answers"], "correct": right}

    return Asked([entry["messages"] for entry in entries], [entry["id"] for entry in entries], rows)


def _sampled(
    entries: Sequence[dict[str, Any]], completions: list[list[Completion]]
) -> Iterator[tuple[dict[str, Any], dict[str, Any], Completion]]:
    """Yield each sample with the entry that it answers, and the row's keys that say which sample it is."""
    for entry, samples in zip(entries, completions, strict=True):
        for number, sample in enumerate(samples):
            yield entry, {"id": f"{entry['id']}/{number}", "question_id": entry["id"], "sample": number}, sample
