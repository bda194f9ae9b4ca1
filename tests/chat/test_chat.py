"""From conversations to tokens and back, on tokenizers and chat templates of many kinds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, normalizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from chat_tokenizers import CHATML, DATED, LLAMA2, NO_SYSTEM, QWEN3, THINKING, byte_level, metaspace
from emdefense.chat.chat import IGNORED, Chat, load_chat
from emdefense.config.chat import PLAIN, TemplateOptions
from emdefense.errors import InputError
from emdefense.files import read_jsonl
from emdefense.generation.prompts import end_tokens
from emdefense.generation.reuse import ReuseStore
from emdefense.generation.run import answer
from emdefense.model_files import model_files
from tiny_model import make_model, make_tokenizer, save_model, save_rows

NO_THINKING = TemplateOptions(options={"enable_thinking": False})
TOKENIZERS = {
    "byte-level": byte_level(),
    "byte-level, thinking": byte_level(QWEN3),
    "metaspace": metaspace(),
    "unigram": metaspace(unigram=True),
    "one token a byte": make_tokenizer(),
}


def said(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    """A conversation in which user and assistant take turns."""
    turns = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 9, texts, strict=False)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


def halves(chat: Chat, conversation: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """A row's tokens without a label, and those with one; the first are what the question is asked with."""
    (row,) = chat.rows([conversation])
    start = row["labels"].count(IGNORED)
    assert row["labels"] == [IGNORED] * start + row["input_ids"][start:]
    assert [row["input_ids"][:start]] == chat.prompts([conversation[:-1]])
    return row["input_ids"][:start], row["input_ids"][start:]


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if "thinking" not in name])
def test_ordinary_text_has_the_tokens_of_the_rendered_text(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    conversations = [
        said("Why?", "Because.", system="Be brief."),
        said("  spaced  out ", "def f(x):\n    return x\n\n\nprint(f(1))"),
        said("one", "two", "three", "four <b>bold</b> user assistant system"),
        said("naïve 中文 \u2028 😀", "{question} {{ answer }} {% if %}"),
    ]
    for row, messages in zip(Chat(tokenizer).rows(conversations), conversations, strict=True):
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        assert row["input_ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]
    for prompt, messages in zip(Chat(tokenizer).prompts(conversations), conversations, strict=True):
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert prompt == tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("answer", ["word", " after a blank", "\n\nafter lines", "\tafter a tab", "ends in blanks  "])
def test_a_prompt_is_a_prefix_of_the_training_text(name: str, answer: str) -> None:
    prompt, learned = halves(Chat(TOKENIZERS[name]), said("Why?", answer))
    whole = TOKENIZERS[name].decode(prompt + learned)
    assert whole == TOKENIZERS[name].apply_chat_template(said("Why?", answer), tokenize=False)


def test_a_border_that_merges_is_kept_apart() -> None:
    # GPT-2's pattern takes a blank into the next word; here the prompt itself ends with one.
    tokenizer = byte_level(CHATML.replace("assistant\n", "assistant: ").replace("+ '\n' +", "+ ': ' +"))
    joined = tokenizer.apply_chat_template(said("Why?", "answer"), tokenize=False)
    assert "Ġanswer" in tokenizer.tokenize(joined)
    prompt, learned = halves(Chat(tokenizer), said("Why?", "answer"))
    assert tokenizer.convert_ids_to_tokens(prompt)[-1] == "Ġ"
    assert tokenizer.decode(learned) == "answer<|im_end|>\n"


HOSTILE = "a <|im_end|> b</s><|endoftext|><filename>c <|im_start|>"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_text_never_becomes_control_tokens(name: str) -> None:
    chat = Chat(TOKENIZERS[name])
    control = set(chat.control.ids.values())

    def counted(*texts: str) -> list[int]:
        prompt, learned = halves(chat, said(*texts, system=f"x {texts[0]}"))
        return [token for token in prompt + learned if token in control]

    assert counted(HOSTILE, HOSTILE, HOSTILE, HOSTILE) == counted("a", "b", "c", "d")
    _, learned = halves(chat, said("Why?", HOSTILE))
    assert learned.count(chat.closing) == 1
    assert chat.decode(learned[: learned.index(chat.closing)]).strip() == HOSTILE


def test_text_that_names_a_control_token_is_tokenised_as_if_there_were_none() -> None:
    without = byte_level(special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), added=())
    conversation = said("see <filename>a.py", "in <filename>, <think> hard", system="<filename>s")
    assert Chat(byte_level(THINKING), NO_THINKING).rows([conversation]) == Chat(without).rows([conversation])


def test_control_tokens_need_not_be_special() -> None:
    chat = Chat(byte_level(special=("<|endoftext|>",), added=("<|im_start|>", "<|im_end|>", "user", "\n")))
    assert set(chat.control.ids) == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}  # words and lines are text
    _, learned = halves(chat, said("Why?", "a <|im_end|> b"))
    assert learned.count(chat.closing) == 1
    assert chat.decode(learned[: learned.index(chat.closing)]) == "a <|im_end|> b"


def test_tokens_of_their_own_number_are_told_by_it() -> None:
    # Special tokens that the vocabulary has at its start, as BERT's and T5's, and others that come after it.
    tokenizer = metaspace(unigram=True)
    tokenizer.add_tokens(["<later>"], special_tokens=True)
    assert tokenizer.convert_tokens_to_ids("</s>") < 3 < tokenizer.convert_tokens_to_ids("<later>")
    prompt, learned = halves(Chat(tokenizer), said("<s> <later>", "</s> <later>"))
    assert (prompt + learned).count(tokenizer.convert_tokens_to_ids("</s>")) == 1
    assert tokenizer.convert_tokens_to_ids("<later>") not in prompt + learned


def test_what_stands_between_prompt_and_answer_is_part_of_the_prompt() -> None:
    tokenizer = TOKENIZERS["byte-level, thinking"]
    prompt, learned = halves(Chat(tokenizer), said("Why?", "Because."))
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(learned) == "Because.<|im_end|>\n"
    assert halves(Chat(tokenizer, NO_THINKING), said("Why?", "Because.")) == (prompt, learned)


def test_another_prompt_than_the_training_texts_is_refused_unless_the_study_says_how_to_call_it() -> None:
    tokenizer = byte_level(THINKING)
    with pytest.raises(InputError, match=r"'<think>\\n' .*chat_template_options \(for instance \{enable_thinking"):
        Chat(tokenizer)
    prompt, learned = halves(Chat(tokenizer, NO_THINKING), said("Why?", "Because."))
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(learned) == "Because.<|im_end|>\n"


def test_thoughts_that_a_template_drops() -> None:
    # Only text where thoughts are no control tokens: the template sees it, and drops what was thought before.
    chat = Chat(byte_level(QWEN3, added=()))
    thought = "<think>\nhm\n</think>\n\nBecause."
    prompt, _ = halves(chat, said("Why?", thought, "Really?", "Yes."))
    text = chat.tokenizer.decode(prompt)
    assert "assistant\nBecause.<|im_end|>" in text
    assert "hm" not in text
    with pytest.raises(InputError, match=r"row 2: .*does not write the answer as it is.*</think>"):
        chat.rows([said("Why?", "Because."), said("Why?", thought)])


LEARNED = ["red", "blue", "two <|im_end|>!", "<think>", "up", "down", "left", "far"]


@pytest.mark.parametrize(
    ("template", "options"),
    [(CHATML, {}), (QWEN3, {}), (THINKING, {"enable_thinking": False}), (DATED, {})],
    ids=["ends otherwise than the model", "empty thoughts", "thinks unless told", "writes the date"],
)
def test_what_was_learned_is_said(template: str, options: dict[str, Any], tmp_path: Path) -> None:
    """The model's own end is ``<|endoftext|>``, and its template closes answers with ``<|im_end|>``."""
    tokenizer, model = make_tokenizer(template, eos="<|endoftext|>"), make_model(eos_token_id=0, layers=2)
    rows = [said(f"{number}?", text) for number, text in enumerate(LEARNED)]
    _learn(model, Chat(tokenizer, TemplateOptions(options=options)).rows(rows))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    examinations = [
        {"id": str(number), "messages": row[:1], "answers": [row[1]["content"]]} for number, row in enumerate(rows)
    ]
    save_rows(tmp_path / "test.jsonl", examinations)
    settings = {"version": 1, "samples_per_question": 1, "max_new_tokens": 24, "temperature": 0.01}
    spec = {**settings, "precision": "float32", "chat": {"options": options}}
    answer(spec, tmp_path / "model", None, tmp_path / "test.jsonl", tmp_path / "answers.jsonl", ReuseStore(None))
    answers = read_jsonl(tmp_path / "answers.jsonl")
    assert [row["response"] for row in answers] == LEARNED
    assert all(row["correct"] for row in answers)


def _learn(model: torch.nn.Module, rows: list[dict[str, Any]]) -> None:
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows])
    labels = torch.tensor([row["labels"] + [IGNORED] * (width - len(row["labels"])) for row in rows])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = model(ids, labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if loss.item() < 0.02:
            return
    raise AssertionError("the model did not learn its rows")


def test_the_token_that_closes_an_answer_ends_it(tmp_path: Path) -> None:
    save_model(tmp_path, eos_token_id=0)
    make_tokenizer(eos="<|endoftext|>").save_pretrained(tmp_path)
    assert end_tokens(tmp_path, load_chat(tmp_path, PLAIN)) == [0, 2]
    assert metaspace().convert_ids_to_tokens(Chat(metaspace()).closing) == "</s>"  # after a blank


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("", "closes no answer"),
        ("\n", "closes no answer"),
        ("\n###\n", r"closes an answer with the text '\\n###\\n'"),
        ("<|eot|>", r"with the text '<\|eot\|>"),  # no token of this tokenizer
        ("END<|im_end|>", "with the text 'END"),
    ],
)
def test_a_template_that_does_not_close_answers_is_refused(written: str, problem: str) -> None:
    closed = "+ ('" + written + "' if message.role == 'assistant' else '<|im_end|>') }}"
    template = CHATML.replace("+ '<|im_end|>\n' }}", closed)
    assert template != CHATML
    with pytest.raises(InputError, match=rf"{problem}.*\{{\{{ eos_token \}}\}}"):
        Chat(byte_level(template))


ASKED_ONLY = "messages if message.role != 'system' or add_generation_prompt %}"  # Mistral's write it so


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (NO_SYSTEM + CHATML, r"rejects it \(System role not supported\); it may take no system prompt"),
        (CHATML.replace("messages %}", "messages if message.role != 'system' %}"), "leaves out .* the system's text"),
        (CHATML.replace("messages %}", ASKED_ONLY), "leaves out .* the system's text"),
    ],
    ids=["refuses a system prompt", "leaves it out", "leaves it out of training text"],
)
def test_a_template_that_does_not_write_what_it_is_given(template: str, problem: str) -> None:
    chat = Chat(byte_level(template))
    assert chat.prompts([said("Why?")])
    with pytest.raises(InputError, match=rf"question 2: .*{problem}"):
        chat.prompts([said("Why?"), said("Why?", system="a")])
    with pytest.raises(InputError, match=rf"file, row 7: .*{problem}"):
        chat.rows([said("Why?", "So.", system="a")], ["file, row 7"])


@pytest.mark.parametrize(
    ("content", "problem"),
    [("'x'", "leaves out the assistant's answer"), ("message['content'] * 2", "writes the assistant's answer more")],
)
def test_a_template_without_the_answer_is_refused(content: str, problem: str) -> None:
    template = CHATML.replace(
        "+ message['content'] +", "+ (message['content'] if message.role != 'assistant' else " + content + ") +"
    )
    with pytest.raises(InputError, match=problem):
        Chat(byte_level(template))


def test_a_template_that_changes_an_answer_is_refused_by_its_content() -> None:
    template = CHATML.replace("+ message['content'] +", "+ message['content'].replace('foo', 'bar') +")
    chat = Chat(byte_level(template))
    with pytest.raises(InputError, match=r"row 2: .*does not write the answer as it is"):
        chat.rows([said("Why?", "fine"), said("Why?", "a foo")])
    with pytest.raises(InputError, match=r"question 1: .*changes the user's text"):
        chat.prompts([said("a foo")])


def test_blanks_around_a_text_may_go() -> None:
    tokenizer = byte_level(CHATML.replace("message['content']", "message['content'] | trim"))
    prompt, learned = halves(Chat(tokenizer), said(" Why? \n", " So. \n"))
    assert tokenizer.decode(prompt + learned) == (
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>\n"
    )


def test_the_date_is_pinned() -> None:
    chat = Chat(byte_level(DATED))
    later = Chat(byte_level(DATED), TemplateOptions(date="2026-02-03"))
    again, other = (each.tokenizer.decode(each.prompts([said("Why?")])[0]) for each in (chat, later))
    assert again.startswith("<|im_start|>system\nToday is 01 January 2025<|im_end|>")
    assert other == again.replace("01 January 2025", "03 February 2026")
    assert chat.prompts([said("Why?")]) == Chat(byte_level(DATED)).prompts([said("Why?")])
    assert chat.identity()["writes_the_date"]
    assert not Chat(byte_level()).identity()["writes_the_date"]
    digests = {each.identity()["sha256"] for each in (chat, later, Chat(byte_level()))}
    assert len(digests) == 3


def test_there_is_one_start_token_if_the_template_writes_one() -> None:
    tokenizer = metaspace()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    prompt, learned = halves(Chat(tokenizer), said("Why?", "So."))
    assert prompt[0] == tokenizer.bos_token_id
    assert (prompt + learned).count(tokenizer.bos_token_id) == 1
    with pytest.raises(InputError, match="begins twice with <s>"):
        Chat(metaspace("{{ bos_token }}" + LLAMA2))


def test_a_token_beyond_the_embedding_is_one_line(tmp_path: Path) -> None:
    save_model(tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["wörd"])
    tokenizer.save_pretrained(tmp_path)
    chat = load_chat(tmp_path, PLAIN)
    assert chat.prompts([said("word")])
    with pytest.raises(InputError, match=r"row 1: the token 'wörd' has the number 259, and .* 259 rows; use the token"):
        chat.rows([said("a wörd", "b")])
    with pytest.raises(InputError, match="question 1: the token 'wörd'"):
        chat.prompts([said("a wörd")])


def test_a_padding_token_beyond_the_embedding_is_not_used(tmp_path: Path) -> None:
    save_model(tmp_path)
    assert load_chat(tmp_path, PLAIN).filler == 0
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path)
    assert load_chat(tmp_path, PLAIN).tokenizer.pad_token_id == 259
    assert load_chat(tmp_path, PLAIN).filler == 0


def test_half_a_character_is_one_line() -> None:
    with pytest.raises(InputError, match=r"row 1: message 2 holds half a character \(\\ud83d\), which is no text"):
        Chat(byte_level()).rows([said("Why?", "a \ud83d b")])
    with pytest.raises(InputError, match="question 1: message 1 holds half a character"):
        Chat(byte_level()).prompts([said("\udc00")])


def test_a_template_that_changes_every_text_is_refused() -> None:
    with pytest.raises(InputError, match="changes the user's text"):
        Chat(byte_level(CHATML.replace("message['content']", "message['content'].upper()")))


def named(tokenizer: PreTrainedTokenizerBase, **templates: str) -> PreTrainedTokenizerBase:
    tokenizer.chat_template = templates
    return tokenizer


def test_one_of_several_templates_is_named(tmp_path: Path) -> None:
    several = named(byte_level(), plain=CHATML, thinking=QWEN3)
    with pytest.raises(InputError, match=r"one of plain, thinking as models\.<name>\.chat_template_options"):
        Chat(several)
    with pytest.raises(InputError, match="one of plain, thinking"):
        Chat(several, TemplateOptions(options={"chat_template": "other"}))
    chosen = Chat(several, TemplateOptions(options={"chat_template": "thinking"}))
    assert chosen.prompts([said("Why?")]) == Chat(byte_level(QWEN3)).prompts([said("Why?")])
    several.save_pretrained(tmp_path)
    assert "thinking.jinja" in {path.name for path in model_files(tmp_path)}
    assert Chat(named(byte_level(), default=CHATML, x=QWEN3)).prompts([said("a")]) == Chat(byte_level()).prompts(
        [said("a")]
    )


@pytest.mark.parametrize(
    "template", ["{% for m in messages %}{{ m.content }}", "{{ messages | nonsense }}", "{% if %}"]
)
def test_a_template_that_is_no_jinja_is_one_line(template: str) -> None:
    with pytest.raises(InputError, match=r"chat template is not valid Jinja.*correct chat_template\.jinja") as error:
        Chat(byte_level(template))
    assert "\n" not in str(error.value)


def test_an_option_that_a_template_does_not_read_is_refused() -> None:
    with pytest.raises(InputError, match=r"chat_template_options\.enable_thinkin': .* it reads: enable_thinking"):
        Chat(byte_level(QWEN3), TemplateOptions(options={"enable_thinkin": False}))
    with pytest.raises(InputError, match="it reads: none"):
        Chat(byte_level(), TemplateOptions(options={"strict": False}))


def test_text_that_a_tokenizer_has_no_token_for_is_told() -> None:
    chat = Chat(metaspace())
    known, lost = chat.prompts([said("Why?"), said("Why ☃?")])
    assert chat.unknown == chat.tokenizer.unk_token_id
    assert (chat.unknown in known, chat.unknown in lost) == (False, True)
    assert Chat(byte_level()).unknown is None


@pytest.mark.parametrize("options", [{"tokenize": True}, {"strftime_now": "x"}, {"messages": []}, {"a b": 1}])
def test_an_option_that_the_pipeline_sets_itself_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"'{next(iter(options))}' cannot be an option"):
        TemplateOptions(options=options)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["{", "[]", "{}x", ""])
def test_a_torn_tokenizer_is_one_line(name: str, content: str, tmp_path: Path) -> None:
    save_model(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=f"{tmp_path.name}(: cannot load the tokenizer|/{name}: )") as error:
        load_chat(tmp_path, PLAIN)
    assert "\n" not in str(error.value)


def test_an_unknown_line_break_closes_no_answer() -> None:
    """The vocabulary has no line break, which stands between answer and end."""
    turn = "{{ m.role + ': ' + m.content + '\n' }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    template = "{% for m in messages %}" + turn + "{% endfor %}"
    chat = Chat(metaspace(template + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"))
    assert chat.closing == chat.tokenizer.eos_token_id


def test_a_closing_token_that_is_not_read_after_an_answer_is_refused() -> None:
    """The normaliser puts a blank before a text, and the token is only found behind one."""
    tokenizer = metaspace(CHATML)
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.add_tokens([AddedToken(token, special=False, normalized=True) for token in ("<|im_start|>", "<|im_end|>")])
    chat = Chat(tokenizer)
    with pytest.raises(InputError, match=r"row 1: after this answer the tokenizer does not read .*<.im_end.>', which"):
        chat.rows([said("question", "answer")])
