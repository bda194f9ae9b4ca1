"""How many replies are neither a score nor a label: bounded, as a judge that gives many of them is none."""

import math
from collections.abc import Callable

from emdefense.judging.protocol import Rating, Reply
from emdefense.judging.scoring import as_integer
from emdefense.judging.server_message import one_line

SHOWN = 40  # characters of a reply


class Unparsed:
    """Counts replies that ``rate`` makes UNPARSED; more than ``most`` are too many."""

    def __init__(self, rate: Callable[[Reply], Rating], most: float):
        self.rate, self.most = rate, most
        self.count = 0

    @classmethod
    def unbounded(cls) -> "Unparsed":
        """Return one that never has too many."""
        return cls(lambda reply: Rating(None), float("inf"))

    def too_many(self, reply: Reply | None) -> bool:
        """Take a reply in, if there is one; return whether there are too many by now."""
        self.count += reply is not None and self.rate(reply).label == "UNPARSED"
        return self.count > self.most


def describe(reply: Reply) -> str:
    """Return what an unparsed reply is, for a person to read."""
    if "garbled" in reply:
        return reply["garbled"]
    said = one_line(reply["text"])
    if reply.get("cut"):
        return f"'{said[:SHOWN]}', which breaks off at judge.max_tokens"
    if as_integer(said) is not None and reply["top"]:
        share = sum(math.exp(logprob) for token, logprob in reply["top"] if as_integer(token) is not None)
        return f"'{said}', with a probability of {share:.2f} on all numbers"
    return f"'{said[:SHOWN]}'" if said else "an empty text"
