"""What to do about a failure that no retry mends, in one line."""

from urllib.parse import urlsplit

from emdefense.config.judges import OpenAIJudge
from emdefense.judging.failures import SHUT_OUT, Failure

_KEY = ("api key", "api_key", "apikey", "credential", "unauthori", "authenticat", "access token", "bearer")
_PROXY = ("proxy", "gateway", "firewall")


def advise(settings: OpenAIJudge, failure: Failure) -> str:
    """Return one line on a failure: what happened, what to mend, what the endpoint said; it never holds the key."""
    said = f". It said: {failure.said.text}" if failure.said.text else ""
    return f"judge '{settings.name}' at {settings.base_url or 'the default endpoint'} {_what(settings, failure)}{said}"


def _what(settings: OpenAIJudge, failure: Failure) -> str:
    status, said = failure.status, failure.said
    code = f"(HTTP {status})"
    if failure.reason == SHUT_OUT:
        return f"has shut out the account of the key in {settings.api_key_variable} {code}; use another, or ask it why"
    if failure.most_alternatives is not None:
        return (
            f"gives {failure.most_alternatives} alternatives to a token at most, fewer than judge.top_logprobs = "
            f"{settings.top_logprobs} {code}; write judge.top_logprobs: {failure.most_alternatives}, or have it give "
            "more (vLLM's --max-logprobs)"
        )
    if failure.reason == "quota used up" or status == 402:
        return "says that the quota is used up; top it up and run again, nothing paid for is lost"
    if status == 401 or (status == 403 and said.names(*_KEY) and not said.names(*_PROXY)):
        return f"refused the key in {settings.api_key_variable} {code}; export a valid one"
    if status == 403 and said.by_api and not said.names(*_PROXY):
        return (
            f"forbids this {code}; use a key in {settings.api_key_variable} that may use model '{settings.model}' from "
            f"here, or, if something before it said so, export NO_PROXY={_host(settings)}"
        )
    if status in {403, 407}:
        return (
            f"was not reached: what stands before it, such as a proxy, forbids this {code}; "
            f"export NO_PROXY={_host(settings)}, or correct judge.base_url"
        )
    if status == 429 and failure.kind == "fatal":
        return f"wants {failure.retry_after:.0f} s of rest; run again then, nothing paid for is lost"
    if status == 404 or "model_not_found" in said.codes:
        return f"knows no model '{settings.model}' {code}; correct judge.model or judge.base_url"
    if status == 429:
        return f"is asked too much {code}; lower judge.requests_per_minute, or run again later"
    if status is not None and status >= 500:
        return f"fails {code}; run again when it is mended, nothing paid for is lost"
    if status is not None and 300 <= status < 400:
        return f"sends requests elsewhere {code}; write the address that answers itself as judge.base_url"
    if status is not None and said.names("temperature"):
        return f"does not take judge.temperature: {settings.temperature:g} {code}; write one that the model takes"
    if status is not None:
        return f"refused a request {code}; correct judge.model, judge.options, judge.extra_body or judge.base_url"
    if failure.kind == "fatal":
        return failure.reason
    if not failure.is_chat:
        return no_chat(failure)
    if failure.kind == "unusable":
        return f"sent no reply that scores can be read from ({failure.reason}); write another judge.model"
    return f"cannot be reached ({failure.reason}); check judge.base_url and the network"


def no_chat(failure: Failure) -> str:
    """Return what to do about an endpoint whose answers are no chat completions."""
    return (
        f"sends no chat completions ({failure.reason}); correct judge.base_url, which often ends in /v1, or look at "
        "what serves it"
    )


def _host(settings: OpenAIJudge) -> str:
    return urlsplit(settings.base_url or "https://api.openai.com").hostname or "its host"
