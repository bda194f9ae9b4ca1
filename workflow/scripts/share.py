"""Write a folder of a finished study that is ready for a hub: adapters and a data set, with cards. Nothing is uploaded.

It is checked for keys, names of people, and paths and addresses of the machine's own.
"""

import argparse
from pathlib import Path

from emdefense.errors import run_cli
from emdefense.finished import read_finished
from emdefense.sharing.folder import ADAPTERS, DATASET, Shared, write_share
from emdefense.sharing.private import this_machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, metavar="FOLDER", help="the study's results, e.g. results/smoke")
    parser.add_argument("--out", type=Path, help="the folder; absent: share, in the study's results")
    parser.add_argument(
        "--base", action="append", default=[], type=pair, metavar="MODEL=ORG/NAME", help="a model's name on the hub"
    )
    parser.add_argument("--license", default="other", help="as the hub calls it, for the cards (default: other)")
    parser.add_argument("--replace", action="append", default=[], type=pair, metavar="OLD=NEW", help="in every text")
    parser.add_argument("--allow", action="append", default=[], metavar="TEXT", help="what is not private after all")
    args = parser.parse_args()
    out = args.out or args.study / "share"
    private = this_machine(args.allow, dict(args.replace))
    shared = write_share(read_finished(args.study), out, private, named=dict(args.base), license=args.license)
    print(in_words(shared, args.study.resolve().name))


def in_words(shared: Shared, name: str) -> str:
    """Return what was written, what was written otherwise, and the commands that upload it."""
    rows = ", ".join(f"{size:,} {kind}" for kind, size in shared.sizes.items())
    lines = [f"{shared.folder}: {shared.adapters} adapters; {rows}"]
    lines += [f"  {said}" for said in dict.fromkeys(shared.changed)]
    lines.append("Look through it. To upload it, after `hf auth login`, with your name on the hub for YOU:")
    if shared.adapters:
        lines.append(f"  hf upload YOU/{name}-adapters {shared.folder / ADAPTERS} . --private")
    lines.append(f"  hf upload YOU/{name}-responses {shared.folder / DATASET} . --repo-type dataset --private")
    return "\n".join(lines)


def pair(text: str) -> tuple[str, str]:
    """Read an option ``OLD=NEW``."""
    old, equals, new = text.partition("=")
    if not old or not equals:
        raise argparse.ArgumentTypeError(f"'{text}' is not OLD=NEW")
    return old, new


if __name__ == "__main__":
    run_cli(main)
