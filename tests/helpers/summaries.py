"""What a filled study folder sums up to."""

from pathlib import Path

from emdefense.analysis.aggregate import aggregate
from emdefense.analysis.summary import Summary, read_summary
from emdefense.config import Study


def summarised(study: Study) -> Summary:
    aggregate(study, Path("r.parquet"), Path("e.parquet"), Path("q.parquet"))
    return read_summary(Path("r.parquet"), Path("e.parquet"), Path("q.parquet"))
