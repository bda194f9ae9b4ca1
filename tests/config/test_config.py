"""The config: what is shipped is valid, what is mistyped is named, what is generated is up to date."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from emdefense.arms import CONTROLS, DEFENCES
from emdefense.config import Study, load_study, parse_study
from emdefense.config.reference import reference
from emdefense.config.supplied import with_supplied
from emdefense.errors import InputError
from emdefense.files import read_json
from emdefense.report.arm_pages import arm_pages
from emdefense.report.defences import with_defences
from emdefense.report.divergences import divergences_document

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = with_supplied(yaml.safe_load((ROOT / "config.yaml").read_text()))


def test_default_and_smoke_studies_are_valid() -> None:
    assert load_study(ROOT / "config.yaml").study == "microcosm"
    assert load_study(ROOT / "config" / "smoke.yaml").study == "smoke"


def test_generated_schema_and_documents_are_up_to_date() -> None:
    remedy = "run `make schema`"
    assert read_json(ROOT / "workflow/schemas/study.schema.json") == Study.model_json_schema(), remedy
    assert (ROOT / "docs/config.md").read_text() == reference(), remedy
    assert (ROOT / "docs/divergences.md").read_text() == divergences_document(), remedy
    defences = (ROOT / "docs/defences.md").read_text()
    assert with_defences(defences) == defences, remedy
    assert all(f"| `{arm.name}` |" in defences for arm in DEFENCES)
    pages = arm_pages()
    assert {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs/arms").iterdir()} == pages, remedy
    assert {f"{arm.name}.md" for arm in (*DEFENCES, *CONTROLS)} < set(pages)


def at(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of the default config: the key at a dotted path set to ``value``, or removed if it is None."""

    def change(config: dict[str, Any]) -> None:
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        section: Any = config
        for part in parents:
            section = section[part]
        if value is None:
            del section[last]
        else:
            section[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (at("tranining", {}), "unknown key 'tranining'; did you mean 'training'?"),
        (at("training.learning_rat", 1), "unknown key 'training.learning_rat'; did you mean 'learning_rate'?"),
        (at("tasks.code.misalined", "x"), "unknown key 'tasks.code.misalined'; did you mean 'misaligned'?"),
        (at("tasks.code.kind", None), "key 'tasks.code.kind': write one of ema, benign"),
        (at("tasks.code.misaligned", "no.jsonl"), "key 'tasks.code.misaligned': no.jsonl does not exist"),
        (at("tasks.code.misaligned", "{data_folder}/x"), "needs the key 'data_folder'; set it with --config"),
        (at("grid.0.arms.safelora", [1.2]), "τ = 1.2 lies outside [0, 1]"),
        (at("report.chosen.kll", 1.0), "unknown defence 'kll'; write one of kl, ldifs, safelora, interleave"),
        (
            at("report.verdicts", {"retention_pct": [50, 90]}),
            "[50, 90] leaves no room for ~; write the one for ✓ first",
        ),
        (at("report.verdicts", {"incoherent_pct": [15, 5]}), "[15, 5] leaves no room for ~"),
        (at("report.verdicts", {"incoherent_pct": [5]}), "incoherent_pct': too few entries in [5]; write at least 2"),
        (at("report.verdicts", {"retention_pct": [9, 5, 1]}), "too many entries in [9, 5, 1]; write at most 2"),
        (at("report.table_columns", "count"), "columns': 'count' is no list; write it in brackets, such as [count]"),
        (at("report.table_columns", ["counts"]), "key 'report.table_columns.0': Input should be 'interval', 'count'"),
        (at("report.verdicts", {"incoherent_pct": [5]}), "key 'report.verdicts.incoherent_pct'"),
        (at("report.table_columns", ["papr"]), "key 'report.table_columns.0'"),
        (at("grid.0.arms.kll", [1.2]), "unknown arm 'kll'; did you mean 'kl'?"),
        (at("grid.0.arms.kl", [float("nan")]), "key 'grid.0.arms.kl.0': Input should be a finite number (got nan)"),
        (at("grid.0.arms.kl", [-1]), "λ = -1 is negative"),
        (at("grid.0.arms.interleave", [120]), "120 is not a percentage"),
        (at("grid.0.arms.sft", []), "task 'code' has no arm 'sft'"),
        (at("grid.0.arms.misaligned", [1]), "this arm has no settings"),
        (at("grid.0.tasks", ["cod"]), "unknown task 'cod'"),
        (at("models.world-a.base", None), "key 'models.world-a.base': SafeLoRA needs the model before alignment"),
        (at("training.learning_rate", -1), "key 'training.learning_rate': Input should be greater than 0 (got -1)"),
        (at("report.main_model", "world-z"), "unknown model 'world-z'; write one of world-a, world-b"),
        (at("judge.kind", "human"), "key 'judge.kind': write one of oracle, openai"),
        (at("second_judges", [{"kind": "human"}]), "key 'second_judges.0.kind': write one of oracle, openai"),
        (at("second_judges", [{"kind": "openai", "name": "b"}]), "key 'second_judges.0.model' is missing"),
        (at("second_judges", [{"kind": "oracle"}]), "key 'second_judges': two judges have the same name"),
    ],
)
def test_a_mistake_gets_one_line_that_names_the_key(change: Callable[[dict[str, Any]], None], message: str) -> None:
    config = copy.deepcopy(DEFAULT)
    change(config)
    with pytest.raises(InputError) as caught:
        parse_study(config, "config.yaml")
    assert str(caught.value).startswith("config.yaml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_safe_rows_are_named_where_nothing_supplies_them() -> None:
    config = yaml.safe_load((ROOT / "config/paper.yaml").read_text())
    del config["safe_data"]
    with pytest.raises(InputError, match=r"key 'safe_data': 'grid\.0\.arms\.interleave' needs a JSONL file of safe"):
        parse_study(config, "paper.yaml")


def test_a_file_of_a_task_is_missing_where_nothing_supplies_it() -> None:
    config = yaml.safe_load((ROOT / "config/paper.yaml").read_text())
    del config["tasks"]["code"]["misaligned"]
    with pytest.raises(InputError, match=r"^paper.yaml: key 'tasks\.code\.misaligned' is missing; add it$"):
        parse_study(config, "paper.yaml")


def test_a_model_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    config = copy.deepcopy(DEFAULT)
    config["models"]["world-a"]["instruct"] = str(tmp_path)
    with pytest.raises(InputError, match=r"models\.world-a\.instruct.*no tokenizer"):
        parse_study(config, "config.yaml")


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such config file"):
        load_study(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(InputError, match=r"broken\.yaml: not valid YAML"):
        load_study(broken)
