"""
Deadlines of clients' connections: one timer for all that have the same time.

A timer of the reactor's own takes some 400 bytes, and stays for a while after it was cancelled:
with three for each connection, 12,800 connections took 15 MB more.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, Optional, TypeVar

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger()

HEADER_WITHIN = 30.0
"""Seconds for a whole request's header, the first one's from the connection on."""
BODY_WITHIN = 30.0
"""Seconds for a whole request's body, which is ignored."""
UPLOAD_SILENT = 300.0
"""
Seconds that an archive on its way in may be silent while it is read: it may be another cache's
export, which waits for a bucket.
"""
QUIET = 1.0
"""Seconds of silence that are allowed before or inside a request if there is no room for others."""
IDLE = 620.0
"""Seconds that a connection may be silent between requests: more than the usual balancers' 600."""
LENIENT = 0.001
"""Seconds by which a deadline may come early: sums of floats differ in their last digits."""

T = TypeVar("T", bound=Hashable)


@define(eq=False, repr=False)
class Deadlines(Generic[T]):
    """Calls ``late`` with whatever was begun ``seconds`` ago and has not ended since."""

    _clock: IReactorTime
    seconds: float
    _late: Callable[[T], object]
    _due: dict[T, float] = field(factory=dict, init=False)
    """When each will be late, the earliest first."""
    _timer: Optional[IDelayedCall] = field(default=None, init=False)

    def __len__(self) -> int:
        return len(self._due)

    def begin(self, thing: T) -> None:
        """Begin a thing's time, or begin it anew."""
        self._due.pop(thing, None)
        self._due[thing] = self._clock.seconds() + self.seconds
        if self._timer is None:
            self._timer = self._clock.callLater(self.seconds, self._look)

    def end(self, thing: T) -> None:
        """End a thing's time; harmless if it does not run."""
        if self._due.pop(thing, None) is not None and not self._due and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        late = []
        for thing, due in self._due.items():
            if due > now + LENIENT:
                self._timer = self._clock.callLater(due - now, self._look)
                break
            late.append(thing)
        for thing in late:
            if self._due.pop(thing, None) is not None:
                try:
                    self._late(thing)
                except Exception:  # The others are late all the same.
                    log.failure("closing a late connection failed")


@define(eq=False, repr=False)
class ChannelDeadlines:
    """The deadlines of all channels of a site; between requests one may be silent for so long."""

    _clock: IReactorTime
    _idle_seconds: float
    header: Deadlines[Any] = field(init=False)
    body: Deadlines[Any] = field(init=False)
    upload: Deadlines[Any] = field(init=False)
    """For an archive's next bytes, from the last ones on."""
    first: Deadlines[Any] = field(init=False)
    """For a connection's first byte if there are too many of its client."""
    idle: Deadlines[Any] = field(init=False)
    """For the next request, from the last one's end on."""

    def __attrs_post_init__(self) -> None:
        self.header = Deadlines(self._clock, HEADER_WITHIN, _not_read)
        self.body = Deadlines(self._clock, BODY_WITHIN, _not_read)
        self.upload = Deadlines(self._clock, UPLOAD_SILENT, _not_read)
        self.first = Deadlines(self._clock, QUIET, _not_read)
        self.idle = Deadlines(self._clock, self._idle_seconds, self._silent)

    def _silent(self, channel: Any) -> None:
        if channel.requests:
            self.idle.begin(channel)
        else:
            channel.timeoutConnection()


def _not_read(channel: Any) -> None:
    channel.not_read()
