"""Change the adapter of plain fine-tuning as an arm does after training."""

from emdefense.warm_caller import run_warm


def main() -> None:
    import argparse
    from pathlib import Path

    from emdefense.files import setting_option

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arm", required=True, help="the arm's name")
    parser.add_argument("--arms-from", help="a study's own file that declares it")
    parser.add_argument("--spec", type=setting_option, default={}, help="JSON: the setting alone, or with options")
    parser.add_argument("--adapter", required=True, type=Path, help="adapter folder, as PEFT saves it")
    parser.add_argument("--preparation", type=Path, help="what prepare_arm.py wrote for this adapter")
    parser.add_argument("--cell", required=True, type=Path, help="folder for adapter/ and provenance.json")
    given = parser.parse_args()

    from emdefense.arms.own import given_arm

    arm, options, setting = given_arm(given.arm, given.arms_from, given.spec)

    from emdefense.training.changed_adapter import change_adapter  # torch: after the command line is known to be right

    change_adapter(arm, options, setting, given.adapter, given.preparation, given.cell)


if __name__ == "__main__":
    run_warm(main)
