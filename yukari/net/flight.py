"""
How many bytes may be on their way from one host, so that they do not queue before the line.

What is on its way beyond the line's rate times its round trip only waits in a queue, and whatever
else comes over the line waits behind it. The receiver can bound that by its windows (rLEDBAT, RFC
9840): once a queue is seen, to the measured rate times the round trip without a queue and a target
delay. As long as no queue is seen the bound doubles, and soon there is none: something else is then
the limit.

A pull begins with few bytes on its way, which double each round trip until a queue is seen: for
what many connections are promised by themselves would fill the queue before anybody sees it.

Without I/O and without a clock: times are seconds of the caller's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from math import inf
from typing import Any, Optional

from attrs import define, field

from yukari.net.round_trips import RoundTrips
from yukari.net.tcp import Reading

TARGET_READ = 0.025
"""Seconds that bytes may queue while clients wait for them."""
TARGET_UNREAD = 0.010
"""Seconds that bytes may queue if nobody waits for them: too few to harm others' traffic."""
SEGMENT = 1448
"""Bytes of a usual segment."""
LEAST_SEGMENTS = 4
"""Segments that each connection may always have on its way, so that losses are noticed."""
STEP = 0.1
"""Seconds between two looks at least while there is a bound; a round trip, if that is longer."""
STEP_AT_FIRST = 0.005
"""Seconds between two looks until a queue is seen or nothing is bounded any more."""
STEP_UNBOUNDED = 0.02
"""Seconds between two looks while nothing is bounded."""
ACTIVE = 0.2
"""Seconds within which a connection in use brings something; or two round trips, if longer."""
RATED_OVER = 0.05
"""Seconds over which a rate is measured at least."""
AT_FIRST = 256 * 1024
"""Bytes on their way when a host is first asked, over all connections, if clients wait for them."""
AT_FIRST_UNREAD = 32 * 1024
"""As `AT_FIRST`, if nobody waits: what queues on a slow line before it is known is short."""
LOSSY = 0.1
"""
The share of segments that arrive while an earlier one is missing, above which there are too many
connections: a queue too short to be seen drops what they send.
"""
LOSSES_LAST = 0.5
"""Seconds after which a missing segment counts half."""
LOSSES_SEEN = 16
"""Segments that must have arrived out of order before `LOSSY` counts."""
STAYS = 0.3
"""
Seconds for which the first bound stays while the queue is above half of the target, or is not
proved: a sender that waits makes the way seem longer than it is.
"""
UNBOUNDED_FROM = 16 * 1024 * 1024
"""Bytes. A bound that grows to this without a queue is dropped."""
SMALLEST_CHANGE = 0.5
LARGEST_CHANGE = 0.9
"""The most and the least by which one look lowers the bound, as factors."""
GROWTH = 1.25
"""The factor by which the bound grows at each look while the queue is under a quarter of the
target."""
ADDED_SEGMENTS = 4
"""
Segments that are added at each look while the queue is less than the target. Two caches on one line
reach equal shares by adding alike and lowering in proportion.
"""
ROOM = 2.0
"""A bound above this multiple of what the line holds with the target queue counts as unused."""
UNUSED_FOR = 1.0
"""Seconds without a queue after which an unused bound is dropped."""
FORGETS = 30.0
"""Seconds without a byte after which nothing is known of the line."""
LOOKS_FIRST = 1.0
LOOKS_EVERY = 3.0
"""
Seconds from the first queue to the first drain, and between two drains at least. To drain is to let
next to nothing be on its way for a moment, which shows the round trip without a queue of our own: a
cache that starts after another would take the other's queue for a part of the line.
"""
RESTS = 15
"""The time until the next drain is at least this many times as long as a drain."""
ANOTHER_DRAINS = 0.66
"""
A round trip below this share of the one before shows that another cache drains. The next drain is
then at the same time for both: only if all drain together is the line seen without a queue.
"""
DRAINED_SEGMENTS = 2
"""As `LEAST_SEGMENTS`, while draining."""
DRAINED = 0.5
"""The share of the line's rate times its round trip that may be on its way while draining."""
DRAINS = 0.1
"""Seconds that a drain lasts, beside two round trips."""
KEPT = 0.4
"""
The share of its recent rate that a blob keeps although others keep the queue full, if clients wait
for it; a blob that nobody waits for keeps none.
"""
CROWDED_FOR = 10.0
"""
Seconds of keeping just that share, after which it competes. Another cache has drained by then, and
has seen that the round trip is shorter than it believed.
"""
RATE_LASTS = 40.0
"""Seconds after which a past rate counts half."""
COMPETES = 20.0
"""Seconds of competing: nothing is bounded, and it takes what TCP gives it."""


@define(eq=False, repr=False)
class Flight:
    """The bound for one host; `look` at its connections from time to time."""

    trips: RoundTrips = field(factory=RoundTrips, init=False)
    """What the connections show of the way there and back."""
    rate: float = field(default=0.0, init=False)
    """Bytes a second, of late."""
    bound: float = field(default=AT_FIRST_UNREAD, init=False)
    """Bytes on their way over all connections together."""
    is_first: bool = field(default=True, init=False)
    """Whether nothing is known yet about a queue."""
    active: int = field(default=0, init=False)
    """How many connections brought something of late, or have not had the time to."""
    _brought: dict[Hashable, float] = field(factory=dict, init=False)
    """When each of them last brought something."""
    _segment: int = field(default=SEGMENT, init=False)
    """Bytes of a segment of theirs."""
    has_room: bool = field(default=False, init=False)
    """Whether the last look has shown that more connections may be used without a queue."""
    wants_proof: bool = field(default=False, init=False)
    """Whether one more connection would show if there is a queue."""
    tells: bool = field(default=False, init=False)
    """Whether the system told anything at the last look."""
    heard: int = field(default=0, init=False)
    """How many of the open connections have ever brought something."""
    _came: deque[tuple[float, int]] = field(factory=deque, init=False)
    """Seconds and bytes of the last looks."""
    _since_growth: int = field(default=0, init=False)
    """Bytes that have come since the bound was doubled, as long as no queue was seen."""
    _queued_since: float = field(default=inf, init=False)
    """Since when, at the first bound, there is a queue above half of the target."""
    _seen: dict[Hashable, int] = field(factory=dict, init=False)
    """How many bytes each connection had received at the last look."""
    _looked_at: float = field(default=-inf, init=False)
    _look_at: float = field(default=-inf, init=False)
    _segments: float = field(default=0.0, init=False)
    """Segments that have come, counting for less as it is longer ago."""
    _out_of_order: float = field(default=0.0, init=False)
    """Those of them that came while an earlier one was missing."""
    _missing: dict[Hashable, int] = field(factory=dict, init=False)
    """`Reading.out_of_order` of each connection at the last look."""
    _best: float = field(default=0.0, init=False)
    """The highest rate, counting for less as it is longer ago."""
    _drains_at: float = field(default=inf, init=False)
    _has_joined: bool = field(default=False, init=False)
    """Whether the next drain has been moved already, to drain together with another cache."""
    _round_trip_before: float = field(default=0.0, init=False)
    _before: float = field(default=inf, init=False)
    """The bound before the drain."""
    _is_draining: bool = field(default=False, init=False)
    _steady_at: float = field(default=-inf, init=False)
    """When as much is on its way again as before that."""
    _unused_since: float = field(default=inf, init=False)
    _crowded_since: float = field(default=inf, init=False)
    _competes_until: float = field(default=-inf, init=False)

    def is_due(self, now: float) -> bool:
        """Whether it is time to look."""
        return now >= self._look_at

    @property
    def queues(self) -> bool:
        """Whether a queue has been seen, so that the line is the limit."""
        return self.bound < inf and not self.is_first

    @property
    def loses(self) -> bool:
        """Whether many of the last segments came while an earlier one was missing."""
        return self._out_of_order > max(LOSSES_SEEN, LOSSY * self._segments)

    @property
    def is_steady(self) -> bool:
        """Whether what arrives is all that connections bring, not the little of a drain."""
        return not self._is_draining and self._looked_at >= self._steady_at

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
        self._looked_at = now
        step = STEP_AT_FIRST if self.is_first else STEP_UNBOUNDED
        self._look_at = now + (STEP if self.queues else step)
        active = [reading for each, reading in readings.items() if came[each] > 0]
        self._count_active(now, came, readings)
        self.has_room = self.wants_proof = False
        self.tells = bool(readings)
        self._segment = max([each.segment for each in active], default=SEGMENT)
        if seconds > FORGETS and self.bound < inf:
            self._begin_anew()
        if is_read:
            self.waited_for()
        if not readings:
            self.bound, self.is_first = inf, False  # The system tells nothing.
        if not active or seconds > 10 * STEP + 2 * (self.trips.now or 0.0):
            self._came.clear()
            return self.share()  # The first look after a while compares with nothing.
        self._rate(seconds, sum(came.values()))
        self._count_lost(seconds, sum(came.values()), readings)
        trips = self.trips
        trips.measure(now, active, readings)
        if trips.base is None or trips.now is None:
            return self.share()
        self._best = max(self.rate, self._best * 0.5 ** (seconds / RATE_LASTS))
        self._decide(now, TARGET_READ if is_read else TARGET_UNREAD, is_read=is_read)
        if self.queues:
            self._look_at = now + max(STEP, trips.now)
        return self.share()

    def waited_for(self) -> None:
        """Clients wait for what is asked for: while nothing is known more may be on its way."""
        if self.is_first:
            self.bound = max(self.bound, AT_FIRST)

    def _count_active(
        self, now: float, came: Mapping[Any, int], readings: Mapping[Any, Reading]
    ) -> None:
        """Count those that brought something of late, or nothing at all yet."""
        self._brought = {
            each: now if came[each] > 0 else self._brought.get(each, now) for each in readings
        }
        oldest = now - max(ACTIVE, 2 * (self.trips.now or 0.0))
        self.active = sum(then >= oldest for then in self._brought.values())
        self.heard = sum(each.received > 0 for each in readings.values())

    def _count_lost(self, seconds: float, came: int, readings: Mapping[Any, Reading]) -> None:
        kept = 0.5 ** (seconds / LOSSES_LAST)
        new = sum(
            each.out_of_order - self._missing.get(connection, each.out_of_order)
            for connection, each in readings.items()
        )
        self._segments = kept * self._segments + came / self._segment
        self._out_of_order = kept * self._out_of_order + new
        self._missing = {each: reading.out_of_order for each, reading in readings.items()}

    def _rate(self, seconds: float, count: int) -> None:
        """So many bytes have come in so many seconds."""
        self._came.append((seconds, count))
        while sum(each for each, _ in self._came) - self._came[0][0] >= RATED_OVER:
            self._came.popleft()
        self.rate = sum(each for _, each in self._came) / sum(each for each, _ in self._came)
        self._since_growth += count

    def _begin_anew(self) -> None:
        """Nothing is known after a long pause, neither what the line carries nor how far it is."""
        self.bound, self.is_first = max(self.bound, AT_FIRST_UNREAD), True
        self._is_draining, self._drains_at, self._crowded_since = False, inf, inf
        self._queued_since = inf

    def _decide(self, now: float, target: float, *, is_read: bool) -> None:
        assert self.trips.base is not None and self.trips.now is not None
        queue = self.trips.queue
        self.has_room = self.bound == inf and self.trips.is_new and queue <= target / 2
        if self._is_draining:
            if now >= self._drains_at:
                self._is_draining, self.bound = False, self._before
                self._steady_at = now + 2 * self.trips.now
                self._drains_at, self._has_joined = self._next_drain(now), False
                self._round_trip_before = 0.0
            return
        before, self._round_trip_before = self._round_trip_before, self.trips.now
        if self.queues and not self._has_joined and self.trips.now < ANOTHER_DRAINS * before:
            self._drains_at, self._has_joined = self._next_drain(now), True
        if now < self._competes_until and is_read:
            return
        if self.bound == inf:
            if queue > target:
                self.is_first = False
                self.bound = self.rate * (self.trips.base + target)
                self._queue_seen(now)
            return
        if self.is_first:
            self._begin(now, queue, target, is_read=is_read)
            return
        if queue > target:
            change = min(LARGEST_CHANGE, (self.trips.base + target) / self.trips.now)
            lower = self.bound * max(SMALLEST_CHANGE, change)
            # As long as there is a queue the line is full, with what arrives now.
            self.bound = min(self.bound, max(lower, self.rate * (self.trips.base + target / 2)))
            if is_read and self._is_crowded_out(now):
                self.bound, self._competes_until = inf, now + COMPETES
                return
        elif queue > target / 4:
            self.bound += ADDED_SEGMENTS * self._segment
        elif self._is_used(now, target):
            more = self.bound + ADDED_SEGMENTS * self._segment
            if self.bound <= GROWTH * self.rate * (self.trips.base + target):
                # By no more than the target queues then.
                more = max(more, min(GROWTH, 1 + target / self.trips.base) * self.bound)
            self.bound = more
        elif now - self._unused_since >= UNUSED_FOR:
            self.bound = inf
            return
        self.bound = max(self.bound, self._least)
        if now >= self._drains_at:
            self._is_draining, self._before = True, self.bound
            self.bound = min(self.bound, DRAINED * self.rate * self.trips.base)
            self._drains_at = now + DRAINS + 2 * self.trips.now

    def _is_used(self, now: float, target: float) -> bool:
        """Whether a good part of the bound may be on its way."""
        assert self.trips.base is not None
        most = max(self._least, ROOM * self.rate * (self.trips.base + target))
        self._unused_since = inf if self.bound <= most else min(self._unused_since, now)
        return self.bound <= most

    def _begin(self, now: float, queue: float, target: float, *, is_read: bool) -> None:
        """Double each time that so much has come, until there is a queue."""
        assert self.trips.base is not None and self.trips.now is not None
        if queue <= target / 2:
            self._queued_since = inf
            if self.trips.is_new and self._since_growth >= self.bound:
                self.bound, self._since_growth, self.has_room = 2 * self.bound, 0, True
            is_unused = not self._is_used(now, TARGET_READ) and (
                now - self._unused_since >= UNUSED_FOR
            )
            if is_unused or self.bound >= UNBOUNDED_FROM:
                self.bound, self.is_first = inf, False
            return
        self._queued_since = min(self._queued_since, now)
        has_stayed = now - self._queued_since >= STAYS
        if not (is_read or self.trips.is_proved or has_stayed):
            self.wants_proof = True
        elif queue > target or has_stayed:
            self.is_first = False
            if queue > target:
                self.bound = min(self.bound, self.rate * (self.trips.base + target))
            self.bound = max(self.bound, self._least)
            self._queue_seen(now)

    def _next_drain(self, now: float) -> float:
        assert self.trips.now is not None
        return now + max(LOOKS_EVERY, RESTS * (DRAINS + 2 * self.trips.now))

    def _queue_seen(self, now: float) -> None:
        """Nothing was bounded until now, or nothing known of the line."""
        self._best, self._drains_at = self.rate, now + LOOKS_FIRST

    def _is_crowded_out(self, now: float) -> bool:
        """Keep a share while others fill the queue; return whether they have done so for long."""
        assert self.trips.now is not None
        kept = KEPT * self._best * self.trips.now
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
        """Return what `look` does, with ``more`` connections that were made since then."""
        if self.bound == inf:
            return None
        least = DRAINED_SEGMENTS if self._is_draining else LEAST_SEGMENTS
        return int(max(least * self._segment, self.bound / max(1, self.active + more)))
