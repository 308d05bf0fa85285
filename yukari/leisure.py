"""Work in the background that gives way to requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

STEP = 0.001
"""Seconds for which the reactor's thread is watched at first; each time twice as long."""
BUSY = 0.25
"""The share of a core above which the reactor's thread counts as busy."""
LONGEST = 19.0
"""A rest is at most this many times as long as the work before it: if the daemon is always busy,
the work gets a twentieth of the time."""

QUIET = 1.0
"""Seconds without a request after which there is nobody to give way to."""


def cpu_times() -> tuple[float, float]:
    """Return the CPU seconds of the calling thread, and those of all other threads."""
    own = time.thread_time()
    return own, time.process_time() - own


@define(eq=False, repr=False)
class Leisure:
    """
    Rests between the slices of a piece of work that is done in other threads than the reactor's.

    Each slice takes the interpreter's lock, and perhaps a core, from requests. So the next one
    waits while the reactor's thread is busy. ``cpu`` is `cpu_times`, called in that thread, and
    ``requests`` returns how many requests there have been.
    """

    _clock: IReactorTime
    _cpu: Callable[[], tuple[float, float]] = cpu_times
    _requests: Callable[[], int] = lambda: 0
    _began: tuple[float, float] = field(default=(0.0, 0.0), init=False)
    _known: int = field(default=0, init=False)
    """The number of requests at the last look."""
    _asked_at: float = field(default=-inf, init=False)
    """When more of them were last noticed, by the clock."""

    def begin(self) -> None:
        """Note that a slice begins."""
        self._began = self._clock.seconds(), self._cpu()[1]

    def is_alone(self) -> bool:
        """Whether no request has come of late."""
        now, requests = self._clock.seconds(), self._requests()
        if requests != self._known:
            self._known, self._asked_at = requests, now
        return now - self._asked_at >= QUIET

    async def rest(self) -> None:
        """Return when the next slice may begin; one has just ended."""
        now = self._clock.seconds()
        own, others = self._cpu()
        began, others_then = self._began
        # Waiting for a disk or a bucket is no work, and neither is what other threads do beside it.
        ends = now + LONGEST * min(now - began, others - others_then)
        step, busy = STEP, True
        while busy and now < ends:
            since, own_then = now, own
            await deferLater(self._clock, min(step, ends - now))
            now, (own, _), step = self._clock.seconds(), self._cpu(), 2 * step
            busy = own - own_then > BUSY * (now - since)
        self.begin()
