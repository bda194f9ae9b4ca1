import re
import subprocess
import sys
from pathlib import Path

import pytest

from emdefense.analysis.aggregate import aggregate
from emdefense.analysis.paper import paper_study, paper_summary
from emdefense.analysis.summary import no_summary, read_summary
from emdefense.errors import InputError
from emdefense.report.figures import DRAWINGS, NAMES, draw, write_figure
from emdefense.report.style import FORMATS, LINES, styled
from study_folder import fill, tiny_study

SCRIPTS = Path(__file__).parents[1] / "workflow/scripts"


def test_the_same_bytes_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_figure("3", paper_study(), paper_summary(), tmp_path / "first")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    # Another process, so that nothing kept in memory makes them equal.
    code = (
        "from pathlib import Path; from emdefense.analysis.paper import paper_study, paper_summary; "
        "from emdefense.report.figures import write_figure; "
        "write_figure('3', paper_study(), paper_summary(), Path('second'))"
    )
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    for kind in FORMATS:
        first, second = (tmp_path / run / f"figure_3.{kind}" for run in ("first", "second"))
        assert first.read_bytes() == second.read_bytes(), kind


@pytest.mark.parametrize(("name", "panels"), [("2a", 1), ("2b", 1), ("3", 2), ("4", 2), ("5", 2)])
def test_lines_follow_the_papers_numbers(name: str, panels: int) -> None:
    with styled():
        figure = draw(DRAWINGS[name], paper_study(), paper_summary())
    assert len(figure.axes) == panels
    assert all(len(axes.lines) == 4 for axes in figure.axes)  # a line a task
    labels = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    spaced = [float(label) for label in labels]
    assert spaced == sorted(spaced)
    assert labels[0] == "0"
    assert list(figure.axes[0].lines[0].get_xdata()) == list(range(len(labels)))  # evenly spaced


def test_figures_2a_2b_and_5_show_the_values_of_tables_10_and_11() -> None:
    with styled():
        drawn = {name: draw(DRAWINGS[name], paper_study(), paper_summary()) for name in ("2a", "2b", "5")}
    assert list(drawn["2a"].axes[0].lines[3].get_ydata()) == [26.25, 13.92, 1.38, 0.62, 0.38]
    assert list(drawn["2b"].axes[0].lines[3].get_ydata()) == [19.38, 13.84, 26.05, 32.38, 29.79]
    assert list(drawn["5"].axes[1].lines[0].get_ydata()) == [51.60, 50.05, 54.87, 33.73, 26.58, 22.33]


def test_lines_differ_in_more_than_colour() -> None:
    assert len({style.marker for style in LINES}) == len({style.color for style in LINES}) == len(LINES)
    assert len({str(style.linestyle) for style in LINES}) == len(LINES)


def test_measured_rates_get_bands_and_gaps_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = tiny_study()
    fill(study, {"misaligned": 8, "kl": 2})
    aggregate(study, Path("r.parquet"), Path("e.parquet"))
    with styled():
        figure = draw(DRAWINGS["3"], study, read_summary(Path("r.parquet")))
        empty = draw(DRAWINGS["3"], study, no_summary())
    assert list(figure.axes[0].lines[0].get_ydata()) == pytest.approx([80, 20, 20])
    assert "not measured" in empty.axes[0].texts[0].get_text()


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_written_with_fonts_embedded(tmp_path: Path, name: str) -> None:
    write_figure(name, paper_study(), paper_summary(), tmp_path)
    pdf = (tmp_path / f"figure_{name}.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/CreationDate" not in pdf
    svg = (tmp_path / f"figure_{name}.svg").read_text()
    assert not re.search(r"<text\b", svg)  # glyphs are paths
    assert (tmp_path / f"figure_{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_name_that_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2a, 2b, 3, 4, 5"):
        write_figure("9", paper_study(), paper_summary(), tmp_path)
