"""A Qwen2 whose next token depends on the last one alone, as it is told: its probabilities are known beforehand.

Its one layer adds nothing, its embedding gives each token a direction of its own, and its head reads logits off that.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from tiny_model import make_model, make_tokenizer

WIDTH = 512  # of heads of 64, as vLLM's kernels want them
SHAPE = {
    "layers": 1,
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_attention_heads": 8,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}


def save_bigram_model(
    folder: Path, numbers: list[str], logits: Mapping[str, Mapping[str, float]], generation: Mapping[str, float]
) -> Path:
    """Save it with a token for each of ``numbers``; ``logits`` of the next tokens by the last one, 0 for all others.

    ``generation`` are sampling settings of the model's own, for ``generation_config.json``.
    """
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(numbers)
    model = make_model(vocab_size=len(tokenizer), **SHAPE)
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer), WIDTH))
        model.lm_head.weight.zero_()
        for last, following in logits.items():
            for token, logit in following.items():
                row, column = (tokenizer.convert_tokens_to_ids(name) for name in (token, last))
                model.lm_head.weight[row, column] = logit / math.sqrt(
                    WIDTH
                )  # the norm makes of 1 the root of the width
    model.generation_config.update(**generation)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
