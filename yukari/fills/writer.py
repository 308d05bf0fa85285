"""
From the network to the spool: received bytes, gathered and written in a disk thread, one write at
a time.

While a write is under way the next one gathers, so the batches grow with the
load by themselves; what is neither written nor being written is bounded by the
owner, who pauses its connections while `WriteBuffer.held` is above its share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Optional

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from yukari.spans import Span
from yukari.tasks import Waiters

BATCH = 256 * 1024
"""Bytes that are written without waiting for more."""
DELAY = 0.05
"""
Seconds that fewer bytes wait for more: a larger batch delays readers on a slow line and loses more
at a crash.
"""

Pieces = Sequence[tuple[int, Sequence[bytes]]]


@define(eq=False, repr=False)
class WriteBuffer:
    """
    Writes by ``write`` (which returns a Deferred) and tells ``written`` the spans that are on the
    spool.

    ``failed`` is called with the error of a write; nothing is written after that.
    """

    _clock: IReactorTime
    _write: Callable[[Pieces], Deferred[None]]
    _written: Callable[[Sequence[Span]], None]
    _failed: Callable[[Failure], None]
    held: int = field(default=0, init=False)
    """Bytes received and not yet written."""
    _runs: dict[int, tuple[int, list[bytes]]] = field(factory=dict, init=False)
    _gathered: int = field(default=0, init=False)
    _timer: Optional[IDelayedCall] = field(default=None, init=False)
    _is_writing: bool = field(default=False, init=False)
    _written_one: Waiters = field(factory=Waiters, init=False)
    _closed: bool = field(default=False, init=False)

    def add(self, offset: int, data: bytes) -> None:
        """Take bytes that belong at ``offset``."""
        if self._closed or not data:
            return
        start, buffers = self._runs.pop(offset, (offset, []))
        buffers.append(data)
        self._runs[offset + len(data)] = (start, buffers)
        self._gathered += len(data)
        self.held += len(data)
        if self._is_writing:
            return
        if self._gathered >= BATCH:
            self.flush()
        elif self._timer is None:
            self._timer = self._clock.callLater(DELAY, self._late)

    def _late(self) -> None:
        self._timer = None
        self.flush()

    def flush(self) -> None:
        """Write what has gathered, unless a write is under way: then it follows that one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_writing or not self._runs:
            return
        runs, self._runs = self._runs, {}
        count, self._gathered = self._gathered, 0
        spans = [Span(start, end) for end, (start, _) in runs.items()]
        pieces = [(start, buffers) for start, buffers in runs.values()]
        self._is_writing = True

        def settle(result: object) -> None:
            self._is_writing = False
            self.held -= count
            if isinstance(result, Failure):
                self._closed = True
                self._runs.clear()
                self.held = self._gathered = 0
                self._failed(result)
            else:
                self._written(spans)
                if self._gathered >= BATCH or self._closed:
                    self.flush()
                elif self._runs and self._timer is None:
                    self._timer = self._clock.callLater(DELAY, self._late)
            self._written_one.fire()

        self._write(pieces).addBoth(settle)

    async def close(self) -> None:
        """Take nothing more, and return when all that was taken is written."""
        self._closed = True
        self.flush()
        while self._is_writing:
            await self._written_one.wait()
