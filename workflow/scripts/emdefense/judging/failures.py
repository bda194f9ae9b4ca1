"""What can go wrong with a request, and what is to be done about it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

Kind = Literal["fatal", "limit", "transient", "content"]
QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
LONGEST_WAIT = 300.0  # seconds; an endpoint that wants more has a limit by the day


@dataclass
class Failure(Exception):
    """A request without a usable reply.

    ``fatal``: every further request would fail alike (key, model, quota). ``limit``: too fast, HTTP 429. ``transient``:
    may go well the next time (5xx, timeouts, cut connections, garbled or empty replies). ``content``: this request will
    never go well, others may. ``reason`` is short and holds no secret; ``retry_after`` is in seconds. ``usage``: input
    and output tokens of a reply that came but is of no use. ``may_be_paid``: it may have been answered after all.
    """

    kind: Kind
    reason: str
    retry_after: float | None = None
    usage: tuple[int, int] | None = None
    may_be_paid: bool = False
    status: int | None = None


def classify(error: Exception) -> Failure:
    """Return what an error of the client means; errors that are not the endpoint's are raised again."""
    import httpx2  # here, so that a judge that asks nobody does without the imports
    import openai

    if isinstance(error, openai.APIStatusError):
        return by_status(error.status_code, str(error.code or ""), error.response.headers)
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return Failure("transient", "timed out", may_be_paid=not isinstance(error.__cause__, httpx2.ConnectTimeout))
    if isinstance(error, openai.APIConnectionError):
        connected = not isinstance(error.__cause__, httpx2.ConnectError)
        return Failure("transient", "connection cut" if connected else "no connection", may_be_paid=connected)
    raise error


def by_status(status: int, code: str, headers: Mapping[str, str]) -> Failure:
    """Return what an error status of a chat completion means."""
    reason = f"HTTP {status}"
    if status in {401, 402, 403, 404} or code in QUOTA or code == "model_not_found":
        return Failure("fatal", "quota used up" if code in QUOTA else reason, status=status)
    if status == 429:
        wait = retry_after(headers)
        if wait is not None and wait > LONGEST_WAIT:
            return Failure("fatal", f"limit reached for {wait:.0f} s", retry_after=wait, status=status)
        return Failure("limit", reason, retry_after=wait, status=status)
    if status in {408, 409, 425} or status >= 500:
        wait = retry_after(headers)
        return Failure(
            "transient", reason, retry_after=None if wait is None else min(wait, LONGEST_WAIT), status=status
        )
    return Failure("content", reason, status=status)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds the endpoint asks to wait (``Retry-After``, or OpenAI's ``Retry-After-Ms``), or None."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(headers["retry-after"]))
    except KeyError:
        return None
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except ValueError:
        return None
