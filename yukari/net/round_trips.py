"""
How long it takes there and back over a host's connections, now and without a queue.

Without I/O and without a clock: times are seconds of the caller's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Mapping
from typing import Any, Optional

from attrs import define, field

from yukari.net.tcp import Reading

FIRST_REPLY = 48 * 1024
"""
Bytes of a connection after which its round trips count: before, they have what the host needed to
answer.
"""
BASE_LASTS = 10.0
"""Seconds for which the shortest round trip is remembered."""


@define(eq=False, repr=False)
class RoundTrips:
    """What the connections to one host show of the way to it; `measure` them from time to time."""

    base: Optional[float] = field(default=None, init=False)
    """Seconds there and back without a queue, None while it is not known."""
    now: Optional[float] = field(default=None, init=False)
    """The same with the queue that there is."""
    is_new: bool = field(default=False, init=False)
    """Whether the last readings have shown it."""
    is_proved: bool = field(default=False, init=False)
    """
    Whether a request or a new connection has shown it too, and not only the time between what we
    acknowledge and what comes, which is long as well if the sender waits.
    """
    _asked: dict[Hashable, float] = field(factory=dict, init=False)
    """`Reading.asked` of each connection at the last time."""
    _bases: deque[tuple[float, float]] = field(factory=deque, init=False)
    """Shortest round trips with when they were seen, ever longer and later."""

    @property
    def queue(self) -> float:
        """Seconds that bytes queue; 0 while nothing is known."""
        return 0.0 if self.base is None or self.now is None else self.now - self.base

    def measure(
        self, now: float, active: Collection[Reading], readings: Mapping[Any, Reading]
    ) -> None:
        """
        Take the round trips of what has arrived, and of what was asked for.

        A sender that is slow itself makes the first seem long, a receiver that acknowledges late
        the second: both have to be long for a queue.
        """
        answers, opened = self._answers(readings)
        trips = sorted(
            each.round_trip
            for each in active
            if each.round_trip is not None and each.received > FIRST_REPLY
        )
        self.is_new, self.is_proved = bool(trips or opened), bool(answers)
        if trips:
            median = trips[(len(trips) - 1) // 2]
            self.now = min([median, *answers])
        elif opened:
            self.now = min(opened)
        leasts = [each.least for each in active if each.least is not None]
        known = [*trips[:1], *answers, *(() if self._bases else leasts)]
        if not known:
            return
        least = min(known)
        while self._bases and self._bases[-1][1] >= least:
            self._bases.pop()
        self._bases.append((now, least))
        while self._bases[0][0] < now - BASE_LASTS:
            self._bases.popleft()
        self.base = self._bases[0][1]

    def _answers(self, readings: Mapping[Any, Reading]) -> tuple[list[float], list[float]]:
        """
        Return how many seconds each request since the last look took to be received, and the new
        ones of them that opened a connection, which no receiver acknowledges late.
        """
        found, opened = [], []
        for connection, reading in readings.items():
            asked, before = reading.asked, self._asked.get(connection)
            if asked is not None and asked != before:
                # The last one by itself: the system tells an average with a weight of an eighth.
                last = asked if before is None else 8 * asked - 7 * before
                found.append(max(last, reading.least or 0.0))
                if before is None:
                    opened.append(found[-1])
        self._asked = {
            each: reading.asked for each, reading in readings.items() if reading.asked is not None
        }
        return found, opened
