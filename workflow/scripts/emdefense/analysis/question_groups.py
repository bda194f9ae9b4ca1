"""Questions that are alike: forms of one question, or questions on one topic, which are drawn together."""

import re
from collections.abc import Sequence

import polars as pl

from emdefense.config.study import QuestionGroups
from emdefense.errors import InputError


def groups_of(questions: Sequence[str], groups: QuestionGroups) -> list[str]:
    """Return the group of each question id: itself where it is in none."""
    if groups is None:
        return list(questions)
    if isinstance(groups, str):
        found = [re.search(groups, question) for question in questions]
        named = [None if match is None else match[1] for match in found]
    else:
        of = {question: name for name, members in groups.items() for question in members}
        named = [of.get(question) for question in questions]
    # A group is never taken for a question that is called the same.
    return [question if name is None else f"{name}\n" for question, name in zip(questions, named, strict=True)]


def units(groups: QuestionGroups) -> str:
    """Return what is drawn, in words."""
    return "questions" if groups is None else "groups of questions"


def in_groups(counts: pl.DataFrame, columns: Sequence[str], groups: QuestionGroups) -> pl.DataFrame:
    """Return ``columns`` of counts by ``question_id``, added up within each group."""
    if groups is None:
        return counts.select(columns)
    names = pl.Series("group", groups_of(counts["question_id"].to_list(), groups), dtype=pl.String())
    return counts.group_by(names, maintain_order=True).agg(pl.col(columns).sum()).select(columns)


def check_groups(questions: Sequence[str], groups: QuestionGroups) -> None:
    """Raise :class:`InputError` if a pattern finds nothing in any of the question ids, or an id is of no question."""
    if groups is None or not questions:
        return
    if isinstance(groups, str):
        if not any(re.search(groups, question) for question in questions):
            raise InputError(
                f"key 'scoring.question_groups': '{groups}' is found in no question id, for example not in "
                f"'{questions[0]}'; correct it, or leave it out"
            )
        return
    known = set(questions)
    for name, members in groups.items():
        for question in members:
            if question not in known:
                raise InputError(
                    f"key 'scoring.question_groups.{name}': no question has the id '{question}'; correct it (ids are "
                    f"such as '{questions[0]}')"
                )
