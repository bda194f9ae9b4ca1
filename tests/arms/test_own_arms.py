"""A study's own arms: what is refused when their file is read, where it is looked for, what tells cells apart."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from emdefense.arms import DEFENCES, format_setting, in_order
from emdefense.cells import Cell, Grid
from emdefense.config import Study, load_study, parse_study
from emdefense.config.load import read_config
from emdefense.errors import InputError
from emdefense.files import read_json
from emdefense.inputs import Inputs
from emdefense.layout import Layout
from emdefense.specs import Specs
from study_checkout import ROOT
from study_folder import tiny_study

ARM = """
from emdefense.arms import Arm, Look, Options, Setting

class MineOptions(Options):
    strength: float = 1.0
    word: str = "a"

class Mine(Arm[MineOptions]):
    name = "mine"
    title = "Mine"
    setting = Setting()
    options = MineOptions

    def token_term(self, options, policy, reference):
        return (policy.exp() * (policy - reference)).sum(-1)
"""
ARMS = {"misaligned": None, "mine": [0.1, 1.0]}
SMOKE = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())


def written(folder: Path, source: str | bytes = ARM, name: str = "mine.py", **keys: Any) -> Path:
    """Write an arm's file, and beside it a study that has it; return the study's path."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_bytes(source if isinstance(source, bytes) else source.encode())
    grid = [{"models": ["world-a"], "tasks": ["code"], "arms": ARMS}]
    report = {"main_model": "world-a", "chosen": {"mine": 1.0}}
    study = {**SMOKE, "arms_from": [name], "grid": grid, "report": report, **keys}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder / "study.yaml"


def refused(path: Path) -> str:
    """Return the one line with which a study is refused, without its file's name."""
    with pytest.raises(InputError) as error:
        load_study(path)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


def test_a_studys_own_arm_is_in_the_grid_with_its_options(tmp_path: Path) -> None:
    study = load_study(written(tmp_path, arms={"mine": {"strength": 2}}))
    grid = Grid(study)
    spec = Specs(grid).training(Cell("world-a", "code", "mine", "0.1", 0))
    assert spec["penalty"]["options"] == {"strength": 2.0, "word": "a"}
    assert spec["penalty"]["file"] == str(tmp_path / "mine.py")
    assert list(study.every_arm)[-1] == "mine"


HOOK = "    def token_term(self, options, policy, reference):"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("from emdefense", "from nowhere", "mine.py, line 2: ModuleNotFoundError: No module named 'nowhere'"),
        ("strength: float = 1.0", "strength: float = 1 / 0", "mine.py, line 5: ZeroDivisionError: division by zero"),
        ('name = "mine"', 'name = "mine', "mine.py, line 9: SyntaxError: unterminated string literal"),
        ("class Mine(", "raise SystemExit\nclass Mine(", "mine.py, line 8: SystemExit"),
        ("from emdefense", "raise RuntimeError('two\\nlines')\nfrom emdefense", "RuntimeError: two\\nlines"),
        ("Arm[MineOptions]", "object", "mine.py: it declares no arm; write a class that derives from"),
        ('    name = "mine"\n', "", "mine.py: it declares no arm"),
        ('"mine"', '"mine/x"', "mine.py: arm 'mine/x': name: a name is letters"),
        ('"mine"', "3", "mine.py: arm 'Mine': name: a name is letters"),
        ('"mine"', '"kl"', "mine.py: arm 'kl': the pipeline has an arm 'kl'; give it another name"),
        ('"mine"', '"SFT"', "mine.py: arm 'SFT': the pipeline has an arm 'sft'; give it another name"),
        ('"Mine"', '"KL"', "mine.py: arm 'mine': the pipeline has an arm titled 'KL'; give it another title"),
        ('    title = "Mine"\n', "", "mine.py: arm 'mine': title: write what tables call it"),
        ('"Mine"', '"two\\nlines"', "mine.py: arm 'mine': title: write what tables call it"),
        ("Setting()", '"λ"', "arm 'mine': setting: write a Setting"),
        ("Setting()", "Setting(low=2, high=1)", "arm 'mine': setting: no number lies between 2 and 1"),
        ("Setting()", "Setting(low=-1)", "arm 'mine': setting: a penalty is multiplied by one that is not negative"),
        ("    setting = Setting()\n", "", "arm 'mine': setting: a penalty is multiplied by one"),
        ("Setting()", 'Setting("strength")', "arm 'mine': setting: an option, or the pipeline, calls something 'str"),
        ("Setting()", 'Setting("seed")', "arm 'mine': setting: an option, or the pipeline, calls something 'seed'"),
        ("word:", "version:", "arm 'mine': options: the pipeline calls something 'version'"),
        ("options = MineOptions", "options = dict", "arm 'mine': options: write a class that derives from"),
        (': str = "a"', ": str", "arm 'mine': options: key 'word': Field required; give each a default"),
        (': str = "a"', ": object = object()", "arm 'mine': options: PydanticSerializationError"),
        (
            "    setting =",
            '    kinds = ("emo",)\n    setting =',
            "arm 'mine': kinds: ('emo',) is no tuple of ema, benign",
        ),
        ("    setting =", '    kinds = "ema"\n    setting =', "arm 'mine': kinds: 'ema' is no tuple of"),
        ("    setting =", "    kinds = ()\n    setting =", "arm 'mine': kinds: no task would have it"),
        (
            "    setting =",
            '    side = "good"\n    setting =',
            "arm 'mine': side: 'good' is neither misaligned nor alig",
        ),
        ("    setting =", "    is_trained = False\n    setting =", "arm 'mine': is_trained and is_defence are for the"),
        (
            "    setting =",
            '    look = Look("salmonish", "o")\n    setting =',
            "look: colour 'salmonish'; write one such",
        ),
        ("    setting =", '    look = Look("#123456", "oo")\n    setting =', "look: marker 'oo'; write one of"),
        ("    setting =", '    look = Look("#123456", "o", "- ")\n    setting =', "look: dashes '- '; write"),
        ("    setting =", '    reads_rows = ("safe",)\n    setting =', "reads_rows: only the hook rows reads them"),
        ("    setting =", '    prepared_from = ("base",)\n    setting =', "prepared_from: only the hook prepare reads"),
        ("    setting =", '    preparation = "x"\n    setting =', "preparation names the folder of what the hook prep"),
        (HOOK, "    def nothing(self):", "arm 'mine': it overrides no hook, so it would be plain fine-tuning"),
        (HOOK, "    head_term = None\n" + HOOK, "head_term and token_term are two forms of one thing"),
        (HOOK, "    adapter = None\n" + HOOK, "adapter changes what plain fine-tuning made, so no other hook"),
        (HOOK, "    residual_blocks = None\n" + HOOK, "residual_blocks: only the hook feature_term reads what"),
        (HOOK, "    def __init__(self): raise KeyError('x')\n" + HOOK, "arm 'mine': KeyError: 'x'"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(old: str, new: str, said: str, tmp_path: Path) -> None:
    assert old in ARM
    line = refused(written(tmp_path, ARM.replace(old, new, 1)))
    assert said in line
    assert line.startswith(str(tmp_path / "mine.py"))


ADAPTER = """
from emdefense.arms import Arm, Options, Setting

class Mine(Arm[Options]):
    name = "mine"
    title = "Mine"
    setting = Setting("alpha", "α", low=-1, high=1)
    preparation = "made"

    def prepare(self, materials, options, out):
        (out / "x").write_text("x")

    def adapter(self, finished, setting, options):
        return finished.tensors
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"made"', '"0.5"', "preparation: a name is letters"),
        ('"made"', '"none"', "preparation: a name is letters"),
        ('"made"', '"a/b"', "preparation: a name is letters"),
        ("def prepare", "def prepared", "preparation names the folder of what the hook prepare makes"),
        ("def adapter", "def token_term", "preparation: only rows, adapter, order, "),
        (
            "    setting =",
            '    side = "aligned"\n    setting =',
            "side: the adapter that it changes was trained on misal",
        ),
    ],
)
def test_what_is_wrong_with_an_arm_that_changes_adapters_is_one_line(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    assert said in refused(written(tmp_path, ADAPTER.replace("low=-1, ", "").replace(old, new, 1)))


def test_settings_below_zero_have_folders_of_their_own(tmp_path: Path) -> None:
    arms = {"misaligned": None, "mine": [-0.5, -0.0, 0.5]}
    study = load_study(written(tmp_path, ADAPTER, grid=[{"models": ["world-a"], "tasks": ["code"], "arms": arms}]))
    assert [c.setting for c in Grid(study).cells if c.arm == "mine"] == ["-0.5", "0", "0.5"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gone.py", None, "key 'arms_from': {file}: No such file or directory; name a Python file"),
        ("folder.py", "folder", "key 'arms_from': {file}: Is a directory; name a Python file"),
        ("mine.yaml", "study: x", "key 'arms_from': {file}: this is no Python file; its name must end in .py"),
        ("mine{x}.py", ARM, "key 'arms_from': {file} has a brace in its name, or its folder's; rename that"),
        ("mine.py", "\x00", "{file}: "),
        ("mine.py", "# coding: none\n", "{file}: SyntaxError"),
        ("mine.py", b"x = '\xff'", "{file}"),
    ],
)
def test_what_is_no_python_file_is_one_line(name: str, content: Any, said: str, tmp_path: Path) -> None:
    path = written(
        tmp_path, ARM if content in (None, "folder") else content, "x.py" if content in (None, "folder") else name
    )
    if content in (None, "folder"):
        path.write_text(path.read_text().replace("x.py", name))
    if content == "folder":
        (tmp_path / name).mkdir()
    assert refused(path).startswith(said.format(file=tmp_path / name))


def test_names_are_each_arms_own_across_files_and_variants(tmp_path: Path) -> None:
    other = ARM.replace('"mine"', '"Mine"').replace('title = "Mine"', 'title = "Other"')
    (tmp_path / "other.py").write_text(other)
    line = refused(written(tmp_path, arms_from=["mine.py", "other.py"]))
    assert line == f"{tmp_path}/other.py: arm 'Mine': {tmp_path}/mine.py has an arm 'mine'; give it another name"
    assert refused(written(tmp_path, arms_from=["mine.py", "./mine.py"])).endswith(
        "mine.py stands there twice; write each once"
    )
    twice = ARM + "\n\nclass Again(Mine):\n    pass\n"
    assert "mine.py has an arm 'mine'; give it another name" in refused(written(tmp_path, twice))
    for variant in ("mine", "MINE"):
        line = refused(written(tmp_path, variants={variant: {"of": "kl"}}))
        assert line == f"key 'variants.{variant}': '{variant}' is an arm already; give the variant another name"


def test_no_arm_has_the_name_of_a_file_beside_its_rows(tmp_path: Path) -> None:
    said = "the pipeline itself calls something 'train.jsonl' in its paths; write another name"
    assert refused(written(tmp_path, variants={"train.jsonl": {"of": "kl"}})) == f"key 'variants.train.jsonl': {said}"
    line = refused(written(tmp_path, ARM.replace('"mine"', '"train.jsonl"')))
    assert line == f"key 'arms.train.jsonl': {said}"


def test_unknown_and_wrong_options_name_the_key(tmp_path: Path) -> None:
    said = "there is no such option; mine has strength, word"
    assert refused(written(tmp_path, arms={"mine": {"strenght": 1}})) == f"key 'arms.mine.strenght': {said}"
    assert "key 'arms.mine.strength': Input should be a valid number" in refused(
        written(tmp_path, arms={"mine": {"strength": "much"}})
    )
    assert "key 'arms.mine'" in refused(written(tmp_path, arms={"mine": 3}))
    variants = {"mine2": {"of": "mine", "options": {"strenght": 1}}}
    assert refused(written(tmp_path, variants=variants)) == f"key 'variants.mine2.options.strenght': {said}"
    optional = [arm.name for arm in DEFENCES if arm.options.model_fields]
    assert f"unknown key 'arms.yours'; write one of {', '.join(optional)}, mine" in refused(
        written(tmp_path, arms={"yours": {}})
    )
    of = {"yours2": {"of": "yours"}}
    assert "key 'variants.yours2.of': 'yours' is no arm with options; write one of" in refused(
        written(tmp_path, variants=of)
    )
    raising = "    @field_validator('word')\n    def _no(cls, value):\n        return {'a': 'a'}[value]\n"
    source = "from pydantic import field_validator\n" + ARM.replace("\nclass Mine(", raising + "\nclass Mine(")
    line = refused(written(tmp_path, source, arms={"mine": {"word": "b"}}))
    assert line == f"key 'arms.mine': {tmp_path}/mine.py: arm 'mine', line 10: KeyError: 'b'"


def test_a_variant_of_an_own_arm_has_its_options_and_the_paper_s_table_stays_the_papers(tmp_path: Path) -> None:
    inherits = ARM.replace("import Arm,", "import DEFENCES, Arm,").replace(
        "class Mine(Arm[MineOptions])", "class Mine(type(DEFENCES[0]))"
    )
    study = load_study(
        written(tmp_path, inherits.replace("    options = MineOptions\n", "").replace("token_term", "head_term"))
    )
    arm = study.every_arm["mine"].arm
    assert (arm.sweep, arm.look, arm.artefacts) == (None, None, "")
    assert study.every_arm["kl"].arm.sweep is not None
    study = load_study(written(tmp_path, variants={"mine.2": {"of": "mine", "options": {"word": "b"}}}))
    found = study.every_arm["mine.2"]
    assert (found.of, found.title, found.options.model_dump()) == ("mine", "mine.2", {"strength": 1.0, "word": "b"})
    called = {"mine.2": {"of": "mine", "title": "Mine, once more"}}
    assert load_study(written(tmp_path, variants=called)).every_arm["mine.2"].titled("1") == "Mine, once more, λ = 1"
    for title, other in (("Mine", "mine"), ("Misaligned", "misaligned")):
        line = refused(written(tmp_path, variants={"mine.2": {"of": "mine", "title": title}}))
        said = f"'{other}' is called {title!r} too; give it another title"
        assert line == f"key 'variants.mine.2.title': {said}"


def test_files_are_looked_for_from_the_studys_folder_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a/b")
    monkeypatch.chdir(tmp_path)
    here = load_study(Path("a/b/study.yaml"))
    assert here.arms_from == load_study(path).arms_from == ("a/b/mine.py",), "specs hold it: it must read alike"
    monkeypatch.chdir(tmp_path / "a")
    assert load_study(Path("b/study.yaml")).arms_from == ("b/mine.py",)
    (tmp_path / "c").mkdir()
    monkeypatch.chdir(tmp_path / "c")
    assert load_study(Path("../a/b/study.yaml")).arms_from == load_study(path).arms_from == (f"{tmp_path}/a/b/mine.py",)


def test_of_several_config_files_the_one_that_names_the_arms_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "base")
    written(tmp_path / "over", ARM.replace('"Mine"', '"Laid over"'))
    (tmp_path / "seeds.yaml").write_text("seeds: [1]")
    monkeypatch.chdir(tmp_path)

    def title(*files: str, **more: Any) -> str:
        paths = list(map(Path, files))
        merged = {key: value for path in paths for key, value in read_config(path).items()} | more
        study = parse_study(merged, " + ".join(files), paths)
        read_again = Study.model_validate(json.loads(study.model_dump_json()))
        assert read_again.every_arm["mine"].title == study.every_arm["mine"].title
        return study.every_arm["mine"].title

    assert title("base/study.yaml", "seeds.yaml") == "Mine"
    assert title("base/study.yaml", "over/study.yaml", "seeds.yaml") == "Laid over"
    assert title("over/study.yaml", arms_from=["base/mine.py"]) == "Mine"


def test_what_it_prints_goes_to_stderr_and_torch_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "print('loaded')\n" + ARM)
    command = [sys.executable, "workflow/scripts/plan.py", "--configfile", str(path), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cells"]["cells"] == 3
    assert "loaded" in done.stderr
    assert f"{tmp_path}/mine.py: code of the study, run here and in its jobs" in done.stderr
    (tmp_path / "mine.py").write_text("import torch\n" + ARM)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {path}: {tmp_path}/mine.py: it imports torch when it is loaded, and reports are made without; import "
        "it within the hooks\n"
    )


def test_no_byte_code_is_left_beside_the_study(tmp_path: Path) -> None:
    load_study(written(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["mine.py", "study.yaml"]


def test_a_cell_depends_on_the_content_of_its_arms_file_and_no_others_does(tmp_path: Path) -> None:
    def specs() -> dict[str, Any]:
        study = load_study(written(tmp_path, source, grid=grid))
        found = Grid(study)
        return {cell.arm: [Specs(found).training(cell), Inputs(found).training_rows(cell)] for cell in found.trained}

    grid = [{"models": ["world-a"], "tasks": ["code"], "arms": {"misaligned": None, "kl": [1.0], "mine": [1.0]}}]
    source = ARM
    before = specs()
    source += "# a comment\n"
    after = specs()
    assert [arm for arm in before if before[arm] != after[arm]] == ["mine"]


def test_cached_features_are_apart_for_all_options_but_those_that_are_not_read(tmp_path: Path) -> None:
    def folders(source: str) -> list[str]:
        arms = {"mine": [1.0, 2.0], "mine2": [1.0], "mine3": [1.0]}
        options = {"mine2": {"strength": 2}, "mine3": {"word": "a/b c"}}
        variants = {name: {"of": "mine", "options": changed} for name, changed in options.items()}
        training = {**SMOKE["training"], "reference": "cached"}
        grid = [{"models": ["world-a"], "tasks": ["code"], "arms": arms}]
        study = load_study(written(tmp_path, source, variants=variants, training=training, grid=grid))
        found = Grid(study)
        return [str(Inputs(found).features(cell)).rpartition("/")[2] for cell in found.trained]

    first, second, other, text = folders(ARM)
    assert first == second == "mine-strength_1.0-word_a"
    assert other == "mine-strength_2.0-word_a"
    assert text.startswith("mine-strength_1.0-word_")
    assert text not in (first, other)
    assert folders(ARM.replace("    word:", "    reads = ('word',)\n    word:")) == ["mine-word_a"] * 3 + [
        text.replace("strength_1.0-", "")
    ]
    assert set(folders(ARM.replace("    word:", "    reads = ()\n    word:"))) == {"mine"}
    line = refused(written(tmp_path, ARM.replace("    word:", "    reads = ('wrod',)\n    word:")))
    assert line.endswith("arm 'mine': options: reads names 'wrod', and there is no such option")


def test_every_arm_with_options_has_variants(tmp_path: Path) -> None:
    arms = {"misaligned": None, "safelora": [0.3, 0.5], "safelora_norm": [0.5]}
    variants = {"safelora_norm": {"of": "safelora", "options": {"normalisation": "norm"}}}
    model = {"small": {"title": "Small", "instruct": "-", "base": "b"}}
    study = tiny_study(models=model, variants=variants, grid=[{"models": ["small"], "tasks": ["code"], "arms": arms}])
    grid, layout = Grid(study), Layout(study)
    assert {cell.arm: settings for cell, settings in grid.prepared.items()} == {
        "safelora": ["0.3", "0.5"],
        "safelora_norm": ["0.5"],
    }
    folders = {layout.preparation(cell) for cell in grid.prepared}
    assert folders == {f"results/tiny/cells/small/code/{arm}/projection/seed0" for arm in ("safelora", "safelora_norm")}
    specs = {cell.arm: Specs(grid).preparation(cell) for cell in grid.prepared}
    assert specs["safelora"] == {"version": 2, "normalisation": "squared_norm"}
    assert specs["safelora_norm"]["normalisation"] == "norm"
    assert [cell.arm for cell in grid.trained] == ["misaligned"]


APART = [0.1234567, 0.1234568, 1e-7, 1.5e-7, 1 / 3, 0.1 + 0.2, 0.3, 1234567.0, 1234568.0, 1e9, 5.0, 0.1]


def test_settings_are_told_apart_to_their_last_digit() -> None:
    written_down = [format_setting(value) for value in APART]
    assert [float(text) for text in written_down] == APART
    assert len(set(written_down)) == len(APART)
    assert written_down[:2] == ["0.1234567", "0.1234568"]
    assert written_down[4:9] == ["0.3333333333333333", "0.30000000000000004", "0.3", "1234567", "1234568"]
    assert in_order([*written_down, "none"]) == ["none", *(format_setting(value) for value in sorted(APART))]
    study = tiny_study(grid=[{"models": ["small"], "tasks": ["code"], "arms": {"kl": APART}}])
    cells = Grid(study).cells
    assert len({cell.folder for cell in cells}) == len(APART)
    assert [Specs(Grid(study)).training(cell)["penalty"]["coefficient"] for cell in cells] == APART
    assert study.every_arm["kl"].titled(written_down[4]) == "KL, λ = 0.3333333333333333"


def test_a_setting_too_near_a_bound_to_be_told_from_it_in_six_digits_is_shown_whole() -> None:
    for value in (1.0000001, 1 + 2**-40):
        study = {**SMOKE, "grid": [{"models": ["world-a"], "tasks": ["code"], "arms": {"safelora": [value]}}]}
        with pytest.raises(InputError, match=rf"τ = {value!r} lies outside \[0, 1\]"):
            parse_study(study, "study.yaml")


def test_the_six_digits_are_gone_from_the_reference() -> None:
    assert "six digits" not in (ROOT / "docs/config.md").read_text()
    assert "arms_from" in read_json(ROOT / "workflow/schemas/study.schema.json")["properties"]
