"""A run of Snakemake in a terminal: bars that are redrawn, above them failures and warnings, below them the end.

It is told by the records that Snakemake logs; what they hold is Snakemake 9's.
"""

import atexit
import logging
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from emdefense.errors import shown
from emdefense.planning.failed_jobs import log_lines
from emdefense.planning.job import STAGES, stage_of
from emdefense.progress.bars import bars
from emdefense.progress.stages import Stages
from emdefense.progress.terminal import AT_THE_END

# What Snakemake says without an event: what follows from the bars, and what a person wants to know even beside them.
_NOISE = (
    *("Building DAG", "Assuming unrestricted", "Using shell", "Conda environments", "Group jobs", "Select jobs"),
    *("Touching output", "Shutting down", "Removing ", "Trying to restart", "Job ", "Would remove", "Storing "),
)
_WANTED = ("SLURM run ID",)
_INTERRUPTED = "Terminating processes on user request"
_LOG = "Complete log(s): "
# Said by the failures' lines.
_SAID = ("Exiting because", "RuleException:\nCalledProcessError", "WorkflowError:\nAt least one job did not complete")


class RunDisplay:
    """What a person sees of a run. Records come from one thread; the bars are redrawn by another."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True, highlight=False)
        self._stages = Stages({}, STAGES)
        self._live: Live | None = None
        self._at_the_end: list[Text] = []
        self._titles: dict[int, str] = {}  # of jobs, by id
        self._is_interrupted = False

    def show(self, record: logging.LogRecord) -> None:
        """Take in what Snakemake logs."""
        event = str(getattr(record, "event", None) or "")
        known = getattr(self, f"_on_{event}", None)
        if known is not None:
            known(record)
        elif not event or event == "error":
            self._say(record)

    def close(self) -> None:
        """Let the bars stand as they are, give the terminal back, and say what is for the end."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._is_interrupted:
            self._at_the_end.append(Text("The same command goes on from here: what is finished is kept."))
        elif failed := self._stages.failed:
            jobs = "A job" if failed == 1 else f"{failed} jobs"
            self._at_the_end.append(Text(f"{jobs} failed: the same command runs what is missing.", "red"))
        for text in self._at_the_end:
            self._print(text)
        self._at_the_end.clear()
        self._stages, self._is_interrupted = Stages({}, STAGES), False  # said once

    def _on_run_info(self, record: Any) -> None:
        jobs: Counter[str] = Counter()
        for rule, count in record.stats.items():
            if rule != "total":
                jobs[stage_of(rule)] += count
        self._stages = Stages(jobs, STAGES)

    def _on_job_info(self, record: Any) -> None:
        if self._live is None:
            self._live = Live(get_renderable=self._bars, console=self.console, refresh_per_second=4)
            atexit.register(self.close)  # whatever else goes wrong, the cursor comes back
            self._live.start()
        name = " ".join(map(str, record.wildcards.values())) or record.rule_msg or record.rule_name
        self._titles[record.jobid] = shown(record.rule_msg or f"{record.rule_name} {name}")
        self._stages.start(record.jobid, stage_of(record.rule_name), shown(name), time.monotonic())

    def _on_job_finished(self, record: Any) -> None:
        self._stages.finish(record.job_id, time.monotonic())

    def _on_job_error(self, record: Any) -> None:
        if self._is_interrupted:
            self._stages.stop(record.jobid, time.monotonic())
            return
        if self._stages.fail(record.jobid, time.monotonic()) is None:  # said before
            return
        logs = [str(path) for path in record.log or []]
        lines = [line for path in logs[:1] for line in log_lines(Path(path))]
        why = f": {shown(lines[-1])}" if lines else ""
        where = f" ({', '.join(map(shown, logs))})" if logs else ""
        self._print(Text(f"failed: {self._titles[record.jobid]}{why}{where}", "red"))

    def _say(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip() if record.msg else ""
        if not text or text.startswith(_SAID):
            return
        if text.startswith(_INTERRUPTED):
            self._is_interrupted = True
            self._print(Text("Interrupted: waiting for what runs to stop ..."))
        elif getattr(record, AT_THE_END, False):
            self._at_the_end.append(Text(f"\n{text}\n"))
        elif text.startswith(_LOG):
            self._at_the_end.append(Text(f"Full log: {_relative(text.removeprefix(_LOG))}", "dim"))
        elif record.levelno >= logging.WARNING:
            self._print(Text(text, "red" if record.levelno >= logging.ERROR else "yellow"))
        elif text.startswith(_WANTED) or (self._live is None and not text.startswith(_NOISE)):
            self._print(Text(text))

    def _print(self, text: Text) -> None:
        self.console.print(text, soft_wrap=True)

    def _bars(self) -> Table:
        return bars(self._stages, time.monotonic(), self.console.height)


def _relative(path: str) -> str:
    """Return a path from here, if it is below."""
    with suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path
