"""
A budget of concurrent requests: in all, and for each host as many as it bears.

A request takes a `Turn` before it is sent and returns it when its reply has been read. Waiting
readers come first, then work ahead, then upkeep.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Optional

from attrs import define, field
from twisted.internet.defer import Deferred

from yukari.net.useful import Useful

AT_FIRST = 8
"""Requests at once to an unknown host for work ahead; readers who wait may have more."""
READERS_ENOUGH = 16
"""
Connections that waiting readers may have, however little the last of them bring: as many as stock
Ollama's parts, so that nobody waits longer through this cache than without it. While it is not
known whether the line is the limit, work ahead for them may have as many.
"""
FIRST_OF_BLOBS = 4
"""
Connections more for readers of blobs that no request brings: a small blob is not to wait until one
of a large blob's requests has ended.
"""
TOO_MANY = 0.2
"""The share of recent requests that were refused, above which there are too many at once."""
UNKNOWN = 2
"""Requests at once to a host that starves all in progress, and so does not show what it bears."""
OVERTAKERS = 4
"""The last answers: one that was asked for before all of them is late."""
CLEARLY = 0.5
"""Seconds by which a request is sent clearly later than another."""
_MEMORY = 0.85
"""The weight of the past at each new outcome."""
PROBE_FIRST = 10.0
PROBE_LONGEST = 600.0
"""
Seconds after a refusal until one more concurrent request is tried; doubled each time it fails.
"""


class Priority(enum.IntEnum):
    """The priority of a request; the lower number goes first."""

    READER = 0
    AHEAD = 1
    UPKEEP = 2


@define(eq=False, repr=False)
class HostLimit:
    """
    How many requests at once one host bears, learnt from what becomes of them.

    Each answered request adds one until the host has refused some; from then
    on the number grows slowly. An explicit refusal halves it; after others it is
    what the host has served at once. A host refuses by any means: 429, 503, a
    reset or silence before the reply's body.
    """

    useful: Useful = field(factory=Useful)
    """How many bring something."""
    active: int = field(default=0, init=False)
    """Requests in progress."""
    served: int = field(default=0, init=False)
    """Requests in progress whose reply has begun."""
    extra: int = field(default=0, init=False)
    """Requests in progress that are one of `FIRST_OF_BLOBS`."""
    unanswered: dict[Turn, float] = field(factory=dict, init=False)
    """The other requests in progress, with the time at which each was sent."""
    _bears: float = field(default=AT_FIRST, init=False)
    _is_known: bool = field(default=False, init=False)
    """Whether it has refused some: then growth is slow."""
    _most_served: int = field(default=0, init=False)
    """The most that it has served at once since it was last given fewer."""
    _refusals: float = field(default=0.0, init=False)
    _refused_at: float = field(default=-inf, init=False)
    lowered_at: float = field(default=-inf, init=False)
    """When it was last given fewer, in the clock's seconds."""
    _answered_at: float = field(default=-inf, init=False)
    _asked_at: deque[float] = field(factory=lambda: deque(maxlen=OVERTAKERS), init=False)
    """When those were asked for that were answered last."""
    _pending: list[tuple[float, int]] = field(factory=list, init=False)
    """Refusals by a host that may be down: when, and of how many requests in progress."""
    _probe_at: float = field(default=-inf, init=False)
    _probe_wait: float = field(default=PROBE_FIRST, init=False)

    @property
    def bears(self) -> int:
        """Return how many concurrent requests it is given."""
        return max(1, int(self._bears))

    @property
    def is_known(self) -> bool:
        """Whether it has been found to bear no more than `bears`."""
        return self._is_known

    def has_answered_since(self, then: float) -> bool:
        """Whether it has answered a request later than ``then``, in the clock's seconds."""
        return self._answered_at > then

    def busy_until(self, now: float, *, began: float) -> float:
        """
        Return until when a request that ``began`` then may have had to wait for others, in the
        clock's seconds. That is when it began if any sent clearly later have been answered, or the
        host has served several at once.
        """
        later = any(asked > began + CLEARLY for asked in self._asked_at)
        if later or self._most_served > 1:
            return began
        return now if self.served else max(began, self._answered_at)

    def is_late(self, began: float) -> bool:
        """Whether the last answers were all to requests that were sent after ``began``."""
        return len(self._asked_at) == OVERTAKERS and min(self._asked_at) > began

    def is_overtaken(self, began: float) -> bool:
        """Whether a request that was sent no later than ``began`` has no reply yet."""
        return any(sent <= began for sent in self.unanswered.values())

    def at_most(self, count: int, readers: int = 0) -> int:
        """
        How many of ``count`` requests it will be given at once while so many ``readers`` wait.
        """
        if self._is_known:
            count = min(count, self.bears)
        enough = READERS_ENOUGH if readers and self.useful.is_new else min(readers, READERS_ENOUGH)
        return int(min(count, max(self.useful.allowed, enough)))

    def has_room(self, priority: Priority, *, is_first: bool = False) -> bool:
        """Whether one more may be sent now; ``is_first`` of one for a blob that none brings."""
        is_readers = priority is Priority.READER
        may_have_enough = is_readers or (priority is Priority.AHEAD and self.useful.is_new)
        may_be_extra = is_readers and is_first and self.extra < FIRST_OF_BLOBS
        enough = max(self.useful.allowed, READERS_ENOUGH * may_have_enough)
        if self.active >= enough and not may_be_extra:
            return False
        if is_readers and not self._is_known:
            return True  # Only a host that is known to refuse a crowd makes it wait.
        return self.active < self.bears

    def answered(self, now: float, *, began: float) -> None:
        """The body of the reply to a request that ``began`` then begins, at ``now`` seconds."""
        self._most_served = max(self._most_served, self.served)
        self._answered_at = now
        self._asked_at.append(began)
        self._refusals *= _MEMORY
        pending, self._pending = self._pending, []
        for at, of in pending:
            if at >= began:  # That one was refused while this one was served.
                self._count_refusal(at, of, self.active)

    def grow(self, now: float, *, began: float, is_upkeep: bool = False) -> float:
        """
        Give it more requests, for the reply to one that ``began`` then has begun. Returns by how
        much. If nobody waits, a reply does not show that more are useful: round trips do.
        """
        if not is_upkeep:
            self.useful.answered(now - began)
        before = self._bears
        overdue = sum(sent < began for sent in self.unanswered.values())
        if self.active < self.bears - 1 or overdue > self.active / 2:
            return 0.0  # It was not asked for as many as it bears, or does not answer them.
        if not self._is_known:
            self._bears += 1
        elif now >= self._probe_at:
            self._bears += 1 / self._bears
        return self._bears - before

    def shrink(self, growth: float) -> None:
        """Take back what `grow` returned."""
        self._bears = max(1.0, self._bears - growth)

    def refused(self, now: float, *, began: float, definite: bool) -> None:
        """
        A request that ``began`` then got no reply, or one that says "too many".

        ``definite`` is an explicit wish (429, Retry-After). Anything else counts only if the host
        serves others meanwhile, for it may be down, and if it is no rare exception.
        """
        if began <= self._refused_at:
            return  # Requests that were in progress together count once.
        if definite:
            self._decrease(now, max(1.0, min(self._bears, self.active) / 2))
        elif self.served or self._answered_at > began:
            self._count_refusal(now, self.active, self.served)
        else:
            self._pending = [*self._pending[-63:], (now, self.active)]

    def starves(self, now: float, count: int) -> None:
        """Give it fewer: ``count`` of the requests in progress bring next to nothing."""
        left = self.active - count
        self._decrease(now, left if left > 0 else UNKNOWN)

    def _count_refusal(self, now: float, of: int, accepted: int) -> None:
        if now <= self._refused_at:
            return
        self._refusals = self._refusals * _MEMORY + (1 - _MEMORY)
        if self._refusals >= TOO_MANY:
            # It evidently bears what it serves.
            self._decrease(now, max(1, min(of - 1, max(accepted, self._most_served))))

    def _decrease(self, now: float, bears: float) -> None:
        self._refusals = 0.0
        self._refused_at = now
        self._is_known = True
        self._most_served = self.served
        if bears < self._bears:
            self._bears, self.lowered_at = bears, now
        self._probe_at = now + self._probe_wait
        self._probe_wait = min(PROBE_LONGEST, 2 * self._probe_wait)


@define(eq=False, repr=False)
class Turn:
    """The right to have one request in progress; `release` returns it."""

    _budget: ConnectionBudget
    _limit: HostLimit
    _priority: Priority
    _extra: int = 0
    """1 for one of `FIRST_OF_BLOBS`."""
    _has_begun: bool = field(default=False, init=False)
    """Whether its reply has."""
    _growth: float = field(default=0.0, init=False)
    """What the host was given for that."""
    _answered: bool = field(default=False, init=False)
    _released: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._limit.active += 1
        self._limit.extra += self._extra

    def sent(self, now: float) -> None:
        """Note that the request is sent."""
        self._limit.unanswered[self] = now

    def moved(self, limit: HostLimit) -> None:
        """Note that the request was redirected to another host."""
        if limit is not self._limit and not self._released:
            for each, change in ((self._limit, -1), (limit, 1)):
                each.active += change
                each.served += change * self._has_begun
                each.extra += change * self._extra
            sent = self._limit.unanswered.pop(self, None)
            if sent is not None:
                limit.unanswered[self] = sent
            self._limit = limit

    def begins(self, now: float, *, began: float) -> None:
        """The reply has begun: its header is here."""
        if not self._has_begun and not self._released:
            self._has_begun = True
            self._limit.served += 1
            self._limit.unanswered.pop(self, None)
            is_upkeep = self._priority is Priority.UPKEEP
            self._growth = self._limit.grow(now, began=began, is_upkeep=is_upkeep)

    def answered(self, now: float, *, began: float) -> None:
        """The reply's body begins; as `HostLimit.answered`."""
        self.begins(now, began=began)
        if not self._answered and not self._released:
            self._answered = True
            self._limit.answered(now, began=began)

    def refused(self, now: float, *, began: float, definite: bool = False) -> None:
        """As `HostLimit.refused`, though a header may have come; before `release`."""
        if self._has_begun:
            self._has_begun = False
            self._limit.served -= 1
            self._limit.shrink(self._growth)
        self._limit.refused(now, began=began, definite=definite)

    def starves(self, now: float, count: int) -> None:
        """As `HostLimit.starves`, of its host."""
        self._limit.starves(now, count)

    def release(self) -> None:
        """Return the turn; harmless when repeated."""
        if not self._released:
            self._released = True
            self._limit.unanswered.pop(self, None)
            self._limit.active -= 1
            self._limit.served -= self._has_begun
            self._limit.extra -= self._extra
            self._budget._came_back()


@define(eq=False, repr=False)
class ConnectionBudget:
    """At most ``most`` concurrent requests; some of them are kept for readers."""

    most: int
    used: int = field(default=0, init=False)
    _queues: dict[Priority, dict[Deferred[Turn], HostLimit]] = field(init=False)
    _watchers: list[Callable[[], None]] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self._queues = {priority: {} for priority in Priority}

    def watch(self, freed: Callable[[], None]) -> None:
        """Call ``freed`` whenever a turn has been returned that no waiting reader takes."""
        if freed not in self._watchers:
            self._watchers.append(freed)

    def may_take(self, limit: HostLimit, priority: Priority, *, is_first: bool = False) -> bool:
        """Whether `take` would succeed."""
        return self._has_room(limit, priority, is_first) and not any(
            queue <= priority and any(other.has_room(queue) for other in waiting.values())
            for queue, waiting in self._queues.items()
            if waiting
        )

    def take(
        self, limit: HostLimit, priority: Priority, *, is_first: bool = False
    ) -> Optional[Turn]:
        """
        Return a turn now, None if there is none or others have waited for it; see
        `HostLimit.has_room`.
        """
        if not self.may_take(limit, priority, is_first=is_first):
            return None
        return self._given(limit, priority, is_extra=not limit.has_room(priority))

    def wait(self, limit: HostLimit, priority: Priority) -> Deferred[Turn]:
        """Return a turn as soon as there is one; cancelling stops the waiting."""
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

    def _has_room(self, limit: HostLimit, priority: Priority, is_first: bool = False) -> bool:
        kept = self.most * priority // 8  # an eighth from work ahead, a quarter from upkeep
        return self.used < self.most - kept and limit.has_room(priority, is_first=is_first)

    def _given(self, limit: HostLimit, priority: Priority, *, is_extra: bool = False) -> Turn:
        self.used += 1
        return Turn(self, limit, priority, int(is_extra))

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
                waiting.callback(self._given(limit, priority))
