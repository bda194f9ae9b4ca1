"""The config's reference, generated from the same JSON schema that editors complete from."""

from typing import Any

from emdefense.config.study import Study

HEADER = """# Config reference

Generated from the models in `workflow/scripts/emdefense/config/` by `make schema`; a test fails when it is out of date.
A study is one YAML file (`snakemake --configfile FILE`); single keys can be set with `--config KEY=VALUE`, and further
files given after the first are laid over it. Unknown keys are errors, and so is one that stands twice. Where the
defences' settings are from: [defences.md](defences.md).

**A study file is code**: where it says `__use_yte__: true`, Snakemake evaluates Python expressions in a file given with
`--configfile` before this pipeline reads it, which then refuses it; the files of `arms_from` are
[Python that runs](adding-a-defence.md); and a study's models, data and judges are used on your machine and account. Run
only studies that you trust.

Names (of the study, models, tasks, variants, sources, judges, multiple-choice sets) become parts of paths: letters,
digits, `.`, `_` and `-`, at most 80, the first a letter or digit, the last no dot, and no two that differ by case
only; no task is called `general`, `shared` or `questions`, no study `paper-values` or `logs`. Seeds are below 2³² and
not negative; settings of arms are told apart to their last digit. In paths, `{results}` is the study's results folder,
of which only what the study makes can be named, `{sources}` the sources folder and `{data_folder}` the key of that
name; there are no other braces, and no path begins with `-`.
"""


def reference() -> str:
    """Return Markdown with one heading a section and one table row a key."""
    schema = Study.model_json_schema()
    sections = {"Study": schema, **{name: part for name, part in schema["$defs"].items() if "properties" in part}}
    parts = [HEADER]
    for name, section in sections.items():
        doc = " ".join(section.get("description", "").split())
        parts.append(f"## {name}\n\n{doc}\n\n{keys_table(section)}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def keys_table(section: dict[str, Any]) -> str:
    """Return a Markdown table of the keys of a section's JSON schema."""
    required = section.get("required", [])
    rows = "\n".join(_row(key, part, key in required) for key, part in section["properties"].items())
    return f"| key | value | default | meaning |\n| --- | --- | --- | --- |\n{rows}"


def _row(key: str, part: dict[str, Any], required: bool) -> str:
    default = part.get("default")
    if required:
        shown = "required"
    elif isinstance(default, dict):
        shown = "its own defaults" if default or "$ref" in part else "none"
    else:
        shown = "none" if default is None else f"`{default}`"
    cells = (f"`{key}`", _value(part), shown, part.get("description", ""))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(part: dict[str, Any]) -> str:
    """Return a schema's type in words: ``number``, ``list of string``, ``"all" or "response"``, a section's name."""
    if "$ref" in part:
        name = part["$ref"].rsplit("/", 1)[-1]
        return "any value" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "const" in part or "enum" in part:
        return " or ".join(f"`{value}`" for value in part.get("enum", [part.get("const")]))
    for key in ("anyOf", "oneOf"):
        if key in part:
            return " or ".join(_value(option) for option in part[key])
    if part.get("type") == "array":
        return f"list of {_value(part['items'])}"
    if part.get("type") == "object":
        values = part.get("additionalProperties") or next(iter(part["patternProperties"].values()))
        return f"name: {_value(values)}"
    kind = str(part["type"])
    return {"null": "empty", "boolean": "true or false"}.get(kind, kind)
