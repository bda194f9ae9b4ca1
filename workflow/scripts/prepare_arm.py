"""Make what an arm needs before its adapters: once for all of its settings."""

from emdefense.warm_caller import run_warm


def main() -> None:
    import argparse
    from pathlib import Path

    from emdefense.files import json_option, role_and_path

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arm", required=True, help="the arm's name")
    parser.add_argument("--arms-from", help="a study's own file that declares it")
    parser.add_argument("--spec", type=json_option, required=True, help="JSON: version, options, seed")
    parser.add_argument(
        "--from",
        dest="materials",
        type=role_and_path,
        action="append",
        default=[],
        help="ROLE=PATH of what it reads: adapter, rows and more; model or base: folder, or org/name[@revision]",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder to write into")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; the result depends on them")
    given = parser.parse_args()

    # After the arguments are known to be right: these take longer to import.
    from emdefense.arms.own import given_arm
    from emdefense.model_folder import model_folder

    arm, options, _ = given_arm(given.arm, given.arms_from, given.spec)
    found = {role: model_folder(path) if role in ("model", "base") else path for role, path in given.materials}

    from emdefense.training.preparation import Running, prepare  # torch: after the spec is known to be right

    prepare(arm, options, found, given.out, given.threads, Running.of(given.spec))


if __name__ == "__main__":
    run_warm(main)
