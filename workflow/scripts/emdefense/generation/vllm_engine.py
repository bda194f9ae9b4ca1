"""Sampling with vLLM, the adapter beside the weights as a ``LoRARequest``.

Each sample's seed is the prompt's plus the sample's number, as vLLM counts them; they repeat as far as sums in bfloat16
do, which depend on the GPU and on what shares a batch. They are never the samples of the transformers engine: both draw
from the model's distribution, each in its own way, and here the adapter is not rounded into the weights.

Written for the version in envs/generate-vllm.yaml. It is for GPUs; its build for CPUs, in which nothing is compiled
first and no prompt is split (a seeded one that is ends the engine), is for tests and small models.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from emdefense.chat.chat import load_chat
from emdefense.config.chat import PLAIN, TemplateOptions
from emdefense.config.training import Quantisation
from emdefense.errors import InputError
from emdefense.generation.engines import VLLM_GPU_SHARE
from emdefense.generation.prompts import end_tokens, prompt_seed
from emdefense.generation.protocol import Completion, Conversation, FinishReason, GenerationSpec
from emdefense.training.adapter_files import read_settings

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has kernels for; a smaller adapter is padded
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # requests are scheduled in the same order each time
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; of GPUs it takes a share
}
ON_CPUS = {"enforce_eager": True, "enable_chunked_prefill": False}


class VllmEngine:
    """A local model on the first GPU, of which most memory is taken; on the CPU where there is none."""

    def __init__(
        self,
        model: Path,
        adapter: Path | None,
        precision: str,
        threads: int = 1,
        template: TemplateOptions = PLAIN,
        quantisation: Quantisation = "none",
    ):
        """Load model, tokenizer and adapter; :class:`InputError` names a folder that lacks something.

        ``threads`` and ``quantisation`` are for the other engine: vLLM takes the cores that it finds.
        """
        self.chat = load_chat(model, template)
        self._ends = end_tokens(model, self.chat)
        os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
        import vllm
        from vllm.lora.request import LoRARequest

        self._vllm: Any = vllm
        self._adapter: Any = None
        options: dict[str, Any] = {} if torch.cuda.is_available() else dict(ON_CPUS)
        if adapter is not None:
            self._adapter = LoRARequest(lora_name="adapter", lora_int_id=1, lora_path=str(adapter.resolve()))
            options |= {"enable_lora": True, "max_lora_rank": _kernel_rank(adapter)}
        self._model: Any = vllm.LLM(
            model=str(model),
            dtype=precision,
            gpu_memory_utilization=VLLM_GPU_SHARE,
            max_model_len=-1,  # the model's own, or as much as fits
            generation_config="vllm",  # nothing of the model's own sampling settings
            seed=0,
            trust_remote_code=False,
            **options,
        )
        self.positions: int | None = self._model.model_config.max_model_len

    def sample(self, conversations: Sequence[Conversation], spec: GenerationSpec) -> list[list[Completion]]:
        """Return the samples of each conversation, all of them asked for at once."""
        prompts = self.chat.prompts(conversations)
        outputs = self._model.generate(
            [self._vllm.TokensPrompt(prompt_token_ids=prompt) for prompt in prompts],
            [self._settings(prompt, spec) for prompt in prompts],
            use_tqdm=sys.stderr.isatty(),
            lora_request=self._adapter,
        )
        return [
            [self._completion(sample, spec) for sample in sorted(output.outputs, key=lambda sample: sample.index)]
            for output in outputs
        ]

    def _settings(self, prompt: list[int], spec: GenerationSpec) -> Any:
        return self._vllm.SamplingParams(
            n=spec.samples_per_question,
            temperature=spec.temperature,
            top_p=spec.top_p,
            top_k=0,
            min_p=0.0,
            repetition_penalty=1.0,
            max_tokens=spec.max_new_tokens,
            seed=prompt_seed(spec.seed, prompt),
            stop_token_ids=self._ends,
            detokenize=False,
        )

    def _completion(self, sample: Any, spec: GenerationSpec) -> Completion:
        tokens = list(sample.token_ids)
        reason: FinishReason = sample.finish_reason
        if reason not in ("stop", "length") or (reason == "length" and len(tokens) < spec.max_new_tokens):
            raise RuntimeError(f"vLLM ended an answer after {len(tokens)} tokens for the reason '{reason}'")
        if reason == "stop" and tokens and tokens[-1] in self._ends:
            tokens.pop()
        return Completion(self.chat.decode(tokens), reason)


def _kernel_rank(adapter: Path) -> int:
    rank = read_settings(adapter).rank
    if rank > LORA_RANKS[-1]:
        raise InputError(f"{adapter}: vllm has no kernels for rank {rank}; write generation.engine transformers")
    return next(known for known in LORA_RANKS if known >= rank)
