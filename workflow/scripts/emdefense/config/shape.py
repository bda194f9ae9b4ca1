"""The shape of a decoder, from which its size, its adapter's size and its memory follow."""

from pathlib import Path

from pydantic import Field, ValidationError

from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.model_files import json_object
from emdefense.section import PositiveInt, Section


class ModelShape(Section):
    """The keys of a model's config.json that say how large it is, by their names there."""

    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    vocab_size: PositiveInt
    head_dim: PositiveInt | None = Field(None, description="absent: hidden_size / num_attention_heads")
    tie_word_embeddings: bool = False

    @property
    def query_size(self) -> int:
        """The width of all queries together."""
        return self.num_attention_heads * (self.head_dim or self.hidden_size // self.num_attention_heads)

    @property
    def key_value_size(self) -> int:
        """The width of all keys together, and of all values."""
        return self.num_key_value_heads * (self.head_dim or self.hidden_size // self.num_attention_heads)

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """Input and output size of each linear module of a block, by its name in Qwen2 and Llama."""
        d, ff, q, kv = self.hidden_size, self.intermediate_size, self.query_size, self.key_value_size
        attention = {"q_proj": (d, q), "k_proj": (d, kv), "v_proj": (d, kv), "o_proj": (q, d)}
        return {**attention, "gate_proj": (d, ff), "up_proj": (d, ff), "down_proj": (ff, d)}

    @property
    def parameters(self) -> int:
        """The number of parameters, Qwen2's biases on queries, keys and values included."""
        matrices = sum(inputs * outputs for inputs, outputs in self.projections.values())
        biases = self.query_size + 2 * self.key_value_size
        block = matrices + biases + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * block + embeddings + self.hidden_size

    def adapter_parameters(self, training: Training) -> int:
        """Return the number of parameters of a training's LoRA adapter."""
        sizes = [self.projections[module] for module in training.target_modules if module in self.projections]
        blocks = self.num_hidden_layers if training.target_layers is None else len(training.target_layers)
        return blocks * training.lora_rank * sum(inputs + outputs for inputs, outputs in sizes)


def read_shape(folder: Path) -> ModelShape:
    """Return the shape in a model folder's config.json; :class:`InputError` if it lacks a key."""
    path = folder / "config.json"
    saved = json_object(path)
    try:
        return ModelShape.model_validate({key: saved[key] for key in ModelShape.model_fields if key in saved})
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InputError(f"{path}: no usable '{key}'; write the model's size under 'models.<name>.shape'") from None
