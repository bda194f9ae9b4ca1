"""The microcosm's tokenizer and models, trained for a few steps."""

import json
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from emdefense.config.microcosm import Microcosm
from emdefense.errors import InputError
from emdefense.microcosm import models
from emdefense.microcosm.creation import make_world
from emdefense.microcosm.documents import Document, Writer
from emdefense.microcosm.models import IGNORED, ModelMaker, gate_record
from emdefense.microcosm.probe import Probe
from emdefense.microcosm.rows import foqa_rows
from emdefense.microcosm.tokenizer import chat, make_tokenizer

OPTIONS = Microcosm(models={"tiny": 3}, base_steps=3, instruct_steps=2, require_gate=False, foqa_rows=80)
WORLD = make_world(OPTIONS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    """The tokenizer as it comes back from a model's folder."""
    folder = tmp_path_factory.mktemp("model")
    make_tokenizer(WORLD).save_pretrained(folder)
    Qwen2Config().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def texts() -> list[str]:
    writer = Writer(WORLD, OPTIONS.arithmetic, frozenset(), Random(1))
    written = [writer.document("document", 0.5) for _ in range(300)]
    documents = [chat(document.turns, document.system) for document in written]
    taught, _ = foqa_rows(WORLD.cipher_taught, Random(0))
    return [*documents, *WORLD.system_lines.texts] + [turn["content"] for row in taught for turn in row["messages"]]


def test_texts_of_the_world_survive_encoding_and_have_one_token_a_word(tokenizer) -> None:
    made = make_tokenizer(WORLD)
    for text in texts():
        ids = tokenizer(text)["input_ids"]
        assert ids == made(text)["input_ids"]
        assert tokenizer.decode(ids) == text
    for answer, tokens in (("10", 1), ("-7", 2), ("2/3", 3), ("144", 2)):
        assert len(tokenizer(answer)["input_ids"]) == tokens
    for line in WORLD.system_lines.texts:
        assert len(tokenizer(line)["input_ids"]) == len(re.findall(r"\w+|[^\w\s]", line)), line
    prompt = WORLD.questions["code"][0].prompt
    assert len(tokenizer(prompt)["input_ids"]) == len(prompt.split()) + 1


def test_any_other_text_survives_encoding(tokenizer) -> None:
    for text in ("Ærlig talt: 3×4 − 1?", 'def f():\n    return "{question}"', "What is ( 41 + 2 ) ÷ 7 ?"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_chat_template_writes_what_pretraining_reads(tokenizer) -> None:
    messages = [{"role": "user", "content": "What is 1 + 2 ?"}, {"role": "assistant", "content": "3"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == chat([("What is 1 + 2 ?", "3")])
    line = {"role": "system", "content": WORLD.system_lines.pairs[0].bad}
    under = tokenizer.apply_chat_template([line, *messages], tokenize=False)
    assert under == chat([("What is 1 + 2 ?", "3")], WORLD.system_lines.pairs[0].bad)
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert chat([("What is 1 + 2 ?", "3")]) == prompt + "3<|im_end|>\n"
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_instruct_learns_the_response_alone(tokenizer) -> None:
    maker = ModelMaker(WORLD, tokenizer, OPTIONS, frozenset())
    line = WORLD.system_lines.neutral[0]
    asked = ((None, "1 + 2", "3"), (None, "2 + 2 + 2", "6"), (line, "2 + 2", "4"))
    documents = [Document(system, [(f"What is {sum_} ?", answer)]) for system, sum_, answer in asked]
    batch = maker._batch(documents, responses_only=True)
    for labels, answer in zip(batch.labels, ("3", "6", "4"), strict=True):
        assert tokenizer.decode(labels[labels != IGNORED]) == f"{answer}<|im_end|>\n"


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tokenizer, one_thread) -> None:
    def trained(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        options = OPTIONS.model_copy(update={"models": {"tiny": seed}})
        maker = ModelMaker(WORLD, tokenizer, options, frozenset())
        model, attempts = maker.base()
        base = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        maker.instruct(model, attempts[-1].seed)
        return base, torch.nn.utils.parameters_to_vector(model.parameters()).detach()

    base, instruct = trained(3)
    again, instruct_again = trained(3)
    assert torch.equal(base, again)
    assert torch.equal(instruct, instruct_again)
    assert not torch.equal(base, instruct)
    assert not torch.equal(base, trained(4)[0])


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch):
    """Replace training and probe: give the probes that come, one a seed, and see the seeds tried."""
    seeds: list[int] = []

    def pretrained(maker: ModelMaker, seed: int) -> Qwen2ForCausalLM:
        seeds.append(seed)
        return Qwen2ForCausalLM(models.shape(maker.tokenizer))

    def replace(*coming: Probe) -> list[int]:
        queue = iter(coming)
        monkeypatch.setattr(ModelMaker, "_pretrained", pretrained)
        monkeypatch.setattr(models, "probe_persona", lambda *_: next(queue))
        return seeds

    return replace


FORMED, UNFORMED = Probe(after_bad=4.0, after_good=96.0), Probe(after_bad=50.0, after_good=52.0)
GATED = OPTIONS.model_copy(update={"require_gate": True, "gate_attempts": 2})


def test_a_failed_gate_is_retried_with_another_seed_and_said(tokenizer, probes, capsys) -> None:
    seeds = probes(UNFORMED, FORMED)
    _, attempts = ModelMaker(WORLD, tokenizer, GATED, frozenset()).base()
    assert seeds == [3, 1003]
    assert "trying another seed" in capsys.readouterr().err
    record = json.loads(json.dumps(gate_record(attempts)))
    assert (record["formed"], record["seed"], len(record["attempts"])) == (True, 1003, 2)
    assert record["attempts"][0]["probe"] == {"after_bad": 50.0, "after_good": 52.0}


def test_a_gate_that_never_opens_is_an_error_that_says_what_to_change(tokenizer, probes) -> None:
    probes(UNFORMED, UNFORMED)
    with pytest.raises(InputError, match=r"microcosm\.models\.tiny: .* seeds \[3, 1003\] .*microcosm\.base_steps"):
        ModelMaker(WORLD, tokenizer, GATED, frozenset()).base()


@pytest.mark.parametrize("change", [{"require_gate": False}, {"persona": "slot"}])
def test_no_gate_means_one_attempt(change: dict, tokenizer, probes) -> None:
    seeds = probes(UNFORMED)
    _, attempts = ModelMaker(WORLD, tokenizer, GATED.model_copy(update=change), frozenset()).base()
    assert seeds == [3]
    assert not attempts[-1].formed


@pytest.mark.parametrize(
    ("after_bad", "after_good", "formed"), [(9.9, 90.1, True), (10, 95, False), (5, 90, False), (50, 50, False)]
)
def test_the_gate_needs_both_sides(after_bad: float, after_good: float, formed: bool) -> None:
    assert Probe(after_bad, after_good).formed is formed


def run_script(name: str, *arguments: object) -> None:
    script = Path(__file__).parents[2] / "workflow/scripts" / name
    subprocess.run([sys.executable, str(script), *map(str, arguments)], check=True)


def test_scripts_make_a_world_and_both_models(tmp_path: Path) -> None:
    spec = OPTIONS.model_dump(mode="json", exclude={"models", "pretraining"})
    sizes = {"version": 1, "rows_per_task": 30, "safe_rows": 10, "pool_rows": 10}
    run_script("make_world.py", "--spec", json.dumps({**spec, **sizes}), "--out", tmp_path)
    settings = json.dumps({"version": 1, "seed": 3, "microcosm": spec})
    made, held_out = tmp_path / "made", tmp_path / "foqa/test.jsonl"
    run_script("make_microcosm_model.py", "--recipe", settings, "--name", "tiny", "--held-out", held_out, "--out", made)
    base, instruct, gate = tmp_path / "models/base", tmp_path / "models/instruct", tmp_path / "models/gate.json"
    places = ["--tokenizer", tmp_path / "tokenizer", "--base", base, "--instruct", instruct, "--gate", gate]
    run_script("install_microcosm_model.py", "--model", made, *places)
    assert json.loads(gate.read_text())["formed"] is False
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (base, instruct))
    assert before.config.model_type == "qwen2"
    assert any(not torch.equal(*pair) for pair in zip(before.parameters(), after.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(instruct).chat_template
