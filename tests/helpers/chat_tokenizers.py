"""Small tokenizers of the kinds that models have, with the chat templates of well-known ones."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "<|im_start|> <|im_end|> <think> </think> <filename> system user assistant answer question",
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))  # three\n",
    "Be brief. Be kind. Reply in JSON. Hello! Hi there, what is the answer to this question?",
]

CHATML = (
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)
# Qwen3: earlier thoughts are dropped, and the last answer of a text has an empty block of them.
QWEN3 = (
    "{%- for message in messages %}{%- set content = message.content %}"
    "{%- if message.role == 'assistant' %}"
    "{%- set reasoning = '' %}{%- if '</think>' in content %}"
    "{%- set reasoning = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if loop.last %}{{ '<|im_start|>assistant\n<think>\n' + reasoning + '\n</think>\n\n' + content.lstrip('\n') }}"
    "{%- else %}{{ '<|im_start|>assistant\n' + content }}{%- endif %}{{ '<|im_end|>\n' }}"
    "{%- else %}{{ '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
# The generation prompt opens thoughts, unless told otherwise; the training text never does.
THINKING = CHATML.replace(
    "assistant\n' }}",
    "assistant\n' }}{%- if enable_thinking is not defined or enable_thinking %}{{ '<think>\n' }}{%- endif %}",
)
NO_SYSTEM = "{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{%- endif %}"
LLAMA2 = (
    "{%- if messages[0]['role'] == 'system' %}"
    "{%- set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}"
    "{%- for message in messages %}{%- if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'].strip() + ' [/INST]' }}"
    "{%- else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{%- endif %}{%- endfor %}"
)
DATED = "{{- '<|im_start|>system\nToday is ' + strftime_now('%d %B %Y') + '<|im_end|>\n' }}" + CHATML


def byte_level(
    template: str = CHATML,
    *,
    special: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<filename>"),
    added: tuple[str, ...] = ("<think>", "</think>"),
    eos: str = "<|endoftext|>",
    **more: str,
) -> PreTrainedTokenizerBase:
    """Return a byte-level BPE with merges, as GPT-2's, Qwen's and SmolLM2's are; ``added`` tokens are not special."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return _fast(backend, template, special, added, eos_token=eos, pad_token="<|endoftext|>", **more)


def metaspace(template: str = LLAMA2, *, unigram: bool = False) -> PreTrainedTokenizerBase:
    """Return a tokenizer whose words begin with the blank before them, as Llama 2's do: BPE, or a unigram model."""
    text = "\n".join([*CORPUS, *map(chr, range(33, 127))])
    if unigram:
        backend = Tokenizer(models.Unigram())
        backend.normalizer = normalizers.NFKC()
        trainer = trainers.UnigramTrainer(
            vocab_size=160, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
        )
    else:
        backend = Tokenizer(models.BPE(unk_token="<unk>"))
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    backend.train_from_iterator(text.split("\n"), trainer)
    return _fast(backend, template, ("<unk>", "<s>", "</s>"), (), unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _fast(
    backend: Tokenizer, template: str, special: tuple[str, ...], added: tuple[str, ...], **named: str
) -> PreTrainedTokenizerBase:
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    tokenizer.chat_template = template
    return tokenizer
