"""Whether the partitions that jobs ask for exist."""

import subprocess
from collections.abc import Iterable

from emdefense.errors import InputError


def check_partitions(asked: Iterable[str | None]) -> None:
    """Raise :class:`InputError` for the first of these comma-separated partitions that Slurm does not have."""
    try:
        listed = subprocess.run(["sinfo", "--noheader", "--format=%R"], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise InputError(
            "there is no `sinfo` here; start Snakemake on a machine from which jobs are submitted"
        ) from None
    except subprocess.CalledProcessError as error:
        raise InputError(f"`sinfo` fails ({' '.join(error.stderr.split())}); is Slurm running?") from None
    there = listed.stdout.split()
    for partition in sorted({name for names in asked if names for name in names.split(",")}):
        if partition not in there:
            raise InputError(
                f"there is no partition '{partition}', only {', '.join(there)}; correct gpus.yaml or config.yaml in "
                "profiles/slurm"
            )
