"""What the page says about how its numbers came to be."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from emdefense.cells import Grid, Layout
from emdefense.config import Study
from emdefense.files import file_digest, read_json

DIGEST_LENGTH = 12


def provenance(study: Study, rates: Path) -> list[tuple[str, str]]:
    """Return (what, value) lines: the study, its cells, the code and packages that trained them."""
    grid, layout = Grid(study), Layout(study)
    files = [Path(layout.cell(cell)) / "provenance.json" for cell in grid.cells]
    records = [read_json(path) for path in files if path.is_file()]
    lines = [
        ("Study", study.study),
        ("Seeds", ", ".join(map(str, study.seeds))),
        ("Cells", f"{len(grid.cells)}, of which {len(records)} have an adapter"),
        ("Judge", f"{study.judge.name} ({study.judge.kind})"),
        (
            "Sampling",
            f"temperature {study.generation.temperature:g}, top-p {study.generation.top_p:g}, at most "
            f"{study.generation.max_new_tokens} tokens, seed {study.generation.seed}",
        ),
        (
            "Samples a question",
            ", ".join(f"{model.title} {model.samples_per_question}" for model in study.models.values()),
        ),
        ("Rates", f"SHA-256 {file_digest(rates)[:DIGEST_LENGTH]}…"),
    ]
    digests = _distinct(records, "code_digest")
    if digests:
        warning = "; the adapters were made by different code" if len(digests) > 1 else ""
        lines.append(("Code that trained", ", ".join(f"{digest[:DIGEST_LENGTH]}…" for digest in digests) + warning))
    packages = sorted({f"{name} {number}" for record in records for name, number in record.get("packages", {}).items()})
    if packages:
        lines.append(("Packages that trained", ", ".join(packages)))
    machines = {record.get("machine", {}).get("processor") for record in records} - {None, ""}
    if machines:
        lines.append(("Processors that trained", ", ".join(sorted(map(str, machines)))))
    lines.append(
        (
            "Packages of this page",
            ", ".join(f"{name} {version(name)}" for name in ("polars", "numpy", "matplotlib", "jinja2")),
        )
    )
    lines.append(("Python of this page", platform.python_version()))
    return lines


def _distinct(records: list[dict[str, Any]], key: str) -> list[str]:
    return sorted({str(record[key]) for record in records if key in record})
