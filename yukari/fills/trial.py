"""
Whether a host serves several requests for a blob at once, found out with a few of them.

A host makes each of many requests wait if it serves one at a time, refuses or loses the others, or
reads all of a blob up to what is asked for. It is then asked for all that is left in one piece, as
a stock client asks.
"""

from __future__ import annotations

from collections.abc import Collection
from math import inf
from typing import Optional

from attrs import define, field

from yukari.fills.coverage import Coverage
from yukari.fills.fetcher import RangeFetch
from yukari.fills.lateness import lasting
from yukari.sources.pace import HostPace

STOCK_PART = 100_000_000
"""Bytes up to which a stock client asks for a blob in one request."""
AT_ONCE = 8
SECONDS = 0.5
"""
At most so many requests are on trial beside one, and no more than a host that serves one at a time
answers in so many seconds, if each takes as long as the first of all. If the first takes longer
than that, there is no trial.
"""
ENOUGH = 4
LATE = 2
"""
Requests answered soon that show that a host serves several at once, and late ones that show that it
does not: a single one may be chance.
"""
LASTS = 60.0
"""Seconds after which a host that does not is tried again: its line may have been busy."""
AS_SOON = 0.05
AS_SOON_TIMES = 2.0
"""
A first byte is soon if it takes no more than so many seconds; or, if that is more, so many times
what the first of all took, or the quickest of late if that took less.
"""


@define(eq=False)
class Trial:
    """What one blob's first requests show."""

    _first: Optional[float] = field(default=None, init=False)
    """Seconds that the first byte of all took; None until it has come."""
    _soon: int = field(default=0, init=False)
    """How many others were as soon."""
    _late: int = field(default=0, init=False)
    """How many others were late or refused."""

    def is_one_piece(self, coverage: Coverage, pace: HostPace) -> bool:
        """Whether all that is left of the blob is to be asked for at once."""
        return pace.serves_several is False and _is_read_in_one(coverage, pace)

    def cap(
        self,
        fetches: Collection[RangeFetch],
        coverage: Coverage,
        pace: HostPace,
        cap: int,
        now: float,
    ) -> int:
        """Return how many requests there may be at once, of ``cap``."""
        if pace.serves_several is False and now > pace.judged_at + LASTS:
            pace.serves_several = None
        if self._is_due(coverage, pace):
            return min(cap, 1 + min(AT_ONCE, int(SECONDS / max(self._first or 0.0, 1e-3))))
        if not self.is_one_piece(coverage, pace) or lasting(fetches, pace, now) is not None:
            return cap
        return min(cap, 1 + sum(not each.received for each in fetches))

    def heard(self, fetch: RangeFetch, coverage: Coverage, pace: HostPace) -> None:
        """The first byte of a request has come."""
        if self._first is None:
            self._first = fetch.waited
        elif self._is_due(coverage, pace):
            if fetch.waited > self._soon_enough(pace):
                self._is_late(pace, fetch.heard_at)
            else:
                self._soon += 1
                if self._soon >= ENOUGH:
                    pace.serves_several = True

    def failed(self, coverage: Coverage, pace: HostPace, now: float) -> None:
        """A request beside others was refused."""
        if self._is_due(coverage, pace):
            self._is_late(pace, now)

    def tick(
        self, fetches: Collection[RangeFetch], coverage: Coverage, pace: HostPace, now: float
    ) -> None:
        """Look for requests that are late."""
        if self._is_due(coverage, pace):
            late = 2 * self._soon_enough(pace)
            if any(now - each.began_at > late for each in fetches if not each.received):
                self._is_late(pace, now)

    def _is_due(self, coverage: Coverage, pace: HostPace) -> bool:
        """Whether the host is not known, and is quick enough to be tried."""
        is_quick = self._first is not None and self._first <= SECONDS
        return is_quick and pace.serves_several is None and _is_read_in_one(coverage, pace)

    def _is_late(self, pace: HostPace, now: float) -> None:
        self._late += 1
        if self._late >= LATE:
            pace.serves_several, pace.judged_at = False, now

    def _soon_enough(self, pace: HostPace) -> float:
        return max(AS_SOON, AS_SOON_TIMES * min(self._first or 0.0, pace.least_wait))


def _is_read_in_one(coverage: Coverage, pace: HostPace) -> bool:
    """Whether clients read a blob in one piece, and the rate of the line is not bounded by us."""
    is_one = coverage.plan.size <= STOCK_PART and coverage.crowd <= 1
    return is_one and pace.bound == inf
