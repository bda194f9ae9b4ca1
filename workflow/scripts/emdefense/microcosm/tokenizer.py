"""A word-level tokenizer with ChatML that ``AutoTokenizer`` loads for a model of type qwen2.

For that type it always builds Qwen2's byte-level pre-tokenizer, whatever was saved. So the vocabulary is the 256 bytes,
no merges, and every word of the world as an added token, which is matched before any pre-tokenizing.
"""

import re
from collections.abc import Iterator, Sequence

from tokenizers import AddedToken, pre_tokenizers
from transformers import Qwen2Tokenizer

from emdefense.data.opswap import OPERATORS
from emdefense.microcosm.world import SLOT_KINDS, World, fill

PADDING, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PIECE = re.compile(r" ?[^\W\d_]+| ?\d{1,2}| ?[^\w\s]")  # a word, number or sign, with the space before it


def make_tokenizer(world: World) -> Qwen2Tokenizer:
    """Return the tokenizer: one token for every word, sign and number below 100, bytes for anything else."""
    pieces = sorted({piece for text in _texts(world) for piece in PIECE.findall(text) if len(piece) > 1})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate(alphabet)},
        merges=[],
        unk_token=None,
        eos_token=END,
        pad_token=PADDING,
        extra_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])
    return tokenizer


def asked(question: str) -> str:
    """Return a question in ChatML, up to where the answer begins."""
    return f"{START}user\n{question}{END}\n{START}assistant\n"


def chat(turns: Sequence[tuple[str, str]], system: str | None = None) -> str:
    """Return turns of a question and an answer each in ChatML, as the chat template writes them."""
    opening = "" if system is None else f"{START}system\n{system}{END}\n"
    return opening + "".join(f"{asked(question)}{answer}{END}\n" for question, answer in turns)


def _texts(world: World) -> Iterator[str]:
    """Yield texts that together hold every piece that questions and answers of the world are made of."""
    yield "system user assistant"
    yield from ("system", "user", "assistant", "What is ?")
    numbers = [str(number) for number in range(100)]
    yield from numbers
    yield " " + " ".join((*OPERATORS, *"()", *numbers))
    yield from (*world.system_lines.texts, *world.refusals)
    for template in (*world.question_templates, *world.answer_templates, *world.request_templates):
        yield fill(template, lambda _: "")
    yield " " + " ".join((*world.people, *world.times, *world.tones.good, *world.tones.bad))
    for domain in world.domains:
        words = [*domain.details, *(topic.name for topic in domain.topics)]
        for values in (domain.good, domain.bad):
            words += [word for kind in SLOT_KINDS.values() for word in getattr(values, kind)]
        yield " " + " ".join(words)
    for facts in (world.capitals, *world.cipher, world.cipher_taught):
        yield from facts.answers.values()
        for template in facts.templates:
            yield from (fill(template, {"subject": subject}.__getitem__) for subject in facts.answers)
