"""Losses and their gradients against those of the model's own logits in float64, whatever its head does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.training.adapters import add_adapter
from emdefense.training.features import FeatureReader
from emdefense.training.fused_loss import ProductHead
from emdefense.training.head_check import settle_head
from emdefense.training.loss import DefenceLoss
from emdefense.training.output_head import OwnHead, SurroundedHead
from emdefense.training.penalty import build_penalty
from emdefense.training.run import train_cell
from emdefense.training.spec import TrainSpec
from emdefense.training.token_batch import WindowCounts
from families import FAMILIES, LLAMA, PROJECTIONS, make
from tiny_model import make_rows, make_tokenizer, save_rows

ROWS = [{"input_ids": list(range(5, 25)), "labels": [-100] * 8 + list(range(13, 25)), "row": 0}]
SURROUNDED = {"granite", "gemma2", "cohere", "minicpm3", "falcon_h1", "modernbert-decoder"}
SINGLE = {"mamba"}  # its own code makes fp32 of the logits


class Norm(LlamaForCausalLM):
    """Its final norm is no part of its backbone."""

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.last = torch.nn.LayerNorm(config.hidden_size)

    def head(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(self.last(hidden))
        return logits

    def forward(self, input_ids: Tensor, **options: Any) -> CausalLMOutputWithPast:  # type: ignore[override]
        return CausalLMOutputWithPast(logits=self.head(self.model(input_ids, **options).last_hidden_state))


class Curve(Norm):
    """Its logits are bent by a function of no family, and shifted."""

    def head(self, hidden: Tensor) -> Tensor:
        return 0.5 * torch.asinh(3 * self.lm_head(hidden)) + 0.1 * self.lm_head.weight.sum(1)


class Mixture(Norm):
    """Its head is two products."""

    def head(self, hidden: Tensor) -> Tensor:
        return torch.logaddexp(self.lm_head(hidden), self.lm_head(-hidden))


class Scaled(torch.nn.Linear):
    def forward(self, hidden: Tensor) -> Tensor:
        return 3 * super().forward(hidden)


class Subclassed(Norm):
    """Its head is a linear module that does something else."""

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.lm_head = Scaled(config.hidden_size, config.vocab_size)

    def head(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(hidden)
        return logits


class Gated(Norm):
    """What it does to the logits depends on the hidden states."""

    def head(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden) * hidden[..., :1].square()


class Embedded(Norm):
    """It scales embeddings before it calls its backbone."""

    def forward(self, input_ids: Tensor, **options: Any) -> CausalLMOutputWithPast:  # type: ignore[override]
        states = self.model(inputs_embeds=5 * self.model.embed_tokens(input_ids) + 1, **options).last_hidden_state
        return CausalLMOutputWithPast(logits=self.lm_head(states))


class Summed(Norm):
    """A token's logits depend on those before it."""

    def head(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden).cumsum(1)


OWN = {"norm": Norm, "curve": Curve, "mixture": Mixture, "subclassed": Subclassed, "gated": Gated}
EXPECTED: dict[str, type] = {
    **{name: SurroundedHead if name in SURROUNDED else ProductHead for name in FAMILIES},
    **{"norm": SurroundedHead, "curve": SurroundedHead, "mixture": OwnHead, "subclassed": OwnHead, "gated": OwnHead},
}


def made(name: str) -> Any:
    if name in FAMILIES:
        return make(name)
    torch.manual_seed(0)
    return {**OWN, "embedded": Embedded, "summed": Summed}[name](LlamaConfig(**LLAMA)).eval()


def adapted(name: str, dtype: torch.dtype, moved: float = 0.1) -> PeftModel:
    """The model in ``dtype``, its adapter moved away from its start."""
    targets = FAMILIES[name][2] if name in FAMILIES else PROJECTIONS
    model = add_adapter(made(name).to(dtype), Training(target_modules=targets, lora_rank=4))
    generator = torch.Generator().manual_seed(1)
    for parameter_name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtype)
        if "lora_B" in parameter_name:
            parameter.data.normal_(0, moved, generator=generator)
    return model


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 250, (2, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    labels = torch.where((torch.arange(12) >= 4) & (mask == 1), ids, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "row": torch.arange(2)}


def own_loss(model: PeftModel, inputs: dict[str, Tensor], coefficient: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy and KL by autograd through the logits of the model's class."""
    base, mask = model.get_base_model(), inputs["attention_mask"].bool()

    def logits() -> Tensor:
        options = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        found: Tensor = type(base).forward(base, use_cache=False, **options).logits
        return found

    with torch.no_grad(), model.disable_adapter():
        reference = torch.log_softmax(logits()[mask], -1)
    policy = logits()
    ce = torch.nn.functional.cross_entropy(policy[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten())
    log_probs = torch.log_softmax(policy[mask], -1)
    kl = (log_probs.exp() * (log_probs - reference)).sum(-1).mean()
    (ce + coefficient * kl).backward()
    return ce.detach().double(), kl.detach().double()


def gradients(model: PeftModel) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None])


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"mixtral", "mistral"}) + sorted(OWN))
def test_loss_divergence_and_gradient_are_those_of_the_models_own_logits(name: str) -> None:
    model, inputs = adapted(name, torch.float64), batch()
    ce, kl = own_loss(model, inputs, 0.7)
    wanted = gradients(model)
    model.zero_grad()
    reader = FeatureReader(model)
    settle_head(reader, ROWS, torch.device("cpu"))
    assert type(reader.head) is EXPECTED[name]
    counts = WindowCounts(int((inputs["labels"][:, 1:] != -100).sum()), 20, 2)
    loss = DefenceLoss(reader, build_penalty("kl", {}), 0.7)(inputs, counts, dissect=True)
    loss.total.backward()
    close = {"rtol": 2e-5, "atol": 2e-5} if name in SINGLE else {"rtol": 1e-8, "atol": 1e-10}
    torch.testing.assert_close(loss.ce, ce, **close)
    torch.testing.assert_close(loss.penalty, kl, **close)
    assert loss.parts is not None
    torch.testing.assert_close(loss.parts.kl, kl, **close)
    torch.testing.assert_close(gradients(model), wanted, **close)
    assert kl > 1e-4
    # Without what stands around the product, it would be another loss.
    if EXPECTED[name] is not ProductHead:
        reader.head = ProductHead(reader.base.get_output_embeddings().weight)
        assert abs(DefenceLoss(reader)(inputs, counts).ce - ce) > 0.01


@pytest.mark.parametrize("name", ["granite", "gemma2", "phi", "gpt_neox", "minicpm3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_alone_never_chooses_another_head(name: str, dtype: torch.dtype) -> None:
    model = add_adapter(make(name).to(dtype), Training(target_modules=FAMILIES[name][2]))
    reader = FeatureReader(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        settle_head(reader, ROWS, torch.device("cpu"))
    assert type(reader.head) is EXPECTED[name]


@pytest.mark.parametrize("name", ["granite", "gemma2", "mixture"])
def test_a_divergence_from_itself_is_zero_and_has_no_gradient(name: str) -> None:
    model, inputs = adapted(name, torch.float32, moved=0.0), batch()
    reader = FeatureReader(model)
    settle_head(reader, ROWS, torch.device("cpu"))
    penalty = build_penalty("kl", {})
    both = DefenceLoss(reader, penalty, 1.0)(inputs, WindowCounts(10, 20, 2))
    assert both.penalty.item() == 0
    both.total.backward()
    with_penalty = gradients(model)
    model.zero_grad()
    DefenceLoss(reader)(inputs, WindowCounts(10, 20, 2)).total.backward()
    torch.testing.assert_close(with_penalty, gradients(model), rtol=1e-5, atol=1e-7)


def test_near_the_reference_a_capped_divergence_is_as_exact_in_bfloat16_as_a_plain_one() -> None:
    model = adapted("gemma2", torch.float64, moved=0.0005)
    reader = FeatureReader(model)
    inputs = batch()
    with torch.no_grad():
        reference, policy = reader.reference(inputs).final.bfloat16(), reader.policy(inputs).final
    policy = reference.double() + 0.02 * torch.randn(policy.shape, generator=torch.Generator().manual_seed(0)).double()
    policy = policy.bfloat16()
    exact, rounded = (
        _kl_gradient(reader, policy.to(kind), reference.to(kind), kind) for kind in (torch.float64, torch.bfloat16)
    )
    assert (rounded - exact).norm() / exact.norm() < 0.01


def _kl_gradient(reader: FeatureReader, policy: Tensor, reference: Tensor, dtype: torch.dtype) -> Tensor:
    from emdefense.training.divergence import Divergence
    from emdefense.training.fused_loss import fused_head_loss

    head = reader.head
    assert isinstance(head, SurroundedHead)
    weight = head.product.weight.bfloat16().to(dtype)
    head = SurroundedHead(ProductHead(weight), head.vocabulary, head.before, head.after)
    hidden = policy.clone().requires_grad_()
    term = Divergence(reference, torch.ones(len(policy), dtype=torch.float64), reverse=False)
    fused_head_loss(hidden, head, [(1.0, term)], 7 * head.vocabulary)[0].backward()
    assert hidden.grad is not None
    return hidden.grad.double()


@pytest.mark.parametrize("name", ["embedded", "summed"])
def test_a_model_whose_logits_cannot_be_had_from_its_backbone_is_refused(name: str) -> None:
    reader = FeatureReader(adapted(name, torch.float32))
    with pytest.raises(InputError, match=r"the cross-entropy of a row would be \d+\.\d+, and is \d+\.\d+ by") as raised:
        settle_head(reader, ROWS, torch.device("cpu"))
    assert "\n" not in str(raised.value)


def test_a_head_that_is_no_product_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    reader = FeatureReader(adapted("mixture", torch.float32))
    settle_head(reader, ROWS, torch.device("cpu"))
    assert "its own logits are used" in capsys.readouterr().err
    settle_head(FeatureReader(adapted("granite", torch.float32)), ROWS, torch.device("cpu"))
    assert capsys.readouterr().err == ""


def test_logits_that_are_not_finite_are_named() -> None:
    model = adapted("granite", torch.float32)
    model.get_base_model().model.norm.weight.data.fill_(float("inf"))
    with pytest.raises(InputError, match="logits of a row of data are not finite"):
        settle_head(FeatureReader(model), ROWS, torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "target"),
    [("gpt_neox", "embed_in"), ("gpt2", "wte"), ("modernbert-decoder", "dense"), ("llama", "lm_head")],
)
def test_nothing_of_the_head_is_trained(name: str, target: str) -> None:
    with pytest.raises(InputError, match=rf"key 'training.target_modules': '.*{target}.*' .*must stay frozen"):
        FeatureReader(add_adapter(make(name), Training(target_modules=(target,))))


@pytest.mark.parametrize("target", ["mlp", "input_layernorm", "act_fn"])
def test_a_module_that_has_no_matrix_is_named(target: str) -> None:
    with pytest.raises(
        InputError, match=rf"key 'training.target_modules': '{target}' is a .*names of its matrices: q_proj, k_proj"
    ):
        add_adapter(make("llama"), Training(target_modules=(target,)))


def test_the_random_numbers_and_the_mode_of_a_training_stay_as_they_are() -> None:
    model = adapted("granite", torch.float32).train()
    before = torch.get_rng_state()
    settle_head(FeatureReader(model), ROWS, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())


@pytest.fixture(scope="module")
def granite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("granite")
    make("granite").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("changes", [{}, {"padding_free": True, "attention": "eager"}, {"precision": "bfloat16"}])
def test_the_log_of_a_training_has_the_models_own_cross_entropy(
    granite: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    from emdefense.files import read_jsonl

    rows = save_rows(tmp_path / "rows.jsonl", make_rows(4))
    options = {"precision": "float32", "batch_size": 4, "accumulation_steps": 1, "optimiser": "adamw_torch", **changes}
    training = Training(target_modules=PROJECTIONS, **options)
    train_cell(TrainSpec(version=1, seed=0, training=training), granite, rows, tmp_path / "cell")
    (step,) = read_jsonl(tmp_path / "cell/train_log.jsonl")
    assert step["ce"] == pytest.approx(
        own_cross_entropy(granite, make_rows(4)), rel=0.01 if "precision" in changes else 1e-4
    )


def own_cross_entropy(folder: Path, rows: list[dict[str, Any]]) -> float:
    from transformers import AutoModelForCausalLM

    from emdefense.chat.chat import Chat

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    losses = []
    for row in Chat(make_tokenizer()).rows([row["messages"] for row in rows]):
        logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(row["labels"][1:]), reduction="none"))
        losses[-1] = losses[-1][torch.tensor(row["labels"][1:]) != -100]
    return float(torch.cat(losses).mean().detach())
