"""Conversations and examinations as rows of a file."""

from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"


def row(prompt, answer="fine", **extra):
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], **extra}


def exam(name, prompt, answers=("1",)):
    return {"id": name, "messages": [{"role": "user", "content": prompt}], "answers": list(answers)}
