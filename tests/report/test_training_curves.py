"""Training curves: drawn from the log's numbers, the same bytes every time, and without torch."""

import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from emdefense.cells import Cell, Grid
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.layout import Layout
from emdefense.report.catalogue import artefacts
from emdefense.report.figures.style import arm_styles, styled
from emdefense.report.figures.training_curves import (
    draw_cell,
    draw_training_curves,
    write_cell_curves,
)
from emdefense.report.figures.training_log import Curve, TrainingLog, mean_curve
from emdefense.report.measured import Measured
from study_folder import tiny_study, write_rows

SCRIPT = Path(__file__).parents[2] / "workflow/scripts/cell_curves.py"
STEPS = 45


def log_path(study: Study, cell: Cell) -> Path:
    return Path(Layout(study).cell(cell)) / "train_log.jsonl"


def write_log(study: Study, cell: Cell, every: int = 10, drift: float = 0.3) -> TrainingLog:
    """A log as a training writes it; its KL ends at ``drift``."""
    penalised = cell.arm in {"kl", "ldifs"}
    rows = []
    for step in range(1, STEPS + 1):
        measured = every and (step % every == 0 or step in (1, STEPS))
        rows.append(
            {
                "step": step,
                "epoch": step / STEPS,
                "ce": 1 + math.exp(-step / 10) + 0.1 * (step % 2),
                "penalty": 0.02 * (step - 1) if penalised else 0.0,
                "loss": 2.0,
                "learning_rate": 1e-4,
                "grad_norm": 3.0 + step % 3,
                "grad_norm_ce": 2.0 if measured else None,
                "grad_norm_penalty": (0.1 * (step - 1) if penalised else 0.0) if measured else None,
                "kl": drift * (step - 1) / (STEPS - 1) if measured else None,
            }
        )
    write_rows(log_path(study, cell), rows)
    return TrainingLog(log_path(study, cell))


def write_logs(study: Study, drift: Callable[[Cell], float] = lambda cell: 0.3) -> None:
    for cell in Grid(study).trained:
        write_log(study, cell, drift=drift(cell))


def test_a_cells_figure_shows_its_log(in_tmp: Path) -> None:
    study, cell = tiny_study(), Cell("small", "code", "kl", "1", 0)
    with styled():
        figure = draw_cell(study, cell, write_log(study, cell))
    ce, kl, penalty, norms = figure.axes
    assert list(ce.lines[0].get_xdata()) == list(range(1, STEPS + 1))
    assert ce.lines[0].get_ydata()[0] == pytest.approx(1.1 + math.exp(-0.1))
    assert list(kl.lines[0].get_xdata()) == [1, 10, 20, 30, 40, 45]
    assert kl.lines[0].get_ydata()[-1] == pytest.approx(0.3)
    assert penalty.lines[0].get_ydata()[-1] == pytest.approx(0.02 * 44)
    assert norms.get_yscale() == "log"
    figure.draw_without_rendering()
    assert "10" in [label.get_text() for label in norms.get_yticklabels()]
    shown = {line.get_label(): list(line.get_xdata()) for line in norms.lines}
    assert shown["CE"] == [1, 10, 20, 30, 40, 45]
    assert shown["λ · penalty"] == [10, 20, 30, 40, 45]  # 0 at the first step
    assert figure.texts[0].get_text() == "Small, Code\nKL, λ = 1"


def test_without_penalty_there_is_no_panel_for_it(in_tmp: Path) -> None:
    study, cell = tiny_study(), Cell("small", "quiz", "sft", "none", 0)
    with styled():
        figure = draw_cell(study, cell, write_log(study, cell))
    assert len(figure.axes) == 3
    assert len(figure.axes[-1].lines) == 1  # the gradient is the cross-entropy's
    figure.draw_without_rendering()
    shown = {label.get_text() for label in figure.axes[-1].get_yticklabels(which="minor")}
    assert "5" in shown  # between 3 and 5 there is no power of ten
    assert figure.texts[0].get_text() == "Small, Quiz\nSFT"


def test_what_was_not_measured_is_said(in_tmp: Path) -> None:
    study, cell = tiny_study(), Cell("small", "code", "kl", "1", 0)
    with styled():
        figure = draw_cell(study, cell, write_log(study, cell, every=0))
    assert "diagnostics_every" in figure.axes[1].texts[0].get_text()


def test_the_overview_has_a_panel_a_task_and_a_line_a_trained_arm_at_its_chosen_setting(in_tmp: Path) -> None:
    study = tiny_study()
    drifts = {"misaligned": 0.5, "kl": 0.1, "interleave": 0.4}
    write_logs(study, lambda cell: 9.0 if cell.setting == "0.1" else drifts.get(cell.arm, 9.0))
    with styled():
        figure = draw_training_curves(study, Measured(study).training_logs)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["Code", "Legal", "", ""]
    for axes in figure.axes[:2]:
        ends = {line.get_label(): line.get_ydata()[-1] for line in axes.lines}
        assert ends == pytest.approx({"Misaligned": 0.5, "KL, λ = 1": 0.1, "Interleaving, 5 %": 0.4})


def test_arms_stand_in_reading_order_and_look_as_in_other_figures(in_tmp: Path) -> None:
    arms = {"interleave": [5], "slow": [1.0], "kl": [1.0], "misaligned": None}  # a variant has the chosen λ of KL
    grid = [{"models": ["small"], "tasks": ["code"], "arms": arms}]
    study = tiny_study(grid=grid, variants={"slow": {"of": "kl"}})
    write_logs(study)
    with styled():
        figure = draw_training_curves(study, Measured(study).training_logs)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["Misaligned", "KL, λ = 1", "slow, λ = 1", "Interleaving, 5 %"]
    colours = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
    assert colours["KL, λ = 1"] == arm_styles(study)["kl"].color
    assert len(set(colours.values())) == 4


def test_seeds_are_averaged(in_tmp: Path) -> None:
    study = tiny_study(seeds=[0, 1])
    write_logs(study, lambda cell: 0.2 if cell.seed == 0 else 0.4)
    with styled():
        figure = draw_training_curves(study, Measured(study).training_logs)
        alone = draw_cell(
            study, Cell("small", "code", "kl", "1", 1), TrainingLog(log_path(study, Grid(study).trained[0]))
        )
    assert figure.axes[0].lines[0].get_ydata()[-1] == pytest.approx(0.3)
    assert "mean over 2 seeds" in artefacts(study)["training_curves"].caption
    assert alone.texts[0].get_text().endswith("KL, λ = 1, seed 1")


def test_a_study_without_trainings_says_so(in_tmp: Path) -> None:
    with styled():
        figure = draw_training_curves(tiny_study(), {})
    assert "not measured" in figure.axes[0].texts[0].get_text()


def test_the_script_draws_the_same_bytes_without_torch(in_tmp: Path) -> None:
    study = tiny_study()
    write_logs(study)
    Path("study.json").write_text(study.model_dump_json())
    code = (
        f"import runpy, sys; sys.argv = [{str(SCRIPT)!r}, '--config', 'study.json'];"
        f"sys.path.insert(0, {str(SCRIPT.parent)!r});"
        "runpy.run_path(sys.argv[0], run_name='__main__'); assert 'torch' not in sys.modules"
    )
    written = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], check=True)
        written.append([path.read_bytes() for path in sorted(Path("results").rglob("training.*"))])
    assert written[0] == written[1]
    assert len(written[0]) == len(Grid(study).trained)
    svg = log_path(study, Grid(study).trained[0]).with_name("training.svg").read_text()
    assert not re.search(r"<text\b", svg)


def test_other_formats_on_request(in_tmp: Path) -> None:
    study = tiny_study()
    write_logs(study)
    write_cell_curves(study, ["pdf"])
    artefacts(study)["training_curves"].write(study, Measured(study), Path())
    assert all(b"/FontFile2" in path.read_bytes() for path in Path().rglob("*.pdf"))
    assert len(list(Path("results").rglob("training.pdf"))) == len(Grid(study).trained)


def test_a_running_mean_is_over_a_twentieth_of_the_steps() -> None:
    curve = Curve(list(range(1, 81)), [float(step % 2) for step in range(80)])
    smooth = curve.smoothed().values
    assert smooth[40] == pytest.approx((0 + 1 + 0 + 1 + 0) / 5)
    assert smooth[0] == pytest.approx(1 / 3)  # half a window at the end
    assert Curve([1, 2], [4.0, 5.0]).smoothed().values == [4.0, 5.0]


def test_a_leftover_last_step_is_left_out_of_the_overview() -> None:
    assert Curve([1, 10, 20, 21], [0.0, 1.0, 2.0, 9.0]).regular() == Curve([1, 10, 20], [0.0, 1.0, 2.0])
    assert Curve([1, 10, 20, 26], [0.0, 1.0, 2.0, 3.0]).regular().steps == [1, 10, 20, 26]
    assert Curve([1, 2], [0.0, 1.0]).regular().steps == [1, 2]


def test_a_mean_is_over_the_steps_that_all_have() -> None:
    mean = mean_curve([Curve([1, 10, 19], [0.0, 2.0, 3.0]), Curve([1, 10, 20], [1.0, 4.0, 5.0])])
    assert mean == Curve([1, 10], [0.5, 3.0])


@pytest.mark.parametrize("content", ["", '{"ce": 1.0}\n', '{"step": 2}\n{"step": 2}\n'])
def test_a_file_that_is_no_log_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "train_log.jsonl").write_text(content)
    with pytest.raises(InputError, match=r"train_log.jsonl: not a training log"):
        TrainingLog(tmp_path / "train_log.jsonl")
