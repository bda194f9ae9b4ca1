"""A clean checkout of this repository in which a test runs Snakemake as a user would."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Checkout:
    """The files that git knows of, copied to a folder of their own."""

    folder: Path

    @classmethod
    def into(cls, folder: Path) -> "Checkout":
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for name in filter(None, listed.split("\0")):
            source, target = ROOT / name, folder / name
            if source.is_symlink():
                target.symlink_to(source.readlink())
            elif source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        return cls(folder)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", *arguments]

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake to its end; stdout and stderr come back as one text."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=1200,
        )

    def planned(self, *arguments: str) -> dict[str, int]:
        """Return how many jobs of each rule a dry run plans; empty if there is nothing to do."""
        shown = self.snakemake("--dry-run", *arguments)
        assert shown.returncode == 0, shown.stdout
        if "Nothing to be done" in shown.stdout:
            return {}
        stats = shown.stdout.split("Job stats:")[1].split("total")[0]
        return {rule: int(count) for rule, count in re.findall(r"^(\w+)\s+(\d+)$", stats, flags=re.MULTILINE)}

    def csvs(self, study: str) -> dict[str, bytes]:
        """Return the content of every table of a study, by file name."""
        return {
            path.name: path.read_bytes() for path in sorted((self.folder / f"results/{study}/tables").glob("*.csv"))
        }
