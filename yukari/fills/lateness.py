"""Requests of one blob that their host has lost, or that go on for long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from math import inf
from typing import Optional

from attrs import define, field

from yukari.fills.fetcher import RangeFetch
from yukari.sources.pace import GROWTH, MUCH, HostPace

LONGEST = 8
"""The factor by which a request is waited for longer, at the most."""
LATE = 0.4
LATE_WAITS = 4
"""
Seconds without a first byte, or how many times the longest wait of late if that is more, after
which a request that others have overtaken is made once more.
"""
READS = 10_000_000
"""Bytes a second at which a host may read what was asked for before it sends a first byte."""
LONG = 4.0
LONG_TRIPS = 3
"""
Seconds that a request must go on for another to take half of its bytes, or how many times what the
host needs to a first byte if that is more.
"""


@define(eq=False)
class Waits:
    """How long a blob's requests are waited for: ever longer at one place."""

    _times: Counter[int] = field(factory=Counter, init=False)
    """How often a request was given up without a byte, by the first that it asked for."""

    def factor(self, fetch: RangeFetch) -> int:
        """Return the factor by which a wait grows: doubled each time in vain but the first."""
        return int(min(LONGEST, 2 ** max(0, self._times[fetch.claim.cursor] - 1)))

    def longest(self, fetch: RangeFetch, pace: HostPace, seconds: float) -> float:
        """Return how long to wait for a request's first byte, if others may take ``seconds``."""
        first, count = fetch.claim.cursor, fetch.claim.end - fetch.claim.cursor
        more = max(0, count - GROWTH * pace.longest) / READS
        return self.factor(fetch) * seconds + 2 * pace.in_order.later(first) + more

    def in_vain(self, fetch: RangeFetch) -> None:
        """Note that a request is given up."""
        if not fetch.received:
            self._times[fetch.claim.cursor] += 1

    def drop_overtaken(self, fetches: Iterable[RangeFetch], pace: HostPace, now: float) -> None:
        """Drop those without a byte whose host has answered several later ones meanwhile."""
        for fetch in [each for each in fetches if self._is_overtaken(each, pace, now)]:
            self.in_vain(fetch)
            fetch.drop("overtaken by many", silent=True, slow=True)

    def _is_overtaken(self, fetch: RangeFetch, pace: HostPace, now: float) -> bool:
        if fetch.received or fetch.paused or fetch.held:
            return False
        late = self.factor(fetch) * max(LATE, LATE_WAITS * pace.longest_wait)
        late += 2 * pace.in_order.later(fetch.claim.cursor)
        return now - fetch.began_at >= late and pace.limit.is_late(fetch.began_at)


def drop_starved(
    fetches: Collection[RangeFetch], now: float, seconds_of_all: float, of_all: int
) -> None:
    """
    Drop requests that bring next to nothing beside the blob's others, which together have brought
    ``of_all`` bytes in ``seconds_of_all``: the blob would not be whole before they are.
    """
    starved = [each for each in fetches if each.is_starved(now, seconds_of_all, of_all)]
    if 2 * len(starved) >= max(2, len(fetches)):
        # Not by chance: the host gives most of its rate to the first few.
        starved[0].turn.starves(now, len(starved))
    for fetch in starved:
        fetch.drop("starved beside others", slow=True)


def lasting(fetches: Iterable[RangeFetch], pace: HostPace, now: float) -> Optional[RangeFetch]:
    """
    Return the request that goes on longest, if another for half of its bytes is worth a first byte
    more.
    """
    fetches, round_trip = list(fetches), pace.round_trip or 0.0
    long = [each for each in fetches if each.claim.end - each.claim.cursor >= MUCH]
    longest = max(long, key=lambda each: each.seconds_left(now), default=None)
    if longest is None or longest.seconds_left(now) < max(LONG, LONG_TRIPS * round_trip):
        return None
    waits = [now - each.began_at for each in fetches if not each.received]
    if max(waits, default=0.0) > 2 * round_trip:
        return None  # A host that keeps another waiting serves no more at once.
    return None if pace.in_order.is_needed or pace.bound < inf else longest
