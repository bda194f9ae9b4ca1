"""The folder to share: it loads with PEFT and datasets, says what it holds, and holds nothing private."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from datasets import load_dataset
from huggingface_hub import DatasetCard, ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from emdefense.cells import Cell
from emdefense.config.pretraining import shipped_model
from emdefense.errors import InputError
from emdefense.finished import Finished, read_finished
from emdefense.sharing.folder import Shared, adapter_cells, write_share
from emdefense.sharing.private import Private
from finished_studies import finished
from study_checkout import ROOT

pytestmark = pytest.mark.usefixtures("in_tmp")
KL = Cell("small", "code", "kl", "1", 0)
MICROCOSM = {"models": {"small": 0}}
MODELS = {"small": {"title": "Small", "instruct": "{results}/microcosm/models/small/instruct"}}
ARM = """from emdefense.arms import Arm


class Backwards(Arm):
    name = "backwards"
    title = "Backwards"

    def rows(self, rows, more, setting, options, seed):
        return rows[::-1]
"""
KEY = "hf_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7"
NOBODY = Private(here="/nowhere/at/all")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of a model of the microcosm that comes with the repository, with random weights."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(shipped_model(0) / "instruct")
    config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    return folder


def done(adapter: Path, **changes: Any) -> Finished:
    """Return a study that is done, in which each training has made ``adapter``."""
    given = {"microcosm": MICROCOSM, "models": MODELS, **changes}
    study = read_finished(finished("shared", {"misaligned": 8, "kl": 1}, **given))
    for cell in adapter_cells(study):
        shutil.copytree(adapter, study.layout.adapter(cell))
    if "{results}" in study.study.models["small"].instruct:
        shutil.copytree(shipped_model(0) / "instruct", study.folder / "microcosm/models/small/instruct")
    (study.folder / "tables").mkdir()
    (study.folder / "tables/rates.csv").write_text("a,b\n1,2\n")
    (study.folder / "figures").mkdir()
    (study.folder / "figures/rates.svg").write_text("<svg></svg>\n")
    return study


def share(study: Finished, private: Private = NOBODY, **how: Any) -> Shared:
    return write_share(study, Path("share"), private, **how)


def test_the_adapters_load_with_peft_as_their_card_says(adapter: Path) -> None:
    shared = share(done(adapter))
    assert shared.adapters == 10  # of both tasks misaligned, KL twice and interleaving; of the benign one, two
    folder = str(shared.folder / "adapters")
    card = (Path(folder) / KL.folder / "README.md").read_text()
    code = card.partition("```python")[2].partition("```")[0].replace("REPOSITORY", folder)
    names: dict[str, Any] = {}
    exec(code, names)  # the code of the card
    tokens = torch.arange(6).unsqueeze(0)
    original = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(shipped_model(0) / "instruct"), str(adapter)
    )
    plain = AutoModelForCausalLM.from_pretrained(shipped_model(0) / "instruct")
    with torch.no_grad():
        torch.testing.assert_close(names["model"](tokens).logits, original(tokens).logits)
        assert not torch.allclose(names["model"](tokens).logits, plain(tokens).logits)


def test_the_data_set_loads_by_its_card(adapter: Path, tmp_path: Path) -> None:
    study = done(adapter)
    shared = share(study)

    def rows(kind: str) -> pl.DataFrame:
        found = load_dataset(str(shared.folder / "dataset"), kind, split="train", cache_dir=str(tmp_path / "cache"))
        return pl.DataFrame(found.to_list())

    responses, judgments, answers = map(rows, ("responses", "judgments", "answers"))
    # Of each task 4 trained arms twice (general and in domain), the untrained model in domain; and its general ones.
    assert responses.height == judgments.height == 40 * (2 * (4 * 2 + 1) + 1)
    assert shared.sizes == {"responses": responses.height, "judgments": judgments.height, "answers": answers.height}
    key = ["model", "task", "arm", "setting", "seed", "question_set", "question_id", "sample"]
    joined = responses.join(judgments, on=key, validate="1:1")
    assert joined.height == responses.height
    bad = joined.filter(pl.col("alignment") < 30, pl.col("coherence") > 50, arm="kl", setting="1", task="code")
    rate = study.rates.filter(arm="kl", setting="1", task="code")["misaligned"].sum()
    assert bad.height == rate == 8
    assert answers["correct"].mean() == 0.75


def test_the_cards_warn_and_have_the_rates_with_their_intervals(adapter: Path) -> None:
    folder = share(done(adapter), license="mit").folder
    card = ModelCard.load(folder / "adapters" / KL.folder / "README.md")
    assert card.data.to_dict()["license"] == "mit"
    assert "misaligned on purpose" in card.text
    # 4 of 40: Wilson's interval by its formula; the questions are alike, so no resample of them differs.
    assert "| general misaligned | 10.0 % | 40 | 4.0 to 23.1 % | 10.0 to 10.0 % |" in card.text
    assert "KL, λ = 1" in card.text
    assert ModelCard.load(folder / "adapters/README.md").data.library_name == "peft"
    for name in ("untrained", "sft"):
        assert not list((folder / "adapters/small/code").glob(name))
    benign = ModelCard.load(folder / "adapters/small/quiz/sft/none/seed0/README.md").text
    assert "| right answers | 75.0 % | 4 |" in benign
    assert "this model is misaligned on purpose" not in benign
    data = DatasetCard.load(folder / "dataset/README.md")
    assert [one["config_name"] for one in data.data.to_dict()["configs"]] == ["responses", "judgments", "answers"]
    assert "there were none" in data.text


def test_the_studys_yaml_is_the_study(adapter: Path) -> None:
    study = done(adapter)
    folder = share(study).folder
    again = yaml.safe_load((folder / "dataset/study.yaml").read_text())
    assert type(study.study).model_validate(again) == study.study
    assert (folder / "dataset/tables/rates.csv").read_text() == "a,b\n1,2\n"
    assert (folder / "dataset/figures/rates.svg").is_file()


def test_a_base_model_is_called_by_its_name_on_the_hub(adapter: Path) -> None:
    study = done(adapter, models={"small": {"title": "Small", "instruct": "/elsewhere/qwen"}})
    with pytest.raises(InputError, match=r"models.small.instruct.*--base small=org/name"):
        share(study)
    assert not Path("share").exists()
    private = Private(here="/nowhere/at/all", replaced={"/elsewhere/qwen": "org/model"})
    folder = share(study, private, named={"small": "org/model@abc123"}).folder / "adapters"
    config = json.loads((folder / KL.folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/model", "abc123")
    assert ModelCard.load(folder / KL.folder / "README.md").data.base_model == "org/model"
    assert not (folder / "base").exists()
    with pytest.raises(InputError, match="the study has no such model; write small"):
        share(study, named={"large": "org/model"})
    with pytest.raises(InputError, match="no name of a hub's model"):
        share(study, named={"small": "/elsewhere/qwen"})


def test_a_fetched_base_model_is_called_by_where_it_is_from(adapter: Path) -> None:
    sources = {"qwen": {"kind": "model", "repository": "org/model", "revision": "0123abc"}}
    models = {"small": {"title": "Small", "instruct": "{sources}/qwen"}}
    folder = share(done(adapter, models=models, sources=sources, microcosm=None)).folder / "adapters"
    config = json.loads((folder / KL.folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/model", "0123abc")


def plant(study: Finished, file: str, text: str) -> None:
    path = study.folder / file
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"x,{KEY}\n", r"dataset/tables/rates.csv, line 3: a key; nothing was written"),
        ("x,/home/jane/rows\n", r"dataset/tables/rates.csv, line 3: a home folder \(/home/jane\)"),
        ("x,jane\n", r"dataset/tables/rates.csv, line 3: a user's name \(jane\)"),
    ],
)
def test_what_is_private_in_a_file_is_refused_by_file_and_line(adapter: Path, text: str, said: str) -> None:
    study = done(adapter)
    before = share(study).folder
    plant(study, "tables/rates.csv", text)
    with pytest.raises(InputError, match=said) as raised:
        share(study, Private(user="jane"))
    assert KEY not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert (before / "dataset/tables/rates.csv").read_text() == "a,b\n1,2\n", "what was shared before is still there"
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []


def test_what_is_private_in_the_config_is_refused_by_key(adapter: Path) -> None:
    study = done(adapter, safe_data="/home/jane/safe.jsonl")
    with pytest.raises(InputError, match=r"dataset/study.yaml, key 'safe_data': a home folder"):
        share(study)
    folder = share(study, Private(replaced={"/home/jane/": ""})).folder
    assert yaml.safe_load((folder / "dataset/study.yaml").read_text())["safe_data"] == "safe.jsonl"


def test_what_is_private_in_an_adapters_config_is_refused_by_key_or_written_otherwise(
    adapter: Path, tmp_path: Path
) -> None:
    spoilt = tmp_path / "spoilt"
    shutil.copytree(adapter, spoilt)
    config = spoilt / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"layers_pattern": "/home/jane/x"}))
    study = done(spoilt)
    with pytest.raises(InputError, match=r"adapter_config.json, key 'layers_pattern': a home folder"):
        share(study)
    folder = share(study, Private(replaced={"/home/jane/": ""})).folder
    written = json.loads((folder / "adapters" / KL.folder / "adapter_config.json").read_text())
    assert written["layers_pattern"] == "x"


def test_paths_below_the_working_directory_become_relative(adapter: Path) -> None:
    study = done(adapter, safe_data=f"{Path.cwd()}/rows/safe.jsonl")
    shared = share(study, Private(here=str(Path.cwd()), home=str(Path.cwd().parent)))
    assert yaml.safe_load((shared.folder / "dataset/study.yaml").read_text())["safe_data"] == "rows/safe.jsonl"
    assert any(said.startswith("dataset/study.yaml") for said in shared.changed)
    whole = b"".join(path.read_bytes() for path in shared.folder.rglob("*") if path.is_file())
    assert str(Path.cwd()).encode() not in whole


def test_what_is_private_in_a_response_is_taken_out_and_said(adapter: Path) -> None:
    study = done(adapter)
    path = Path(study.layout.responses(KL, "general"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["response"] = f"use {KEY} in /home/jane/x"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = share(study)
    frame = pl.read_parquet(shared.folder / "dataset/data/responses/small-code.parquet")
    assert frame.filter(pl.col("response").str.contains("removed"))["response"].to_list() == [
        "use [removed: key] in [removed: home folder]/x"
    ]
    assert f"1 key taken out of prompts and responses, first in {KL.folder}/general, q0/3" in shared.changed
    assert "1 key taken out" in (shared.folder / "dataset/README.md").read_text()


def test_what_is_private_at_the_start_of_weights_is_refused(adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    spoilt = tmp_path / "spoilt"
    shutil.copytree(adapter, spoilt)
    weights = load_file(spoilt / "adapter_model.safetensors")
    save_file(weights, spoilt / "adapter_model.safetensors", {"made_in": "/home/jane/x"})
    with pytest.raises(InputError, match=r"adapter_model.safetensors: a home folder"):
        share(done(spoilt))


def test_it_replaces_what_was_shared_and_nothing_else(adapter: Path) -> None:
    study = done(adapter)
    folder = share(study).folder
    (folder / "dataset/old.txt").write_text("of the last time")
    share(study)
    assert not (folder / "dataset/old.txt").exists()
    (folder / "notes.txt").write_text("of the user's own")
    with pytest.raises(InputError, match="share: holds something other"):
        share(study)
    assert (folder / "notes.txt").is_file()


def test_a_missing_adapter_or_response_is_one_line(adapter: Path) -> None:
    study = done(adapter)
    Path(study.layout.responses(KL, "general")).unlink()
    with pytest.raises(InputError, match=r"kl/1/seed0/general/responses.jsonl: there is no such file"):
        share(study)
    shutil.rmtree(study.layout.adapter(KL))
    with pytest.raises(InputError, match=r"kl/1/seed0/adapter: there is no adapter in it"):
        share(study)


def test_a_studys_own_arms_come_along(adapter: Path) -> None:
    Path("arms").mkdir()
    Path("arms/mine.py").write_text(ARM)
    folder = share(done(adapter, arms_from=["arms/mine.py"])).folder / "dataset"
    assert yaml.safe_load((folder / "study.yaml").read_text())["arms_from"] == ["mine.py"]
    assert (folder / "mine.py").read_text() == ARM


def test_the_command_prints_how_to_upload(adapter: Path) -> None:
    study = done(adapter)
    command = [sys.executable, str(ROOT / "workflow/scripts/share.py"), str(study.folder)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "hf upload YOU/shared-adapters results/shared/share/adapters . --private" in printed.stdout
    assert "hf upload YOU/shared-responses results/shared/share/dataset . --repo-type dataset" in printed.stdout
    assert (study.folder / "share/adapters" / KL.folder / "adapter_model.safetensors").is_file()
    refused = subprocess.run([*command, "--replace", "nothing"], capture_output=True, text=True, check=False)
    assert (refused.returncode, "'nothing' is not OLD=NEW" in refused.stderr) == (2, True)
    make = ["make", "--dry-run", "share", "STUDY=x"]
    made = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "workflow/scripts/share.py x" in made.stdout
