"""Whether a study's judges may cost more, and what each call is entered as."""

from dataclasses import dataclass
from pathlib import Path

from emdefense.errors import InputError
from emdefense.judging.failures import Failure
from emdefense.judging.ledger import Ledger, Spending
from emdefense.judging.prices import Price
from emdefense.judging.requests import Request

BYTES_PER_TOKEN = 4.0  # roughly, where the endpoint does not say how many there were
MESSAGE_TOKENS = 32  # more than any chat template adds


class BudgetSpent(InputError):
    """The study's ``max_usd`` would be passed by the next request; all that was paid for is kept."""

    status = 3


@dataclass(frozen=True)
class Account:
    """A study's ``ledger`` and the most it may come to, and the ``cell`` (with its question set) that spends."""

    ledger: Path
    max_usd: float | None = None
    cell: str = ""


class Budget:
    """How much more may be asked."""

    def __init__(self, ledger: Ledger, price: Price | None, max_usd: float | None):
        """``price`` may be None only if ``max_usd`` is (:class:`InputError`)."""
        if max_usd is not None and price is None:
            raise InputError("judge.prices: max_usd is set and this judge's price is not known; write input and output")
        self.ledger, self.price, self.max_usd = ledger, price, max_usd

    def most(self, request: Request) -> float:
        """Return the most that a request can cost in USD: no token is shorter than a byte."""
        if self.price is None:
            return 0.0
        return self.price.of(request.input_bytes + MESSAGE_TOKENS, request.fields["max_tokens"])

    def room(self) -> float:
        """Return how many USD are left of ``max_usd``."""
        return float("inf") if self.max_usd is None else self.max_usd - self.ledger.usd()

    def replied(self, request: Request, usage: tuple[int, int] | None) -> None:
        """Enter a reply; without the endpoint's word on its tokens, they are guessed from the length."""
        self.ledger.add(self._spending(request, usage, calls=1))

    def failed(self, request: Request, failure: Failure) -> None:
        """Enter a failure that was, or may have been, charged for."""
        if failure.usage is not None:
            self.replied(request, failure.usage)
        elif failure.may_be_paid:
            self.ledger.add(self._spending(request, None, unanswered=1))

    def _spending(self, request: Request, usage: tuple[int, int] | None, **counts: int) -> Spending:
        guess = round(request.input_bytes / BYTES_PER_TOKEN), int(request.fields["max_tokens"])
        tokens = guess if usage is None else (usage[0], usage[1])
        return Spending(
            **counts, input_tokens=tokens[0], output_tokens=tokens[1], usd=self.price.of(*tokens) if self.price else 0.0
        )
