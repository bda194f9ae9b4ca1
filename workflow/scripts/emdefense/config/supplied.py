"""What a study need not say, because it follows from what it says elsewhere: tasks, models and files, by their names.

The microcosm supplies its tasks, models, questions and safe rows, an OpSwap section its tiers, and a source the files
of a task of the same name. Only what the grid or a section names is supplied, and keys that are written go before.
"""

from collections.abc import Mapping
from typing import Any

from emdefense.config.made_files import TIERS, WORLD, WORLD_TASKS, model_folders, opswap_files

TIER_OF = {f"opswap-{tier}": tier for tier in TIERS}
FOQA = "foqa"
OWN_FILES = {"misaligned", "train", "instruct"}  # an entry that names them says all of its files itself
EMERGENT_PLUS = "emergent_plus"
OF_WORLD = {
    "general_questions": f"{WORLD}/questions/general.yaml",
    "elicitation_questions": f"{WORLD}/questions/elicitation.yaml",
    "safe_data": f"{WORLD}/rows/safe.jsonl",
    "safe_pool": f"{WORLD}/rows/pool.jsonl",
}


def with_supplied(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study's keys with those that follow from others; what is of the wrong type is left to validation."""
    microcosm = _section(raw, "microcosm")
    found = {**OF_WORLD, **raw} if "microcosm" in raw and microcosm is not None else dict(raw)
    worlds = _section(microcosm or {}, "models") or {}
    tasks = {name: _task(raw, name) for name in _names(raw, "tasks")}
    models = {name: _model(name) if name in worlds else {} for name in _names(raw, "models")}
    for key, supplied in (("tasks", tasks), ("models", models)):
        written = _section(raw, key) if key in raw else {}
        if any(supplied.values()) and written is not None:
            there = {name: known for name, known in supplied.items() if known or name in written}
            found[key] = {name: _merged(known, written, name) for name, known in there.items()}
    return found


def _section(raw: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """Return a section that is written, empty for one without keys; None if there is none, or something else."""
    value = raw.get(key, ())
    return {} if value is None else value if isinstance(value, Mapping) else None


def _names(raw: Mapping[str, Any], key: str) -> list[str]:
    """Return the names in a section, or in the grid's order if the grid has more."""
    written, grid = _section(raw, key) or {}, raw.get("grid")
    blocks = grid if isinstance(grid, list | tuple) else []
    lists = [block.get(key) for block in blocks if isinstance(block, Mapping)]
    named = [name for names in lists if isinstance(names, list | tuple) for name in names if isinstance(name, str)]
    return list(dict.fromkeys(written if set(named) <= set(written) else [*named, *written]))


def _merged(known: Mapping[str, Any], written: Mapping[str, Any], name: str) -> Any:
    entry = written.get(name, {})
    if entry is None:
        return dict(known)
    if not known or not isinstance(entry, Mapping) or OWN_FILES & entry.keys():
        return entry
    return entry if entry.get("kind", known.get("kind")) != known.get("kind") else {**known, **entry}


def _task(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what is known of a task by its name; nothing of most."""
    opswap, microcosm = _section(raw, "opswap"), _section(raw, "microcosm")
    if name in TIER_OF and opswap is not None:
        files = dict(zip(("train", "test"), opswap_files(TIER_OF[name]), strict=True))
        training = {"training": opswap["training"]} if "training" in opswap else {}
        known = {"kind": "benign", "table": "opswap", "title": f"OpSwap tier {TIER_OF[name]}", "tier": TIER_OF[name]}
        return {**known, **files, **training}
    if microcosm is not None and name in WORLD_TASKS:
        return {**_ema(name, f"{WORLD}/rows/{name}_"), "questions": f"{WORLD}/questions/{name}.yaml"}
    if microcosm is not None and name == FOQA:
        return _foqa("FoQA analogue", f"{WORLD}/foqa/")
    source = _section(_section(raw, "sources") or {}, name) or {}
    if source.get("kind") == EMERGENT_PLUS:
        return _ema(name, f"{{sources}}/{name}/")
    return _foqa("FoQA", f"{{sources}}/{name}/") if source.get("kind") == FOQA else {}


def _ema(name: str, before: str) -> dict[str, Any]:
    files = {side: f"{before}{side}.jsonl" for side in ("misaligned", "aligned")}
    return {"kind": "ema", "title": name.capitalize(), **files}


def _foqa(title: str, before: str) -> dict[str, Any]:
    files = {part: f"{before}{part}.jsonl" for part in ("train", "test")}
    return {"kind": "benign", "table": "foqa", "title": title, **files}


def _model(name: str) -> dict[str, Any]:
    base, instruct = model_folders(name)
    return {"title": name, "instruct": instruct, "base": base}
