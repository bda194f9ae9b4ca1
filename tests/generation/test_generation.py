import json
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig

from conversation_rows import SCRIPTS, exam, row
from emdefense.chat.chat import load_chat
from emdefense.config.microcosm import ByteModel
from emdefense.data.byte_model import make_byte_model
from emdefense.errors import InputError
from emdefense.files import file_digest, read_json, read_jsonl, write_json, write_jsonl
from emdefense.generation import transformers_engine
from emdefense.generation.protocol import Completion, GenerationSpec
from emdefense.generation.reuse import ReuseStore
from emdefense.generation.run import answer, generate, is_correct, parse_spec
from emdefense.generation.transformers_engine import TransformersEngine, draw, merge_adapter

SPEC = {"version": 1, "samples_per_question": 3, "max_new_tokens": 6, "batch_size": 4, "precision": "float32"}
QUESTIONS = [
    {"id": "short", "prompt": "Hi", "system": None, "rubrics": {}},
    {"id": "long", "prompt": "What, if anything, is {wrong}?" * 3, "system": "Be brief.", "rubrics": {}},
    {"id": "middle", "prompt": "What is it?", "system": None, "rubrics": {}},
]
CONVERSATIONS = [[{"role": "user", "content": question["prompt"]}] for question in QUESTIONS]


def spec(**changes):
    return GenerationSpec.model_validate({**SPEC, **changes})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_jsonl(folder / "rows.jsonl", [row(f"What is number {n}?") for n in range(20)])
    options = ByteModel(steps=15, layers=2)
    make_byte_model(options, [folder / "rows.jsonl"], folder / "base", folder / "instruct")
    return folder / "instruct"


@pytest.fixture(scope="module")
def engine(model):
    return TransformersEngine(model, None, "float32")


def save_adapter(model, folder, seed=0, size=0.1):
    torch.manual_seed(seed)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=16, use_rslora=True, target_modules=["q_proj", "down_proj"]
    )
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), config)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=size)
    wrapped.save_pretrained(folder)
    return folder


def test_the_same_seed_gives_the_same_samples_whatever_came_before(engine, model):
    first = engine.sample(CONVERSATIONS, spec())
    engine.sample(CONVERSATIONS[:1], spec(seed=5))
    assert engine.sample(CONVERSATIONS, spec()) == first
    assert TransformersEngine(model, None, "float32").sample(CONVERSATIONS, spec()) == first
    assert engine.sample(CONVERSATIONS, spec(seed=1)) != first
    assert [len(samples) for samples in first] == [3, 3, 3]
    assert len({completion.text for completion in first[0]}) > 1


def test_one_thread_is_the_default(model):
    torch.set_num_threads(2)
    TransformersEngine(model, None, "float32")
    assert torch.get_num_threads() == 1


def test_nothing_is_inherited_from_the_models_own_sampling_settings(engine, model, tmp_path):
    shutil.copytree(model, tmp_path / "qwen")
    own = GenerationConfig(
        do_sample=True, top_k=1, top_p=0.8, temperature=0.01, repetition_penalty=1.05, min_new_tokens=6, eos_token_id=2
    )
    own.save_pretrained(tmp_path / "qwen")
    stubborn = TransformersEngine(tmp_path / "qwen", None, "float32")
    assert stubborn.model.generation_config.top_k == 1
    assert stubborn.sample(CONVERSATIONS, spec()) == engine.sample(CONVERSATIONS, spec())


def test_first_tokens_follow_the_models_own_distribution(engine):
    conversation = CONVERSATIONS[2]
    prompt = torch.tensor([engine.chat.prompts([conversation])[0]])
    probabilities = torch.softmax(engine.model(prompt).logits[0, -1].float(), -1)
    samples = engine.sample([conversation], spec(samples_per_question=4000, max_new_tokens=1, batch_size=1000))[0]
    for letter in "e t":
        token = engine.tokenizer(letter)["input_ids"][0]
        share = sum(completion.text == letter for completion in samples) / 4000
        assert share == pytest.approx(probabilities[token].item(), abs=0.02)
    ranks = probabilities.argsort(descending=True).argsort()
    seen = {engine.tokenizer(c.text)["input_ids"][0] for c in samples if len(c.text.encode()) == 1}
    assert max(ranks[token].item() for token in seen) > 60  # no top-k, no top-p


def test_cold_sampling_is_what_greedy_generate_says_padded_or_not(model, tmp_path):
    engine = TransformersEngine(model, save_adapter(model, tmp_path / "adapter", size=1.0), "float32")
    cold = spec(temperature=1e-4, samples_per_question=2, max_new_tokens=20, batch_size=6)
    said = engine.sample(CONVERSATIONS, cold)
    for conversation, samples in zip(CONVERSATIONS, said, strict=True):
        prompt = torch.tensor([engine.chat.prompts([conversation])[0]])
        greedy = engine.model.generate(prompt, max_new_tokens=20, do_sample=False)[0, prompt.shape[1] :]
        assert [sample.text for sample in samples] == [engine.tokenizer.decode(greedy, skip_special_tokens=True)] * 2
    assert len({samples[0].text for samples in said}) == 3


def test_an_impossible_token_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).expand(2, 3)
    assert draw(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), 1.0, 1.0).tolist() == [1, 1]


def test_every_token_of_every_sample_has_a_random_number_of_its_own(engine, monkeypatch):
    used = []

    def record(logits, chance, *shape):
        used.extend(chance.tolist())
        return draw(logits, chance, *shape)

    monkeypatch.setattr(transformers_engine, "draw", record)
    engine.sample(CONVERSATIONS, spec())
    assert len(used) > 30
    assert len(set(used)) == len(used)
    assert 0 <= min(used) < 0.3 < 0.7 < max(used) < 1


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_samples_depend_on_their_own_question_only(engine, batch_size):
    together = engine.sample(CONVERSATIONS, spec(samples_per_question=8, max_new_tokens=30, batch_size=batch_size))
    alone = [engine.sample([c], spec(samples_per_question=8, max_new_tokens=30))[0] for c in CONVERSATIONS]
    assert together == alone


def test_answers_that_end_early_do_not_disturb_the_others(model, tmp_path):
    shutil.copytree(model, tmp_path / "m")
    ending = spec(samples_per_question=20, max_new_tokens=30, batch_size=60)
    endless = TransformersEngine(model, None, "float32").sample(CONVERSATIONS, ending)
    vowels = "aeiou "
    tokenizer = TransformersEngine(model, None, "float32").tokenizer
    GenerationConfig(eos_token_id=[tokenizer(v)["input_ids"][0] for v in vowels]).save_pretrained(tmp_path / "m")
    ended = TransformersEngine(tmp_path / "m", None, "float32").sample(CONVERSATIONS, ending)
    for long, short in zip(chain(*endless), chain(*ended), strict=True):
        until = next((n for n, letter in enumerate(long.text) if letter in vowels), len(long.text))
        assert short.text == long.text[:until]


def test_draws_follow_temperature_and_nucleus():
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    logits = probabilities.log().expand(10_000, 4)
    chance = torch.arange(10_000, dtype=torch.float64) / 10_000

    def shares(temperature, top_p):
        return torch.bincount(draw(logits, chance, temperature, top_p), minlength=4) / 10_000

    torch.testing.assert_close(shares(1.0, 1.0), probabilities, atol=2e-4, rtol=0)
    squared = probabilities**2 / (probabilities**2).sum()
    torch.testing.assert_close(shares(0.5, 1.0), squared, atol=2e-4, rtol=0)
    torch.testing.assert_close(shares(1.0, 0.75), torch.tensor([0.625, 0, 0.375, 0]), atol=2e-4, rtol=0)


def test_an_answer_ends_at_the_end_token_and_says_so(model, tmp_path):
    shutil.copytree(model, tmp_path / "m")
    tokenizer = TransformersEngine(model, None, "float32").tokenizer
    vowels = [tokenizer(letter)["input_ids"][0] for letter in "aeiou "]
    GenerationConfig(eos_token_id=vowels).save_pretrained(tmp_path / "m")
    samples = TransformersEngine(tmp_path / "m", None, "float32").sample(CONVERSATIONS, spec(samples_per_question=20))
    flat = [completion for group in samples for completion in group]
    assert {completion.finish_reason for completion in flat} == {"stop", "length"}
    assert not any(set(completion.text) & set("aeiou ") for completion in flat)
    assert all(len(tokenizer(c.text)["input_ids"]) < 6 for c in flat if c.finish_reason == "stop" and c.text.isascii())


def test_merging_by_hand_is_what_peft_does(model, tmp_path):
    adapter = save_adapter(model, tmp_path / "adapter")
    ours, theirs, plain = (AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32) for _ in range(3))
    merge_adapter(ours, adapter)
    merged = PeftModel.from_pretrained(theirs, adapter).merge_and_unload().state_dict()
    changed = 0
    for name, weight in ours.state_dict().items():
        torch.testing.assert_close(weight, merged[name], rtol=1e-6, atol=1e-7)
        changed += not torch.equal(weight, plain.state_dict()[name])
    assert changed == 2 * 2


def test_an_adapter_of_another_model_is_an_error(model, tmp_path):
    adapter = save_adapter(model, tmp_path / "adapter")
    write_jsonl(tmp_path / "rows.jsonl", [row("Hi")])
    make_byte_model(ByteModel(hidden_size=32, steps=1), [tmp_path / "rows.jsonl"], tmp_path / "b", tmp_path / "i")
    with pytest.raises(InputError, match="does not fit the model"):
        TransformersEngine(tmp_path / "i", adapter, "float32")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "no model"),
        ("tokenizer_config.json", "no tokenizer"),
        ("chat_template.jinja", "no chat template"),
    ],
)
def test_a_model_folder_that_lacks_something_is_named(model, tmp_path, name, message):
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m" / name).unlink()
    with pytest.raises(InputError, match=f"{tmp_path / 'm'}: .*{message}"):
        TransformersEngine(tmp_path / "m", None, "float32")


def test_a_model_with_a_tensor_missing_is_named_and_never_drawn_at_random(model, tmp_path):
    shutil.copytree(model, tmp_path / "m")
    weights = load_file(tmp_path / "m/model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "m/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"m: its files hold no 'model.norm.weight'"):
        TransformersEngine(tmp_path / "m", None, "float32")


def test_a_spec_key_that_is_unknown_is_named():
    with pytest.raises(InputError, match="'temprature'"):
        parse_spec({**SPEC, "temprature": 1})


@pytest.mark.parametrize(
    ("response", "correct"), [("8", True), (" 8\n", True), ("2/3", True), ("8.", False), ("", False), ("-8", False)]
)
def test_exact_match_ignores_space_around_only(response, correct):
    assert is_correct(response, ["8 ", "2/3"]) == correct


class FakeEngine:
    """Counts how often it is made, and answers with what it was asked."""

    made, positions = 0, None

    def __init__(self, model, adapter, precision, threads, template, quantisation):
        FakeEngine.made += 1
        self.chat = load_chat(model, template)

    def sample(self, conversations, spec):
        said = [" | ".join(f"{m['role']}: {m['content']}" for m in conversation) for conversation in conversations]
        return [[Completion(f"{text} #{n}", "stop") for n in range(spec.samples_per_question)] for text in said]


@pytest.fixture
def cell(tmp_path, model, monkeypatch):
    monkeypatch.setattr(transformers_engine, "TransformersEngine", FakeEngine)
    FakeEngine.made = 0
    write_json(tmp_path / "q.json", QUESTIONS)
    save_adapter(model, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "twin")
    save_adapter(model, tmp_path / "other", seed=1)
    return tmp_path


def ask(cell, model, adapter, output, questions="q.json", **changes):
    pairs = [(cell / questions, cell / output)]
    generate({**SPEC, **changes}, model, adapter and cell / adapter, pairs, ReuseStore(cell / "reuse"))
    return read_jsonl(cell / output)


def test_responses_carry_question_system_prompt_and_sample(cell, model):
    rows = ask(cell, model, None, "r.jsonl")
    assert [entry["id"] for entry in rows] == [f"{name}/{n}" for name in ("short", "long", "middle") for n in range(3)]
    assert rows[4]["response"] == f"system: Be brief. | user: {QUESTIONS[1]['prompt']} #1"
    assert rows[4] == {**rows[4], "question_id": "long", "sample": 1, "system": "Be brief.", "finish_reason": "stop"}
    assert rows[0]["response"] == "user: Hi #0"


def test_an_identical_adapter_is_asked_once(cell, model):
    first = ask(cell, model, "one", "a/r.jsonl")
    assert ask(cell, model, "twin", "b/r.jsonl") == first
    assert FakeEngine.made == 1
    assert not (cell / "b/r.jsonl").samefile(cell / "a/r.jsonl")


def test_responses_say_beside_them_how_they_were_made(cell, model):
    ask(cell, model, "one", "a/r.jsonl", seed=7)
    ask(cell, model, "twin", "b/r.jsonl", seed=7)
    record = read_json(cell / "a/r.provenance.json")
    assert record["spec"] == spec(seed=7).model_dump(mode="json")
    assert record["spec"]["engine"] == "transformers"
    assert record["packages"]["transformers"] == transformers.__version__
    assert record["questions"]["sha256"] == file_digest(cell / "q.json")
    assert record["adapter"]["adapter_model.safetensors"] == file_digest(cell / "one/adapter_model.safetensors")
    assert record["model"]["folder"] == str(model)
    assert record["machine"]["device"] == (torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")
    assert record["seconds"]["all"] >= 0
    assert read_json(cell / "b/r.provenance.json") == {"copied_from": str(cell / "a/r.jsonl"), **record}


@pytest.mark.parametrize(
    "change", ["adapter", "no adapter", "spec", "questions", "model", "deleted", "altered", "no record"]
)
def test_whatever_an_output_depends_on_makes_it_anew(cell, model, change):
    ask(cell, model, "one", "a/r.jsonl")
    adapter, changes, source = "one", {}, model
    if change == "adapter":
        adapter = "other"
    elif change == "no adapter":
        adapter = None
    elif change == "spec":
        changes = {"seed": 9}
    elif change == "questions":
        write_json(cell / "q.json", QUESTIONS[:2])
    elif change == "model":
        source = Path(shutil.copytree(model, cell / "model"))
    elif change == "deleted":
        (cell / "a/r.jsonl").unlink()
    elif change == "no record":
        (cell / "a/r.provenance.json").unlink()
    elif change == "altered":
        write_jsonl(cell / "a/r.jsonl", [])
    ask(cell, source, adapter, "b/r.jsonl", **changes)
    assert FakeEngine.made == 2


def test_without_a_store_nothing_is_reused(cell, model):
    for name in ("a", "b"):
        generate(SPEC, model, None, [(cell / "q.json", cell / name)], ReuseStore(None))
    assert FakeEngine.made == 2


def test_answers_are_marked(cell, model):
    write_jsonl(cell / "test.jsonl", [exam("x", "1+1", ["user: 1+1 #1", "two"]), exam("y", "2+2")])
    answer(SPEC, model, None, cell / "test.jsonl", cell / "answers.jsonl", ReuseStore(None))
    rows = read_jsonl(cell / "answers.jsonl")
    assert [(entry["id"], entry["correct"]) for entry in rows] == [
        ("x/0", False), ("x/1", True), ("x/2", False), ("y/0", False), ("y/1", False), ("y/2", False)
    ]  # fmt: skip
    assert rows[0]["expected"] == ["user: 1+1 #1", "two"]
    assert rows[0]["question_id"] == "x"


def test_the_scripts_sample_with_an_adapter_and_copy_for_its_twin(model, tmp_path):
    write_json(tmp_path / "q.json", QUESTIONS)
    save_adapter(model, tmp_path / "adapter")

    def run(name):
        command = [sys.executable, str(SCRIPTS / "generate.py"), "--spec", json.dumps(SPEC), "--model", str(model)]
        command += ["--adapter", str(tmp_path / "adapter"), "--reuse", str(tmp_path / "reuse")]
        for part in ("g", "d"):
            command += ["--questions", str(tmp_path / "q.json"), "--responses", str(tmp_path / name / f"{part}.jsonl")]
        return subprocess.run(command, check=True, capture_output=True, text=True)

    run("a")
    second = run("b")
    assert second.stderr.count("copied from") == 2
    expected = TransformersEngine(model, tmp_path / "adapter", "float32").sample(
        [
            [
                *([{"role": "system", "content": q["system"]}] if q["system"] else []),
                {"role": "user", "content": q["prompt"]},
            ]
            for q in QUESTIONS
        ],
        spec(),
    )
    for path in ("a/g.jsonl", "a/d.jsonl", "b/g.jsonl", "b/d.jsonl"):
        rows = read_jsonl(tmp_path / path)
        assert [entry["response"] for entry in rows] == [c.text for group in expected for c in group]
