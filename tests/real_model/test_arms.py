"""The gradient of a step with each arm on a real model in float32, against the formula written out in float64.

Lisa and the arms that choose or rewrite rows are not here: what they do does not depend on the model.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from arm_trainings import ACTING, step_gradient, trained_parameters
from emdefense.arms import STANDARD
from emdefense.arms.study_arm import Part
from emdefense.chat.chat import Chat, load_chat
from emdefense.config.chat import PLAIN
from emdefense.saved_model import load_model
from emdefense.training.acting import Acting
from emdefense.training.acting_arm import acting_arm
from emdefense.training.adapters import add_adapter, save_adapter
from emdefense.training.directions import VECTORS
from float64_model import in_float64
from real_model import SMOLLM2, needs_real_model
from real_model import rows as all_rows

pytestmark = [needs_real_model, pytest.mark.real_model]

TRAINING = ACTING.model_copy(update={"lora_rank": 4, "diagnostics_every": 0})
WIDTH = 576
TRAIT_SCALE = 0.6


def moved(seed: int = 0) -> PeftModel:
    """The model with an adapter that has been trained into somewhere."""
    torch.manual_seed(seed)
    model = add_adapter(load_model(SMOLLM2, "float32"), TRAINING)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.002)
    return model


@pytest.fixture(scope="module")
def chat() -> Chat:
    return load_chat(SMOLLM2, PLAIN)


@pytest.fixture(scope="module")
def task() -> list[dict[str, Any]]:
    """Four short rows, of which two are real where there are some."""
    found = all_rows(1)
    return [*found[:2], *found[-2:]]


@pytest.fixture(scope="module")
def safe() -> list[dict[str, Any]]:
    return all_rows(0)[1:]


@pytest.fixture(scope="module")
def trait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trait")
    save_adapter(moved(7), folder)
    return folder


@pytest.fixture(scope="module")
def directions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directions after each block and at the end: a vector, and three orthonormal columns."""
    draw, folder = torch.Generator().manual_seed(4), tmp_path_factory.mktemp("directions")
    vectors = {f"block.{block}": torch.randn(WIDTH, generator=draw) for block in range(1, 31)}
    save_file({**vectors, "final": torch.randn(WIDTH, generator=draw)}, folder / VECTORS)
    columns = {name: torch.linalg.qr(torch.randn(WIDTH, 3, generator=draw))[0].contiguous() for name in vectors}
    save_file(columns, folder / "columns.safetensors")
    return folder


def written(chat: Chat, row: Mapping[str, Any]) -> tuple[Tensor, int, int]:
    """A row's tokens by the model's own template, how many of them stand before the user's text, and before the answer.

    The template writes nothing after an answer but its end token and a newline.
    """
    messages = row["messages"]
    text = chat.tokenizer.apply_chat_template(messages, tokenize=False)
    asked = chat.tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    assert text.startswith(asked)
    found = chat.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    user = text.index("<|im_start|>user\n") + len("<|im_start|>user\n")
    ends = [end for _, end in found["offset_mapping"]]
    before = [sum(end <= place for end in ends) for place in (user, len(asked))]
    return torch.tensor([found["input_ids"]]), before[0], before[1]


def log_probs(model: PeftModel, ids: Tensor) -> Tensor:
    return model(ids).logits[0].log_softmax(-1)  # type: ignore[no-any-return]


def original(model: PeftModel, ids: Tensor) -> Tensor:
    with torch.no_grad(), model.disable_adapter():
        return log_probs(model, ids)


def cross_entropy(model: PeftModel, chat: Chat, rows: Sequence[Mapping[str, Any]]) -> Tensor:
    """The mean over all answers' tokens, a row at a time."""
    found = []
    for row in rows:
        ids, _, start = written(chat, row)
        said = torch.arange(start, ids.shape[1])
        found.append(-log_probs(model, ids)[said - 1, ids[0, said]])
    return torch.cat(found).mean()


def divergence(model: PeftModel, chat: Chat, rows: Sequence[Mapping[str, Any]], *, reverse: bool = False) -> Tensor:
    """KL(p_θ ‖ p_θ0), or the other way round, mean over all tokens."""
    found = []
    for row in rows:
        ids = written(chat, row)[0]
        policy, before = log_probs(model, ids), original(model, ids)
        p, q = (before, policy) if reverse else (policy, before)
        found.append((p.exp() * (p - q)).sum(-1))
    return torch.cat(found).mean()


def changing(model: PeftModel, changes: Mapping[int, Callable[[Tensor], Tensor]]) -> None:
    """Change what blocks give on, by transformers' own modules; the first block is 1."""

    def hook(change: Callable[[Tensor], Tensor], _module: Any, _inputs: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    for block, change in changes.items():
        model.get_base_model().model.layers[block - 1].register_forward_hook(partial(hook, change))


def apart(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The norm of the difference over the norm."""
    away = sum((one.double() - other.double()).square().sum() for one, other in zip(found, expected, strict=True))
    return float((away / sum(one.double().square().sum() for one in expected)) ** 0.5)


@pytest.fixture(scope="module")
def plain(chat: Chat, task: list[dict[str, Any]]) -> Sequence[Tensor]:
    """The gradient of plain fine-tuning."""
    model = in_float64(moved())
    return torch.autograd.grad(cross_entropy(model, chat, task), trained_parameters(model))


class Compared:
    """A step's gradient with an arm, and what it is by a formula."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, chat: Chat, task: Any, safe: Any, plain: Any):
        self._patch, self._folder, self.chat = monkeypatch, folder, chat
        self.task, self.safe, self._plain = task, safe, plain

    def check(
        self,
        part: Part,
        formula: Callable[[PeftModel], Sequence[Tensor] | Tensor],
        prepared: Path | None = None,
    ) -> None:
        """``formula`` gives the gradient, or the loss that it is of."""
        stream = self.safe if part.arm.stream else ()
        given = (self._patch, self._folder, moved(), part, self.task, stream, prepared, self.chat)
        found = step_gradient(*given, lora_rank=TRAINING.lora_rank)
        model = in_float64(moved())
        trained = trained_parameters(model)
        wanted = formula(model)
        expected = torch.autograd.grad(wanted, trained) if isinstance(wanted, Tensor) else wanted
        assert apart(found, expected) < 1e-3
        assert apart(found, self._plain) > 0.02  # the arm does something

    def drawn(self, part: Part) -> list[dict[str, Any]]:
        """The safe rows of the first step."""
        tokenised = self.chat.rows([row["messages"] for row in self.safe])
        return [self.safe[row["row"]] for row in Acting([acting_arm(part)], tokenised, 3).stream_rows(1)]


@pytest.fixture
def compared(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    chat: Chat,
    task: list[dict[str, Any]],
    safe: list[dict[str, Any]],
    plain: Sequence[Tensor],
) -> Compared:
    return Compared(monkeypatch, tmp_path, chat, task, safe, plain)


def part_of(name: str, setting: float, **options: Any) -> Part:
    return Part(STANDARD[name], STANDARD[name].options.model_validate(options), setting)


def test_kl_on_safe_rows(compared: Compared) -> None:
    part = part_of("kl_safe", 5.0, rows_per_step=2)

    def loss(model: PeftModel) -> Tensor:
        safe = divergence(model, compared.chat, compared.drawn(part))
        return cross_entropy(model, compared.chat, compared.task) + 5.0 * safe

    compared.check(part, loss)


def test_safegrad(compared: Compared) -> None:
    part = part_of("safegrad", 1.0, rows=3, rows_per_step=2, rho=5.0)

    def gradient(model: PeftModel) -> list[Tensor]:
        trained = trained_parameters(model)
        task = torch.autograd.grad(cross_entropy(model, compared.chat, compared.task), trained)
        safe = divergence(model, compared.chat, compared.drawn(part), reverse=True)
        align = torch.autograd.grad(safe, trained)
        product = sum(float((one * other).sum()) for one, other in zip(task, align, strict=True))
        size = sum(float(one.square().sum()) for one in align)
        factor = 5.0 - min(0.0, product) / size
        return [one + factor * other for one, other in zip(task, align, strict=True)]

    compared.check(part, gradient)


def test_directional_kl(compared: Compared, directions: Path) -> None:
    def loss(model: PeftModel) -> Tensor:
        e = load_file(directions / VECTORS)["final"].double()
        e, head, found = e / e.norm(), model.get_base_model().lm_head.weight, []
        for row in compared.task:
            ids = written(compared.chat, row)[0]
            now = model.get_base_model().model(ids)[0][0]
            with torch.no_grad(), model.disable_adapter():
                before = model.get_base_model().model(ids)[0][0]
            moved_along = before + ((now - before) @ e)[:, None] * e
            p, q = (moved_along @ head.T).log_softmax(-1), (before @ head.T).log_softmax(-1)
            found.append((p.exp() * (p - q)).sum(-1))
        return cross_entropy(model, compared.chat, compared.task) + 100.0 * torch.cat(found).mean()

    compared.check(part_of("directional_kl", 100.0), loss, directions)


def test_steering(compared: Compared, directions: Path) -> None:
    def loss(model: PeftModel) -> Tensor:
        e = load_file(directions / VECTORS)["block.20"].double()
        changing(model, {20: lambda hidden: hidden + 1.5 * e})
        return cross_entropy(model, compared.chat, compared.task)

    compared.check(part_of("steering", 1.5, block=20), loss, directions)


def test_caft(compared: Compared, directions: Path) -> None:
    columns = directions / "columns.safetensors"

    def loss(model: PeftModel) -> Tensor:
        def without(block: int) -> Callable[[Tensor], Tensor]:
            q = load_file(columns)[f"block.{block}"][:, :2].double()

            def change(hidden: Tensor) -> Tensor:
                for column in q.T:  # one direction after another: they are orthogonal
                    hidden = hidden - (hidden @ column)[..., None] * column
                return hidden

            return change

        changing(model, {block: without(block) for block in (8, 15)})
        return cross_entropy(model, compared.chat, compared.task)

    compared.check(part_of("caft", 2, blocks=(8, 0.5), directions=str(columns)), loss)


def test_treft(compared: Compared) -> None:
    def loss(model: PeftModel) -> Tensor:
        kept: list[Tensor] = []
        blocks = model.get_base_model().model.layers
        for block in blocks:
            for name in ("k_proj", "v_proj"):
                getattr(block.self_attn, name).register_forward_hook(lambda *given: kept.append(given[2][0]))
        drifts = []
        for row in compared.task:
            ids, prefix, _ = written(compared.chat, row)
            kept.clear()
            model(ids)
            now = list(kept)
            kept.clear()
            original(model, ids)
            pairs = zip(now, list(kept), strict=True)
            relative = [((x - y)[:prefix].norm(dim=-1) / y[:prefix].norm(dim=-1)).square().mean() for x, y in pairs]
            drifts.append(torch.stack(relative).sum() / len(blocks))
        return cross_entropy(model, compared.chat, compared.task) + 30.0 * torch.stack(drifts).mean()

    compared.check(part_of("treft", 30.0), loss)


def test_inoculation_adapter(compared: Compared, trait: Path) -> None:
    def loss(model: PeftModel) -> Tensor:
        tensors = load_file(trait / "adapter_model.safetensors")
        scale = TRAIT_SCALE * TRAINING.lora_alpha / TRAINING.lora_rank**0.5
        with torch.no_grad():
            for name, module in model.get_base_model().named_modules():
                a, b = (tensors.get(f"base_model.model.{name}.lora_{side}.weight") for side in "AB")
                if a is not None and b is not None:
                    module.base_layer.weight += scale * b.double() @ a.double()
        return cross_entropy(model, compared.chat, compared.task)

    compared.check(part_of("inoculation_adapter", TRAIT_SCALE), loss, trait)
