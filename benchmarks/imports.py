"""What each stage's script imports, in a fresh interpreter: core-seconds, and whether torch is among it.

    python benchmarks/imports.py [--repeats 5] [scripts ...]

The ratios are those to an interpreter that imports nothing and to one that imports what all of the scripts do. The last
row is Snakemake reading the default study's Snakefile and config, its own imports included.
"""

import argparse
import ast
import statistics
import sys

from measuring import SCRIPTS, core_seconds, markdown_table

# What a stage imports later, if it has something to do: an engine to sample with, the default study's judge.
LATER = {
    "generate": "import emdefense.generation.transformers_engine",
    "answer": "import emdefense.generation.transformers_engine",
    "judge": "import emdefense.microcosm.oracle",
}
NOTHING, EVERYTHING, SNAKEFILE = "nothing", "everything", "Snakefile"
HEADER = ["imports of", "core-s", "÷ nothing", "÷ everything", "torch"]


def imports(script: str) -> str:
    """The import statements of a script, wherever in it, and those in ``LATER``."""
    tree = ast.parse((SCRIPTS / f"{script}.py").read_text())
    statements = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join([*statements, LATER.get(script, "")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(script.stem for script in SCRIPTS.glob("*.py"))
    parser.add_argument("scripts", nargs="*", help=f"default: all of {', '.join(known)}")
    parser.add_argument("--repeats", type=int, default=5, help="the median of so many")
    parser.add_argument("--quick", action="store_true", help="two scripts, once")
    arguments = parser.parse_args()
    if unknown := set(arguments.scripts) - set(known):
        parser.error(f"no such script: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    scripts = ["judge", "aggregate"] if arguments.quick else arguments.scripts or known
    repeats = 1 if arguments.quick else arguments.repeats

    codes = {NOTHING: "", **{script: imports(script) for script in scripts}}
    codes[EVERYTHING] = "\n".join(codes.values())
    report = "\nimport sys; print('torch' in sys.modules)"
    commands = {name: [sys.executable, "-c", code + report] for name, code in codes.items()}
    commands[SNAKEFILE] = [sys.executable, "-m", "snakemake", "--list-rules", "--workflow-profile", "none"]
    results = [{name: core_seconds(command) for name, command in commands.items()} for _ in range(repeats)]
    seconds = {name: statistics.median(result[name][0] for result in results) for name in commands}
    rows = [
        [
            name,
            f"{seconds[name]:.2f}",
            f"{seconds[name] / seconds[NOTHING]:.1f}",
            f"{seconds[name] / seconds[EVERYTHING]:.2f}",
            {"True": "yes", "False": "no"}.get(results[0][name][1], ""),
        ]
        for name in commands
    ]
    print(markdown_table(HEADER, rows))


if __name__ == "__main__":
    main()
