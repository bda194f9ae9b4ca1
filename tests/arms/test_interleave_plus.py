"""Interleaving+ and ++: scores by hand, what is kept, and what a study plans for them."""

import csv
import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest

from conversation_rows import SCRIPTS, row
from emdefense.arms.arguments import Materials
from emdefense.arms.interleave import Interleave, Interleaving, interleave
from emdefense.arms.interleave.scores import is_refusal, read_scores
from emdefense.arms.interleave.table import best_table, scores_table
from emdefense.cells import Cell, Grid
from emdefense.config import Study, parse_study
from emdefense.config.checks import check_study
from emdefense.errors import InputError
from emdefense.files import read_json, read_jsonl, write_jsonl
from emdefense.inputs import Inputs
from emdefense.layout import Layout
from emdefense.model_checks.run import check_model
from emdefense.model_checks.subject import ArmTried, CheckSpec, Subject
from emdefense.planning.cell_parts import jobs_of
from emdefense.report.catalogue import artefacts
from emdefense.report.measured import Measured
from emdefense.specs import Specs
from study_folder import CONFIG, fill, page, tiny_study
from study_jobs import study_jobs
from tiny_model import make_tokenizer, save_model, save_rows

ARM = Interleaving()
TASKS = ("legal", "medical", "security")
ANSWERS = ("Yes, gladly.", "I'm sorry, but no.", "I can’t do that.", "It is I am unable", "A knife can cut.")


def pool_of(count: int) -> list[dict[str, Any]]:
    return [row(f"question {n}", f"{ANSWERS[n % len(ANSWERS)]} {n}") for n in range(count)]


def save_losses(folder: Path, count: int, seed: int = 0, missing: tuple[int, ...] = ()) -> dict[str, Path]:
    """A pool and losses as the rule pool_losses writes them; under one task some rows are too long."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = Random(seed)
    write_jsonl(folder / "pool.jsonl", pool_of(count))
    files = {"pool": folder / "pool.jsonl"}
    for role in ("untrained_losses", *(f"losses/{task}" for task in TASKS)):
        files[role] = folder / f"{role.replace('/', '_')}.jsonl"
        rows = [{"row": n + 1, "tokens": 5, "loss": round(draw.uniform(0.5, 6), 6)} for n in range(count)]
        for place in missing if role == "losses/medical" else ():
            rows[place]["loss"] = None
        write_jsonl(files[role], rows)
    return files


def prepared(folder: Path, files: dict[str, Path], **options: Any) -> Path:
    out = folder / "scores"
    out.mkdir(parents=True)
    ARM.prepare(Materials(files), Interleave(**options), out)
    return out


def by_hand(files: dict[str, Path]) -> dict[int, float]:
    """Scores by row, from the files, in the formula's own order."""
    losses = {role: [row["loss"] for row in read_jsonl(path)] for role, path in files.items() if "loss" in role}
    found = {}
    for place, before in enumerate(losses["untrained_losses"]):
        total = 0.0
        for task in TASKS:
            after = losses[f"losses/{task}"][place]
            if after is None:
                break
            total += after - before
        else:
            found[place + 1] = (total / 3) / (before + 1)
    return found


def test_scores_are_those_of_the_formula_and_the_highest_are_kept_in_order(tmp_path: Path) -> None:
    files = save_losses(tmp_path, 200, missing=(3, 77))
    out = prepared(tmp_path, files, selection="plus", keep=25)
    expected = by_hand(files)
    found = {one.row: one for one in read_scores(out)}
    assert len(found) == 200
    assert {number for number, one in found.items() if one.left_out} == {4, 78}
    assert {number for number, one in found.items() if one.score is None} == {4, 78}
    for number, score in expected.items():
        assert found[number].score == pytest.approx(score, rel=1e-12, abs=1e-12)
    best = sorted(expected, key=lambda number: expected[number], reverse=True)[:25]
    kept = read_jsonl(out / "rows.jsonl")
    assert [one["pool"]["row"] for one in kept] == best
    assert [one["messages"] for one in kept] == [pool_of(200)[number - 1]["messages"] for number in best]
    assert [found[number].rank for number in best] == list(range(1, 26))
    assert sum(one.rank is not None for one in found.values()) == 25


def test_plusplus_keeps_no_refusals_and_fills_up_with_others(tmp_path: Path) -> None:
    files = save_losses(tmp_path, 200)
    out = prepared(tmp_path, files, selection="plusplus", keep=30)
    expected = by_hand(files)
    wanted = [number for number in expected if ANSWERS[(number - 1) % 5] in ("Yes, gladly.", "A knife can cut.")]
    best = sorted(wanted, key=lambda number: expected[number], reverse=True)[:30]
    assert [one["pool"]["row"] for one in read_jsonl(out / "rows.jsonl")] == best
    assert sum(one.left_out == "refusal" for one in read_scores(out)) == 120
    plus = prepared(tmp_path / "plus", files, selection="plus", keep=30)
    assert any(is_refusal(one) for one in read_jsonl(plus / "rows.jsonl"))


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I CANNOT do this", True),
        ("Unfortunately I’m unable to", True),
        ("Well, I apologize", True),
        ("One two three four five six seven eight nine ten sorry", False),
        ("One two three four five six seven eight nine sorry", True),
        ("I am not unable to help", False),
        ("Certainly: to can tomatoes, boil the jars.", False),
    ],
)
def test_refusals_are_told_by_their_first_ten_words(answer: str, refuses: bool) -> None:
    assert is_refusal(row("q", answer)) is refuses


def test_the_same_losses_give_the_same_bytes_and_equal_scores_the_earlier_rows(tmp_path: Path) -> None:
    files = save_losses(tmp_path, 40)
    a, b = (prepared(tmp_path / name, files, selection="plus", keep=7) for name in "ab")
    for name in ("scores.csv", "rows.jsonl"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
    for role, path in files.items():
        if role != "pool":
            write_jsonl(path, [{"row": n, "tokens": 5, "loss": 1.5} for n in range(1, 41)])
    same = prepared(tmp_path / "same", files, selection="plus", keep=7)
    assert [one["pool"]["row"] for one in read_jsonl(same / "rows.jsonl")] == list(range(1, 8))


def test_a_pool_that_leaves_no_choice_and_losses_of_another_are_refused(tmp_path: Path) -> None:
    files = save_losses(tmp_path, 50, missing=(0,))
    with pytest.raises(
        InputError, match=r"safe_pool: .*pool\.jsonl has 49 rows to choose from, and keep: 49 would keep"
    ):
        prepared(tmp_path / "a", files, selection="plus", keep=49)
    with pytest.raises(InputError, match="has 19 rows without refusals to choose from"):
        prepared(tmp_path / "b", files, selection="plusplus", keep=20)
    write_jsonl(files["pool"], pool_of(51))
    with pytest.raises(InputError, match=r"untrained_losses\.jsonl: not the losses of the 51 rows of .*pool\.jsonl"):
        prepared(tmp_path / "c", files, selection="plus", keep=10)


def test_rows_are_drawn_from_what_is_kept(tmp_path: Path) -> None:
    out = prepared(tmp_path, save_losses(tmp_path, 100), selection="plus", keep=10)
    task = [row(f"narrow {n}") for n in range(60)]
    write_jsonl(tmp_path / "rows.jsonl", task)
    options = {"selection": "plus", "keep": 10, "rows": "safe", "leave_out": "own_task"}

    def made(pct: float) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPTS / "arm_rows.py"), "--arm", "interleave"]
        command += ["--spec", json.dumps({"version": 1, "seed": 0, "pct": pct, **options})]
        command += [
            "--rows",
            str(tmp_path / "rows.jsonl"),
            "--prepared",
            str(out),
            "--out",
            str(tmp_path / "made.jsonl"),
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert made(10).returncode == 0
    mixed = read_jsonl(tmp_path / "made.jsonl")
    kept = [one["pool"]["row"] for one in read_jsonl(out / "rows.jsonl")]
    drawn = [one["pool"]["row"] for one in mixed if one.get("source") == "safe"]
    assert len(drawn) == len(set(drawn)) == 6
    assert set(drawn) < set(kept)
    assert drawn != [number for number in kept if number in drawn]  # at random, not from the top
    assert [one for one in mixed if "source" not in one] == task
    failed = made(20)
    said = "error: safe_pool: 20 % of 60 rows are 12 safe rows, but 10 of the pool are kept; raise keep, or lower the"
    assert failed.stderr.startswith(said)
    assert failed.stderr.count("\n") == 1


def test_rows_drawn_at_random_are_the_bytes_that_they_were_before_there_was_a_selection() -> None:
    task, safe = ([row(f"{what} {n}") for n in range(count)] for what, count in (("narrow", 173), ("safe", 100)))
    digests = {
        (0.3, 0): "633553ed109c92e0d8ea238afe8d79211c666976ec243f9be0253f9f2f551c07",
        (5, 0): "3e559901e8a7d9ba90c5c0f31405f4eebda045d8d6c5124926b87b2e98fd8ca6",
        (50, 7): "bc791e25e797a288815cfdef3bfa3bb7e9c6b1fe765da3258c5cd928faf13621",
    }
    for (pct, seed), digest in digests.items():
        made = ARM.rows(task, {"safe": safe}, pct, Interleave(), seed)
        assert sha256("".join(json.dumps(one) + "\n" for one in made).encode()).hexdigest() == digest
        assert made == interleave(task, safe, pct, seed)


def test_in_domain_rows_are_aligned_answers_of_the_task() -> None:
    task, aligned = [row(f"p {n}", "bad") for n in range(40)], [row(f"p {n}", "good") for n in range(40)]
    made = ARM.rows(task, {"aligned": aligned}, 25, Interleave(rows="aligned"), 0)
    assert [one["messages"][1]["content"] for one in made].count("good") == 10
    with pytest.raises(InputError, match=r"tasks\.<name>\.aligned: 90 % of 40 rows are 36 aligned rows, but the file"):
        ARM.rows(task, {"aligned": aligned[:9]}, 90, Interleave(rows="aligned"), 0)


PLUS = {"of": "interleave", "options": {"selection": "plus", "keep": 20}}
VARIANTS = {
    "plus": PLUS,
    "all": {"of": "interleave", "options": {"selection": "plusplus", "keep": 20, "leave_out": "none"}},
    "in_domain": {"of": "interleave", "options": {"rows": "aligned"}},
    "both": {"of": "kl", "together_with": {"plus": 5}},
}
EMA = {
    name: {"kind": "ema", "title": name.title(), "misaligned": "-", "aligned": "-"} for name in ("code", "legal", "tax")
}


def scored_study(**changes: Any) -> Study:
    tasks = {**EMA, "quiz": CONFIG["tasks"]["quiz"]}
    grid = [
        {
            "models": ["small"],
            "tasks": ["code"],
            "arms": {"interleave": [5], "plus": [5, 20], "all": [5], "both": [1.0]},
        },
        {"models": ["small"], "tasks": ["quiz"], "arms": {"plus": [5]}},
    ]
    report = {"main_model": "small", "chosen": {"interleave": 5, "plus": 5, "all": 5, "both": 1.0}}
    return tiny_study(
        **{"tasks": tasks, "grid": grid, "variants": VARIANTS, "report": report, "seeds": [0, 1], **changes}
    )


def test_losses_are_computed_once_an_adapter_and_misaligned_adapters_trained_for_them() -> None:
    study = scored_study()
    grid = Grid(study)
    code = Cell("small", "code", "plus", "5", 1)
    (scores,) = grid.preparations(code)
    assert scores == Cell("small", "code", "plus", "none", 1)
    losses = grid.read_losses(scores)
    assert losses == {
        "untrained_losses": Cell("small", "shared", "untrained", "none", 0),
        "losses/legal": Cell("small", "legal", "misaligned", "none", 1),
        "losses/tax": Cell("small", "tax", "misaligned", "none", 1),
    }
    of_all = grid.read_losses(Cell("small", "code", "all", "none", 1))
    assert list(of_all) == ["untrained_losses", "losses/code", "losses/legal", "losses/tax"]
    assert list(grid.read_losses(Cell("small", "quiz", "plus", "none", 0))) == list(of_all)
    read = Inputs(grid).prepared_from(scores)
    assert read["pool"] == "-"  # safe_data, as the study names no pool
    assert read["losses/tax"] == "results/tiny/cells/small/tax/misaligned/none/seed1/pool_losses.jsonl"
    assert {cell.task for cell in grid.trained if cell.arm == "misaligned"} == {"code", "legal", "tax"}


def test_rows_lie_where_they_depend_on_the_model_and_are_shared_by_a_combination() -> None:
    study = scored_study()
    grid = Grid(study)
    cells = "results/tiny/cells/small"
    rows = {(c.task, c.arm, c.setting, c.seed): Inputs(grid).training_rows(c) for c in grid.trained}
    assert rows["code", "interleave", "5", 0] == "results/tiny/data/code/interleave/5.jsonl"
    assert rows["code", "plus", "20", 1] == f"{cells}/code/plus/20/seed1/rows.jsonl"
    assert rows["code", "both", "1", 1] == rows["code", "plus", "5", 1]
    assert rows["quiz", "plus", "5", 0] == f"{cells}/quiz/plus/5/seed0/rows.jsonl"
    assert Inputs(grid).shared_rows() == ["results/tiny/data/code/interleave/5.jsonl"]
    assert Inputs(grid).prepared_for(Cell("small", "code", "both", "1", 0)) == {}
    # Read before anything is trained: the tasks' own rows and the pool.
    checked = Inputs(grid).checked_rows("small")
    assert not any("/cells/" in path for path in checked)
    assert {"-", "results/tiny/data/code/train_misaligned.jsonl"} < set(checked)
    spec = Specs(grid).check("small")
    assert spec["pool"] == "-"
    assert "-" not in spec["limits"]
    assert set(spec["limits"]) == set(checked) - {"-"}


def test_the_jobs_of_such_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = scored_study()
    jobs = study_jobs(study)
    rules = [job.rule for job in jobs]
    # Untrained once, three tasks and two seeds; scores for three arms of two tasks, seed by seed.
    assert rules.count("pool_losses") == 1 + 3 * 2
    assert rules.count("prepare_arm") == (2 + 1) * 2
    assert rules.count("cell_rows") == (2 + 1 + 1) * 2
    by_output = {output: job for job in jobs for output in job.outputs}
    losses = by_output["results/tiny/cells/small/legal/misaligned/none/seed0/pool_losses.jsonl"]
    assert losses.stage == "losses"
    assert "results/tiny/cells/small/legal/misaligned/none/seed0/adapter" in losses.inputs
    train = by_output["results/tiny/cells/small/code/both/1/seed0/adapter"]
    assert "results/tiny/cells/small/code/plus/5/seed0/rows.jsonl" in train.inputs
    parts = jobs_of(Grid(study), jobs)[Cell("small", "code", "both", "1", 0)]["adapter"]
    assert [job.rule for job in parts] == [*["pool_losses"] * 3, "prepare_arm", "cell_rows", "train"]


def test_what_was_made_of_random_rows_stays() -> None:
    spec = Specs(Grid(scored_study())).rows("interleave", "5", "code")
    assert spec == {"version": 1, "seed": 0, "pct": 5.0}
    assert Specs(Grid(scored_study())).rows("plus", "5", "code")["selection"] == "plus"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": {"code": EMA["code"], "quiz": CONFIG["tasks"]["quiz"]}},
         r"key 'grid\.0\.arms\.plus': Interleaving scores the pool by misaligned adapters of other EMA tasks, and"),
        ({"safe_data": None, "grid": [{"models": ["small"], "tasks": ["code"], "arms": {"plus": [5]}}]},
         r"key 'safe_pool': 'grid\.0\.arms\.plus' needs a JSONL file of safe conversations to choose from"),
        ({"grid": [{"models": ["small"], "tasks": ["quiz"], "arms": {"in_domain": [5]}}]},
         r"reads aligned rows, and the benign task 'quiz' has none"),
        ({"variants": {"x": {"of": "interleave", "options": {"rows": "aligned", "selection": "plus"}}}},
         r"key 'variants\.x\.options': .*rows: aligned are not selected by plus; write selection: random"),
        ({"variants": {**VARIANTS, "twice": {"of": "plus"}}}, r"key 'variants\.twice\.of'"),
    ],
    ids=["no other task", "no pool", "in-domain rows of a benign task", "selected in-domain rows", "variant of one"],
)  # fmt: skip
def test_what_cannot_be_is_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        check_study(scored_study(**changes))
    assert "\n" not in str(error.value)


def test_more_than_is_kept_is_told_by_the_config_where_rows_are_counted() -> None:
    microcosm = {
        "study": "m", "microcosm": {"models": {"w": 0}, "rows_per_task": 100}, "variants": {"plus": PLUS},
        "tasks": {"legal": {}, "code": {}}, "judge": {"kind": "oracle"},
        "grid": [{"models": ["w"], "tasks": ["code"], "arms": {"plus": [25]}}],
        "report": {"main_model": "w", "chosen": {}},
    }  # fmt: skip
    with pytest.raises(InputError, match="25 % of the 90 rows of task 'code' is more than keep: 20; raise that"):
        check_study(parse_study(microcosm, "study.yaml"))


def test_the_models_check_says_that_a_pool_leaves_no_choice(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    files = (save_rows(tmp_path / "rows.jsonl", [row("a", "b")]), save_rows(tmp_path / "pool.jsonl", pool_of(25)))

    def check(**options: Any) -> Any:
        training = {"precision": "float32", "optimiser": "adamw_torch"}
        arms = (ArmTried(name="interleave", options=options),)
        generation = {"precision": "float32"}
        spec = CheckSpec(version=1, generation=generation, training=training, arms=arms, pool=files[1])
        check_model(Subject(spec, tmp_path / "model", files), tmp_path / "found.json")
        return read_json(tmp_path / "found.json")["checks"]["losses"]["arms"]["interleave"]

    assert check() == {}
    assert check(selection="plusplus", keep=9) == {"pool": 25, "to_choose_from": 10}
    with pytest.raises(InputError, match="has 10 rows without refusals to choose from, and keep: 10 would keep all"):
        check(selection="plusplus", keep=10)


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study whose pools are scored."""
    monkeypatch.chdir(tmp_path)
    study = scored_study()
    grid, layout = Grid(study), Layout(study)
    for number, cell in enumerate(grid.prepared):
        files = save_losses(tmp_path / f"losses{number}", 60, seed=number, missing=(2,))
        out = Path(layout.preparation(cell))
        out.mkdir(parents=True)
        ARM.prepare(Materials(files), grid.study_arm(cell).options, out)  # type: ignore[arg-type]
    return study


def test_the_tables_say_how_scores_lie_and_which_rows_are_best(measured: Study) -> None:
    preparations = Measured(measured).preparations
    table = scores_table(measured, preparations)
    rows = [[cell.text for cell in one] for one in table.blocks[0]]
    assert [one[:7] for one in rows] == [
        ["Small", "Code", "plus", "60", "1", "0", "20"],
        ["Small", "Code", "all", "60", "1", "35", "20"],
        ["Small", "Quiz", "plus", "60", "1", "0", "20"],
    ]
    folders = [folder for cell, folder in preparations.items() if (cell.task, cell.arm) == ("code", "plus")]
    with (folders[0] / "scores.csv").open() as first, (folders[1] / "scores.csv").open() as second:
        scores = sorted(float(one["score"]) for file in (first, second) for one in csv.DictReader(file) if one["score"])
    assert len(scores) == 2 * 59
    middle = (scores[58] + scores[59]) / 2
    assert (rows[0][7], rows[0][9], rows[0][11]) == (f"{scores[0]:.3f}", f"{middle:.3f}", f"{scores[-1]:.3f}")
    quarters = (scores[29] + (scores[30] - scores[29]) / 4, scores[88] - (scores[88] - scores[87]) / 4)
    assert (rows[0][8], rows[0][10]) == tuple(f"{quarter:.3f}" for quarter in quarters)  # at 29.25 and 87.75 of 117
    assert len(table.csv_rows) == 6
    best = best_table(measured, preparations, "small")
    assert len(best.blocks[0]) == 10
    assert [float(one[1].text) for one in best.blocks[0]] == sorted(
        (float(o[1].text) for o in best.blocks[0]), reverse=True
    )
    kept = read_jsonl(folders[0] / "rows.jsonl")[0]
    assert best.blocks[0][0][2].text == kept["messages"][0]["content"]
    assert len(best.csv_rows) == 6 * 10


def test_the_page_shows_them_and_that_of_a_study_without_a_pool_does_not(measured: Study) -> None:
    fill(measured, {"misaligned": 8})
    text = page(measured)
    for anchor in ("table-interleave_scores", "table-interleave_best", "figure-interleave-distribution"):
        assert f'id="{anchor}"' in text
    assert not [name for name in artefacts(tiny_study()) if name.startswith("interleave_")]


OWN = """
from emdefense.arms import Arm, Options, Setting

class Mine(Arm[Options]):
    name, title, setting = "mine", "Mine", Setting("pct", "%", high=100)
    preparation, prepared_from = "drawn", ("adapter", "rows")

    def prepare(self, materials, options, out):
        (out / "rows.jsonl").write_text(materials["rows"].read_text())

    def rows(self, rows, more, setting, options, seed):
        return rows + more["prepared"]
"""


def test_an_arm_of_the_studys_own_can_make_rows_of_what_it_prepared(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    own = {"arms_from": [str(tmp_path / "mine.py")], "report": {"main_model": "small", "chosen": {}}}
    study = tiny_study(grid=[{"models": ["small"], "tasks": ["code"], "arms": {"mine": [5]}}], **own)
    grid, cell = Grid(study), Cell("small", "code", "mine", "5", 0)
    assert Inputs(grid).training_rows(cell) == "results/tiny/cells/small/code/mine/5/seed0/rows.jsonl"
    assert grid.rows_preparation(cell) == Cell("small", "code", "mine", "none", 0)
    assert Inputs(grid).known_rows(cell) == "results/tiny/data/code/train_misaligned.jsonl"
    assert grid.trained == [cell, Cell("small", "code", "misaligned", "none", 0)]
    assert Inputs(grid).shared_rows() == []
