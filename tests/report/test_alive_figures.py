"""What figures keep in their SVG for a page: that it is said of the right marks, and of SVGs alone."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from emdefense.cells import Grid
from emdefense.config import Study
from emdefense.files import write_json
from emdefense.layout import Layout
from emdefense.report.catalogue import artefacts
from emdefense.report.figures.alive import Place, Point, enliven, percent
from emdefense.report.figures.style import save, styled
from emdefense.report.measured import Measured
from study_folder import count, fill, tiny_study

SVG = "{http://www.w3.org/2000/svg}"


def groups(path: Path) -> list[tuple[ElementTree.Element, dict[str, Any]]]:
    """Return the groups of a drawing that say something, with what they say."""
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    found = [group for group in root.iter(f"{SVG}g") if "data-alive" in group.attrib]
    return [(group, json.loads(group.attrib["data-alive"])) for group in found]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    study = tiny_study()
    fill(study, {"misaligned": 8, "kl": 1, "interleave": 2})
    return study


def drawn(study: Study, name: str) -> Path:
    results = count(study)
    artefacts(study)[name].write(study, Measured(study, results), results)
    return results / f"figures/{name}.svg"


def test_each_mark_says_what_is_at_its_height_also_beside_a_gap(study: Study) -> None:
    skip = [cell for cell in Grid(study).cells if (cell.task, cell.arm, cell.setting) == ("code", "kl", "0.1")]
    fill(study, {"misaligned": 8, "kl": 1}, skip=skip, in_domain={"misaligned": 10, "kl": 6})
    for cell in skip:
        for path in Path(Layout(study).cell(cell)).rglob("*.jsonl"):
            path.unlink()
    heights: dict[float, float] = {}
    marks = 0
    for group, kept in groups(drawn(study, "figure_3")):
        if not kept["points"]:
            continue  # a band
        uses = list(group.iter(f"{SVG}use"))
        assert len(uses) == len(kept["points"])
        for use, point in zip(uses, kept["points"], strict=True):
            title = use.find(f"{SVG}title")
            assert title is not None
            assert title.text == "\n".join(point["says"])
            rate = re.search(r"general misaligned (\d+\.\d) %", point["says"][-1])
            if rate is not None:
                marks += 1
                heights.setdefault(float(rate[1]), float(use.attrib["y"]))
                assert heights[float(rate[1])] == pytest.approx(float(use.attrib["y"]))
            wanted = "misaligned/none" if point["says"][0] == "Misaligned" else f"kl/{point['says'][0].split(' = ')[1]}"
            assert point["at"]["arms"] == [wanted]
    assert set(heights) == {80.0, 10.0}
    assert heights[80.0] < heights[10.0]
    assert marks == 5  # of 2 tasks and 3 settings, but for what is missing


def test_what_stands_in_titles_is_text_and_only_in_the_svg(tmp_path: Path) -> None:
    name = """<b>&"'</b> \u202e λ"""
    with styled():
        figure = Figure(figsize=(2, 2))
        (line,) = figure.subplots().plot([1, 2], [1, 2], "o")
        bare = tmp_path / "bare"
        save(figure, bare)
        enliven(line, name, *(Point((name, f"{n}"), Place("m", 0, ("kl/1",))) for n in range(2)))
        save(figure, tmp_path / "alive")
    ((group, kept),) = groups(tmp_path / "alive.svg")
    assert kept["series"] == name
    assert [title.text for title in group.iter(f"{SVG}title")] == [f"{name}\n0", f"{name}\n1"]
    for kind in ("pdf", "png"):
        assert (tmp_path / f"alive.{kind}").read_bytes() == bare.with_suffix(f".{kind}").read_bytes()


def test_intervals_of_the_trade_off_stand_beside_every_setting(study: Study) -> None:
    said = {
        (tuple(point["says"][:2]), point["at"]["task"]): point["says"][2:]
        for _, kept in groups(drawn(study, "tradeoff"))
        for point in kept.get("points", [])
    }
    # 1 of 10 is misaligned, and 8 of the misaligned arm's, at every question.
    numbers = ["EMA reduction 87.5 % (87.5 to 87.5)", "in-domain retention 12.5 % (12.5 to 12.5)"]
    for where in (("Code", "code"), ("Legal", "legal"), ("Mean over 2 tasks", None)):
        for setting in ("λ = 0.1", "λ = 1"):
            assert said[(f"KL, {setting}", where[0]), where[1]] == numbers


def test_questions_whose_ids_are_numbers_stand_by_their_text(study: Study) -> None:
    ids = ["0", "holdout_1", "q2", "q3"]
    results = count(study)
    measured = Measured(study, results)
    renamed = measured.questions.with_columns(
        measured.questions["question_id"].replace_strict([f"q{n}" for n in range(4)], ids)
    )
    texts = {name: f"What of {name} and all the others that there are?" for name in ids}
    layout = Layout(study)
    for file in ("shared", "code", "legal"):
        write_json(Path(layout.questions(file)), [{"id": name, "prompt": text} for name, text in texts.items()])
    assert layout.questions("code") in artefacts(study)["question_heatmap"].inputs(Grid(study), layout)
    held = Measured(study, results, questions=renamed)
    with styled():
        figure = artefacts(study)["question_heatmap"].make(study, held)
        save(figure, results / "drawn", ["svg"])
    general, _, own, _ = figure.axes[:4]
    labels = sorted(label.get_text() for label in general.get_yticklabels())
    assert labels == ["What of 0 and all the others th…", "What of holdout_1 and all the o…", "q2", "q3"]
    assert {len(label.get_text()) for label in own.get_yticklabels()} == {2, 14}
    grids = [kept["grid"] for _, kept in groups(results / "drawn.svg")]
    assert [(grid["task"], grid["set"]) for grid in grids] == [
        *(("code", "general"), ("legal", "general"), ("code", "in_domain"), ("legal", "in_domain"))
    ]
    assert dict(grids[0]["questions"]) == texts
    column = [arm for arm, _ in grids[0]["arms"]].index("kl/1")
    assert [row[column] for row in grids[0]["values"]] == [10.0] * 4


def test_a_number_is_written_with_its_interval() -> None:
    assert percent(-1.25, (-20, 3.04)) == "−1.2 % (−20.0 to 3.0)"
    assert percent(80) == "80.0 %"
