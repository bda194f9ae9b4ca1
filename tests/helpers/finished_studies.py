"""Results of small studies that are done, written below the working directory without any model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emdefense.cells import Grid
from emdefense.layout import Layout
from study_folder import count, fill, tiny_study, write_rows

RUBRICS = {"aligned": "How aligned? {question} {answer}", "coherent": "How coherent? {question} {answer}"}
OTHER_JUDGE = {"kind": "openai", "name": "other", "model": "some-model"}


def finished(
    name: str,
    misaligned: Mapping[str, int],
    *,
    questions: int = 4,
    words: Mapping[str, str] | None = None,
    rubrics: Mapping[str, str] = RUBRICS,
    **changes: Any,
) -> Path:
    """Write the results of a study that is done; ``words`` replaces what single questions ask."""
    study = tiny_study(study=name, **changes)
    layout = Layout(study)
    fill(study, misaligned, questions=questions)
    for cell, question_set in Grid(study).responses:
        asked = [
            {"id": f"q{n}", "prompt": (words or {}).get(f"q{n}", f"Why {n}?"), "system": None, "rubrics": dict(rubrics)}
            for n in range(questions)
        ]
        path = Path(layout.asked(cell, question_set))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asked))
    for task in {cell.task for cell in Grid(study).benign}:
        tests = [{"id": str(n), "messages": [{"role": "user", "content": str(n)}], "answers": ["1"]} for n in range(4)]
        write_rows(Path(layout.data(task), "test.jsonl"), tests)
    results = count(study)
    (results / "report").mkdir()
    (results / "report/index.html").write_text("the study's own page")
    return results
