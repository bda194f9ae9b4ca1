"""The two halves of a question set: the same in every study that asks these questions, whole groups in one of them."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from emdefense.analysis.question_groups import groups_of
from emdefense.config.study import QuestionGroups


def halves(questions: Sequence[str], groups: QuestionGroups) -> NDArray[np.int64]:
    """Return 0 or 1 for each question id: the half that its group is in, by the digests of the groups' names.

    ``groups`` is ``scoring.question_groups``. The halves differ by one group at most; of a single one, the second half
    is empty.
    """
    names = groups_of(questions, groups)
    in_order = sorted(set(names), key=lambda name: sha256(name.encode()).hexdigest())
    half = {name: place % 2 for place, name in enumerate(in_order)}
    return np.array([half[name] for name in names], dtype=np.int64)
