"""The example of docs/adding-a-defence.md, run as it stands there."""

import re
import sys
import types
from pathlib import Path
from typing import Literal

import pytest
import torch
from emdefense.training.penalties import TokenBatch, WindowCounts, base, build_penalty
from pydantic import Field

from emdefense.config import training as config
from emdefense.training.features import Features

DOCUMENT = Path(__file__).resolve().parents[1] / "docs/adding-a-defence.md"


def test_the_documented_penalty_works(monkeypatch: pytest.MonkeyPatch) -> None:
    options, penalty = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    options_class = options.split("class Arms")[0]
    namespace = {"PenaltyOptions": config.PenaltyOptions, "Literal": Literal, "Field": Field, "__name__": "documented"}
    exec(options_class, namespace)
    monkeypatch.setattr(config, "FinalDistance", namespace["FinalDistance"], raising=False)
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    module = types.ModuleType("documented_penalty")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(penalty, module.__dict__)

    built = build_penalty("final_distance", {"tokens": "all"})
    start = torch.randn(6, 4)
    moved = (start + 0.5).requires_grad_()
    batch = TokenBatch(torch.zeros(6, dtype=torch.long), [6], WindowCounts(labels=6, tokens=6, sequences=1))
    assert built.feature_term(batch, Features(start, {}), Features(start, {})).item() == 0
    value = built.feature_term(batch, Features(moved, {}), Features(start, {}))
    assert value.item() == pytest.approx(4 * 0.25)
    value.backward()
    assert moved.grad is not None
    assert moved.grad.abs().sum() > 0
    assert len((options_class + penalty).splitlines()) < 40
