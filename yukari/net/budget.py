"""
How many requests may be under way at once: in all, and to each host as many as it bears.

A request takes a `Turn` before it is sent and gives it back when its reply has
been read. Readers who wait come first, then work ahead, then upkeep.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from math import inf
from typing import Optional

from attrs import define, field
from twisted.internet.defer import Deferred

AT_FIRST = 8
"""Requests at once to an unknown host for work ahead; readers who wait may have more."""
HALF_KNOWN = 0.2
"""The share of refused requests, of late, from which on there are taken to be too many at once."""
_MEMORY = 0.85
"""What the past is worth at each new outcome."""
PROBE_FIRST = 10.0
PROBE_LONGEST = 600.0
"""Seconds after a refusal until one more request at once is tried; doubled each time it fails."""


class Priority(enum.IntEnum):
    """Who needs a request's reply; the lower number goes first."""

    READER = 0
    AHEAD = 1
    UPKEEP = 2


@define(eq=False)
class HostLimit:
    """
    How many requests at once one host bears, learnt from what becomes of them.

    Each answered request adds one until the host has refused some; from then
    on the number grows slowly, and each burst of refusals halves it, or leaves
    what is being served. A host refuses by any means: 429, 503, a reset or
    silence before the reply's header.
    """

    active: int = field(default=0, init=False)
    """Requests under way."""
    served: int = field(default=0, init=False)
    """Those of them whose reply has begun."""
    _bears: float = field(default=AT_FIRST, init=False)
    _known_good: float = field(default=inf, init=False)
    """Up to this number growth is fast."""
    _refusals: float = field(default=0.0, init=False)
    _refused_at: float = field(default=-inf, init=False)
    _answered_at: float = field(default=-inf, init=False)
    _probe_at: float = field(default=-inf, init=False)
    _probe_wait: float = field(default=PROBE_FIRST, init=False)

    @property
    def bears(self) -> int:
        """How many requests it is given at once."""
        return max(1, int(self._bears))

    def has_room(self, priority: Priority) -> bool:
        """Whether one more may be sent now."""
        if priority is Priority.READER and self._refused_at == -inf:
            return True  # A crowd is kept waiting only by a host that is known to refuse it.
        return self.active < self.bears

    def answered(self, now: float) -> None:
        """A reply has begun, at ``now`` seconds."""
        self.served += 1
        self._answered_at = now
        self._refusals *= _MEMORY
        if self.active < self.bears - 1:
            return  # It was not asked for as many as it bears: that says nothing of more.
        if self._bears < self._known_good:
            self._bears += 1
        elif now >= self._probe_at:
            self._bears += 1 / self._bears
            if self._bears >= 2 * self._known_good:
                self._known_good, self._probe_wait = inf, PROBE_FIRST

    def refused(self, now: float, *, began: float, definite: bool) -> None:
        """
        A request that ``began`` then got no reply, or one that says "too many".

        ``definite`` is an explicit wish (429, Retry-After); anything else counts only if the host
        serves others meanwhile, and if it is no rare exception.
        """
        if began <= self._refused_at:
            return  # Those that were under way together count once.
        if not definite:
            if not self.served and self._answered_at < began:
                return  # It may be down, which is not a matter of how many.
            self._refusals = self._refusals * _MEMORY + (1 - _MEMORY)
            if self._refusals < HALF_KNOWN:
                return
        self._refusals = 0.0
        self._refused_at = now
        half = max(1.0, min(self._bears, self.active) / 2)
        # What it serves it evidently bears, unless it says that this is too much as well.
        self._known_good = half if definite else max(half, self.served)
        self._bears = max(1.0, min(self._known_good, self.served or half))
        self._probe_at = now + self._probe_wait
        self._probe_wait = min(PROBE_LONGEST, 2 * self._probe_wait)


@define(eq=False)
class Turn:
    """The right to have one request under way; `release` gives it back."""

    _budget: ConnectionBudget
    _limit: HostLimit
    _answered: bool = field(default=False, init=False)
    _released: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._limit.active += 1

    def moved(self, limit: HostLimit) -> None:
        """The request was redirected to another host."""
        if limit is not self._limit and not self._released:
            for each, change in ((self._limit, -1), (limit, 1)):
                each.active += change
                each.served += change * self._answered
            self._limit = limit

    def answered(self, now: float) -> None:
        """The reply has begun."""
        if not self._answered and not self._released:
            self._answered = True
            self._limit.answered(now)

    def refused(self, now: float, *, began: float, definite: bool = False) -> None:
        """As `HostLimit.refused`; before `release`."""
        self._limit.refused(now, began=began, definite=definite)

    def release(self) -> None:
        """The request is over; harmless when repeated."""
        if not self._released:
            self._released = True
            self._limit.active -= 1
            self._limit.served -= self._answered
            self._budget._came_back()


@define(eq=False)
class ConnectionBudget:
    """At most ``most`` requests at once; some of them are kept for readers."""

    most: int
    used: int = field(default=0, init=False)
    _queues: dict[Priority, dict[Deferred[Turn], HostLimit]] = field(init=False)
    _watchers: list[Callable[[], None]] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self._queues = {priority: {} for priority in Priority}

    def watch(self, freed: Callable[[], None]) -> None:
        """Call ``freed`` whenever a turn has come back that no waiting reader takes."""
        if freed not in self._watchers:
            self._watchers.append(freed)

    def may_take(self, limit: HostLimit, priority: Priority) -> bool:
        """Whether `take` would succeed."""
        return self._has_room(limit, priority) and not any(
            other.has_room(queue)
            for queue in Priority
            if queue <= priority
            for other in self._queues[queue].values()
        )

    def take(self, limit: HostLimit, priority: Priority) -> Optional[Turn]:
        """A turn now, None if there is none or others have waited for it."""
        return self._given(limit) if self.may_take(limit, priority) else None

    def wait(self, limit: HostLimit, priority: Priority) -> Deferred[Turn]:
        """A turn as soon as there is one; cancelling gives up waiting."""
        turn = self.take(limit, priority)
        waiting: Deferred[Turn] = Deferred(lambda given_up: self._forget(given_up))
        if turn is None:
            self._queues[priority][waiting] = limit
        else:
            waiting.callback(turn)
        return waiting

    def _forget(self, waiting: Deferred[Turn]) -> None:
        for queue in self._queues.values():
            queue.pop(waiting, None)

    def _has_room(self, limit: HostLimit, priority: Priority) -> bool:
        kept = self.most * priority // 8  # an eighth from work ahead, a quarter from upkeep
        return self.used < self.most - kept and limit.has_room(priority)

    def _given(self, limit: HostLimit) -> Turn:
        self.used += 1
        return Turn(self, limit)

    def _came_back(self) -> None:
        self.used -= 1
        self._serve(Priority.READER)
        for freed in self._watchers:
            freed()
        for priority in (Priority.AHEAD, Priority.UPKEEP):
            self._serve(priority)

    def _serve(self, priority: Priority) -> None:
        queue = self._queues[priority]
        for waiting, limit in list(queue.items()):
            if self.used >= self.most:
                break
            if waiting in queue and self._has_room(limit, priority):
                del queue[waiting]
                waiting.callback(self._given(limit))
