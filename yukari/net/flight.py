"""
How many bytes may be on their way from one host, so that they do not queue before the line.

What is on its way beyond the line's rate times its round trip only waits in a queue, and whatever
else comes over the line waits behind it. The receiver can bound that by its windows (rLEDBAT, RFC
9840): once a queue is seen, to the measured rate times the round trip without a queue and a target
delay. As long as no queue is seen the bound doubles, and soon there is none: something else is then
the limit.

Without I/O and without a clock: times are seconds of the caller's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Mapping
from math import inf
from typing import Any, Optional

from attrs import define, field

from yukari.net.tcp import Reading

TARGET_READ = 0.030
"""Seconds that bytes may queue while clients wait for them."""
TARGET_UNREAD = 0.010
"""Seconds that bytes may queue if nobody waits for them: too few to harm others' traffic."""
SEGMENT = 1448
"""Bytes of a usual segment."""
LEAST_SEGMENTS = 4
"""What each connection may have on its way at least, so that losses are noticed and mended."""
AT_LEAST_SEEN = 4
"""As many connections at least."""
STEP = 0.1
"""Seconds between two looks at least while there is a bound; a round trip, if that is longer."""
STEP_AT_FIRST = 0.02
"""Seconds between two looks until a queue is seen."""
AT_FIRST = 256 * 1024
"""Bytes on their way when a host is first asked, over all connections."""
PROMISED = 64 * 1024
"""
Bytes that Linux lets be on their way on each connection before anybody can bound it. As long as no
more have arrived on all of them nothing is known: a queue would not show.
"""
SMALLEST_CHANGE = 0.5
"""The most by which one look lowers the bound, as a factor."""
GROWTH = 1.25
"""By what the bound grows at each look while the queue is less than half of the target."""
ADDED_SEGMENTS = 4
"""
What is added at each look while the queue is less than the target. Two caches on one line come to
equal shares by adding alike and lowering in proportion.
"""
ROOM = 3.0
"""How much more than can be on its way with the target may be allowed; with more the bound goes."""
FIRST_REPLY = 48 * 1024
"""
Bytes of a connection after which its round trips count: before, they have what the host needed to
answer.
"""
BASE_LASTS = 30.0
"""Seconds for which the shortest round trip is remembered."""
LOOKS_FIRST = 1.0
LOOKS_EVERY = 8.0
"""
Seconds after which next to nothing is let on its way for a moment: since the first queue, and since
the last time. That shows the round trip without a queue of our own: whoever comes
later than another would take the other's queue for the line.
"""
DRAINS = 0.1
"""Seconds for which that lasts, beside two round trips."""
KEPT = 0.35
"""
The share of its recent rate that a blob keeps although others keep the queue full, if clients wait
for it; a blob that nobody waits for keeps none.
"""
CROWDED_FOR = 10.0
"""
Seconds after which it is not content with that. Another cache has seen by then that the round trip
is shorter than it took it to be.
"""
RATE_LASTS = 15.0
"""Seconds after which a rate of the past counts half."""
COMPETES = 20.0
"""Seconds for which nothing is bounded then: it takes what TCP gives it."""


@define(eq=False)
class Flight:
    """The bound for one host; `look` at its connections from time to time."""

    base: Optional[float] = field(default=None, init=False)
    """Seconds there and back without a queue, None while it is not known."""
    round_trip: Optional[float] = field(default=None, init=False)
    """The same with the queue that there is."""
    rate: float = field(default=0.0, init=False)
    """Bytes a second, of late."""
    bound: float = field(default=AT_FIRST, init=False)
    """Bytes on their way over all connections together."""
    is_first: bool = field(default=True, init=False)
    """Whether nothing is known yet about a queue."""
    active: int = field(default=0, init=False)
    """How many connections brought something, of late."""
    _segment: int = field(default=SEGMENT, init=False)
    """Bytes of a segment of theirs."""
    _came: int = field(default=0, init=False)
    """Bytes that have come in all."""
    _asked: dict[Hashable, float] = field(factory=dict, init=False)
    """`Reading.asked` of each connection at the last look."""
    _seen: dict[Hashable, int] = field(factory=dict, init=False)
    """How many bytes each connection had received at the last look."""
    _looked_at: float = field(default=-inf, init=False)
    _look_at: float = field(default=-inf, init=False)
    _bases: deque[tuple[float, float]] = field(factory=deque, init=False)
    """Shortest round trips with when they were seen, ever longer and later."""
    _best: float = field(default=0.0, init=False)
    """The highest rate, counting for less as it is longer ago."""
    _drains_at: float = field(default=inf, init=False)
    _before: float = field(default=inf, init=False)
    """The bound when next to nothing was let on its way."""
    _is_draining: bool = field(default=False, init=False)
    _crowded_since: float = field(default=inf, init=False)
    _competes_until: float = field(default=-inf, init=False)

    def is_due(self, now: float) -> bool:
        """Whether it is time to look."""
        return now >= self._look_at

    @property
    def queues(self) -> bool:
        """Whether a queue has been seen, so that the line is the limit."""
        return self.bound < inf and not self.is_first

    def look(self, now: float, readings: Mapping[Any, Reading], *, is_read: bool) -> Optional[int]:
        """
        Return how many bytes each connection may have on its way, None for any number.

        ``is_read`` says whether clients wait for what comes.
        """
        seconds = now - self._looked_at
        came = {
            each: reading.received - self._seen.get(each, 0) for each, reading in readings.items()
        }
        self._seen = {each: reading.received for each, reading in readings.items()}
        self._looked_at, self._look_at = now, now + (STEP if self.queues else STEP_AT_FIRST)
        active = [reading for each, reading in readings.items() if came[each] > 0]
        self.active = len(active)
        self._segment = max([each.segment for each in active], default=SEGMENT)
        if seconds > BASE_LASTS and self.bound < inf:
            self._begin_anew()
        if not readings:
            self.bound, self.is_first = inf, False  # The system tells nothing.
        if not active or seconds > 10 * STEP + 2 * (self.round_trip or 0.0):
            return self.share()  # The first look after a while compares with nothing.
        self._came += sum(came.values())
        self.rate = sum(came.values()) / seconds
        self._measure(now, active, readings)
        if self.base is None or self.round_trip is None:
            return self.share()
        self._best = max(self.rate, self._best * 0.5 ** (seconds / RATE_LASTS))
        self._decide(now, TARGET_READ if is_read else TARGET_UNREAD, is_read=is_read)
        if self.queues:
            self._look_at = now + max(STEP, self.round_trip)
        return self.share()

    def _begin_anew(self) -> None:
        """Nothing is known after a long pause, neither what the line carries nor how far it is."""
        self.bound, self.is_first, self._came = max(self.bound, AT_FIRST), True, 0
        self._is_draining, self._drains_at, self._crowded_since = False, inf, inf

    def _measure(
        self, now: float, active: Collection[Reading], readings: Mapping[Any, Reading]
    ) -> None:
        """
        Take the round trips of what has arrived, and of what was asked for.

        A sender that is slow itself makes the first seem long, a receiver that acknowledges late
        the second: both have to be long for a queue.
        """
        answers = self._answers(readings)
        trips = sorted(
            each.round_trip
            for each in active
            if each.round_trip is not None and each.received > FIRST_REPLY
        )
        if trips:
            median = trips[(len(trips) - 1) // 2]
            self.round_trip = min([median, *answers])
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

    def _answers(self, readings: Mapping[Any, Reading]) -> list[float]:
        """Return how many seconds each request since the last look took to be received."""
        found = []
        for connection, reading in readings.items():
            asked, before = reading.asked, self._asked.get(connection)
            if asked is not None and asked != before:
                # The last one by itself: the system tells an average with a weight of an eighth.
                last = asked if before is None else 8 * asked - 7 * before
                found.append(max(last, reading.least or 0.0))
        self._asked = {
            each: reading.asked for each, reading in readings.items() if reading.asked is not None
        }
        return found

    def _decide(self, now: float, target: float, *, is_read: bool) -> None:
        assert self.base is not None and self.round_trip is not None
        queue = self.round_trip - self.base
        if self._is_draining:
            if now >= self._drains_at:
                self._is_draining, self.bound = False, self._before
                self._drains_at = now + LOOKS_EVERY
            return
        if now < self._competes_until and is_read:
            return
        if self.bound == inf:
            if queue > target:
                self.is_first = False
                self.bound = self.rate * (self.base + target)
                self._best, self._drains_at = self.rate, now + LOOKS_FIRST
            return
        if self.is_first:
            if queue <= TARGET_READ:
                self.bound *= 2
                if self._came > PROMISED * max(AT_LEAST_SEEN, self.active):
                    self.bound, self.is_first = inf, False
                return
            self.is_first = False
            self._best, self._drains_at = self.rate, now + LOOKS_EVERY
        if queue > target:
            lower = self.bound * max(SMALLEST_CHANGE, (self.base + target) / self.round_trip)
            # As long as there is a queue the line is full, with what arrives now.
            self.bound = min(self.bound, max(lower, self.rate * (self.base + target / 2)))
            if is_read and self._is_crowded_out(now):
                self.bound, self._competes_until = inf, now + COMPETES
                return
        elif queue > target / 2:
            self.bound += ADDED_SEGMENTS * self._segment
        else:
            self.bound = max(
                self.bound * GROWTH,
                self.bound + ADDED_SEGMENTS * self._segment,
            )
            if self.bound > ROOM * max(self.rate * (self.base + target), self._least):
                self.bound = inf
                return
        self.bound = max(self.bound, self._least)
        if now >= self._drains_at:
            self._is_draining, self._before = True, self.bound
            self.bound = min(self.bound, self.rate * self.base / 2)
            self._drains_at = now + DRAINS + 2 * self.round_trip

    def _is_crowded_out(self, now: float) -> bool:
        """Keep a share while others fill the queue; return whether they have done so for long."""
        assert self.round_trip is not None
        kept = KEPT * self._best * self.round_trip
        if self.bound >= kept:
            self._crowded_since = inf
            return False
        self.bound, self._crowded_since = kept, min(self._crowded_since, now)
        return now - self._crowded_since >= CROWDED_FOR

    @property
    def _least(self) -> float:
        """What all of them may have on its way at least."""
        return LEAST_SEGMENTS * self._segment * self.active

    def share(self, more: int = 0) -> Optional[int]:
        """
        As `look`, if ``more`` connections have been made since the last look.
        """
        if self.bound == inf:
            return None
        return int(max(LEAST_SEGMENTS * self._segment, self.bound / max(1, self.active + more)))
