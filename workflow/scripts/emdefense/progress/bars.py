"""A run's stages as bars in a terminal."""

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from emdefense.progress.stages import Stage, Stages

BAR = 24  # characters
ALL = "all"


def bars(stages: Stages, now: float, height: int) -> Table:
    """Return a row a stage, and one of all jobs; stages that are done only if ``height`` lines suffice for them."""
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(width=BAR)
    grid.add_column(no_wrap=True, justify="right")
    grid.add_column(no_wrap=True, justify="right", min_width=17)
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    rows = stages.stages
    if len(rows) + 3 > height:
        rows = {name: stage for name, stage in rows.items() if not stage.is_done}
    for name, stage in rows.items():
        time = duration(stage.active) if stage.is_done else _left(stages.stage_left(name, now))
        grid.add_row(name, _bar(stage.done, stage.total), _count(stage.done, stage.total), time, _running(stage))
    seconds, whole = stages.left(now)
    time = (
        duration(stages.elapsed(now)) if stages.done >= stages.total else _left(seconds if stages.done else None, whole)
    )
    failed = f"{stages.failed} failed" if stages.failed else ""
    grid.add_row(
        Text(ALL, "bold"),
        _bar(stages.done, stages.total),
        _count(stages.done, stages.total),
        time,
        Text(failed, "red"),
    )
    return grid


def duration(seconds: float) -> str:
    """Return a duration in its largest unit, and the next one below ten of it."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 3600:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _left(seconds: float | None, whole: bool = True) -> str:
    """Return what is left in words, empty if nothing is known; ``whole`` is False if more comes of unknown length."""
    return f"{'~' if whole else '> '}{duration(seconds)} left" if seconds else ""


def _count(done: int, total: int) -> str:
    return f"{done}/{total}"


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=max(1, total), completed=done, width=BAR, complete_style="cyan", finished_style="green")


def _running(stage: Stage) -> Text:
    """Return what runs, and before it how many have failed."""
    failed = Text(f"{len(stage.failed)} failed  ", "red") if stage.failed else Text()
    return failed + Text(", ".join(job.name for job in stage.running.values()), "dim")
