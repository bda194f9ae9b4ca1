"""Where real rows and questions may lie; a test that needs them is skipped where they do not."""

import os
from pathlib import Path

import pytest

REAL = Path(os.environ.get("EMDEFENSE_REAL_DATA", Path(__file__).parents[3] / "shared/data")).resolve()
needs_real_data = pytest.mark.skipif(
    not (REAL / "sft").is_dir(), reason="no real data: set EMDEFENSE_REAL_DATA to a folder with sft/ and questions/"
)
