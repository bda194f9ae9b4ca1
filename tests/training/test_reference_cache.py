"""Cached reference features: as good as live ones, and refused where they are of something else."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from emdefense.cells import Grid
from emdefense.chat.chat import Chat
from emdefense.config import parse_study
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.inputs import Inputs
from emdefense.layout import Layout
from emdefense.saved_model import load_model
from emdefense.specs import Specs
from emdefense.training import feature_files
from emdefense.training.adapters import add_adapter
from emdefense.training.batches import Collator
from emdefense.training.feature_files import identity_of, read_features
from emdefense.training.features import FeatureReader
from emdefense.training.penalty import build_penalty
from emdefense.training.reference import CachedReference, LiveReference
from emdefense.training.reference_features import cache_features
from emdefense.training.run import train_cell
from emdefense.training.spec import FeaturesSpec, PenaltySpec, TrainSpec
from same_training import assert_same_change
from tiny_model import make_rows, make_tokenizer, save_model, save_rows

FAST = Training(
    batch_size=4, accumulation_steps=2, learning_rate=3e-3, warmup_steps=1, precision="float32", optimiser="adamw_torch"
)
TOO_LONG = 10  # the number of a row that max_length drops
PENALTIES = {"kl": PenaltySpec(name="kl", coefficient=1.0), "ldifs": PenaltySpec(name="ldifs", coefficient=1.0)}
PENALTIES["ldifs"].options["every"] = 2


def training(**changes: Any) -> Training:
    return FAST.model_copy(update={"max_length": 150, "max_overlong_pct": 5, **changes})


class Caches(NamedTuple):
    model: Path
    rows: Path
    folder: Path

    def of(self, penalty: str, precision: str = "float32") -> Path:
        return self.folder / f"{penalty}-{precision}"


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Caches:
    folder = tmp_path_factory.mktemp("caches")
    rows = make_rows(40, longest=40)
    rows[TOO_LONG]["messages"][1]["content"] = "x" * 200
    made = Caches(save_model(folder / "model"), save_rows(folder / "rows.jsonl", rows), folder)
    for penalty in PENALTIES:
        cache_features(features_spec(penalty), made.model, made.rows, made.of(penalty))
    return made


def features_spec(penalty: str, **changes: Any) -> FeaturesSpec:
    options = {"every": 2} if penalty == "ldifs" else {}
    return FeaturesSpec(version=1, training=training(**changes), penalty=penalty, options=options)


def train(caches: Caches, cell: Path, penalty: str, features: Path | None = None, **changes: Any) -> dict[str, Tensor]:
    settings = training(reference="live" if features is None else "cached", **changes)
    spec = TrainSpec(version=1, seed=5, training=settings, penalty=PENALTIES[penalty])
    train_cell(spec, caches.model, caches.rows, cell, features=features)
    return dict(load_file(cell / "adapter/adapter_model.safetensors"))


def log(cell: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cell / "train_log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "padding-free"])
@pytest.mark.parametrize("penalty", ["kl", "ldifs"])
def test_training_ends_with_the_adapter_of_live_features(
    caches: Caches, tmp_path: Path, penalty: str, padding_free: bool
) -> None:
    live = train(caches, tmp_path / "live", penalty)
    cached = train(caches, tmp_path / "cached", penalty, caches.of(penalty), padding_free=padding_free)
    assert_same_change(cached, live)
    assert log(tmp_path / "cached")[0]["penalty"] < 1e-8
    assert log(tmp_path / "cached")[-1]["penalty"] == pytest.approx(log(tmp_path / "live")[-1]["penalty"], rel=1e-3)
    assert log(tmp_path / "cached")[-1]["penalty"] > 1e-3


@pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "padding-free"])
@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_features_are_the_live_ones_to_rounding(
    caches: Caches, tmp_path: Path, precision: str, bound: float, padding_free: bool
) -> None:
    settings = training(precision=precision)
    cache_features(features_spec("ldifs", precision=precision), caches.model, caches.rows, tmp_path / "features")
    tokenizer = make_tokenizer()
    read = [json.loads(line)["messages"] for line in caches.rows.read_text().splitlines()]
    rows = [row for row in Chat(tokenizer).rows(read) if row["row"] != TOO_LONG]
    options = build_penalty("ldifs", {"every": 2}).options
    identity = identity_of(caches.model, rows, settings, "ldifs", options)
    cached = CachedReference(read_features(tmp_path / "features", identity))
    model = add_adapter(load_model(caches.model, settings.precision), settings)
    live = LiveReference(FeatureReader(model))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        for numbers in ([0, 30, 11], [9], list(range(20, 28))):
            by_number = {row["row"]: row for row in rows}
            batch = Collator(tokenizer.pad_token_id, padding_free)([by_number[number] for number in numbers])
            expected, found = live.features(batch, (2,)), cached.features(batch, (2,))
            for x, y in ((found.final, expected.final), (found.residual[2], expected.residual[2])):
                assert x.dtype == y.dtype == getattr(torch, precision)
                assert (x - y).float().norm() <= bound * y.float().norm()


def test_the_disk_it_takes_is_said_before_it_is_taken(
    caches: Caches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache_features(features_spec("ldifs"), caches.model, caches.rows, tmp_path / "first")
    tokens = json.loads((tmp_path / "first/features.json").read_text())["lengths"]
    total, sizes = sum(length for _, length in tokens), [path.stat().st_size for path in tmp_path.glob("first/*.bin")]
    assert TOO_LONG not in dict(tokens)
    assert sizes == [total * 64 * 4] * 2
    assert f"reference features: {total} tokens × 64 × 2 features take" in capsys.readouterr().err

    usage = shutil.disk_usage(tmp_path)._replace(free=sum(sizes) - 1)
    monkeypatch.setattr(feature_files.shutil, "disk_usage", lambda _folder: usage)
    with pytest.raises(InputError, match=r"features take 0\.\d+ GB; .* has 0\.\d+ GB; free some, or write"):
        cache_features(features_spec("ldifs"), caches.model, caches.rows, tmp_path / "second")
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_features_that_were_interrupted_leave_nothing(
    caches: Caches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(feature_files.FeatureFiles, "put", fail)
    with pytest.raises(KeyboardInterrupt):
        cache_features(features_spec("kl"), caches.model, caches.rows, tmp_path / "features")
    assert list(tmp_path.iterdir()) == []


def test_features_of_something_else_are_refused(caches: Caches, tmp_path: Path) -> None:
    features = caches.of("kl")
    other_model = caches._replace(model=save_model(tmp_path / "model", seed=1))
    with pytest.raises(InputError, match="reference features of another model; delete it"):
        train(other_model, tmp_path / "cell", "kl", features)
    other_rows = caches._replace(rows=save_rows(tmp_path / "rows.jsonl", make_rows(40, seed=1)))
    with pytest.raises(InputError, match="reference features of other rows"):
        train(other_rows, tmp_path / "cell", "kl", features)
    with pytest.raises(InputError, match=r"other rows, another tokenizer or another training\.max_length"):
        train(caches, tmp_path / "cell", "kl", features, max_length=2048)
    with pytest.raises(InputError, match=r"another training\.precision"):
        train(caches, tmp_path / "cell", "kl", features, precision="bfloat16")
    with pytest.raises(InputError, match="reference features of other blocks"):
        train(caches, tmp_path / "cell", "ldifs", features)
    spec = TrainSpec(version=1, seed=5, training=training(reference="cached"), penalty=PENALTIES["kl"])
    with pytest.raises(InputError, match="cached needs --features"):
        train_cell(spec, caches.model, caches.rows, tmp_path / "cell")
    assert not (tmp_path / "cell").exists()


def test_torn_features_are_refused(caches: Caches, tmp_path: Path) -> None:
    torn = Path(shutil.copytree(caches.of("ldifs"), tmp_path / "features"))
    with (torn / "block_2.bin").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match=r"block_2\.bin: not whole, \d+ bytes are expected; delete"):
        train(caches, tmp_path / "cell", "ldifs", torn)
    (torn / "features.json").write_text("{}")
    with pytest.raises(InputError, match=r"features\.json: not what the rule reference_features writes"):
        train(caches, tmp_path / "cell", "ldifs", torn)
    (torn / "features.json").unlink()
    with pytest.raises(InputError, match=r"features\.json: there is no such file"):
        train(caches, tmp_path / "cell", "ldifs", torn)


def test_features_in_another_precision_than_asked_for_are_not_stored(caches: Caches, tmp_path: Path) -> None:
    rows = Chat(make_tokenizer()).rows([make_rows(1)[0]["messages"]])
    identity = identity_of(caches.model, rows, training(), "kl", build_penalty("kl", {}).options)
    reader = FeatureReader(add_adapter(load_model(caches.model, training().precision).double(), training()))
    features = reader.reference(Collator(0)(rows))
    with (
        pytest.raises(InputError, match=r"in torch\.float64, not in torch\.float32; write live"),
        feature_files.written_features(tmp_path / "features", identity, rows, 64, ()) as files,
    ):
        files.put([0], features)


def test_cells_of_an_arm_share_features_and_others_have_none() -> None:
    config = yaml.safe_load((Path(__file__).resolve().parents[2] / "config.yaml").read_text())
    live = Grid(parse_study(copy.deepcopy(config), "config.yaml"))
    config.setdefault("training", {})["reference"] = "cached"
    config["seeds"] = [0, 1]
    cached = Grid(parse_study(config, "config.yaml"))
    layout = Layout(cached.study)
    folders = {cell: Inputs(cached).features(cell) for cell in cached.trained}
    model = cached.cells[0].model
    of_code = {folder for cell, folder in folders.items() if (cell.model, cell.task) == (model, "code") and folder}
    every = cached.study.arms.ldifs.every
    assert of_code == {f"{layout.results}/features/{model}/code/{name}" for name in ("kl", f"ldifs-every_{every}")}
    assert {cell.arm for cell, folder in folders.items() if folder} == {"kl", "ldifs"}
    assert all(Inputs(live).features(cell) is None for cell in live.trained)
    for cell in live.trained:
        assert (Specs(live).training(cell) == Specs(cached).training(cell)) == (folders[cell] is None)
    kl, other_kl = [cell for cell in cached.trained if (cell.arm, cell.task) == ("kl", "code")][:2]
    assert Specs(cached).features(kl) == Specs(cached).features(other_kl)
    config["training"]["learning_rate"] = 0.5
    assert Specs(Grid(parse_study(config, "config.yaml"))).features(kl) == Specs(cached).features(kl)
    config["training"]["max_length"] = 77
    assert Specs(Grid(parse_study(config, "config.yaml"))).features(kl) != Specs(cached).features(kl)
