"""A batch's files of results: replies into the cache, what they cost, and what failed."""

import json
from pathlib import Path
from typing import Any

from emdefense.judging.batch_records import Record
from emdefense.judging.cache import Cache
from emdefense.judging.endpoint import read_reply
from emdefense.judging.failures import Failure, by_status
from emdefense.judging.ledger import Spending
from emdefense.judging.prices import Price


def take_in(path: Path, record: Record, cache: Cache, price: Price | None) -> tuple[Spending, dict[bytes, Failure]]:
    """Add a file's replies to the cache, where they are not there; return what all of them cost, and failures by key.

    Lines of which nothing can be made are left out: their requests have no reply.
    """
    spent, failures = Spending(), {}
    cache.want(map(bytes.fromhex, record.keys))
    wanted = set(record.keys)
    with path.open("rb") as lines:
        for line in lines:
            try:
                result = json.loads(line)
                name = result["custom_id"]
            except (ValueError, KeyError, TypeError):
                continue
            if name not in wanted:
                continue
            key = bytes.fromhex(name)
            try:
                reply = _reply(result, record.fields)
            except Failure as failure:
                failures[key] = failure
                if failure.usage is not None or failure.may_be_paid:
                    _charge(spent, failure.usage, record, price)
            else:
                if key not in cache:
                    cache.add(key, reply)
                _charge(spent, reply.get("usage"), record, price)
    return spent, failures


def _reply(result: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Return the reply in a line; raises :class:`Failure`."""
    try:
        response = result.get("response")
        if not response:  # expired, or cancelled
            raise Failure("transient", str((result.get("error") or {}).get("code") or "no reply"))
        body = response["body"] or {}
        if response["status_code"] != 200:
            raise by_status(response["status_code"], str((body.get("error") or {}).get("code") or ""), {})
        return read_reply(body, fields)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise Failure("transient", "garbled reply", may_be_paid=True) from None


def _charge(spent: Spending, usage: tuple[int, int] | None, record: Record, price: Price | None) -> None:
    """Add a reply; one whose tokens are not told costs the most that it could."""
    spent.calls += 1
    if usage is None:
        spent.usd += record.most_usd / len(record.keys)
        return
    spent.input_tokens += usage[0]
    spent.output_tokens += usage[1]
    spent.usd += price.of(*usage) if price else 0.0
