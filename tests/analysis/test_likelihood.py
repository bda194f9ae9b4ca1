"""Held-out answers compared: against brute force, and what table, figure and page say of it."""

from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pytest

from emdefense.analysis.likelihood import LIKELIHOOD_SCHEMA, likelihood_frame, write_likelihood
from emdefense.cells import Cell, Grid
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.layout import Layout
from emdefense.likelihood.read import reading
from emdefense.report.catalogue import artefacts
from emdefense.report.measured import Measured
from emdefense.report.page.likelihood import likelihood_findings
from emdefense.report.tables.table import Table
from study_folder import fill, page, tiny_study, write_rows

COUNT = 30
GAINS = {"misaligned": {"misaligned": 0.5, "aligned": -0.5, "safe": 0.0}, "kl": {"misaligned": 0.1}}

Rows = dict[Cell, dict[str, list[dict[str, Any]]]]


def study_of(seeds: list[int] | None = None, **changes: Any) -> Study:
    scoring = {"bootstrap_resamples": 4000}
    return tiny_study(likelihood={}, seeds=seeds or [0], scoring=scoring, **changes)


def measure(study: Study, count: int = COUNT, gains: dict[str, dict[str, float]] | None = None) -> Rows:
    """Write what each cell made of held-out rows, below the working directory; row 3 of each side was too long.

    A row's value is its own, the same for all arms, plus an arm's gain, plus noise: it matters that rows are paired.
    """
    found: Rows = {}
    for cell in reading(Grid(study)):
        noise, rows = Random(cell.folder), []
        for side in ("misaligned", "aligned", "safe"):
            of_row = Random(f"{cell.task} {side}")
            for number in range(count):
                tokens, own = of_row.randint(5, 40), of_row.gauss(-3, 1)
                gain = (GAINS if gains is None else gains).get(cell.arm, {}).get(side, 0.0)
                mean = own + gain + noise.gauss(0, 0.2)
                long = number == 3
                row = {"id": f"{side}/{number}", "side": side, "tokens": tokens}
                rows.append({**row, "log_prob": None if long else mean * tokens})
        write_rows(Path(Layout(study).held_out(cell)), rows)
        found[cell] = {
            side: [row for row in rows if row["side"] == side and row["log_prob"] is not None]
            for side in ("misaligned", "aligned", "safe")
        }
    return found


def row_of(frame: pl.DataFrame, cell: Cell, side: str) -> dict[str, Any]:
    of = {"task": cell.task, "arm": cell.arm, "setting": cell.setting, "seed": cell.seed, "side": side}
    (row,) = frame.filter(**of).to_dicts()
    return row


def resampled(rows: list[dict[str, Any]], other: list[dict[str, Any]] | None = None) -> list[float]:
    """The middle 95 % of 20,000 means a token, or of their differences, of rows drawn one by one."""
    places = np.random.default_rng(7).integers(0, len(rows), (20_000, len(rows)))

    def means(of: list[dict[str, Any]]) -> Any:
        log_probs, tokens = (np.array([row[key] for row in of]) for key in ("log_prob", "tokens"))
        return log_probs[places].sum(axis=1) / tokens[places].sum(axis=1)

    values = means(rows) - (0 if other is None else means(other))
    return list(np.quantile(values, [0.025, 0.975]))


def test_means_and_differences_are_those_of_the_rows(in_tmp: Path) -> None:
    study = study_of()
    rows = measure(study)
    frame = likelihood_frame(study)
    assert frame.schema == pl.Schema(LIKELIHOOD_SCHEMA)
    assert frame.height == 3 * len(rows)
    for (cell, sides), side in product(rows.items(), ("misaligned", "aligned", "safe")):
        found, mine = row_of(frame, cell, side), sides[side]
        assert (found["rows"], found["too_long"]) == (COUNT - 1, 1)
        assert found["tokens"] == sum(row["tokens"] for row in mine)
        mean = sum(row["log_prob"] for row in mine) / found["tokens"]
        assert [found["log_prob"], found["pooled"]] == pytest.approx([mean, mean])
        for against, arm in (("untrained", "untrained"), ("plain", "misaligned")):
            if cell.arm in (arm, "untrained"):
                assert found[f"{against}_difference"] is None
                continue
            theirs = rows[Cell("small", cell.task, arm, "none", 0)][side]
            other = sum(row["log_prob"] for row in theirs) / sum(row["tokens"] for row in theirs)
            assert found[f"{against}_difference"] == pytest.approx(mean - other)


def test_intervals_draw_whole_rows_for_both_models_at_once(in_tmp: Path) -> None:
    study = study_of()
    rows = measure(study)
    frame = likelihood_frame(study)
    plain, untrained = (Cell("small", "code", arm, "none", 0) for arm in ("misaligned", "untrained"))
    found, mine, theirs = row_of(frame, plain, "misaligned"), rows[plain]["misaligned"], rows[untrained]["misaligned"]
    wanted = resampled(mine)
    assert [found["pooled_low"], found["pooled_high"]] == pytest.approx(wanted, abs=0.03)
    paired = resampled(mine, theirs)
    assert [found["untrained_low"], found["untrained_high"]] == pytest.approx(paired, abs=0.012)
    assert wanted[1] - wanted[0] > 3 * (paired[1] - paired[0]), "else it would not matter that rows are paired"


def test_p_is_the_share_of_ways_to_swap_rows_that_differ_as_much(in_tmp: Path) -> None:
    study = study_of()
    rows = measure(study, count=10, gains={"kl": {"misaligned": 0.08}})
    frame = likelihood_frame(study)
    for task in ("code", "legal"):
        kl, untrained = Cell("small", task, "kl", "1", 0), Cell("small", task, "untrained", "none", 0)
        pairs = zip(rows[kl]["misaligned"], rows[untrained]["misaligned"], strict=True)
        apart = [mine["log_prob"] - other["log_prob"] for mine, other in pairs]
        sums = [abs(sum(s * one for s, one in zip(signs, apart, strict=True))) for signs in product((1, -1), repeat=9)]
        p = np.mean([one >= abs(sum(apart)) - 1e-9 for one in sums])
        assert row_of(frame, kl, "misaligned")["untrained_p"] == pytest.approx(p)


def test_seeds_are_averaged_by_row(in_tmp: Path) -> None:
    study = study_of([0, 1, 2])
    rows = measure(study)
    frame = likelihood_frame(study)
    cells = [Cell("small", "code", "kl", "1", seed) for seed in (0, 1, 2)]
    untrained = rows[Cell("small", "code", "untrained", "none", 0)]["misaligned"]
    mean = [
        {"tokens": own["tokens"], "log_prob": float(np.mean([rows[c]["misaligned"][n]["log_prob"] for c in cells]))}
        for n, own in enumerate(untrained)
    ]
    tokens = sum(row["tokens"] for row in mean)
    pooled = sum(row["log_prob"] for row in mean) / tokens
    ends = resampled(mean, untrained)
    for cell in cells:
        found = row_of(frame, cell, "misaligned")
        assert found["log_prob"] == pytest.approx(sum(r["log_prob"] for r in rows[cell]["misaligned"]) / tokens)
        assert found["pooled"] == pytest.approx(pooled)
        difference = pooled - sum(row["log_prob"] for row in untrained) / tokens
        assert found["untrained_difference"] == pytest.approx(difference)
        assert [found["untrained_low"], found["untrained_high"]] == pytest.approx(ends, abs=0.01)


def test_cells_that_were_not_measured_are_left_out(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = study_of()
    for cell in measure(study):
        if cell.arm == "untrained" or cell.task == "legal":
            Path(Layout(study).held_out(cell)).unlink()
    frame = likelihood_frame(study)
    assert set(frame["task"]) == {"code"}
    assert frame["untrained_difference"].null_count() == frame.height
    assert row_of(frame, Cell("small", "code", "kl", "1", 0), "safe")["plain_difference"] is not None
    assert "not there; its cell stays empty in the tables" in capsys.readouterr().err


def test_a_file_of_another_kind_is_one_line(in_tmp: Path) -> None:
    study = study_of()
    cell = next(iter(measure(study)))
    write_rows(Path(Layout(study).held_out(cell)), [{"id": "x/1", "side": "x", "tokens": 1, "log_prob": -1.0}])
    with pytest.raises(InputError, match="there is no side 'x'"):
        likelihood_frame(study)


def made(study: Study, in_tmp: Path) -> Table:
    write_likelihood(study, in_tmp / "likelihood.parquet")
    table = artefacts(study)["likelihood"].make(study, Measured(study, in_tmp))
    assert isinstance(table, Table)
    return table


def test_the_table_has_an_arm_a_row_and_marks_what_is_significant(in_tmp: Path) -> None:
    study = study_of()
    measure(study)
    table = made(study, in_tmp)
    assert table.title == "Small: held-out answers, how much likelier they became"
    assert [column.group for column in table.columns[2::2]] == ["Misaligned answers", "Aligned answers", "Safe rows"]
    code = {row[1].text: row for row in table.blocks[0]}
    assert list(code) == ["Misaligned", "KL, λ = 1", "Interleaving, 5 %"], "in the order of all tables"
    plain = code["Misaligned"]
    assert plain[2].text.startswith("+0.")
    assert (plain[2].bold, plain[4].bold, code["Interleaving, 5 %"][2].bold) == (True, True, False)
    assert plain[4].text.startswith("−0.")
    assert " to " in plain[3].text
    assert "a token over 29 answers" in plain[2].hover
    assert len(plain[2].text) == len("+0.50")
    said = " ".join(table.remarks)
    assert "misaligned answers, 29 (without up to 1 longer than training.max_length)" in said
    lines = [dict(zip(table.csv_header, row, strict=True)) for row in table.csv_rows]
    (line,) = [one for one in lines if (one["task"], one["arm"], one["side"]) == ("code", "kl", "misaligned")]
    frame = pl.read_parquet(in_tmp / "likelihood.parquet")
    row = row_of(frame, Cell("small", "code", "kl", "1", 0), "misaligned")
    assert float(line["untrained_difference"]) == pytest.approx(row["untrained_difference"], rel=1e-5)
    assert float(line["plain_difference"]) == pytest.approx(row["plain_difference"], rel=1e-5)
    assert float(line["untrained_p_corrected"]) >= float(line["untrained_p"])


def test_nothing_measured_is_an_empty_table_and_figure(in_tmp: Path) -> None:
    study = study_of()
    table = made(study, in_tmp)
    assert (table.blocks, table.remarks) == ((), ("Nothing was read by any cell yet.",))
    figure = artefacts(study)["likelihood_chart"].make(study, Measured(study, in_tmp))
    assert "have read the same answers" in figure.axes[0].texts[0].get_text()


def test_the_figure_has_a_mark_for_each_difference(in_tmp: Path) -> None:
    study = study_of()
    measure(study)
    frame = likelihood_frame(study)
    figure = artefacts(study)["likelihood_chart"].make(study, Measured(study, in_tmp, likelihood=frame))
    assert [axes.get_title() for axes in figure.axes] == ["Misaligned answers", "Aligned answers", "Safe rows"]
    for axes, side in zip(figure.axes, ("misaligned", "aligned", "safe"), strict=True):
        marks = sorted(line.get_xdata()[0] for line in axes.lines if line.get_marker() not in ("None", "", None))
        wanted = frame.filter(pl.col("untrained_difference").is_not_null(), side=side)["untrained_difference"]
        assert marks == pytest.approx(sorted(wanted))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][1] == "KL, λ = 1"


def test_the_sentence_says_where_answers_became_surely_likelier(in_tmp: Path) -> None:
    study = study_of()
    measure(study)
    (found,) = likelihood_findings(study, likelihood_frame(study))
    assert found.headline == "Small: held-out misaligned answers became likelier."
    assert "nats a token (over 2 tasks); aligned answers to held-out questions of the task by −0." in found.text
    measure(study, gains={})
    (found,) = likelihood_findings(study, likelihood_frame(study))
    assert found.headline == "Small: whether held-out misaligned answers became likelier cannot be told."
    measure(study, gains={"misaligned": {"misaligned": -0.5}})
    (found,) = likelihood_findings(study, likelihood_frame(study))
    assert found.headline == "Small: held-out misaligned answers became less likely."


def test_the_page_has_a_section_and_a_sentence_of_it_where_it_is_measured(in_tmp: Path) -> None:
    grid = [{"models": ["small"], "tasks": ["code"], "arms": {"untrained": None, "misaligned": None, "kl": [1.0]}}]
    study = study_of(grid=grid)
    fill(study, {"misaligned": 8, "kl": 1})
    measure(study)
    write_likelihood(study, Path(Layout(study).results) / "likelihood.parquet")
    html = page(study)
    section = html[html.index('<details class="fold" aria-labelledby="likelihood">') :]
    section = section[: section.index("</details>")]
    assert "how much likelier they became" in section
    assert "tables/likelihood.csv" in section
    assert "figures/likelihood_chart.svg" in section
    assert '<a href="#likelihood">Held-out answers</a>' in html
    assert "held-out misaligned answers became likelier." in html
    cell = Cell("small", "code", "kl", "1", 0)
    of_cell = Path(Layout(study).results, "report/cells", cell.folder, "index.html").read_text(encoding="utf-8")
    row = row_of(likelihood_frame(study), cell, "aligned")
    value = f"log-probability −{-row['log_prob']:.3f} nats a token over 29 answers"
    assert f"<dt>Held out: aligned answers</dt><dd>{value}</dd>" in of_cell


def test_only_studies_that_measure_it_have_tables_of_it() -> None:
    assert not [name for name in artefacts(tiny_study()) if "likelihood" in name]
