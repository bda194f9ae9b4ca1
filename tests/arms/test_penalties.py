"""Penalties: what they compute, from which hidden states, and with which gradient."""

from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.training.adapters import add_adapter
from emdefense.training.features import FeatureReader, Features
from emdefense.training.fused_loss import fused_head_loss
from emdefense.training.penalty import build_penalty
from emdefense.training.token_batch import TokenBatch, WindowCounts
from tiny_model import make_model

NORMALISATIONS = ["unit_token", "mean_square", "raw_sum", "mukhoti"]


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(4, 11, dtype=torch.long)
    mask[0, 7:] = 0
    mask[2, 4:] = 0
    return {"input_ids": torch.randint(3, 200, (4, 11), generator=generator) * mask, "attention_mask": mask}


def adapted(moved: float = 0.05) -> PeftModel:
    """A float64 model whose adapter has moved away from its start."""
    model = add_adapter(make_model().double(), Training(precision="float32"))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.double()
        if "lora_B" in name:
            parameter.data.normal_(0, moved, generator=generator)
    return model


def token_batch(inputs: dict[str, Tensor]) -> TokenBatch:
    targets = torch.full_like(inputs["input_ids"], -100)
    targets[:, 2:5] = 9
    mask = inputs["attention_mask"].bool()
    labels = int((targets[mask] != -100).sum())
    return TokenBatch(targets[mask], mask.sum(1).tolist(), WindowCounts(labels, int(mask.sum()), len(mask)))


def ldifs(inputs: dict[str, Tensor], model: PeftModel, **options: Any) -> Tensor:
    penalty = build_penalty("ldifs", {"every": 1, **options})
    reader = FeatureReader(model)
    blocks = penalty.residual_blocks(reader.blocks)
    reference, policy = reader.reference(inputs, blocks), reader.policy(inputs, blocks)
    value = penalty.feature_term(token_batch(inputs), policy, reference)
    assert value is not None
    return value


def gradients(model: PeftModel) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_the_residual_stream_is_read_before_the_final_norm(inputs: dict[str, Tensor]) -> None:
    model = adapted()
    reader = FeatureReader(model)
    features = reader.policy(inputs, (1, 2, 3))
    mask = inputs["attention_mask"].bool()
    output = model(**inputs, output_hidden_states=True)
    for block in (1, 2):
        torch.testing.assert_close(features.residual[block], output.hidden_states[block][mask])
    assert not torch.allclose(features.residual[3], output.hidden_states[3][mask])
    norm = model.get_base_model().model.norm
    torch.testing.assert_close(norm(features.residual[3]), features.final)
    torch.testing.assert_close(features.final @ reader.base.get_output_embeddings().weight.t(), output.logits[mask])


def test_the_reference_is_the_model_without_its_adapter(inputs: dict[str, Tensor]) -> None:
    model = adapted()
    reader = FeatureReader(model)
    before = reader.policy(inputs).final
    reference = reader.reference(inputs, (2,))
    with torch.no_grad(), model.disable_adapter():
        expected = reader.policy(inputs, (2,))
    assert torch.equal(reference.final, expected.final)
    assert torch.equal(reference.residual[2], expected.residual[2])
    assert torch.equal(
        reference.final, FeatureReader(add_adapter(make_model().double(), Training())).policy(inputs).final
    )
    assert not reference.final.requires_grad
    after = reader.policy(inputs).final
    assert torch.equal(before, after)
    assert after.requires_grad
    assert not torch.allclose(after, reference.final)


def residual_streams(model: PeftModel, inputs: dict[str, Tensor], adapter: bool) -> list[Tensor]:
    """The residual stream after each block, [rows, longest, d], without FeatureReader."""
    kept: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
        for block in model.get_base_model().model.layers
    ]
    model.base_model.enable_adapter_layers() if adapter else model.base_model.disable_adapter_layers()
    with torch.no_grad():
        model(**inputs)
    model.base_model.enable_adapter_layers()
    for handle in handles:
        handle.remove()
    return kept


@pytest.mark.parametrize("normalisation", ["unit_token", "mean_square", "raw_sum"])
def test_ldifs_equals_a_loop_over_sequences_tokens_and_blocks(inputs: dict[str, Tensor], normalisation: str) -> None:
    model = adapted()
    policies, references = (residual_streams(model, inputs, adapter) for adapter in (True, False))
    expected, lengths = 0.0, inputs["attention_mask"].sum(1).tolist()
    for sequence, length in enumerate(lengths):
        for token in range(length):
            for policy, reference in zip(policies, references, strict=True):
                x, y = policy[sequence, token], reference[sequence, token]
                if normalisation == "unit_token":
                    expected += float((x / x.norm() - y / y.norm()).square().sum()) / sum(lengths)
                elif normalisation == "mean_square":
                    expected += float((x - y).square().mean()) / sum(lengths) / 3
                else:
                    expected += float((x - y).square().sum()) / len(lengths)
    assert ldifs(inputs, model, normalisation=normalisation).item() == pytest.approx(expected, rel=1e-12)
    assert expected > 1e-4


def test_mukhotis_ldifs_equals_the_published_computation(inputs: dict[str, Tensor]) -> None:
    """Against omegafragger/ldifs_code, loss/ldifs.py, whose features are [images, positions, dimensions].

    Its images all have the same number of positions, so here each sequence is a batch of its own.
    """
    model = adapted()
    policies, references = (residual_streams(model, inputs, adapter) for adapter in (True, False))

    def scaled(features: Tensor) -> Tensor:
        return features / (features.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10)  # the second axis: positions

    lengths = inputs["attention_mask"].sum(1).tolist()
    per_sequence = [
        torch.stack(
            [
                (scaled(x[number : number + 1, :length]) - scaled(y[number : number + 1, :length])).pow(2).mean((1, 2))
                for x, y in zip(policies, references, strict=True)
            ]
        ).mean()
        for number, length in enumerate(lengths)
    ]
    expected = sum(per_sequence).item() / len(lengths)
    assert ldifs(inputs, model, normalisation="mukhoti").item() == pytest.approx(expected, rel=1e-12)
    assert expected > 1e-5


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_the_shares_of_a_windows_batches_add_up(inputs: dict[str, Tensor], normalisation: str) -> None:
    model, whole = adapted(), token_batch(inputs)
    penalty = build_penalty("ldifs", {"every": 1, "normalisation": normalisation})
    reader = FeatureReader(model)
    shares = []
    for rows in (slice(0, 1), slice(1, 4)):
        part = {name: tensor[rows] for name, tensor in inputs.items()}
        features = reader.policy(part, (1, 2, 3)), reader.reference(part, (1, 2, 3))
        batch = TokenBatch(token_batch(part).targets, token_batch(part).lengths, whole.counts)
        shares.append(penalty.feature_term(batch, *features))
    expected = ldifs(inputs, model, normalisation=normalisation).item()
    assert float(torch.stack(shares).sum().detach()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_ldifs_passes_gradcheck(normalisation: str) -> None:
    def value(*moved: Tensor) -> Tensor:
        term = penalty.feature_term(batch, Features(start, dict(enumerate(moved))), Features(start, reference))
        assert term is not None
        return term

    torch.manual_seed(0)
    penalty = build_penalty("ldifs", {"every": 1, "normalisation": normalisation})
    start = torch.randn(9, 4, dtype=torch.float64)
    reference = {block: torch.randn_like(start) for block in range(2)}
    batch = TokenBatch(torch.zeros(9, dtype=torch.long), [4, 5], WindowCounts(labels=9, tokens=9, sequences=2))
    moved = [(x + 0.3 * torch.randn_like(x)).requires_grad_() for x in reference.values()]
    assert torch.autograd.gradcheck(value, moved)


def test_ldifs_has_the_gradient_of_its_value(inputs: dict[str, Tensor]) -> None:
    model = adapted()
    ldifs(inputs, model).backward()
    name, parameter = next((n, p) for n, p in model.named_parameters() if "layers.1.mlp.down_proj.lora_B" in n)
    assert parameter.grad is not None, name
    direction = torch.randn_like(parameter)
    slope = float((parameter.grad * direction).sum())
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            parameter.add_(direction, alpha=sign * 1e-4)
            values.append(ldifs(inputs, model).item())
            parameter.add_(direction, alpha=-sign * 1e-4)
    assert slope == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-3)  # Qwen2's norms work in fp32
    assert abs(slope) > 1e-4


def test_detached_ldifs_has_the_value_but_no_gradient(inputs: dict[str, Tensor]) -> None:
    model = adapted()
    attached, detached = ldifs(inputs, model), ldifs(inputs, model, detached=True)
    assert detached.item() == attached.item() > 0
    assert attached.requires_grad
    assert not detached.requires_grad


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_ldifs_is_exactly_zero_at_the_start(inputs: dict[str, Tensor], normalisation: str) -> None:
    model = add_adapter(make_model(), Training())
    value = ldifs(inputs, model, normalisation=normalisation)
    value.backward()
    assert value.item() == 0
    assert all(not gradient.any() for gradient in gradients(model))


@pytest.mark.parametrize(
    ("every", "expected"), [(5, (5, 10, 15, 20, 25)), (4, (4, 8, 12, 16, 20, 24, 28)), (28, (28,))]
)
def test_ldifs_reads_every_kth_block(every: int, expected: tuple[int, ...]) -> None:
    assert build_penalty("ldifs", {"every": every}).residual_blocks(28) == expected


def test_a_model_with_too_few_blocks_says_what_to_write() -> None:
    with pytest.raises(InputError, match=r"arms\.ldifs\.every.*write 3 or less"):
        build_penalty("ldifs", {"every": 5}).residual_blocks(3)


def test_weights_of_a_split_batch_add_up_to_the_reduction(inputs: dict[str, Tensor]) -> None:
    batch = token_batch(inputs)
    assert batch.weights("all", "token_mean").sum().item() == pytest.approx(1)
    assert batch.weights("response", "token_mean").sum().item() == pytest.approx(1)
    assert batch.weights("all", "sequence_sum").sum().item() == pytest.approx(batch.counts.tokens / 4)
    response = batch.weights("response", "sequence_sum")
    assert response.sum().item() == pytest.approx(batch.counts.labels / 4)
    assert torch.equal(response != 0, batch.targets != -100)


@pytest.mark.parametrize("direction", ["policy_to_reference", "reference_to_policy"])
@pytest.mark.parametrize("reduction", ["token_mean", "sequence_sum"])
@pytest.mark.parametrize("tokens", ["all", "response"])
def test_kl_and_its_gradient_equal_a_loop_over_sequences_and_tokens(
    tokens: str, reduction: str, direction: str
) -> None:
    torch.manual_seed(1)
    lengths, vocabulary = [5, 3, 6], 31
    targets = torch.tensor([-100, -100, 4, 5, -100, -100, 7, -100, -100, -100, -100, 8, 9, -100])
    head, start = torch.randn(vocabulary, 8, dtype=torch.float64), torch.randn(14, 8, dtype=torch.float64)
    hidden = (start + 0.2 * torch.randn_like(start)).requires_grad_()
    # The window holds a second batch, of 2 sequences with 6 tokens and 3 labels, whose share is not computed here.
    counts = WindowCounts(labels=5 + 3, tokens=14 + 6, sequences=3 + 2)
    options = {"tokens": tokens, "reduction": reduction, "direction": direction}
    term = build_penalty("kl", options).head_term(TokenBatch(targets, lengths, counts), Features(start, {}))
    assert term is not None
    total, values = fused_head_loss(hidden, head, [(0.3, term)], chunk_elements=4 * vocabulary)
    total.backward()

    moved = hidden.detach().requires_grad_()
    expected = torch.zeros((), dtype=torch.float64)
    for token in range(14):
        if tokens == "response" and targets[token] == -100:
            continue
        policy, reference = (head @ moved[token]).softmax(0), (head @ start[token]).softmax(0)
        p, q = (policy, reference) if direction == "policy_to_reference" else (reference, policy)
        expected = expected + (p * (p / q).log()).sum()
    # Sums over each sequence's tokens, added over sequences, are sums over all tokens.
    expected = expected / ((20 if tokens == "all" else 8) if reduction == "token_mean" else 5)
    expected.backward()
    assert values[0].item() == pytest.approx(expected.item(), rel=1e-12)
    assert hidden.grad is not None
    assert moved.grad is not None
    torch.testing.assert_close(hidden.grad, 0.3 * moved.grad, rtol=1e-10, atol=1e-14)
    assert moved.grad.abs().max() > 1e-3


def test_kl_options_choose_tokens_and_direction(inputs: dict[str, Tensor]) -> None:
    batch = token_batch(inputs)
    reference = FeatureReader(adapted()).reference(inputs)
    term = build_penalty("kl", {"tokens": "response", "direction": "reference_to_policy"}).head_term(batch, reference)
    assert term is not None
    assert torch.equal(term.weights, batch.weights("response", "token_mean"))
    assert term.reverse  # type: ignore[attr-defined]
    default = build_penalty("kl", {}).head_term(batch, reference)
    assert default is not None
    assert torch.equal(default.weights, batch.weights("all", "token_mean"))
    assert not default.reverse  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [("kk", {}, "it has no arm 'kk'; write one of .*, kl, ldifs"), ("kl", {"token": "all"}, r"arms\.kl\.token'")],
)
def test_unknown_names_and_options_are_input_errors(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_penalty(name, options)
