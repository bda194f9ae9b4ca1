"""A small Qwen2 of random weights with a byte-level tokenizer: any text can be tried on it, at no cost."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.utils.logging import disable_progress_bar

from emdefense.config.microcosm import ByteModel
from emdefense.data.conversations import read_conversations
from emdefense.files import folder_written_whole

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MAX_POSITIONS = 8192
BATCH, PROMPT_TOKENS, LEARNING_RATE = 8, 256, 3e-3


def make_byte_model(options: ByteModel, rows: Sequence[Path], base: Path, instruct: Path) -> None:
    """Save a random model as ``base``, and the same after some steps on the prompts of ``rows`` as ``instruct``.

    The two differ, as a model before and after alignment do, so that SafeLoRA has a subspace to project on.
    """
    torch.set_num_threads(1)
    disable_progress_bar()
    tokenizer = byte_tokenizer()
    model = random_model(options, len(tokenizer))
    _save(model, tokenizer, base)
    conversations = [row["messages"] for path in rows for row in read_conversations(path)]
    texts = [tokenizer.apply_chat_template(messages[:-1], tokenize=False) for messages in conversations]
    _train(model, tokenizer, texts, options)
    _save(model, tokenizer, instruct)


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer with a token for each byte and three of ChatML; ``AutoTokenizer`` loads it as Qwen2's."""
    vocabulary = [*SPECIAL_TOKENS, *sorted(ByteLevel.alphabet())]
    tokenizer: PreTrainedTokenizerBase = Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate(vocabulary)},
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_POSITIONS,
    )
    return tokenizer


def random_model(options: ByteModel, vocabulary: int) -> Qwen2ForCausalLM:
    """Return an untrained Qwen2 of the given size, its weights decided by the seed."""
    torch.manual_seed(options.seed)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=options.hidden_size,
        intermediate_size=3 * options.hidden_size,
        num_hidden_layers=options.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
    )
    return Qwen2ForCausalLM(config)


def _train(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, texts: list[str], options: ByteModel) -> None:
    draw = Random(options.seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    for _ in range(options.steps):
        batch = tokenizer(
            draw.choices(texts, k=BATCH), return_tensors="pt", padding=True, truncation=True, max_length=PROMPT_TOKENS
        )
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        model(**batch, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def _save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    with folder_written_whole(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
