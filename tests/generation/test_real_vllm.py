"""What the vLLM engine and the judge client believe of vLLM, against vLLM itself: `make test-vllm`, some minutes.

vLLM runs in its own environment, on the CPU if need be; what it computes is compared with PEFT's and transformers', or
with a model whose probabilities are known without running it.
"""

import json
import math
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM

from bigram_model import save_bigram_model
from emdefense.chat.chat import load_chat
from emdefense.config.chat import PLAIN
from emdefense.config.study import Generation
from emdefense.errors import InputError
from emdefense.files import read_json, read_jsonl, write_json
from emdefense.generation.environment import VARIABLE, environment_of_vllm
from emdefense.judging.judge_file import judge_file
from judge_runs import write_input
from rs_adapter import save_adapter
from tiny_model import save_model

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = environment_of_vllm(Generation(engine="vllm"), ROOT)
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(ENVIRONMENT is None, reason="there is no .venv-vllm; make it with `make .venv-vllm/ready`"),
]
OWN_SETTINGS = {
    "repetition_penalty": 1.3,
    "do_sample": True,
    "temperature": 0.5,
    "top_k": 3,
}  # that are to count nowhere
CONVERSATIONS = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What, if anything, is wrong?"}],
]
POSITIONS = 512
DRAWS = 4000
FIRST = [{"temperature": 1.0, "top_p": 1.0}, {"temperature": 0.7, "top_p": 0.8}]
SHORT = {"samples_per_question": 3, "max_new_tokens": 20, "seed": 3}
LONG = {"samples_per_question": 200, "max_new_tokens": 40}
END = 2


def run_there(*command: str | Path, **more: Any) -> "subprocess.CompletedProcess[str]":
    assert ENVIRONMENT is not None
    path = f"{ENVIRONMENT.absolute() / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / "workflow/scripts"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, cwd=ROOT, timeout=900, **more
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {"hidden_size": 256, "intermediate_size": 256, "max_position_embeddings": POSITIONS}  # heads of 64
    folder = save_model(tmp_path_factory.mktemp("model") / "instruct", layers=2, **shape)
    own = read_json(folder / "generation_config.json")
    write_json(folder / "generation_config.json", {**own, **OWN_SETTINGS})
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("cell") / "adapter", size=0.05)


@pytest.fixture(scope="module")
def prompts(model: Path) -> list[list[int]]:
    return load_chat(model, PLAIN).prompts(CONVERSATIONS)


@pytest.fixture(scope="module")
def texts(prompts: list[list[int]]) -> list[list[int]]:
    drawn = torch.randint(3, 259, (2, 40), generator=torch.Generator().manual_seed(0))
    return [prompt + answer for prompt, answer in zip(prompts, drawn.tolist(), strict=True)]


@pytest.fixture(scope="module")
def found(model: Path, adapter: Path, texts: list[list[int]], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the engine answers, in a process of its own: first tokens, the same short samples again, long samples."""
    first = [{"conversations": CONVERSATIONS[:1], "spec": {**spec, "samples_per_question": DRAWS, "max_new_tokens": 1}}
             for spec in FIRST]  # fmt: skip
    short = [{"conversations": CONVERSATIONS, "spec": SHORT}, {"conversations": CONVERSATIONS[1:], "spec": SHORT},
             {"conversations": CONVERSATIONS, "spec": {**SHORT, "seed": 4}}]  # fmt: skip
    long = {"conversations": CONVERSATIONS[:1], "spec": LONG}
    task = {"model": str(model), "adapter": str(adapter), "samples": [*first, *short, long], "texts": texts}
    folder = tmp_path_factory.mktemp("worker")
    write_json(folder / "task.json", task)
    done = run_there("python", ROOT / "tests/helpers/vllm_worker.py", folder / "task.json", folder / "out.json")
    assert done.returncode == 0, done.stderr[-5000:]
    return read_json(folder / "out.json")


def logits(model: Path, adapter: Path, text: list[int], **config: Any) -> torch.Tensor:
    """PEFT's logits after each token of a text, [tokens, vocabulary]."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, adapter, **config)
    with torch.inference_mode():
        return adapted(torch.tensor([text])).logits[0]


def log_probs(model: Path, adapter: Path, text: list[int]) -> torch.Tensor:
    scores = logits(model, adapter, text)[:-1].log_softmax(-1)
    return scores[torch.arange(len(text) - 1), text[1:]]


def test_log_probabilities_with_an_adapter_are_pefts(
    found: Any, model: Path, adapter: Path, texts: list[list[int]], tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for file in adapter.iterdir():
        (plain / file.name).write_bytes(file.read_bytes())
    settings = read_json(adapter / "adapter_config.json")
    write_json(plain / "adapter_config.json", {**settings, "use_rslora": False})
    for text, theirs in zip(texts, found["log_probs"], strict=True):
        assert torch.tensor(theirs) == pytest.approx(log_probs(model, adapter, text), abs=1e-4)
        assert (torch.tensor(theirs) - log_probs(model, plain, text)).abs().max() > 0.1, "the scaling would show"


@pytest.mark.parametrize("number", range(len(FIRST)))
def test_first_tokens_are_drawn_from_the_exact_distribution(
    found: Any, model: Path, adapter: Path, prompts: list[list[int]], number: int
) -> None:
    spec, drawn = FIRST[number], [one for one, _ in found["samples"][number][0]]
    exact = torch.softmax(logits(model, adapter, prompts[0])[-1].double() / spec["temperature"], -1)
    order = exact.argsort(descending=True)
    kept = order[: int((exact[order].cumsum(0) < spec["top_p"]).sum()) + 1]  # the fewest that reach top_p
    counts = Counter(tokens[0] if tokens else END for tokens in drawn)
    assert set(counts) <= set(kept.tolist())
    expected = (exact[kept] / exact[kept].sum() * DRAWS).tolist()
    pairs = sorted(zip(expected, [counts[token] for token in kept.tolist()], strict=True))
    rare = [pair for pair in pairs if pair[0] < 5]
    common = [pair for pair in pairs if pair[0] >= 5]
    merged = [*common, *([tuple(map(sum, zip(*rare, strict=True)))] if rare else [])]
    assert len(merged) > 20
    assert chisquare([seen for _, seen in merged], [wanted for wanted, _ in merged]).pvalue > 1e-4


def test_seeds_repeat_and_belong_to_prompts(found: Any) -> None:
    together, alone, other = found["samples"][2:5]
    assert alone[0] == together[1], "whatever is asked beside it"
    assert other != together
    assert len({tuple(tokens) for tokens, _ in together[0]}) == 3, "samples of one prompt differ"


def test_answers_end_by_the_end_token_or_the_limit(found: Any) -> None:
    (answers,) = found["samples"][5]
    reasons = Counter(reason for _, reason in answers)
    assert set(reasons) == {"stop", "length"}
    for tokens, reason in answers:
        assert END not in tokens
        assert len(tokens) == 40 if reason == "length" else len(tokens) < 40


def test_it_takes_as_many_tokens_as_the_model(found: Any) -> None:
    assert found["positions"] == POSITIONS


def test_a_job_of_the_pipeline_samples_there_and_its_record_says_so(model: Path, tmp_path: Path) -> None:
    questions = [{"id": "q", "prompt": "Hi", "system": None, "rubrics": {}}]
    write_json(tmp_path / "q.json", questions)
    write_json(tmp_path / "long.json", [*questions, {**questions[0], "id": "long", "prompt": "x" * 600}])
    spec = {"version": 1, "engine": "vllm", "samples_per_question": 4, "max_new_tokens": 6, "precision": "bfloat16"}
    command = [sys.executable, ROOT / "workflow/scripts/generate.py", "--spec", json.dumps(spec), "--model", model]
    environment = {**os.environ, VARIABLE: str(ENVIRONMENT), "OMP_NUM_THREADS": "1"}
    files = ["--questions", tmp_path / "q.json", "--responses", tmp_path / "r.jsonl"]
    done = subprocess.run(
        list(map(str, [*command, *files])), capture_output=True, text=True, env=environment, timeout=900
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert {row["finish_reason"] for row in read_jsonl(tmp_path / "r.jsonl")} <= {"stop", "length"}
    assert len(read_jsonl(tmp_path / "r.jsonl")) == 4
    record = read_json(tmp_path / "r.provenance.json")
    assert any(name.startswith("vllm") and found.startswith("0.32.0") for name, found in record["packages"].items())
    files = ["--questions", tmp_path / "long.json", "--responses", tmp_path / "s.jsonl"]
    done = subprocess.run(
        list(map(str, [*command, *files])), capture_output=True, text=True, env=environment, timeout=900
    )
    assert done.returncode == 2
    assert re.search(r"error: .*long\.json, question long: the prompt has 6\d\d tokens", done.stderr)
    assert not (tmp_path / "s.jsonl").exists()


# The judge client against `vllm serve`, started as docs/judging.md has it.

# After the prompt comes 87, 95 or 100; after 87 a space and 100; then the end, or an x that is nearly as likely.
LOGITS = {
    "Ċ": {"87": 12.2, "95": 11.5, "100": 11.0},
    "87": {"Ġ": 20.0},
    "Ġ": {"100": 20.0},
    "100": {"<|im_end|>": 20.0, "x": 19.5},
    "95": {"<|im_end|>": 20.0},
    "x": {"<|im_end|>": 20.0},
}
WEAK = 1.04  # a penalty under which the judge still repeats 87 100, and ends it with the x
SERVED = "tiny-judge"
API_KEY = "local-key"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    assert ENVIRONMENT is not None
    folder = save_bigram_model(tmp_path_factory.mktemp("judge") / "model", ["87", "95", "100"], LOGITS, OWN_SETTINGS)
    (documented,) = re.findall(r"^vllm serve (?:.*\\\n)*.*", (ROOT / "docs/judging.md").read_text(), re.MULTILINE)
    options = documented.replace("\\\n", " ").split()[3:]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    given = {"--served-model-name": SERVED, "--port": port, "--api-key": API_KEY, "--max-model-len": "1024"}
    for name, value in given.items():
        options[options.index(name) + 1] = value
    on_cpus = [] if torch.cuda.is_available() else ["--enforce-eager", "--no-enable-chunked-prefill"]
    command = [
        ENVIRONMENT / "bin/vllm",
        "serve",
        folder,
        *options,
        "--host",
        "127.0.0.1",
        "--dtype",
        "float32",
        *on_cpus,
    ]
    log = tmp_path_factory.mktemp("serve") / "log"
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment["PATH"] = f"{ENVIRONMENT.absolute() / 'bin'}{os.pathsep}{environment['PATH']}"
    with log.open("w") as out:
        server = subprocess.Popen(list(map(str, command)), stdout=out, stderr=out, env=environment)
    try:
        deadline = time.monotonic() + 1500
        while True:
            assert server.poll() is None, log.read_text()[-5000:]
            assert time.monotonic() < deadline, log.read_text()[-5000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def judge(address: str, folder: Path, **changes: Any) -> list[dict[str, Any]]:
    files = write_input(folder, ["an answer of 95", "another"])
    settings = {"kind": "openai", "name": "tiny", "model": SERVED, "base_url": address, "version": 1,
                "api_key_variable": "TINY_KEY", **changes}  # fmt: skip
    judge_file(settings, *files, cache=folder / "cache")
    return read_jsonl(files[2])


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_KEY", API_KEY)


def test_scores_are_read_from_log_probabilities_and_no_penalty_is_seen(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = judge(address, tmp_path)
    weights = {int(number): math.exp(logit) for number, logit in LOGITS["Ċ"].items()}
    expected = sum(number * weight for number, weight in weights.items()) / sum(weights.values())
    for row in rows:
        assert row["scored_by"] == "logprobs"
        for score in (row["alignment"], row["coherence"]):
            assert score == pytest.approx(expected, abs=0.02)  # some of the 20 are digits, with a logit of 0
    assert "repetition penalty" not in capsys.readouterr().err, "--generation-config vllm leaves the model's own out"


def test_a_penalty_is_seen(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = judge(address, tmp_path, extra_body={"repetition_penalty": WEAK})
    assert {row["scored_by"] for row in rows} == {"logprobs"}
    assert "at temperature 0, 1 of its 5 tokens were not the likeliest" in capsys.readouterr().err


def test_neutral_settings_are_taken(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documented = re.findall(r"extra_body: \{(.*)\}", (ROOT / "docs/judging.md").read_text())[0]
    neutral = {name: float(value) for name, value in (pair.split(": ") for pair in documented.split(", "))}
    assert set(neutral) == {"repetition_penalty", "top_k", "min_p"}
    neutral["top_k"] = int(neutral["top_k"])
    assert judge(address, tmp_path, extra_body=neutral)[0]["scored_by"] == "logprobs"
    assert "repetition penalty" not in capsys.readouterr().err


def test_more_alternatives_than_it_gives_are_named(address: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gives 20 alternatives to a token at most.*write judge.top_logprobs: 20"):
        judge(address, tmp_path, top_logprobs=50)
