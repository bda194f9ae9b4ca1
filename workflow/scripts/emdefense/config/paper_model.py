"""Which of the paper's models one of a study's stands for, so that the paper's values may stand beside ours."""

import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

if TYPE_CHECKING:
    from emdefense.config.study import Study

Size = Literal["7b", "32b"]
PaperModel = Annotated[
    Size | None,
    Field(
        description="which of the paper's models it stands for, so that the paper's values stand beside its own; "
        "absent: the one that it is, by the name of its folder or of its source's repository, and else neither"
    ),
]
OF_PAPER = re.compile(r"(?:^|/|--)qwen2\.5-(7b|32b)-instruct(?=/|$)", re.IGNORECASE)
SOURCE = re.compile(r"^\{sources\}/([^/]+)")


def paper_model(study: "Study", name: str) -> Size | None:
    """Return which of the paper's models a study's model stands for, as its section says or as it is called."""
    model = study.models[name]
    if model.paper_model is not None:
        return model.paper_model
    source = SOURCE.match(model.instruct)
    of_source = study.sources.get(source[1]) if source else None
    for called in (model.instruct, getattr(of_source, "repository", None)):
        if called and (found := OF_PAPER.search(called)):
            return "7b" if found[1].lower() == "7b" else "32b"
    return None
