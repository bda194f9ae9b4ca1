"""Figures 2a-5: what they show, how they look, and the same bytes every time."""

import re
import subprocess
import sys
from itertools import combinations
from math import isnan
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from emdefense.analysis.conditions import Condition
from emdefense.analysis.paper import paper_exact_match, paper_rates, paper_study, paper_summary
from emdefense.analysis.summary import Summary, no_summary
from emdefense.config import Study
from emdefense.report.catalogue import artefacts
from emdefense.report.figures.style import (
    COLUMN,
    FORMATS,
    LINES,
    SEQUENTIAL,
    arm_styles,
    legend_above,
    line_styles,
    styled,
)
from emdefense.report.measured import Measured
from study_folder import tiny_study

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"
FIGURES = {
    name.removeprefix("figure_"): one
    for name, one in artefacts(paper_study()).items()
    if one.kind == "figure" and one.of_paper
}
VARIANTS = {
    "flat": {"of": "ldifs", "options": {"detached": True}},
    "other": {"of": "ldifs", "options": {"normalisation": "mean_square"}},
    "absent": {"of": "ldifs"},
}
# Machado et al. 2009, Table 1, severity 1: what the colour-blind see of linear RGB.
BLINDNESS = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
}


def drawn(name: str, study: Study, summary: Summary) -> Figure:
    with styled():
        found = artefacts(study)[f"figure_{name}"].make(study, Measured(study, summary=summary))
        assert isinstance(found, Figure)
        return found


def summary_with_bands(lacking: tuple[str, str] | None = None) -> Summary:
    """The paper's rates with bounds a tenth below and two tenths above, without one arm's setting."""
    bounds = [
        (pl.col(f"{outcome}_pct") * factor).alias(f"{outcome}_pooled_{end}")
        for outcome in ("misaligned", "incoherent")
        for end, factor in (("low", 0.9), ("high", 1.2))
    ]
    rates = paper_rates().with_columns(bounds)
    if lacking is not None:
        rates = rates.filter((pl.col("arm") != lacking[0]) | (pl.col("setting") != lacking[1]))
    return Summary(rates, paper_exact_match())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all figures of the paper's numbers."""
    folder = tmp_path_factory.mktemp("figures")
    measured = Measured(paper_study(), summary=paper_summary())
    for figure in FIGURES.values():
        figure.write(paper_study(), measured, folder)
    return folder / "figures"


def test_the_same_bytes_every_time(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    # Another process, so that nothing kept in memory makes them equal.
    code = (
        "from pathlib import Path; from emdefense.analysis.paper import paper_study, paper_summary; "
        "from emdefense.report.catalogue import artefacts; from emdefense.report.measured import Measured; "
        "study = paper_study(); measured = Measured(study, summary=paper_summary()); "
        "[one.write(study, measured, Path()) for one in artefacts(study).values() if one.name.startswith('figure')]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    files = sorted(path.name for path in written.iterdir())
    assert files == sorted(f"figure_{name}.{kind}" for name in FIGURES for kind in FORMATS)
    for file in files:
        assert (written / file).read_bytes() == (tmp_path / "figures" / file).read_bytes(), file


@pytest.mark.parametrize("name", FIGURES)
def test_lines_and_bands_are_the_summary(name: str) -> None:
    study, summary = paper_study(), summary_with_bands()
    figure, drawing = drawn(name, study, summary), FIGURES[name].given
    assert figure.get_size_inches()[0] == COLUMN
    assert len(figure.axes) == len(drawing["metrics"]) == (1 if name.startswith("2") else 2)
    settings = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    values = [float(setting) for setting in settings]
    assert values == sorted(values)
    assert settings[0] == "0"
    tasks = ("code", "legal", "medical", "security")
    for axes, metric in zip(figure.axes, drawing["metrics"], strict=True):
        bands = [set(map(tuple, band.get_paths()[0].vertices)) for band in axes.collections[::2]]
        for task, line, band in zip(tasks, axes.lines, bands, strict=True):
            assert line.get_label() == study.tasks[task].title
            assert list(line.get_xdata()) == list(range(len(settings)))  # evenly spaced
            for place, setting in enumerate(settings):
                arm = ("misaligned",) if setting == "0" else (drawing["arm"], setting)
                estimate = summary.estimate(Condition("qwen2.5-7b", task, *arm), metric)
                assert estimate is not None
                assert line.get_ydata()[place] == estimate.value
                assert estimate.cluster is not None
                assert {(place, estimate.cluster[0]), (place, estimate.cluster[1])} <= band


def test_figures_2a_2b_and_5_show_the_values_of_tables_10_and_11() -> None:
    figures = {name: drawn(name, paper_study(), paper_summary()) for name in ("2a", "2b", "5")}
    assert list(figures["2a"].axes[0].lines[3].get_ydata()) == [26.25, 13.92, 1.38, 0.62, 0.38]
    assert list(figures["2b"].axes[0].lines[3].get_ydata()) == [19.38, 13.84, 26.05, 32.38, 29.79]
    assert list(figures["5"].axes[1].lines[0].get_ydata()) == [51.60, 50.05, 54.87, 33.73, 26.58, 22.33]


def test_the_papers_lines_do_what_the_paper_says_of_them() -> None:
    """More interleaving, KL and SafeLoRA end EMA, LDIFS does not; KL and SafeLoRA also end what was to be learned."""
    lines = {
        name: [[line.get_ydata() for line in axes.lines] for axes in drawn(name, paper_study(), paper_summary()).axes]
        for name in FIGURES
    }
    for name in ("2a", "3", "5"):
        assert all(line[-1] < 0.15 * line[0] for line in lines[name][0]), name
    assert all(line[-1] > 0.9 * line[0] for panel in lines["4"] for line in panel)
    for name in ("3", "5"):
        assert all(line[-1] < 0.5 * line[0] for line in lines[name][1]), name
    assert sum(line[-1] > line[0] for line in lines["2b"][0]) >= 1  # incoherence can rise


def test_lines_and_bands_break_where_nothing_was_measured() -> None:
    figure = drawn("3", paper_study(), summary_with_bands(lacking=("kl", "0.03")))
    axes = figure.axes[0]
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()][:4] == ["0", "0.01", "0.03", "0.1"]
    assert [isnan(value) for value in axes.lines[0].get_ydata()] == [False, False, True, False, False, False]
    assert len(axes.collections[0].get_paths()) == 2
    assert len(axes.collections[1].get_paths()) == 0
    alone = drawn("3", paper_study(), summary_with_bands(lacking=("kl", "0.01"))).axes[0]
    (bar,) = alone.collections[1].get_segments()  # the misaligned arm has no neighbour
    assert bar.tolist() == [[0, pytest.approx(0.9 * 4.01)], [0, pytest.approx(1.2 * 4.01)]]


def test_a_study_without_measurements_says_so() -> None:
    figure = drawn("3", tiny_study(), no_summary())
    assert "not measured" in figure.axes[0].texts[0].get_text()


def test_a_column_for_each_variant_of_the_arm_with_several_settings() -> None:
    config = paper_study().model_dump()
    config["variants"] = VARIANTS
    config["grid"][0]["arms"] |= {"other": (0.03, 3.0), "flat": (1.0, 3.0)}
    study = Study.model_validate(config)
    rates = paper_rates()
    more = [rates.filter(arm="ldifs", setting="0.03").with_columns(arm=pl.lit("other"), misaligned_pct=pl.lit(7.0))]
    more += [rates.filter(arm="ldifs", setting="1").with_columns(arm=pl.lit("flat"), misaligned_pct=pl.lit(8.0))]
    figure = drawn("4", study, Summary(pl.concat([rates, *more]), paper_exact_match()))
    assert [axes.get_title() for axes in figure.axes] == ["LDIFS", "flat", "other", "", "", ""]
    labels = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert labels == ["0", "0.01", "0.03", "0.1", "0.3", "1", "3"]
    code = [axes.lines[0].get_ydata() for axes in figure.axes[:3]]
    assert code[0][labels.index("1")] == 3.64
    assert [place for place, value in enumerate(code[1]) if not isnan(value)] == [0, labels.index("1")]
    assert code[2][labels.index("0.03")] == 7
    assert len(drawn("3", study, paper_summary()).axes) == 2
    config["grid"][0]["arms"]["flat"] = (1.0,)
    figure = drawn("4", Study.model_validate(config), Summary(pl.concat([rates, *more]), paper_exact_match()))
    assert [axes.get_title() for axes in figure.axes] == ["LDIFS", "other", "", ""]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_written_with_its_fonts_in_it(written: Path, name: str) -> None:
    pdf = (written / f"figure_{name}.pdf").read_bytes()
    described = re.findall(rb"/Type /FontDescriptor.*?>>", pdf, flags=re.DOTALL)
    assert described
    assert all(b"/FontFile2" in font for font in described)
    assert b"/Type3" not in pdf
    assert b"/CreationDate" not in pdf
    svg = (written / f"figure_{name}.svg").read_text()
    assert not re.search(r"<text\b", svg)  # glyphs are paths
    assert (written / f"figure_{name}.png").read_bytes().startswith(b"\x89PNG")


def test_lines_differ_in_more_than_colour() -> None:
    assert len({style.marker for style in LINES}) == len({style.color for style in LINES}) == len(LINES)
    assert len({str(style.linestyle) for style in LINES}) == len(LINES)
    assert line_styles(len(LINES) + 1)[-1] == LINES[0]


def lab(colours: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of linear RGB in rows."""
    xyz = colours @ np.array([(0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)]).T
    x, y, z = np.cbrt(xyz / (0.9505, 1, 1.089)).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def linear(colours: list[str]) -> np.ndarray:
    rgb = np.array([to_rgb(colour) for colour in colours])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_the_colours_of_the_papers_four_lines_stay_apart_for_the_colour_blind(blindness: str) -> None:
    seen = lab(np.clip(linear([style.color for style in LINES[:4]]) @ np.array(BLINDNESS[blindness]).T, 0, 1))
    assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 15


def test_the_sequential_colours_darken_all_the_way() -> None:
    from matplotlib import colormaps

    lightness = lab(linear(list(map(tuple, colormaps[SEQUENTIAL](np.linspace(0, 1, 50))[:, :3]))))[:, 0]
    assert (np.diff(lightness) < 0).all()


def test_an_arm_looks_the_same_in_every_study() -> None:
    here, there = arm_styles(paper_study()), arm_styles(tiny_study(variants=VARIANTS))
    assert here["kl"] == there["kl"]
    assert len({there[arm] for arm in ("kl", "misaligned", "interleave", *VARIANTS)}) == 6


def test_a_legend_takes_as_few_rows_as_fit() -> None:
    def columns(titles: list[str]) -> int:
        with styled():
            figure = Figure(figsize=(COLUMN, 2))
            (line,) = figure.subplots().plot([0, 1])
            legend_above(figure, [line] * len(titles), titles)
            assert len(figure.legends) == 1
            assert figure.legends[0].get_window_extent().width <= figure.bbox.width
            return int(figure.legends[0]._ncols)

    assert columns(["Code", "Legal", "Medical", "Security"]) == 4
    assert columns(["Insecure code", "Wrong legal advice", "Bad medical advice", "Insecure systems"]) == 2
