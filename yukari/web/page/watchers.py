"""
The blobs on their way, sent to the pages that are open as they change (Server-Sent Events).

The same bytes go to everybody who watches, made once a second; while nobody does, nothing runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Optional

from attrs import define, field
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from yukari.errors import RegistryError

log = Logger()

MAX_WATCHERS = 250
"""Pages that may be open at once."""
EVERY = 1.0
"""Seconds from one event to the next."""
HEARTBEAT = 15
"""Rounds without a change after which a comment is sent, which shows who has gone."""
MAX_PAUSED = 60
"""Rounds after which a watcher that takes nothing is dropped."""
_COMMENT = b":\n\n"


@implementer(IPushProducer)
@define(eq=False, repr=False)
class Watcher:
    """A page that is open; it misses events that it cannot take."""

    request: Any
    paused_rounds: int = 0
    _paused: bool = False

    def send(self, event: bytes) -> bool:
        """Send an event unless the client is behind; return False once it is to be dropped."""
        if self._paused:
            self.paused_rounds += 1
            return self.paused_rounds <= MAX_PAUSED
        self.paused_rounds = 0
        self.request.write(event)
        return True

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False

    def stopProducing(self) -> None:
        self._paused = True


@define(eq=False, repr=False)
class Watchers:
    """All pages that are open; ``look`` returns what they show, as JSON takes it."""

    _look: Callable[[], object]
    _clock: IReactorTime
    _watching: dict[Watcher, None] = field(factory=dict, init=False)
    _loop: Optional[LoopingCall] = field(default=None, init=False)
    _event: bytes = field(default=b"", init=False)
    _quiet: int = field(default=0, init=False)
    _stopped: bool = field(default=False, init=False)

    def __len__(self) -> int:
        return len(self._watching)

    def add(self, request: Any) -> None:
        """Answer a request with events, until its client leaves. `RegistryError` if it may not."""
        if self._stopped or len(self._watching) >= MAX_WATCHERS:
            raise RegistryError("UNAVAILABLE", "too many pages are open: look again later", 503, 60)
        request.setHeader(b"content-type", b"text/event-stream; charset=utf-8")
        request.setHeader(b"cache-control", b"no-store")
        # So that nginx passes events on as they come.
        request.setHeader(b"x-accel-buffering", b"no")
        watcher = Watcher(request)
        self._watching[watcher] = None
        request.notifyFinish().addBoth(lambda _: self._gone(watcher))
        request.registerProducer(watcher, True)
        if self._loop is None:
            self._event = b""
            loop = self._loop = LoopingCall(self._tell)
            loop.clock = self._clock
            loop.start(EVERY).addErrback(self._failed)
        else:
            watcher.send(self._event)

    def stop(self) -> None:
        """Let all of them go: the daemon stops."""
        self._stopped = True
        for watcher in list(self._watching):
            watcher.request.unregisterProducer()
            watcher.request.finish()

    def _gone(self, watcher: Watcher) -> None:
        self._watching.pop(watcher, None)
        if not self._watching and self._loop is not None:
            self._loop.stop()
            self._loop = None

    def _failed(self, failure: Failure) -> None:
        log.failure("telling what is on its way", failure)
        self._loop = None
        for watcher in list(self._watching):
            watcher.request.channel.forceAbortClient()

    def _tell(self) -> None:
        seen = json.dumps(self._look(), separators=(",", ":"))
        event = b"event: fills\ndata: %b\n\n" % seen.encode()
        self._quiet += 1
        if event == self._event and self._quiet < HEARTBEAT:
            return
        piece = _COMMENT if event == self._event else event
        self._event, self._quiet = event, 0
        for watcher in list(self._watching):
            if not watcher.send(piece):
                watcher.request.channel.forceAbortClient()
