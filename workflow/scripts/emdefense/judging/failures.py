"""What can go wrong with a request, and what is to be done about it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

from emdefense.judging.server_message import NOTHING, ServerMessage, read_message

Kind = Literal["fatal", "limit", "transient", "unusable", "content", "filtered"]
QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_NO_MONEY = ("credit balance", "insufficient balance", "insufficient credit", "insufficient funds")
SHUT_OUT = "the account is shut out"
TOO_MANY_ALTERNATIVES = "fewer alternatives than were asked for"
LONGEST_WAIT = 300.0  # seconds; an endpoint that wants more has a limit by the day
NEVER = {"fatal", "content", "filtered"}  # kinds that no further try mends
UNUSABLE_TRIES = 4  # further ones of a request of which a reply came, and was paid for, that is of no use
UNUSABLE_FIRST = 5  # that many, and more than there were replies: the judge is no longer what it was
NO_CHAT_TRIES = 1  # further ones of a probe or trial of which no chat completion came
NO_CHAT_FIRST = 6  # requests in a row of which the first try gives none: there is no chat endpoint any more


@dataclass
class Failure(Exception):
    """A request without a usable reply.

    ``fatal``: every further request would fail alike (key, model, quota). ``limit``: too fast, HTTP 429. ``transient``:
    may go well the next time (5xx, timeouts, cut connections). ``unusable``: a reply came that is not one, or without
    the log probabilities that the judge gave before; ``is_chat`` is False where it is no chat completion at all (empty,
    no JSON, without a message). ``content``: this request will never go well, others may. ``filtered``: the endpoint
    refuses what was to be judged, which is an answer. ``reason`` is short and ``said`` is what the endpoint said;
    neither holds a secret. ``retry_after`` is in seconds. ``usage``: input and output tokens of a reply that came but
    is of no use. ``may_be_paid``: it may have been answered after all. ``most_alternatives``: to a token, that the
    endpoint gives, where it refused to give more.
    """

    kind: Kind
    reason: str
    retry_after: float | None = None
    usage: tuple[int, int] | None = None
    may_be_paid: bool = False
    status: int | None = None
    said: ServerMessage = NOTHING
    is_chat: bool = True
    most_alternatives: int | None = None


def classify(error: Exception, asked: str = "", key: str = "") -> Failure:
    """Return what an error of the client means; errors that are not the endpoint's are raised again."""
    import httpx2  # here, so that a judge that asks nobody does without the imports
    import openai

    if isinstance(error, openai.APIStatusError):
        content = error.response.content or error.body
        return by_status(error.status_code, read_message(content, asked, key), error.response.headers)
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return Failure("transient", "timed out", may_be_paid=not isinstance(error.__cause__, httpx2.ConnectTimeout))
    if isinstance(error, openai.APIConnectionError):
        connected = not isinstance(error.__cause__, httpx2.ConnectError | httpx2.UnsupportedProtocol)
        return Failure("transient", "connection cut" if connected else "no connection", may_be_paid=connected)
    if isinstance(error, openai.APIError):
        return Failure("transient", "garbled reply", may_be_paid=True)
    raise error


def by_status(status: int, said: ServerMessage, headers: Mapping[str, str]) -> Failure:
    """Return what an error status of a chat completion means."""
    reason = f"HTTP {status}"
    # A page with 403 is of a firewall, which blocks addresses.
    if (status in {400, 406, 422, 451} or (status == 403 and said.by_api)) and said.is_filter:
        # Azure charges for these: the prompt was evaluated.
        return Failure("filtered", "content filter", may_be_paid=True, status=status, said=said)
    if status < 500 and said.shuts_out:
        return Failure("fatal", SHUT_OUT, status=status, said=said)
    if said.codes & QUOTA or (status < 500 and said.names(*_NO_MONEY)):
        return Failure("fatal", "quota used up", status=status, said=said)
    if status in {401, 402, 403, 404, 407} or "model_not_found" in said.codes:
        return Failure("fatal", reason, status=status, said=said)
    wait = retry_after(headers)
    if status == 429:
        if wait is not None and wait > LONGEST_WAIT:
            return Failure("fatal", f"limit reached for {wait:.0f} s", retry_after=wait, status=status, said=said)
        return Failure("limit", reason, retry_after=wait, status=status, said=said)
    if status in {408, 409, 425} or status >= 500:
        wait = None if wait is None else min(wait, LONGEST_WAIT)
        return Failure("transient", reason, retry_after=wait, status=status, said=said)
    return Failure("content", reason, status=status, said=said)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds the endpoint asks to wait (``Retry-After``, or OpenAI's ``Retry-After-Ms``), or None."""
    try:
        if "retry-after-ms" in headers:
            return _seconds(float(headers["retry-after-ms"]) / 1000)
        return _seconds(float(headers["retry-after"]))
    except KeyError:
        return None
    except ValueError:
        pass
    try:
        return _seconds(parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (ValueError, OverflowError, KeyError):
        return None


def _seconds(value: float) -> float:
    """Return a time to wait; ValueError if it is none."""
    if value != value:
        raise ValueError("not a number")
    return max(0.0, value)
