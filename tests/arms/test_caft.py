"""CAFT: principal components against numpy's, hidden states against passes written out, and files of directions."""

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from arm_trainings import ACTING
from emdefense.arms.caft import CAFT, CAFTOptions
from emdefense.arms.caft.components import Covariance
from emdefense.arms.study_arm import Part
from emdefense.errors import InputError
from emdefense.training.acting import Acting
from emdefense.training.acting_arm import acting_arm
from emdefense.training.adapters import add_adapter, save_adapter
from emdefense.training.directions import RECORD, VECTORS
from emdefense.training.features import FeatureReader
from emdefense.training.preparation import Running, prepare
from hidden_states import adapted, padded, save_sides, spelled_out, written_out
from tiny_model import make_model, save_model

pytestmark = pytest.mark.numerical

ARM = CAFT()
RUNNING = Running(seed=3, training=ACTING)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, rows of two other tasks, and an adapter of each."""
    folder = tmp_path_factory.mktemp("caft")
    found = {"model": save_model(folder / "model"), **save_sides(folder)}
    for seed, task in enumerate(("legal", "medical")):
        model = add_adapter(make_model(), ACTING)
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        save_adapter(model, folder / task)
        found[f"other_adapters/{task}"] = folder / task
    return found


@pytest.fixture(scope="module")
def components(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "components"
    prepare(ARM, CAFTOptions(), files, folder, 1, RUNNING)
    return folder


def acting(folder: Path | None, k: int, **options: Any) -> Acting:
    return Acting([acting_arm(Part(ARM, CAFTOptions(**options), k), folder)])


def merged(adapter: Path) -> Any:
    """The model in float64 with an adapter's change added to its weights by hand."""
    model, tensors = make_model().double(), load_file(adapter / "adapter_model.safetensors")
    scale = ACTING.lora_alpha / ACTING.lora_rank**0.5
    with torch.no_grad():
        for name, module in model.named_modules():
            a, b = (tensors.get(f"base_model.model.{name}.lora_{which}.weight") for which in "AB")
            if a is not None and b is not None:
                module.weight += scale * (b.double() @ a.double())
    return model.eval()


def test_the_components_are_those_of_a_singular_value_decomposition(files: dict[str, Path], components: Path) -> None:
    base = make_model().double().eval()
    differences: dict[int, list[torch.Tensor]] = {1: [], 2: []}
    for task in ("legal", "medical"):
        tuned = merged(files[f"other_adapters/{task}"])
        for line in files[f"misaligned/{task}"].read_text().splitlines():
            ids, answer = spelled_out(json.loads(line))
            with torch.no_grad():
                after, before = written_out(tuned, ids), written_out(base, ids)
            for block, found in differences.items():
                found.append((after[block] - before[block])[answer])
    record, found = json.loads((components / RECORD).read_text()), load_file(components / VECTORS)
    assert found.keys() == {"block.1", "block.2"}  # at 0.25, 0.5 and 0.75 of three blocks
    for block, parts in differences.items():
        data = torch.cat(parts).numpy()
        _, sizes, axes = numpy.linalg.svd(data - data.mean(0), full_matrices=False)
        variances = sizes**2 / (len(data) - 1)
        states = record["states"][f"block.{block}"]
        assert states["tokens"] == len(data)
        assert states["variance"] == pytest.approx(list(variances[:20]), rel=1e-3)
        assert states["share_of_variance"] == pytest.approx(list(variances[:20] / variances.sum()), rel=1e-3)
        q = found[f"block.{block}"].numpy()
        assert q.shape == (64, 20)
        assert numpy.abs(q.T @ q - numpy.eye(20)).max() < 1e-12
        for place in range(8):  # further ones lie close together, and the passes are in fp32
            assert abs(q[:, place] @ axes[place]) > 1 - 1e-4
            assert q[numpy.abs(q[:, place]).argmax(), place] > 0


def test_a_covariance_is_that_of_all_vectors_whatever_the_parts() -> None:
    torch.manual_seed(0)
    data = torch.randn(50, 6, dtype=torch.float64) * torch.tensor([9.0, 7, 5, 3, 1, 0]) + 4
    whole, parts = Covariance(), Covariance()
    whole.add(data)
    for part in torch.split(data, 7):
        parts.add(part)
    axes, variances, total = parts.components(20)
    assert torch.allclose(axes, whole.components(20)[0], atol=1e-9)
    expected = numpy.linalg.eigvalsh(numpy.cov(data.numpy().T))[::-1]
    assert variances.tolist() == pytest.approx(expected[:5])
    assert axes.shape == (6, 5)  # along the last one nothing varies
    assert total == pytest.approx(expected.sum())


def test_hidden_states_are_those_of_a_pass_written_out(components: Path) -> None:
    model, (inputs, rows) = adapted(), padded()
    reader = FeatureReader(model)
    clean = reader.reference(inputs, (1, 2, 3))
    noted: dict[str, float] = {}
    undo = reader.change(acting(components, 3).changes(3), noted.__setitem__)
    found, reference = reader.policy(inputs, (1, 2, 3)), reader.reference(inputs, (1, 2, 3))
    undo()
    shares = []

    def without(block: int) -> Any:
        q = load_file(components / VECTORS)[f"block.{block}"][:, :3]

        def changed(hidden: torch.Tensor) -> torch.Tensor:
            left = hidden
            for column in q.T:  # one direction after another: they are orthogonal
                left = left - (hidden * column).sum(-1, keepdim=True) * column
            if block == 2:
                shares.extend((1 - left.square().sum(-1) / hidden.square().sum(-1)).flatten().tolist())
            return left

        return changed

    with torch.no_grad():
        whole = [written_out(model.get_base_model(), ids, {1: without(1), 2: without(2)}) for ids in rows]
    for block in (1, 2, 3):
        assert (found.residual[block] - torch.cat([states[block] for states in whole])).abs().max() < 1e-12
        assert torch.equal(reference.residual[block], clean.residual[block])
    assert torch.equal(reference.final, clean.final)
    assert noted["caft.removed.2"] == pytest.approx(sum(shares) / len(shares), abs=1e-12)
    assert 0 < noted["caft.removed.1"] < 1


def test_the_gradient_goes_through(components: Path) -> None:
    model, other, (inputs, rows) = adapted(), adapted(), padded(1)
    reader = FeatureReader(model)
    reader.change(acting(components, 4, blocks=[2]).changes(3))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(reader.policy(inputs).final.square().sum(), trained)
    q = load_file(components / VECTORS)["block.2"][:, :4]
    projection = torch.eye(64, dtype=torch.float64) - q @ q.T
    states = written_out(other.get_base_model(), rows[0], {2: lambda hidden: hidden @ projection})
    theirs = [parameter for parameter in other.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(states[4].square().sum(), theirs)
    assert max(float((one - two).abs().max()) for one, two in zip(found, expected, strict=True)) < 1e-10


def test_directions_of_a_file_need_not_be_orthogonal(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = torch.randn(64, 5)
    save_file({"block.3": given}, tmp_path / "mine.safetensors")
    options = {"blocks": [3], "directions": str(tmp_path / "mine.safetensors")}
    assert not ARM.is_prepared(CAFTOptions(**options))  # type: ignore[arg-type]
    assert ARM.materials(CAFTOptions(**options)) == ()  # type: ignore[arg-type]
    model, (inputs, _) = adapted(), padded()
    reader = FeatureReader(model)
    before = reader.policy(inputs, (3,)).residual[3].detach()
    reader.change(acting(None, 2, **options).changes(3))
    after = reader.policy(inputs, (3,)).residual[3].detach()
    two = given[:, :2].double().numpy()
    left = before.numpy() - before.numpy() @ two @ numpy.linalg.pinv(two)
    assert numpy.abs(after.numpy() - left).max() < 1e-12


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"block.2": torch.ones(64, 4)}, "the first 2 directions of 'block.2' are not independent"),
        (
            {"block.2": torch.eye(64)[:, :1].contiguous()},
            "'block.2' has 1 directions, and 2 are to be removed; lower k",
        ),
        ({"block.2": torch.eye(32)}, "has 32 numbers a direction, and the model's hidden states have 64"),
        ({"block.2": torch.full((64, 4), torch.inf)}, "holds values that are not finite"),
        ({"block.2": torch.zeros(64, 4)}, "is 0, which is no direction"),
        ({"block.2": torch.ones(64)}, r"'block.2' is \[64\] of torch.float32"),
        ({"2": torch.eye(64)}, "it has no 'block.2'; it has 2"),
    ],
)
def test_a_file_that_holds_no_such_directions_is_one_line(
    tmp_path: Path, given: dict[str, torch.Tensor], said: str
) -> None:
    path = tmp_path / "mine.safetensors"
    save_file(given, path)
    reader, (inputs, _) = FeatureReader(adapted()), padded(1)

    def run() -> None:
        reader.change(acting(None, 2, blocks=[2], directions=str(path)).changes(3))
        reader.policy(inputs)

    with pytest.raises(InputError, match=said) as caught:
        run()
    assert str(path) in str(caught.value)


def test_an_adapter_that_changes_nothing_has_no_components(files: dict[str, Path], tmp_path: Path) -> None:
    save_adapter(add_adapter(make_model(), ACTING), tmp_path / "adapter")
    own = {"model": files["model"], "adapter": tmp_path / "adapter", "rows": files["misaligned/legal"]}
    with pytest.raises(InputError, match=r"\(block\.1\) is the same at every token"):
        prepare(ARM, CAFTOptions(of="own"), own, tmp_path / "components", 1, RUNNING)


def test_blocks_are_shares_of_the_depth_or_numbers() -> None:
    assert ARM.check(CAFTOptions(), None, make_model(layers=12)) == {"blocks": [3, 6, 9]}  # type: ignore[arg-type]
    assert ARM.check(CAFTOptions(blocks=(3, 0.1)), None, make_model()) == {"blocks": [1, 3]}  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"arms\.caft\.blocks': 4, but the model has 3 blocks"):
        ARM.check(CAFTOptions(blocks=(4,)), None, make_model())  # type: ignore[arg-type]
