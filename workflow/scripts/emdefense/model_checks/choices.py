"""Whether the model can weigh the options of all multiple-choice questions, and tell them apart."""

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import torch

from emdefense.choice.scoring import Choice, OptionScorer, right_way
from emdefense.choice.tokens import tokenise
from emdefense.errors import InputError
from emdefense.files import read_jsonl
from emdefense.model_checks.subject import Subject
from emdefense.saved_model import load_config, load_model


def check_choices(subject: Subject) -> Mapping[str, Any]:
    """Tokenise all questions with their options, and weigh those of the shortest and the longest.

    Returns how many there are, the most tokens of one with an option, and how they are read; nothing where there are
    none. Raises :class:`InputError` for options of a question that have the same tokens, or of which one begins with
    all of another where sums are compared (its sum is never the larger), and for a question that is longer than what
    the model takes.
    """
    choices: list[Choice] = []
    for path, score in subject.spec.choices.items():
        rows = read_jsonl(path)
        found = tokenise(subject.chat, path, rows)
        for row, choice in zip(rows, found, strict=True):
            _check_told_apart(f"{path}, question {row['id']}", row["options"], choice, score == "sum")
            _check_length(subject, f"{path}, question {row['id']}", choice)
        choices += found
    if not choices:
        return {}
    how = subject.spec.generation
    model = load_model(subject.folder, how.precision, quantisation=how.quantisation)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    scorer = OptionScorer(model, subject.chat.filler, subject.spec.generation.batch_size)
    way, _ = right_way(scorer, choices)
    return {"questions": len(choices), "longest": max(choice.length for choice in choices), "way": way}


def _check_told_apart(where: str, texts: list[str], choice: Choice, by_sum: bool) -> None:
    if not all(choice.options):
        raise InputError(f"{where}: the tokenizer reads an option as nothing; write another")
    for (text, option), (other, longer) in permutations(zip(texts, choice.options, strict=True), 2):
        if option == longer:
            raise InputError(
                f"{where}: the tokenizer reads the options '{text[:60]}' and '{other[:60]}' as the same; write others, "
                "or options: letter"
            )
        if by_sum and longer[: len(option)] == option:
            raise InputError(
                f"{where}: the option '{other[:60]}' begins with the whole of '{text[:60]}', so that the sum of its "
                "log-probabilities is never the larger; write others, score: mean or options: letter"
            )


def _check_length(subject: Subject, where: str, choice: Choice) -> None:
    most = getattr(load_config(subject.folder).get_text_config(), "max_position_embeddings", None)
    if isinstance(most, int) and 0 < most < choice.length:
        raise InputError(
            f"{where}: with its longest option it has {choice.length} tokens, and the model takes {most} "
            "(max_position_embeddings in config.json); leave it out, or shorten it"
        )
