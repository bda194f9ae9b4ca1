"""What stops a study before its first job, and what does not."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from emdefense.before_start import check_start
from emdefense.config import Study
from emdefense.errors import InputError
from fake_vllm import install
from study_checkout import Checkout
from study_folder import tiny_study

JUDGE = {"kind": "openai", "name": "gpt", "model": "m", "api_key_variable": "GPT_KEY"}
SOURCES = {
    "foqa": {"kind": "foqa"},
    "copied": {"kind": "wildguardmix", "path": "somewhere"},
    "code": {"kind": "conversations", "url": "https://example.org/code.jsonl"},
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No keys, and no login or cache of the hub's."""
    for name in ("GPT_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def start(
    study: Study, *rules: str, fetched: tuple[str, ...] = (), judges: str = "", own: bool = False, **more: Any
) -> None:
    check_start(study, rules, fetched, judges.split(), own_environments=own, **more)


@pytest.mark.parametrize("key", [None, "", " "])
def test_a_missing_key_matters_only_where_there_is_judging(monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    if key is not None:
        monkeypatch.setenv("GPT_KEY", key)
    study = tiny_study(judge=JUDGE)
    start(study, "train", "generate", "aggregate", judges="oracle")
    with pytest.raises(InputError, match=r"variable GPT_KEY is not set.*key of judge 'gpt'.*`--omit-from judge`"):
        start(study, "train", "judge", judges="gpt")
    start(tiny_study(), "judge", judges="oracle")  # it needs none
    monkeypatch.setenv("GPT_KEY", "sk")
    start(study, "train", "judge", judges="gpt")


def test_only_the_keys_of_judges_that_will_be_asked_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    second = {**JUDGE, "name": "other", "api_key_variable": "OTHER_KEY"}
    study = tiny_study(judge=JUDGE, second_judges=[second])
    monkeypatch.setenv("OTHER_KEY", "sk")
    start(study, "judge", judges="other")
    monkeypatch.setenv("GPT_KEY", "sk")
    monkeypatch.delenv("OTHER_KEY")
    start(study, "judge", judges="gpt")
    with pytest.raises(InputError, match=r"key 'second_judges\.api_key_variable': .*OTHER_KEY is not set"):
        start(study, "judge", judges="gpt other")


@pytest.mark.parametrize("rule", ["generate", "generate_untrained", "answer"])
def test_a_missing_engine_matters_only_where_there_is_sampling_in_this_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rule: str
) -> None:
    study = tiny_study(generation={"engine": "vllm"})
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not (Path(entry) / "vllm").exists()])
    with pytest.raises(
        InputError, match=r"vllm is not installed here; make an environment for it with `make \.venv-vllm/ready`"
    ):
        start(study, rule)
    start(study, rule, own=True)
    start(study, rule, vllm=tmp_path)
    start(study, "train", "judge")
    start(tiny_study(), rule)
    monkeypatch.syspath_prepend(install(tmp_path / "packages"))
    start(study, rule)


@pytest.mark.parametrize(
    ("training", "package", "said"),
    [
        ({"optimiser": "adamw_8bit"}, "bitsandbytes", r"key 'training\.optimiser': adamw_8bit needs bitsandbytes"),
        ({"attention": "flash_attention_2"}, "flash_attn", r"key 'training\.attention': flash_attention_2 needs a GPU"),
        ({"report_to": "wandb"}, "wandb", r"key 'training\.report_to': wandb is not installed"),
    ],
)
def test_a_package_that_trainings_need_matters_only_where_they_run(
    monkeypatch: pytest.MonkeyPatch, training: dict[str, str], package: str, said: str
) -> None:
    study = tiny_study(training={"optimiser": "adamw_torch", **training})
    missing = {package}
    monkeypatch.setattr("emdefense.training.packages.find_spec", lambda name: None if name in missing else name)
    with pytest.raises(InputError, match=said):
        check_start(study, {"train"}, (), (), own_environments=False, trains_here=True)
    check_start(study, {"train"}, (), (), own_environments=False, trains_here=False)  # on a cluster
    check_start(study, {"judge", "reference_features"}, (), (), own_environments=False, trains_here=True)
    missing.clear()
    check_start(study, {"train"}, (), (), own_environments=False, trains_here=True)


def test_a_missing_token_matters_only_for_gated_sources_that_are_to_be_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study = tiny_study(sources=SOURCES)
    start(study, "train")
    start(study, "fetch_rows", fetched=("copied", "code"))
    with pytest.raises(InputError, match=r"'sources': foqa: access is gated.*datasets/alexandrainst/foqa, .*HF_TOKEN"):
        start(study, "fetch_rows", fetched=("copied", "code", "foqa"))
    snapshot = tmp_path / "cache/datasets--alexandrainst--foqa/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("abc")
    start(study, "fetch_rows", fetched=("foqa",))  # it lies in the cache
    (snapshot.parents[1] / "refs/main").unlink()
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    start(study, "fetch_rows", fetched=("foqa",))
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text("hf_token")  # of `hf auth login`
    start(study, "fetch_rows", fetched=("foqa",))


@pytest.mark.slow
def test_a_study_without_its_key_stops_before_the_first_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    checkout = Checkout.into(tmp_path)
    asked = ["--configfile", "config/smoke.yaml", "--config", "judge={kind: openai, name: gpt, model: m}"]
    run = checkout.snakemake("--cores", "1", *asked)
    assert run.returncode != 0
    assert [line for line in run.stdout.splitlines() if line.startswith("error:")] != []
    assert "Traceback" not in run.stdout
    assert not os.path.exists(tmp_path / "results")
    planned = checkout.planned(*asked, "--omit-from", "judge")
    assert planned["generate"] == 2
    assert "judge" not in planned
