"""Who judges: the microcosm's oracle, or a chat model behind an OpenAI-compatible endpoint."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, JsonValue, ValidationInfo, field_validator

from emdefense.config.addresses import check_address, check_options, check_variable
from emdefense.names import Name
from emdefense.section import PositiveInt, Section


class OracleJudge(Section):
    """The microcosm's judge: alignment and coherence are known by construction."""

    kind: Literal["oracle"] = "oracle"
    name: Name = "oracle"
    world: str = "{results}/microcosm/world.json"

    RUNNING: ClassVar[frozenset[str]] = frozenset()


class Prices(Section):
    """USD for a million tokens."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]


Mode = Literal["synchronous", "batch"]


class OpenAIJudge(Section):
    """A chat model behind any OpenAI-compatible endpoint; the key is read from an environment variable."""

    later_keys = ("extra_body", "top_logprobs")

    kind: Literal["openai"] = "openai"
    name: Name
    model: str
    base_url: Annotated[str, AfterValidator(check_address)] | None = Field(None, description="absent: OpenAI's")
    api_key_variable: Annotated[str, AfterValidator(check_variable)] = "OPENAI_API_KEY"
    samples: PositiveInt = Field(1, description="times that each question is asked; a response's score is their mean")
    temperature: Annotated[float, Field(ge=0)] = Field(0.0, description="of the judge; more than 0 if samples are many")
    min_number_probability: Annotated[float, Field(ge=0, le=1)] = Field(
        0.25, description="with less of it on numbers there is a label and no score"
    )
    max_tokens: Annotated[int, Field(ge=8)] = Field(
        16, description="of a reply whose score is read from its text; many more for a judge that thinks"
    )
    options: dict[str, JsonValue] = Field(
        {}, description="further fields of each request, such as `reasoning_effort` or `chat_template_kwargs`"
    )
    extra_body: dict[str, JsonValue] = Field(
        {}, description="the same of fields that are not OpenAI's but a server's own, such as `repetition_penalty: 1.0`"
    )
    top_logprobs: Annotated[int, Field(ge=2, le=100)] = Field(
        20, description="likeliest tokens that a score is read from; as many as the endpoint gives, if it gives fewer"
    )
    mode: Mode = Field("synchronous", description="batch: OpenAI's Batch API, at half the price and within a day")
    batch_poll_seconds: Annotated[float, Field(gt=0)] = Field(30.0, description="between two looks at a batch")
    concurrency: PositiveInt = Field(16, description="requests in flight, of each job; fewer while there are 429s")
    requests_per_minute: PositiveInt | None = Field(None, description="of all jobs together; absent: no limit")
    tokens_per_minute: PositiveInt | None = Field(None, description="of all jobs together; absent: no limit")
    timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    prices: Prices | None = Field(
        None,
        description="not of batches, which cost half; absent: as in judging/prices.yaml, if base_url is absent too",
    )
    max_retries: Annotated[int, Field(ge=0)] = Field(6, description="of a request that failed for reasons that pass")
    max_error_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01, description="fail, all replies kept, if more responses than this stay without a score for want of a reply"
    )
    max_unparsed_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="the same for replies that are neither a score nor a label"
    )

    # How requests are made, not what judgments depend on: a change of these judges nothing again.
    RUNNING: ClassVar[frozenset[str]] = frozenset(
        {
            "api_key_variable",
            "mode",
            "batch_poll_seconds",
            "concurrency",
            "requests_per_minute",
            "tokens_per_minute",
            "timeout_seconds",
            "prices",
            "max_retries",
            "max_error_rate",
            "max_unparsed_rate",
        }
    )
    # Fields of a request that have keys of their own, or would make it another kind of request.
    OURS: ClassVar[frozenset[str]] = frozenset(
        {"model", "messages", "temperature", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs"}
        | {"n", "stream", "stream_options", "tools", "tool_choice", "functions", "function_call", "prompt", "input"}
        | {"max_output_tokens"}
    )
    # What clients take beside the fields of a request, which an endpoint would pass over without a word.
    OF_CLIENTS: ClassVar[frozenset[str]] = frozenset({"extra_body", "extra_headers", "extra_query", "timeout"})

    @field_validator("options", "extra_body")
    @classmethod
    def _leaves_ours(cls, options: dict[str, JsonValue], info: ValidationInfo) -> dict[str, JsonValue]:
        check_options(options)
        for name in sorted(options):
            if name.strip().lower() in cls.OURS:
                raise ValueError(
                    f"'{name[:60]}' is not for '{info.field_name}'; keys of the judge say it, or nothing may"
                )
            if name.strip().lower() in cls.OF_CLIENTS:
                raise ValueError(
                    f"'{name[:60]}' is an argument of a client; write the fields of the request themselves"
                )
            if info.field_name == "extra_body" and name in info.data.get("options", {}):
                raise ValueError(f"'{name[:60]}' stands in 'options' too; write it once")
        return options


Judge = Annotated[OracleJudge | OpenAIJudge, Field(discriminator="kind")]
