"""A package `vllm` with just what the engine uses, checked as the real one checks it; it computes nothing."""

import shutil
from pathlib import Path

VERSION = "0.32.0"

# Signatures, defaults and checks are those of vLLM 0.32.0: entrypoints/llm.py, sampling_params.py, outputs.py,
# inputs/llm.py, lora/request.py, and lora/ops/triton_ops/lora_shrink_op.py.
PACKAGE = '''
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TypedDict

from vllm.lora.request import LoRARequest

calls = []  # (what, arguments)
LONGEST = None  # tokens that there is room for; None: as many as the model takes
reasons = {}  # (prompt, number of the sample): finish reason, instead of what follows from the tokens


class TokensPrompt(TypedDict):
    prompt_token_ids: list


@dataclass(kw_only=True)
class SamplingParams:
    n: int = 1
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop_token_ids: list | None = None
    max_tokens: int | None = 16
    detokenize: bool = True

    def __post_init__(self):
        assert type(self.n) is int and 1 <= self.n <= 16384
        assert 0 <= self.temperature <= 2 and 0 < self.top_p <= 1
        assert -(2**63) <= self.seed < 2**63 - self.n
        assert all(type(token) is int for token in self.stop_token_ids)


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list
    finish_reason: str | None = None


@dataclass
class RequestOutput:
    prompt_token_ids: list
    outputs: list


class LLM:
    def __init__(self, model: str, *, dtype="auto", seed=0, gpu_memory_utilization=0.92, max_model_len=None,
                 generation_config="auto", trust_remote_code=False, enable_lora=False, max_lora_rank=16,
                 enforce_eager=False, enable_chunked_prefill=None):
        assert (Path(model) / "config.json").is_file()
        assert dtype in ("bfloat16", "float32") and generation_config in ("auto", "vllm")
        assert dtype == "bfloat16" or not enable_lora
        assert trust_remote_code is False
        assert max_lora_rank in (1, 8, 16, 32, 64, 128, 256, 320, 512)
        assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0" and os.environ["VLLM_NO_USAGE_STATS"] == "1"
        own = json.loads((Path(model) / "config.json").read_text())["max_position_embeddings"]
        self.model_config = SimpleNamespace(max_model_len=min(own, LONGEST or own))
        self.lora_rank = max_lora_rank if enable_lora else 0
        arguments = {key: value for key, value in locals().items() if key != "self"}
        calls.append(("LLM", arguments))

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        calls.append(("generate", {"prompts": prompts, "params": sampling_params, "lora": lora_request}))
        assert isinstance(prompts, list) and len(prompts) == len(sampling_params)
        if lora_request is not None:
            config = json.loads((Path(lora_request.lora_path) / "adapter_config.json").read_text())
            assert config["r"] <= self.lora_rank
        return [self._answer(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling_params)]

    def _answer(self, prompt, params):
        """Sample i is letters of the prompt, i + 1 of them, then an end token; in no order."""
        outputs = []
        for index in reversed(range(params.n)):
            tokens = [*prompt[-3:-2] * (index + 1), params.stop_token_ids[0]]
            reason = "stop" if len(tokens) <= params.max_tokens else "length"
            reason = reasons.get((tuple(prompt), index), reason)
            outputs.append(CompletionOutput(index, "", tokens[: params.max_tokens], reason))
        return RequestOutput(prompt, outputs)
'''
REQUEST = """
import dataclasses


@dataclasses.dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""

    def __post_init__(self):
        assert self.lora_int_id >= 1 and self.lora_path
"""


def install(folder: Path) -> Path:
    """Write the package and its metadata into ``folder``, to be put on the path."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in {
        "vllm/__init__.py": PACKAGE,
        "vllm/lora/__init__.py": "",
        "vllm/lora/request.py": REQUEST,
        f"vllm-{VERSION}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder
