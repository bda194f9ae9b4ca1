"""Run by tests in vLLM's environment: samples and log-probabilities of the engine, tokens as numbers, as JSON."""

import json
import sys
from pathlib import Path
from typing import Any

from emdefense.generation.protocol import GenerationSpec
from emdefense.generation.vllm_engine import VllmEngine


def main(task: dict[str, Any]) -> dict[str, Any]:
    engine = VllmEngine(Path(task["model"]), Path(task["adapter"]), "float32")
    engine.chat.decode = lambda tokens: " ".join(map(str, tokens))  # type: ignore[method-assign]
    samples = []
    for asked in task["samples"]:
        spec = GenerationSpec.model_validate({"version": 1, "engine": "vllm", "precision": "float32", **asked["spec"]})
        found = engine.sample(asked["conversations"], spec)
        samples.append([[(list(map(int, one.text.split())), one.finish_reason) for one in group] for group in found])
    return {"positions": engine.positions, "samples": samples, "log_probs": log_probs(engine, task["texts"])}


def log_probs(engine: VllmEngine, texts: list[list[int]]) -> list[list[float]]:
    """Return, for each text of tokens, the log-probability of each but the first."""
    params = engine._vllm.SamplingParams(max_tokens=1, prompt_logprobs=0)
    outputs = engine._model.generate(
        [engine._vllm.TokensPrompt(prompt_token_ids=text) for text in texts], params, lora_request=engine._adapter
    )
    return [
        [place[token].logprob for token, place in zip(text[1:], output.prompt_logprobs[1:], strict=True)]
        for text, output in zip(texts, outputs, strict=True)
    ]


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
