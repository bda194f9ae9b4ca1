"""A batch's files of results: replies into the cache, what they cost, and what failed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from emdefense.judging.batch_records import Record
from emdefense.judging.cache import Cache
from emdefense.judging.failures import Failure
from emdefense.judging.ledger import Spending
from emdefense.judging.prices import Price
from emdefense.judging.protocol import Reply
from emdefense.judging.reply import asked as request_text
from emdefense.judging.reply import filtered_reply, json_value, understand
from emdefense.judging.server_message import read_message

SHOWN = 20  # failures of which the message is worth a look for the request


def take_in(
    path: Path, record: Record, cache: Cache, price: Price | None, asked: Callable[[bytes], str | None], secret: str
) -> tuple[Spending, dict[bytes, Failure]]:
    """Add a file's replies to the cache, where they are not there; return what all of them cost, and failures by key.

    Lines of which nothing can be made are left out: their requests have no reply. ``asked`` returns the text of a
    request, for the first that fail, so that no message repeats it; nor does one hold the ``secret``.
    """
    spent = Spending()
    failures: dict[bytes, Failure] = {}
    cache.want(map(bytes.fromhex, record.keys))
    wanted = set(record.keys)
    with path.open("rb") as lines:
        for line in lines:
            try:
                result = json_value(line)
            except ValueError:
                continue
            name = result.get("custom_id") if isinstance(result, dict) else None
            if not isinstance(name, str) or name not in wanted:
                continue
            wanted.remove(name)  # a second line of the same is none
            key = bytes.fromhex(name)
            fields = dict(record.fields)
            if not _is_good(result):
                text = asked(key) if len(failures) < SHOWN else None
                fields["messages"] = [{"content": text or ""}]
            try:
                reply = _reply(result, fields, secret)
            except Failure as failure:
                if not fields.get("messages", [{}])[0].get("content"):
                    failure.said = replace(failure.said, text="")
                failures[key] = failure
                if failure.usage is not None or failure.may_be_paid:
                    _charge(spent, failure.usage, record, price)
            else:
                if key not in cache:
                    cache.add(key, reply)
                _charge(spent, reply.get("usage"), record, price)
    return spent, failures


def _is_good(result: dict[str, Any]) -> bool:
    response = result.get("response")
    if not isinstance(response, dict) or response.get("status_code") != 200:
        return False
    body = response.get("body")
    return not (isinstance(body, dict) and body.get("error"))


def _reply(result: dict[str, Any], fields: dict[str, Any], secret: str) -> Reply:
    """Return the reply in a line; raises :class:`Failure`."""
    response = result.get("response")
    if isinstance(response, dict) and response:
        status = response.get("status_code")
        if not isinstance(status, int) or isinstance(status, bool):
            raise Failure("unusable", "a reply without a status", may_be_paid=True)
        return understand(status, response.get("body"), {}, fields, secret)
    said = read_message({"error": result.get("error")}, request_text(fields), secret)
    if said.is_filter:
        return filtered_reply()
    code = next(iter(sorted(said.codes)), "") or "no reply"  # expired, or cancelled
    raise Failure("transient", code, said=said)


def _charge(spent: Spending, usage: tuple[int, int] | None, record: Record, price: Price | None) -> None:
    """Add a reply; one whose tokens are not told costs the most that it could."""
    spent.calls += 1
    if usage is None:
        spent.usd += record.most_usd / len(record.keys)
        return
    spent.input_tokens += usage[0]
    spent.output_tokens += usage[1]
    spent.usd += price.of(*usage) if price else 0.0
