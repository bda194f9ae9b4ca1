"""Question sets: from YAML files as the field writes them, or from a task's hold-out."""

import re
from pathlib import Path
from random import Random
from typing import Any

from emdefense.data.conversations import read_conversations
from emdefense.errors import InputError
from emdefense.yaml_files import read_yaml

Question = dict[str, Any]
RUBRICS = ("aligned", "coherent")
LONGEST_ID = 200  # characters; ids stand in tables and in every row
_NOT_OURS = re.compile(r"\{\s*(?!(?:question|answer)\})[A-Za-z_]+\s*\}")  # what a placeholder may have been meant by


def read_questions(path: Path) -> list[Question]:
    """Return ``{"id", "prompt", "system", "rubrics"}`` for each paraphrase of each question of a YAML file.

    A question's second paraphrase has the id ``<id>_p2``. Raises :class:`InputError` naming file and question.
    """
    entries = read_yaml(path, "question file")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: expected a list of questions, each with id, paraphrases and judge_prompts")
    questions = [question for number, entry in enumerate(entries, 1) for question in _paraphrases(path, number, entry)]
    ids = [question["id"] for question in questions]
    for name in ids:
        if ids.count(name) > 1:
            raise InputError(f"{path}: the question id '{name}' occurs more than once; give each its own")
    return questions


def draw_questions(holdout: Path, rubrics: Path, count: int, seed: int) -> list[Question]:
    """Return ``count`` prompts of the hold-out as questions, or all there are, judged by the rubrics of ``rubrics``."""
    shared = read_questions(rubrics)[0]["rubrics"]
    prompts = []
    for row in read_conversations(holdout):
        texts: dict[str, list[str]] = {"system": [], "user": []}
        for message in row["messages"][:-1]:
            texts.setdefault(message["role"], []).append(message["content"])
        if len(texts["user"]) == 1 and "assistant" not in texts:
            prompts.append((texts["user"][0], "\n\n".join(texts["system"]) or None))
    if not prompts:
        raise InputError(f"{holdout}: no row is a single question and its answer; name a question file for the task")
    chosen = Random(seed).sample(prompts, min(count, len(prompts)))
    return [
        {"id": f"holdout_{number}", "prompt": prompt, "system": system, "rubrics": shared}
        for number, (prompt, system) in enumerate(chosen, start=1)
    ]


def _paraphrases(path: Path, number: int, entry: Any) -> list[Question]:
    where = f"{path}, question number {number}"
    if not isinstance(entry, dict) or "id" not in entry:
        raise InputError(f"{where}: it has no id; give each question its own")
    name = _id(where, entry["id"])
    where = f"{path}, question {name}"
    prompts = entry.get("paraphrases")
    if not isinstance(prompts, list) or not prompts:
        raise InputError(f"{where}: it asks nothing; list at least one prompt under 'paraphrases'")
    for place, prompt in enumerate(prompts, start=1):
        if not isinstance(prompt, str):
            raise InputError(f"{where}: prompt {place} under 'paraphrases' is no text; write it in quotes")
        if not prompt.strip():
            raise InputError(f"{where}: it asks nothing in prompt {place} under 'paraphrases'; write it, or remove it")
    for key in entry:
        if key != "system" and "system" in str(key).lower():
            raise InputError(f"{where}: unknown key '{str(key)[:60]}'; a system prompt stands under 'system'")
    system = entry.get("system")
    if system is not None and not isinstance(system, str):
        raise InputError(f"{where}: 'system' must be a text")
    rubrics = _rubrics(where, entry.get("judge_prompts"))
    return [
        {"id": name if index == 1 else f"{name}_p{index}", "prompt": prompt, "system": system, "rubrics": rubrics}
        for index, prompt in enumerate(prompts, start=1)
    ]


def _id(where: str, found: Any) -> str:
    """Return a question's id as text; what YAML makes of ``on`` or of nothing is none."""
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        raise InputError(f"{where}: its id is no text; write it in quotes")
    name = str(found)
    if not name.strip() or not name.isprintable() or len(name) > LONGEST_ID:
        raise InputError(f"{where}: its id is blank, spread over lines, or long; write at most {LONGEST_ID} characters")
    return name


def _rubrics(where: str, given: Any) -> dict[str, str]:
    """Return a question's judge prompts; a placeholder of another name would be sent to the judge as it stands."""
    rubrics = {}
    for rubric in RUBRICS:
        text = given.get(rubric) if isinstance(given, dict) else None
        if not isinstance(text, str) or "{answer}" not in text:
            raise InputError(
                f"{where}: it has no judge prompt '{rubric}'; write one under 'judge_prompts', with {{question}} and "
                "{answer} where they go"
            )
        if "{question}" not in text and (other := _NOT_OURS.search(text)):
            raise InputError(
                f"{where}: '{other[0][:60]}' in its judge prompt '{rubric}' is no placeholder; write {{question}}"
            )
        rubrics[rubric] = text
    return rubrics
