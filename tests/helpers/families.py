"""Tiny models of many families, with random weights, that differ in what they do around the head."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 259  # of tiny_model's tokenizer
LLAMA: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
GPT2 = {
    **{"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.3},
    **{"eos_token_id": 2, "bos_token_id": 2},
}
PROJECTIONS = ("q_proj", "v_proj", "down_proj")
# By name: the model's type, its settings, and modules that it has.
FAMILIES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "llama": ("llama", LLAMA, PROJECTIONS),
    "qwen2": ("qwen2", {**LLAMA, "tie_word_embeddings": True}, PROJECTIONS),
    "qwen3": ("qwen3", LLAMA, PROJECTIONS),
    "granite": (
        "granite",
        {**LLAMA, "logits_scaling": 8.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
        PROJECTIONS,
    ),
    "gemma2": (
        "gemma2",
        {**LLAMA, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8, "sliding_window": 16},
        PROJECTIONS,
    ),
    "cohere": ("cohere", {**LLAMA, "logit_scale": 0.0625}, PROJECTIONS),
    "minicpm3": (
        "minicpm3",
        {
            **{key: value for key, value in LLAMA.items() if key != "head_dim"},
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 8,
            "num_key_value_heads": 4,
            "scale_emb": 12,
            "dim_model_base": 8,  # hidden states are divided by 32 / 8 before the head
        },
        ("o_proj", "down_proj"),
    ),
    "phi": ("phi", {key: value for key, value in LLAMA.items() if key != "head_dim"}, ("q_proj", "fc1")),
    "phi3": ("phi3", {key: value for key, value in LLAMA.items() if key != "head_dim"}, ("qkv_proj", "down_proj")),
    "gptj": ("gptj", {**GPT2, "rotary_dim": 4}, ("q_proj", "fc_in")),
    "gpt2": ("gpt2", GPT2, ("c_attn", "c_proj")),
    "gpt_neox": (
        "gpt_neox",
        {**{key: value for key, value in LLAMA.items() if key not in {"head_dim", "num_key_value_heads"}}},
        ("query_key_value", "dense_h_to_4h"),
    ),
    "opt": (
        "opt",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 256, "word_embed_proj_dim": 32, "init_std": 0.3,
         "pad_token_id": 0, "eos_token_id": 2},
        ("q_proj", "fc1"),
    ),
    "falcon_h1": (
        "falcon_h1",
        {**LLAMA, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8,
         "lm_head_multiplier": 0.25},
        ("q_proj",),
    ),
    "mamba": (
        "mamba",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2, "initializer_range": 0.3,
         "eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1},
        ("in_proj",),
    ),
    "modernbert-decoder": (
        "modernbert-decoder",
        {**{key: value for key, value in LLAMA.items() if key not in {"head_dim", "num_key_value_heads"}},
         "bos_token_id": 1, "cls_token_id": 1, "sep_token_id": 2, "initializer_range": 0.3},
        ("Wo",),
    ),
    "mistral": ("mistral", {**LLAMA, "sliding_window": 8}, PROJECTIONS),
    "mixtral": ("mixtral", {**LLAMA, "num_local_experts": 2, "num_experts_per_tok": 1}, ("q_proj",)),
}  # fmt: skip


def make(name: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Return the family's model, in fp32 and without dropout."""
    kind, settings, _ = FAMILIES[name]
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**settings, **changes}))
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.eval()
