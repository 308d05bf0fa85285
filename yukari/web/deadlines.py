"""How long a client's connection may take for what, and be silent."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from yukari.deadlines import Deadlines

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


@define(eq=False, repr=False)
class ChannelDeadlines:
    """Those of all channels of a site, of which one may be silent for ``idle`` seconds."""

    _clock: IReactorTime
    _idle_seconds: float
    header: Deadlines[Any] = field(init=False)
    body: Deadlines[Any] = field(init=False)
    upload: Deadlines[Any] = field(init=False)
    """From an archive's last bytes on."""
    first: Deadlines[Any] = field(init=False)
    """For a connection's first byte if there are too many of its client."""
    idle: Deadlines[Any] = field(init=False)
    """From the last request's end on."""

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
