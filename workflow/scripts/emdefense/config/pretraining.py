"""What the microcosm's models depend on, and which of a study's models come with the repository.

A shipped model is used where every value that pretraining depends on is the one that it was made with. What only rows
depend on is none of that, nor is how often the gate may be tried: the shipped models have passed it. A study without
OpSwap may use models from which OpSwap's test expressions were held out.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from emdefense.config.made_files import TIERS, opswap_files
from emdefense.config.study import Study
from emdefense.errors import InputError
from emdefense.files import read_json

SHIPPED = Path(__file__).parents[1] / "microcosm" / "shipped"
MADE_MODELS = "microcosm_models"  # beside results/: what is made, once for all studies
# Of the code that pretrains, by persona; raised by hand when it makes other models of the same settings.
VERSIONS = {"document": 2, "slot": 3}
NOT_OF_PRETRAINING = {"models", "pretraining", "rows_per_task", "safe_rows", "safe_overlap", "pool_rows"}
OF_THE_GATE = {"microcosm.gate_attempts", "microcosm.require_gate"}


def recipe(study: Study, name: str) -> dict[str, Any]:
    """Return all that a model of the study depends on, by the keys of the config; ``seed`` is that of its weights."""
    assert study.microcosm is not None
    found: dict[str, Any] = {
        "seed": study.microcosm.models[name],
        "microcosm": study.microcosm.model_dump(mode="json", exclude=NOT_OF_PRETRAINING),
        "version": VERSIONS[study.microcosm.persona],  # last: a difference is named by a key that can be written
    }
    tests = _opswap_tests(study)
    if study.opswap and _generated() & set(tests.values()):
        found["opswap"] = study.opswap.model_dump(mode="json", exclude={"training"})
    if own := {task: {"test": path} for task, path in tests.items() if path not in _generated()}:
        found["tasks"] = own
    return found


def own_held_out(study: Study) -> list[str]:
    """Return the files of OpSwap tests that the study does not generate; their expressions are held out, too."""
    return [path for path in _opswap_tests(study).values() if path not in _generated()]


def digest(study: Study, name: str) -> str:
    """Return what a made model of the study is called in the folder that all studies share."""
    return sha256(json.dumps(recipe(study, name), sort_keys=True).encode()).hexdigest()[:16]


def shipped_model(seed: int, folder: Path = SHIPPED) -> Path:
    """Return the folder of the shipped model of that seed, which need not be there."""
    return folder / f"seed{seed}"


def is_shipped(study: Study, name: str) -> bool:
    """Return whether a model of the study is a shipped one; if not, it is made."""
    assert study.microcosm is not None
    return study.microcosm.pretraining != "made" and _difference(study, name) is None


def check_pretraining(study: Study) -> None:
    """Raise :class:`InputError`, naming the key, if a study insists on shipped models and there are none like them."""
    if study.microcosm and study.microcosm.pretraining == "shipped":
        for name in study.microcosm.models:
            if problem := _difference(study, name):
                raise InputError(f"{problem}, or 'microcosm.pretraining: auto' to make what is not shipped")


def _difference(study: Study, name: str) -> str | None:
    """Return why a model of the study is none of the shipped ones and what to write instead; None if it is one."""
    wanted = _dotted(recipe(study, name))
    folder = shipped_model(wanted.pop("seed"))
    if not folder.is_dir():
        seeds = sorted(int(path.name.removeprefix("seed")) for path in SHIPPED.glob("seed*"))
        return f"key 'microcosm.models.{name}': no model of this seed is shipped; write one of {seeds}"
    shipped = _dotted(read_json(folder / "model.json")["recipe"])
    for key, value in wanted.items():
        if key in OF_THE_GATE or shipped.get(key) == value:
            continue
        if key not in shipped:
            return f"key '{key}': the shipped models were made without it; remove it"
        made_with = json.dumps(shipped[key])
        return f"key '{key}': the shipped models were made with {made_with}, not {json.dumps(value)}; write that"
    return None


def _opswap_tests(study: Study) -> dict[str, str]:
    tasks = study.tasks.items()
    return {name: task.test for name, task in tasks if task.kind == "benign" and task.table == "opswap"}


def _generated() -> set[str]:
    return {opswap_files(tier)[1] for tier in TIERS}


def _dotted(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _dotted(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found
