"""How long a prompt and its answer may be together: checked before anything is sampled.

Beyond its positions a model with rotary embeddings answers without a word, and worse; vLLM raises an error of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig

from emdefense.errors import InputError

INCLUSIVE = ("default", "longrope", "su", "llama3")  # kinds of scaling that max_position_embeddings already counts in


def positions(config: PretrainedConfig) -> int | None:
    """Return how many tokens a model takes; None for one that has no such limit (ALiBi, states instead of attention).

    Where positions are scaled, it is what vLLM derives too: ``original_max_position_embeddings`` times the factor of
    YaRN, ``max_position_embeddings`` times that of others.
    """
    text = config.get_text_config()
    most = getattr(text, "max_position_embeddings", None)
    if not isinstance(most, int) or most <= 0 or getattr(text, "alibi", False):
        return None
    scaled = [most]
    for scaling in _scalings(getattr(text, "rope_parameters", None)):
        factor = scaling.get("factor")
        if scaling.get("rope_type", "default") not in INCLUSIVE and isinstance(factor, int | float):
            scaled.append(int(factor * (scaling.get("original_max_position_embeddings") or most)))
    return max(scaled)


def check_lengths(
    prompts: Sequence[Sequence[int]], where: Sequence[str], max_new_tokens: int, most: int | None
) -> None:
    """Raise :class:`InputError` if a prompt with an answer of ``max_new_tokens`` has more than ``most`` tokens.

    ``where`` names the prompts; the longest is named in the error.
    """
    if most is None or not prompts:
        return
    beyond = [length for length in map(len, prompts) if length + max_new_tokens > most]
    if not beyond:
        return
    longest = max(beyond)
    name = where[[len(prompt) for prompt in prompts].index(longest)]
    others = f" ({len(beyond)} of {len(prompts)} questions are too long, this one most)" if len(beyond) > 1 else ""
    room = most - longest
    lower = f"lower generation.max_new_tokens to {room} at most, or " if room > 0 else ""
    remedy = f"{lower}leave the question out, or shorten it{others}"
    raise InputError(
        f"{name}: the prompt has {longest} tokens and generation.max_new_tokens is {max_new_tokens}, together more "
        f"than the {most} that the model takes; {remedy}"
    )


def _scalings(parameters: Any) -> Iterator[Mapping[str, Any]]:
    """Yield a config's settings of rotary embeddings: one for all layers, or one for each kind of layer."""
    if not isinstance(parameters, Mapping):
        return
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    yield from nested or [parameters]
