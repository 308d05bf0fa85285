"""Requests of one blob that their host has lost, or that go on for long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from math import inf
from typing import Optional, Protocol

from attrs import define, field

from yukari.fills.fetcher import RangeFetch
from yukari.fills.plan import Claim
from yukari.fills.retries import SILENCE_WAITED_FOR, Fetched
from yukari.sources.pace import ANSWER_LEAST, GROWTH, MUCH, HostPace

LONGEST = 8
"""The factor by which a request is waited for longer, at the most."""
LATE = 0.4
LATE_WAITS = 4
"""
Seconds without a first byte, or how many times the longest wait of late if that is more, after
which a request that others have overtaken is made once more.
"""
IDLE_WAITS = 2
"""
A host that sends nothing, and was quick with much before, has `LATE` seconds and so many times the
longest wait of late; twice as long each time.
"""
MOST_TIMES = 10
"""How often that is doubled at most."""
BEHIND_OTHERS = 20.0
"""Seconds for which a request does not count as silent while its host may send another reply."""
READS = 10_000_000
"""Bytes a second at which a host may read what was asked for before it sends a first byte."""
LONG = 4.0
LONG_TRIPS = 3
"""
Seconds that a request must go on for another to take half of its bytes, or how many times what the
host needs to a first byte if that is more.
"""


class Readers(Protocol):
    """A blob's coverage, as far as this matters."""

    def is_waited_for(self, claim: Claim) -> bool: ...


class Blob(Fetched, Protocol):
    """A download, as far as its requests may be silent."""

    @property
    def coverage(self) -> Readers: ...

    @property
    def is_unproven(self) -> bool: ...


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

    def silent(self, blob: Blob, now: float) -> list[RangeFetch]:
        """Return the requests that have been silent for too long."""
        for fetch in blob.fetches:
            if fetch.held:
                fetch.heard_at = now
            if not fetch.answered and now - fetch.began_at < BEHIND_OTHERS:
                busy_until = blob.source.pace.limit.busy_until(now, began=fetch.began_at)
                fetch.heard_at = max(fetch.heard_at, busy_until)
        return [each for each in blob.fetches if self._is_silent(blob, each, now)]

    def _is_silent(self, blob: Blob, fetch: RangeFetch, now: float) -> bool:
        quiet, pace = now - fetch.heard_at, blob.source.pace
        if fetch.paused or quiet < min(SILENCE_WAITED_FOR, ANSWER_LEAST):
            return False
        if not fetch.received:
            seconds = pace.patience if blob.is_unproven else pace.answers_within
            seconds = max(seconds, SILENCE_WAITED_FOR if fetch.answered else ANSWER_LEAST)
            return quiet >= self.longest(fetch, pace, seconds)
        waited_for = blob.coverage.is_waited_for(fetch.claim)
        return quiet >= blob.tries.longest_silence(waited_for=waited_for)

    def drop_silent(self, blob: Blob, silent: Iterable[RangeFetch], now: float) -> None:
        """Drop what `silent` has found."""
        for fetch in silent:
            pace = blob.source.pace
            self.in_vain(fetch)
            fetch.drop(f"silent for {now - fetch.heard_at:.0f} s", silent=True)
            # A host that answers others more likely bears too few than needs longer.
            is_first = blob.tries.silences == 1 and pace.limit.has_answered_since(fetch.began_at)
            if not fetch.answered and not pace.limit.is_known and not is_first:
                pace.waited_in_vain(now - fetch.began_at)

    def drop_lost(self, blob: Fetched, now: float) -> None:
        """
        Drop requests without a byte if their host has answered several later ones meanwhile, or
        sends nothing at all.
        """
        pace, have_brought = blob.source.pace, blob.tries.have_brought
        lost = [each for each in blob.fetches if self._is_lost(each, pace, now, have_brought)]
        for fetch in lost:
            self.in_vain(fetch)
            fetch.drop("lost by its host", silent=True, slow=True)

    def _is_lost(self, fetch: RangeFetch, pace: HostPace, now: float, have_brought: bool) -> bool:
        if fetch.received or fetch.paused or fetch.held:
            return False
        farther = 2 * pace.in_order.later(fetch.claim.cursor)
        if pace.limit.is_late(fetch.began_at):
            late = max(LATE, LATE_WAITS * pace.longest_wait)
            return now - fetch.began_at >= self.factor(fetch) * late + farther
        # A host that sends nothing at all may only be slow: it soon has far longer.
        late = LATE + IDLE_WAITS * pace.longest_wait
        late *= 2.0 ** min(MOST_TIMES, self._times[fetch.claim.cursor])
        is_idle = pace.has_brought_much and not pace.limit.served
        is_alive = have_brought or pace.limit.has_answered_since(fetch.began_at)
        return is_idle and is_alive and now - fetch.heard_at >= late + farther


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
