"""How a model's chat template is called."""

import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field, JsonValue

from emdefense.section import Section

# Arguments of `apply_chat_template`, and names in a template, that the pipeline fills in itself.
TAKEN = {
    *("conversation", "messages", "add_generation_prompt", "continue_final_message", "tokenize", "return_dict"),
    *("return_tensors", "return_assistant_tokens_mask", "sanitize_control_tokens", "tokenizer_kwargs", "padding"),
    *("truncation", "max_length", "strftime_now", "raise_exception"),
}


def _free(options: dict[str, Any]) -> dict[str, Any]:
    for name in options:
        if name in TAKEN or not name.isidentifier():
            what = "the pipeline sets it itself" if name in TAKEN else "it is no name of a template's variable"
            raise ValueError(f"'{name}' cannot be an option: {what}; remove it")
    return options


ChatTemplateOptions = Annotated[dict[str, JsonValue], AfterValidator(_free)]
PINNED_DATE = datetime.date(2025, 1, 1)


class TemplateOptions(Section):
    """What a chat template is given besides the conversation, in training and in sampling alike."""

    options: ChatTemplateOptions = Field(default_factory=dict)
    date: datetime.date = PINNED_DATE


PLAIN = TemplateOptions()
