"""How fast requests may go: evenly, within limits by the minute; and fewer at a time where the endpoint complains."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

BURST = 1.0  # seconds that lost time is made up for
SHRINK = 0.75
SHRINK_PAUSE = 1.0  # seconds: what was sent before a shrink says nothing about what is sent after it


class Pace:
    """At most so many units a minute, spread evenly (generic cell rate algorithm); no limit if ``per_minute`` is None.

    A bucket that holds a minute's worth would let twice the limit through in the first minute.
    """

    def __init__(self, per_minute: float | None):
        self.per_minute = per_minute
        self.sharers = 1  # processes that have this limit together
        self._next: float | None = None  # when the next may go

    async def wait(self, units: float = 1.0) -> None:
        """Return when ``units`` more may go."""
        if self.per_minute is None:
            return
        now = asyncio.get_running_loop().time()
        start = now if self._next is None else max(self._next, now - BURST)
        self._next = start + self._seconds(units)
        if start > now:
            await asyncio.sleep(start - now)

    def correct(self, units: float) -> None:
        """Count ``units`` more (or, below zero, fewer) than were waited for."""
        if self._next is not None:
            self._next += self._seconds(units)

    def _seconds(self, units: float) -> float:
        return 60 * self.sharers * units / self.per_minute if self.per_minute else 0.0


class Gate:
    """At most so many requests at a time: fewer after a 429, more again with each reply."""

    def __init__(self, most: int):
        self.most, self.limit, self.busy = most, float(most), 0
        self._free = asyncio.Condition()
        self._shrunk_at = self._closed_until = float("-inf")

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Have one of the places, as soon as one is free and the endpoint wants to be asked."""
        async with self._free:
            await self._free.wait_for(lambda: self.busy < int(self.limit))
            self.busy += 1
        try:
            loop = asyncio.get_running_loop()
            while self._closed_until > loop.time():
                await asyncio.sleep(min(1.0, self._closed_until - loop.time()))
            yield
        finally:
            async with self._free:
                self.busy -= 1
                self._free.notify(2)  # the limit may have grown by one

    def answered(self) -> None:
        """Let one more in after as many replies as there are places."""
        self.limit = min(float(self.most), self.limit + 1 / self.limit)

    def too_fast(self, retry_after: float | None) -> None:
        """Let fewer in after a 429, and nobody for as long as the endpoint asks."""
        now = asyncio.get_running_loop().time()
        if now - self._shrunk_at > SHRINK_PAUSE:
            self.limit = max(1.0, self.limit * SHRINK)
            self._shrunk_at = now
        if retry_after:
            self._closed_until = max(self._closed_until, now + retry_after)

    def open(self) -> None:
        """Have nobody wait for what the endpoint asked: there is nothing left to ask."""
        self._closed_until = float("-inf")
