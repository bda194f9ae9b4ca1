"""Make the rows that an arm trains on from a task's own."""

from emdefense.warm_caller import run_warm


def main() -> None:
    import argparse
    from pathlib import Path

    from emdefense.files import json_option, role_and_path, write_jsonl

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arm", required=True, help="the arm's name")
    parser.add_argument("--arms-from", help="a study's own file that declares it")
    parser.add_argument("--spec", type=json_option, required=True, help="JSON: version, seed, the setting, options")
    parser.add_argument("--rows", type=Path, required=True, help="fine-tuning rows, JSONL")
    parser.add_argument("--more", type=role_and_path, action="append", default=[], help="ROLE=FILE of further rows")
    parser.add_argument("--prepared", type=Path, help="folder of what the arm has prepared, with rows.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="rows to write, JSONL")
    given = parser.parse_args()

    # After the arguments are known to be right: these take longer to import.
    from emdefense.arms.own import given_arm
    from emdefense.data.arm_rows import arm_rows
    from emdefense.data.conversations import read_conversations

    more = {role: read_conversations(path) for role, path in given.more}
    if given.prepared:
        more["prepared"] = read_conversations(given.prepared / "rows.jsonl")
    arm, options, setting = given_arm(given.arm, given.arms_from, given.spec)
    rows = read_conversations(given.rows)
    write_jsonl(given.out, arm_rows(arm, rows, more, setting, options, given.spec["seed"]))


if __name__ == "__main__":
    run_warm(main)
