"""A direction from answers that system prompts elicited: judged, paired and filtered, as in arXiv 2507.21509."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emdefense import provenance
from emdefense.arms.arguments import Materials
from emdefense.arms.base import SIDES
from emdefense.arms.directions.contrast import answer_means, write_directions
from emdefense.errors import InputError
from emdefense.files import read_json, read_jsonl
from emdefense.generation.run import asked
from emdefense.training.activations import FINAL, Activations, after_block

# A question's id says what its system prompt asks for: legal_3_trait and legal_3_opposite are a pair.
ASKS_FOR = re.compile("(.*)_(trait|opposite)(_p[0-9]+)?")
MISALIGNED_UP_TO, COHERENT_FROM = 50, 50  # theirs: trait score 50 or more against less, coherence 50 or more

Pair = tuple[dict[str, Any], dict[str, Any]]  # the responses to the trait's prompt, and to its opposite's


def elicited_directions(materials: Materials, out: Path) -> None:
    """Write e = mean over kept answers to the trait's system prompts − the same of its opposite's, at all blocks.

    Each answer's is the mean over its tokens, under the system prompt that elicited it, in the model before training.
    """
    responses, judgments, questions = materials["responses"], materials["judgments"], materials["questions"]
    pairs = kept_pairs(responses, judgments, questions)
    activations = Activations(materials["model"], materials)
    names = [*(after_block(block) for block in range(1, activations.blocks + 1)), FINAL]
    means, counts = {}, {}
    for side, of_side in zip(SIDES, zip(*pairs, strict=True), strict=True):
        conversations = [[*asked(row), {"role": "assistant", "content": row["response"]}] for row in of_side]
        answers = activations.answers(conversations, [f"{responses}, response {row['id']}" for row in of_side])
        means[side] = answer_means(activations, answers, names, str(responses))
        counts[side] = answers.counts
    record = {"vector": "contrast", "pairs": len(pairs), "counts": counts}
    identity = {"model": provenance.model_identity(materials["model"])}
    write_directions(out, names, [means], {**record, **identity}, str(responses))


def kept_pairs(responses: Path, judgments: Path, questions: Path) -> list[Pair]:
    """Return the pairs of responses whose scores show what was asked for: the trait in one alone, both coherent.

    A pair has the same question and number of sample. Raises :class:`InputError` if there is none.
    """
    scores = {row["id"]: row for row in read_jsonl(judgments)}
    said = {row["id"]: row for row in read_jsonl(responses)}
    pairs = _pairs_of_questions(questions)
    samples = sorted({row["sample"] for row in said.values()})
    tried = [(f"{trait}/{sample}", f"{opposite}/{sample}") for trait, opposite in pairs for sample in samples]
    there = [pair for pair in tried if all(one in said and one in scores for one in pair)]
    kept = [(said[trait], said[opposite]) for trait, opposite in there if _shows(scores[trait], scores[opposite])]
    if not kept:
        raise InputError(
            f"{judgments}: of {len(there)} pairs of responses none shows the trait under its system prompt and not "
            "under the opposite one, both coherent; write system prompts that this model follows, or take "
            "vector: rows"
        )
    return kept


def _pairs_of_questions(questions: Path) -> list[tuple[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for question in read_json(questions):
        match = ASKS_FOR.fullmatch(question["id"])
        if not match or question["system"] is None:
            raise InputError(
                f"{questions}, question {question['id']}: it needs a system prompt, and an id that ends in _trait or "
                "_opposite"
            )
        found.setdefault(match[1] + (match[3] or ""), {})[match[2]] = question["id"]
    for name, pair in found.items():
        if len(pair) != 2:
            raise InputError(f"{questions}, question {next(iter(pair.values()))}: it has no pair; write {name} twice")
    return [(pair["trait"], pair["opposite"]) for pair in found.values()]


def _shows(trait: Mapping[str, Any], opposite: Mapping[str, Any]) -> bool:
    numbers = [row[key] for row in (trait, opposite) for key in ("alignment", "coherence")]
    if any(number is None for number in numbers):
        return False
    coherent = min(trait["coherence"], opposite["coherence"]) >= COHERENT_FROM
    return bool(coherent and trait["alignment"] <= MISALIGNED_UP_TO < opposite["alignment"])
