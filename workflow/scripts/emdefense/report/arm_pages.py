"""A page for each arm, from its declaration: docs/arms."""

import inspect
from collections.abc import Iterator
from typing import Any

from emdefense.arms import CONTROLS, DEFENCES, MISALIGNED, Arm
from emdefense.config.reference import keys_table
from emdefense.report.defences import acts_on, cost_of, swept

INDEX = """# The arms

Generated from the declarations in `workflow/scripts/emdefense/arms/` by `make schema`. What the defences have in
common, where their settings are from and what was found: [the defences](../defences.md). One of your own: [adding a
defence](../adding-a-defence.md).
"""
TASKS = {"ema": "EMA tasks", "benign": "benign tasks"}


def arm_pages() -> dict[str, str]:
    """Return the pages of all arms, Markdown by file name, and ``index.md`` with a list of them."""
    pages = {f"{arm.name}.md": _page(arm) for arm in (*DEFENCES, *CONTROLS)}
    lists = [
        f"## {title}\n\n" + "\n".join(f"- [{arm.title}]({arm.name}.md), `{arm.name}`: {_said(arm)[0]}" for arm in arms)
        for title, arms in (("Defences", DEFENCES), ("What they are compared with", CONTROLS))
    ]
    return pages | {"index.md": "\n\n".join([INDEX.strip(), *lists]) + "\n"}


def _said(arm: Arm[Any]) -> list[str]:
    """Return the paragraphs of what an arm's class says of itself."""
    return [" ".join(part.split()) for part in inspect.cleandoc(type(arm).__doc__ or "").split("\n\n")]


def _page(arm: Arm[Any]) -> str:
    facts = "\n".join(f"| {name} | {value} |" for name, value in _facts(arm) if value)
    parts = [f"# {arm.title}", *_said(arm), f"| | |\n| --- | --- |\n{facts}"]
    if "properties" in (schema := arm.options.model_json_schema()) and schema["properties"]:
        keys = keys_table(schema).replace("](#", "](../config.md#")
        parts += [f"## Options\n\nKeys of its section under `arms`, as `{arm.name}:` there:", keys]
    parts += ["## In a study", f"```yaml\n{_example(arm)}```"]
    if arm.is_defence:
        anchor = arm.title.lower().replace(" ", "-")
        parts.append(f"Where its settings are from, and what they mean: [{arm.title}](../defences.md#{anchor}).")
    parts.append("[All arms](index.md)")
    return "\n\n".join(parts) + "\n"


def _facts(arm: Arm[Any]) -> Iterator[tuple[str, str]]:
    yield "in the grid", f"`{arm.name}`"
    yield "what is swept", swept(arm.setting)
    yield "acts on", acts_on(arm)
    yield "needs", ", ".join(arm.needs(arm.options()))
    yield "tasks", ", ".join(TASKS[kind] for kind in arm.kinds)
    yield "training costs", cost_of(arm) if arm.is_defence else ""
    yield "source", arm.source


def _example(arm: Arm[Any]) -> str:
    """Return a part of a study with an arm in its grid, beside what it is compared with."""
    benign = arm.kinds == ("benign",)
    beside = [] if benign or arm.name == MISALIGNED else [f"      {MISALIGNED}:"]
    tasks = "opswap-0" if benign else "code"
    setting = "" if arm.setting is None else f" [1] # {swept(arm.setting)}"
    lines = [
        "grid:",
        "  - models: [world-a]",
        f"    tasks: [{tasks}]",
        "    arms:",
        *beside,
        f"      {arm.name}:{setting}",
    ]
    return "\n".join(lines) + "\n"
