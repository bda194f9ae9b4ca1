"""Run every check of a model, and record what each found."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emdefense.files import file_digest, write_json
from emdefense.model_checks.answers import check_answers
from emdefense.model_checks.choices import check_choices
from emdefense.model_checks.losses import check_losses
from emdefense.model_checks.sampling import check_sampling
from emdefense.model_checks.subject import Subject
from emdefense.model_checks.templates import check_texts
from emdefense.provenance import made_by, model_identity

PACKAGES = ("torch", "transformers", "peft", "tokenizers")

# In this order, cheap ones first. Each returns what it found out, for the record, and raises `InputError`, one line
# that says what to do, if training or sampling would fail or go wrong without a word.
CHECKS: Mapping[str, Callable[[Subject], Mapping[str, Any]]] = {
    "texts": check_texts,
    "answers": check_answers,
    "losses": check_losses,
    "sampling": check_sampling,
    "choices": check_choices,
}


def check_model(subject: Subject, output: Path) -> None:
    """Write a JSON record of what each check found; :class:`InputError` from the first that fails."""
    started = datetime.now(UTC)
    found = {name: dict(check(subject)) for name, check in CHECKS.items()}
    files = (*subject.row_files, *subject.question_files, *subject.test_files, *subject.spec.choices)
    record = {
        "spec": subject.spec.model_dump(mode="json", exclude_unset=True),
        "model": model_identity(subject.folder),
        "read": {str(path): file_digest(path) for path in files},
        "checks": found,
        **made_by(started, PACKAGES, __name__),
    }
    write_json(output, record)
