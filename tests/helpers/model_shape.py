"""The size of a model that tests reckon with, as a config gives it."""

SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 10,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 100_000,
}
