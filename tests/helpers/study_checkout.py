"""A clean checkout of this repository in which a test runs Snakemake as a user would."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# How many jobs of each rule plan and status take to be left.
COUNT = """
import json, os
from collections import Counter
from emdefense.planning.command_line import study_parser
from emdefense.snakemake_dag import planned_study
os.chdir("../..")
named = study_parser(None).parse_args()
_, jobs = planned_study(named.configfile, named.config)
print(json.dumps(Counter(job.rule for job in jobs if job.needs_run)))
"""
ROOT = Path(__file__).resolve().parents[2]


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

    def use_environment(self) -> None:
        """Give it a .venv that is the tests' own, as if just made there."""
        environment = self.folder / ".venv"
        environment.mkdir()
        for part in ("bin", "lib"):
            (environment / part).symlink_to(Path(sys.prefix, part))
        (environment / "pyvenv.cfg").write_bytes(Path(sys.prefix, "pyvenv.cfg").read_bytes())
        (environment / "ready").touch()

    def typed(self, command: str, timeout: float = 1200) -> str:
        """Return what a command of the documents prints, typed in a shell with its environment; it must succeed."""
        # The arguments of a `make test` are not for the commands of the documents.
        environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS", "ARGS")}
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=environment | {"PATH": f"{self.folder / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

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
        """Return how many jobs of each rule a dry run plans; empty if there is nothing to do.

        For a study's default target, plan and status must say the same, and leave no trace.
        """
        shown = self.snakemake("--dry-run", *arguments)
        assert shown.returncode == 0, shown.stdout
        found = {}
        if "Nothing to be done" not in shown.stdout:
            stats = shown.stdout.split("Job stats:")[1].split("total")[0]
            found = {rule: int(count) for rule, count in re.findall(r"^(\w+)\s+(\d+)$", stats, flags=re.MULTILINE)}
        if {word for word in arguments if word.startswith("-")} <= {"--configfile", "--config"}:
            before = self.records()
            ours = subprocess.run(
                [sys.executable, "-c", COUNT, *arguments],
                cwd=self.folder / "workflow/scripts",
                capture_output=True,
                text=True,
                check=False,
            )
            assert ours.returncode == 0, ours.stderr
            assert json.loads(ours.stdout) == {rule: count for rule, count in found.items() if rule != "all"}
            assert self.records() == before
        return found

    def records(self) -> dict[str, int]:
        """Return everything in Snakemake's own folder, with the time of its last change."""
        return {str(path): path.lstat().st_mtime_ns for path in (self.folder / ".snakemake").rglob("*")}

    def csvs(self, study: str) -> dict[str, bytes]:
        """Return the content of every table of a study, by file name."""
        return {
            path.name: path.read_bytes() for path in sorted((self.folder / f"results/{study}/tables").glob("*.csv"))
        }
