"""
How many connections to a host are worth having: more only stand in each other's way.

If each connection is the limit, twice as many bring twice as much. If the line is, they bring
nothing. So it is tried: some fewer, and whether the sum falls by a good part of what was theirs;
some more, and whether it grows by as much. Without I/O and without a clock: times are seconds of
the caller's.
"""

from __future__ import annotations

from math import ceil, inf
from typing import Optional

from attrs import define, evolve, field, frozen

LEAST = 4
"""Connections below which none is dropped: one that waits for its next reply brings nothing."""
GOOD_PART = 0.4
"""The part of each connection's share that an added one must bring to stay."""
SMALL_PART = 0.15
"""The part of that share that a dropped connection must have brought to come back."""
GOOD_PART_QUEUING = 0.6
SMALL_PART_QUEUING = 0.5
"""
The same while bytes queue before the line, where another cache loses what this one gains and gains
what it gives up. By the parts above, one that has half of the line would add connections for ever,
and drop none.
"""
QUEUING = 8
"""
Connections that are left when a queue is first seen. They fill the line, and caches that share it
then have as many each: with senders that keep the queue short each connection has the same part.
"""
DROPPED = 0.25
"""The share of the connections that is dropped on trial if nothing says that the line is full."""
DROPPED_QUEUING = 0.5
"""As `DROPPED`, while bytes queue before the line."""
ADDED = 0.25
"""The share that is added on trial; as many again after a trial that was right, or a quiet time."""
MEASURES = 0.3
"""Seconds over which a number of connections is measured."""
UNSTEADY = 0.25
"""The share by which the number of connections may change during a measurement."""
SETTLES_WITHIN = 4.0
"""Seconds within which a trial must have as many connections as it is about."""
ABOUT = 1.1
"""As a factor, how many more than a trial with fewer is about may be left: readers keep theirs."""
FIRST_TRIAL = 3.0
"""Seconds from the first bytes to the first trial with fewer."""
REST_FIRST = 10.0
REST_LONGEST = 600.0
"""Seconds between two trials, doubling from the first to the longest while they are in vain."""
ALL = 32
"""Connections from which on adding them step by step gains nothing."""
NO_LONGER = 0.01
"""Seconds by which a reply may begin later than the quickest if it has not waited in a queue;"""
JITTER = 1.25
"""or the factor, if that is longer: a host's own delay and a long way are never quite the same."""
QUIET = 5.0
"""Seconds without a byte after which the way to the host may be another one."""


def _is_within(count: float, most: float) -> bool:
    """Whether no more than ``most`` are in use, but for those that readers keep."""
    return count <= ABOUT * most + 0.5


@frozen
class _Trial:
    """Another number of connections than before, and how it was before."""

    count: float
    before: float
    """How many there were."""
    rate: float
    """What they brought, bytes a second."""
    allowed: float
    """`Useful.allowed` as it was."""
    gives_up_at: float
    settled: bool = False

    @property
    def is_up(self) -> bool:
        return self.count > self.before

    def is_reached(self, count: float) -> bool:
        """Whether there are as many now."""
        if self.is_up:
            return count >= self.count - 0.5
        return _is_within(count, self.count)

    def is_good(self, count: float, rate: float, *, queues: bool) -> bool:
        """Whether the larger number of the two brings a good part of its share."""
        share = abs(count - self.before) / self.before
        if self.is_up:
            part = GOOD_PART_QUEUING if queues else GOOD_PART
            return rate - self.rate >= part * share * self.rate
        part = SMALL_PART_QUEUING if queues else SMALL_PART
        return self.rate - rate >= part * share * self.rate


@define(eq=False, repr=False)
class Useful:
    """The connections to one host; `look` at what they bring from time to time."""

    allowed: float = inf
    """
    How many may be used: at first as many as it is made with, one more for each reply that has not
    queued, and soon infinite until a queue is seen or fewer bring as much.
    """
    more_bring_more: Optional[bool] = field(default=None, init=False)
    """What the last trial showed, None before the first."""
    _trial: Optional[_Trial] = field(default=None, init=False)
    _try_at: float = field(default=inf, init=False)
    _rest: float = field(default=REST_FIRST, init=False)
    _is_frozen: bool = field(default=False, init=False)
    """Whether that many are allowed only because bytes queued."""
    _settles_by: float = field(default=-inf, init=False)
    """Until when no trial begins because connections that are too many have yet to end."""
    is_new: bool = field(default=True, init=False)
    """Whether it is not known yet whether the line is the limit."""
    _quickest: float = field(default=inf, init=False)
    """Seconds that a reply took to begin, at the least."""
    _may_double: bool = field(default=False, init=False)
    _is_next_up: bool = field(default=False, init=False)
    """Whether the next trial is with more."""
    _looked_at: float = field(default=-inf, init=False)
    _seconds: float = field(default=0.0, init=False)
    _received: float = field(default=0.0, init=False)
    _fewest: float = field(default=inf, init=False)
    _most: float = field(default=0.0, init=False)
    _connection_seconds: float = field(default=0.0, init=False)

    def answered(self, seconds: float) -> None:
        """
        A reply has begun ``seconds`` after its request. If that is no longer than others took, it
        has not queued, and one more connection may be used while nothing else is known.
        """
        self._quickest = min(self._quickest, seconds)
        if seconds <= max(self._quickest + NO_LONGER, JITTER * self._quickest):
            self._begin(self.allowed + 1)

    def begin(self, heard: int, *, is_proved: bool = True) -> None:
        """
        So many connections have brought something, and no round trip shows a queue; or one more
        connection is to prove it.
        """
        if heard >= self.allowed:
            self._begin(2 * heard if is_proved else heard + 1)

    def _begin(self, allowed: float) -> None:
        if self.is_new:
            self.allowed = allowed
            if allowed >= ALL:
                self.is_new, self.allowed = False, inf

    def look(
        self, now: float, connections: int, received: int, *, queues: bool, heard: float = inf
    ) -> None:
        """
        So many ``connections`` are in use, and have ``received`` so many bytes since the last look;
        ``queues`` says whether bytes queue before the line, and ``heard`` how many connections have
        ever brought something.
        """
        seconds, self._looked_at = now - self._looked_at, now
        if self.is_new:
            self.is_new = False
            self.allowed = inf
        if self.more_bring_more is None:
            self._keep_out_of_queue(now, min(connections, heard), queues=queues)
        if seconds > QUIET:
            self._begin_anew(now)
            return
        self._seconds += seconds
        self._received += received
        self._connection_seconds += connections * seconds
        self._fewest = min(self._fewest, connections)
        self._most = max(self._most, connections)
        if self._most - self._fewest > max(1.0, UNSTEADY * self._most):
            self._forget()
        elif self._seconds >= MEASURES:
            count = self._connection_seconds / self._seconds
            rate = self._received / self._seconds
            self._forget()
            if count > 0 and rate > 0:
                self._measured(now, count, rate, queues=queues)
        if self._trial is not None and now >= self._trial.gives_up_at:
            self._end(now, self._trial.allowed)

    def _keep_out_of_queue(self, now: float, connections: float, *, queues: bool) -> None:
        """Keep few while nothing is known but that there is a queue."""
        if queues and self.allowed == inf:
            self.allowed, self._is_frozen = min(max(LEAST, connections), QUEUING), True
            self._settles_by = now + SETTLES_WITHIN
        elif not queues and self._is_frozen:
            # Again more, step by step.
            self._trial, self._is_frozen, self.is_new = None, False, True

    def passed_over(self, now: float) -> None:
        """What has arrived since the last look says nothing."""
        if now - self._looked_at <= QUIET:
            self._looked_at = now
        self._forget()

    def held(self, now: float) -> None:
        """What arrives now says nothing, for it is this cache that is slow."""
        self.passed_over(now)
        if self._trial is not None:
            self._end(now, self._trial.allowed)

    def _begin_anew(self, now: float) -> None:
        self._forget()
        if self._trial is not None:
            self.allowed, self._trial = self._trial.allowed, None
        self._rest, self._may_double = REST_FIRST, True
        self._is_next_up = self.allowed < inf
        # What was learnt long ago is tried again at once, for it may be too few.
        self._try_at = now + (FIRST_TRIAL if self.allowed == inf else 0.0)

    def _forget(self) -> None:
        self._seconds = self._received = self._connection_seconds = self._most = 0.0
        self._fewest = inf

    def _measured(self, now: float, count: float, rate: float, *, queues: bool) -> None:
        trial = self._trial
        if trial is None:
            self._consider(now, count, rate, queues=queues)
        elif not trial.is_reached(count):
            return
        elif not trial.settled:
            self._trial = evolve(trial, settled=True)
        else:
            self._judge(now, trial, count, rate, queues=queues)

    def _consider(self, now: float, count: float, rate: float, *, queues: bool) -> None:
        """Begin a trial, if it is time for one and there are no more than are allowed."""
        is_first = queues and self.more_bring_more is None
        is_settling = now < self._settles_by and not _is_within(count, self.allowed)
        if is_settling or (now < self._try_at and not is_first):
            return
        if self._is_next_up and self.allowed < inf and not is_first:
            self._try_more(now, count, rate)
        else:
            self._try_fewer(now, count, rate, queues=queues)
            if self._trial is None and is_first:
                self._try_more(now, count, rate)
        if self._trial is None:
            self._is_next_up = not self._is_next_up

    def _try_fewer(self, now: float, count: float, rate: float, *, queues: bool) -> None:
        dropped = DROPPED_QUEUING if queues else DROPPED
        fewer = max(LEAST, int(min(self.allowed, count * (1 - dropped))))
        if fewer < count - 0.5:
            self._try(now, fewer, count, rate)

    def _try_more(self, now: float, count: float, rate: float) -> None:
        if count > self.allowed - 0.5:  # Else nobody needs more.
            added = 1.0 if self._may_double else ADDED
            self._try(now, ceil((1 + added) * count), count, rate)

    def _try(self, now: float, wanted: int, count: float, rate: float) -> None:
        self._trial = _Trial(wanted, count, rate, self.allowed, now + SETTLES_WITHIN)
        self.allowed = wanted

    def _judge(self, now: float, trial: _Trial, count: float, rate: float, *, queues: bool) -> None:
        self.more_bring_more = trial.is_good(count, rate, queues=queues)
        if self.more_bring_more != trial.is_up:
            self._end(now, trial.allowed)
            return
        self._trial, self._rest = None, REST_FIRST
        # It was right, so another step that way may be.
        if trial.is_up:
            self._may_double = True
            self._try_more(now, count, rate)
        else:
            self._try_fewer(now, count, rate, queues=queues)
        if self._trial is None:
            self._is_next_up = not trial.is_up
            self._try_at = now + self._rest

    def _end(self, now: float, allowed: float) -> None:
        """The trial has shown nothing better."""
        trial, self._trial = self._trial, None
        was_up = trial is not None and trial.is_up
        has_doubled = was_up and self._may_double
        self.allowed, self._may_double = allowed, False
        if allowed < inf and (not was_up or has_doubled):
            # If not fewer, then twice as many; if not twice as many, then some more.
            self._try_at, self._is_next_up, self._may_double = now, True, not was_up
            return
        self._is_next_up = not was_up
        self._try_at = now + self._rest
        self._rest = min(REST_LONGEST, 2 * self._rest)
