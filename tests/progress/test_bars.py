"""What is done, what runs and what is left, with a clock of the test's own."""

import pytest
from rich.console import Console

from emdefense.progress.bars import bars, duration
from emdefense.progress.stages import Stages

NAMES = ("data", "training", "judging")


def shown(stages: Stages, now: float, height: int = 40) -> list[str]:
    console = Console(width=100, file=None, record=True, force_terminal=False)
    with console.capture() as captured:
        console.print(bars(stages, now, height))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_a_stage_takes_as_long_as_its_jobs_took_until_now() -> None:
    stages = Stages({"training": 4}, NAMES)
    assert stages.stage_left("training", 0.0) is None, "nothing is known before a job is done"
    stages.start(1, "training", "a", 0.0)
    stages.finish(1, 10.0)
    assert stages.stage_left("training", 10.0) == 30.0
    stages.start(2, "training", "b", 10.0)
    assert stages.stage_left("training", 14.0) == 26.0
    assert stages.stage_left("training", 40.0) == 20.0, "a job that takes longer than others is as good as done"


def test_jobs_at_a_time_share_what_is_left() -> None:
    stages = Stages({"training": 4}, NAMES)
    for job in (1, 2):
        stages.start(job, "training", "a", 0.0)
    for job in (1, 2):
        stages.finish(job, 10.0)
    assert stages.stage_left("training", 10.0) == 10.0
    assert stages.left(10.0) == (10.0, True)


def test_the_whole_is_more_while_a_stage_has_no_job_done() -> None:
    stages = Stages({"training": 2, "judging": 3}, NAMES)
    stages.start(1, "training", "a", 0.0)
    stages.finish(1, 5.0)
    assert stages.left(5.0) == (5.0, False)
    stages.start(2, "judging", "a", 5.0)
    stages.finish(2, 6.0)
    seconds, whole = stages.left(6.0)
    assert whole
    assert seconds == pytest.approx(5 + 2 * 1)


def test_a_failed_job_is_counted_until_it_is_tried_again() -> None:
    stages = Stages({"training": 2}, NAMES)
    stages.start(7, "training", "a", 0.0)
    failed = stages.fail(7, 1.0)
    assert failed is not None
    assert failed.name == "a"
    assert stages.fail(7, 1.0) is None, "it is said once"
    assert (stages.failed, stages.done) == (1, 0)
    stages.start(7, "training", "a", 2.0)
    stages.finish(7, 3.0)
    assert (stages.failed, stages.done) == (0, 1)


def test_an_interrupted_job_has_not_failed() -> None:
    stages = Stages({"training": 1}, NAMES)
    stages.start(7, "training", "a", 0.0)
    stages.stop(7, 1.0)
    assert stages.failed == 0
    assert not stages.stages["training"].running


def test_a_row_a_stage_with_what_runs() -> None:
    stages = Stages({"judging": 4, "data": 1, "sources": 0}, NAMES)
    stages.start(1, "data", "world", 0.0)
    stages.finish(1, 3.0)
    stages.start(2, "judging", "m/code/kl/1/seed0 general", 3.0)
    data, judging, whole = shown(stages, 10.0)
    assert data.startswith("data ")
    assert data.endswith("1/1               3 s")
    assert judging.startswith("judging ")
    assert judging.endswith("m/code/kl/1/seed0 general")
    assert "1/5" in whole
    stages.fail(2, 11.0)
    assert "1 failed" in shown(stages, 11.0)[1]


def test_what_is_done_makes_room_in_a_low_terminal() -> None:
    stages = Stages({"data": 1, "judging": 4}, NAMES)
    stages.start(1, "data", "world", 0.0)
    stages.finish(1, 3.0)
    assert [line.split()[0] for line in shown(stages, 5.0, height=4)] == ["judging", "all"]


def test_a_long_name_is_cut_and_never_wraps() -> None:
    stages = Stages({"judging": 1}, NAMES)
    stages.start(1, "judging", "x" * 300, 0.0)
    assert all(len(line) <= 100 for line in shown(stages, 1.0))
    assert len(shown(stages, 1.0)) == 2


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (599, "9 min 59 s"), (600, "10 min"), (7260, "2 h 1 min")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
