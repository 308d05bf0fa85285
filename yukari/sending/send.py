"""
Sending a blob's bytes, from a file or from a spool as it grows.

On a plain socket they leave by ``os.sendfile``. Over TLS, and if there is no descriptor, they are
read in a disk thread. Either way memory is bounded, and a reader that takes nothing for `STALL`
seconds is dropped.
"""

from __future__ import annotations

import os
from typing import Any, Optional

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.web.http import Request
from zope.interface import implementer

from yukari.net.throttle import Taker
from yukari.sending.page_cache import in_memory
from yukari.sending.sendfile import FileSender
from yukari.sending.stall import READ, Broken, InThread, Join, ReaderGone, StallWatch
from yukari.sending.transports import plain_socket
from yukari.sending.workers import Helpers
from yukari.spans import Span
from yukari.storage.readable import Readable

LITTLE = 32 * 1024
"""
Bytes that leave together with the headers. All but one of a model's blobs are smaller, and a
``sendfile`` would cost more than it saves.
"""


def at_hand(readable: Readable, span: Span) -> bytes:
    """
    Return the bytes of a short span if they can be read without waiting for a disk, else none.
    """
    descriptor = readable.fileno()
    little = 0 < len(span) <= LITTLE and readable.available(span.start) >= span.end
    if descriptor is None or not little or not in_memory(descriptor, span.start, span.end):
        return b""
    try:
        data = os.pread(descriptor, len(span), span.start)
    except OSError:  # which the slow path will meet again
        return b""
    return data if len(data) == len(span) else b""


async def send(
    request: Request,
    readable: Readable,
    span: Span,
    clock: IReactorTime,
    in_thread: InThread,
    helpers: Helpers,
    join: Optional[Join] = None,
) -> int:
    """
    Send ``span`` after the headers and return the number of bytes sent.

    `Broken` if the `Readable` ends early, with the error of `Readable.wait`; `ReaderGone` if the
    client has left.
    """
    if join is None and (data := at_hand(readable, span)):
        request.write(data)
        return len(data)
    request.write(b"")
    transport = plain_socket(request)
    if transport is not None and readable.fileno() is not None:
        sender = FileSender(request, transport, readable, span, clock, in_thread, helpers, join)
        return await sender.done
    return await _ReadSender(request, readable, span, clock, in_thread, join).run()


@implementer(IPushProducer)
class _ReadSender:
    """Reads in a disk thread and writes to the request, a block at a time."""

    def __init__(
        self,
        request: Any,
        readable: Readable,
        span: Span,
        clock: IReactorTime,
        in_thread: InThread,
        join: Optional[Join],
    ) -> None:
        self._request = request
        self._readable = readable
        self._span = span
        self._in_thread = in_thread
        self._paused: Optional[Deferred[None]] = None
        self._waiting: Optional[Deferred[None]] = None
        self._gone = bool(request.gone)
        self._join = join
        self._taker: Optional[Taker] = None
        self._turn: Optional[Deferred[None]] = None
        self._watch = StallWatch(clock, self._stalled)

    def _stalled(self) -> None:
        self._request.channel.forceAbortClient()

    async def run(self) -> int:
        """As `send`."""
        at = self._span.start
        if self._gone:
            self._watch.end()
            raise ReaderGone
        self._request.registerProducer(self, True)
        if self._join is not None:
            self._taker = self._join(self._hold, self._release)
        try:
            while at < self._span.end:
                if self._turn is not None:
                    self._watch.idle()
                    await self._turn
                    self._watch.made()
                    self._check()
                end = min(self._readable.available(at), self._span.end)
                if end <= at:
                    self._watch.idle()
                    self._waiting = self._readable.wait(at)
                    try:
                        await self._waiting
                    except Exception as error:
                        self._check()
                        raise Broken(at - self._span.start, error) from None
                    finally:
                        self._waiting = None
                        self._watch.made()
                    self._check()
                    continue
                count = min(READ, end - at)
                if self._taker is not None:
                    count = min(count, self._taker.share)
                try:
                    data = await self._in_thread(self._readable.read, at, count)
                except OSError as error:
                    raise Broken(at - self._span.start, error) from None
                self._check()
                if not data:
                    short = OSError("the file is shorter than it was")
                    raise Broken(at - self._span.start, short)
                at += len(data)
                if self._taker is not None:
                    self._taker.took(len(data))
                self._request.write(data)
                if self._paused is not None:
                    await self._paused
                self._check()
                self._watch.made()
        finally:
            self._watch.end()
            if self._taker is not None:
                self._taker.end()
            if not self._gone:
                self._request.unregisterProducer()
        return len(self._span)

    def _hold(self) -> None:
        self._turn = Deferred()

    def _release(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.callback(None)

    def _check(self) -> None:
        if self._gone:
            raise ReaderGone

    def pauseProducing(self) -> None:
        if self._paused is None:
            self._paused = Deferred()

    def resumeProducing(self) -> None:
        paused, self._paused = self._paused, None
        if paused is not None:
            paused.callback(None)

    def stopProducing(self) -> None:
        self._gone = True
        self.resumeProducing()
        self._release()
        if self._waiting is not None:
            self._waiting.cancel()
