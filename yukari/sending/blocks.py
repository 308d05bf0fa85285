"""Sending a blob's bytes a block at a time: each leaves before the next is looked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Optional

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from yukari.net.throttle import Taker
from yukari.sending.stall import READ, Broken, InThread, Join, ReaderGone
from yukari.spans import Span
from yukari.storage.readable import Readable


class BlockSender(ABC):
    """
    Sends a span in blocks, at the pace of the reader, of the blob and of the client's line.

    Subclasses say how a block leaves.
    """

    def __init__(
        self,
        request: Any,
        readable: Readable,
        span: Span,
        in_thread: InThread,
        join: Optional[Join],
    ) -> None:
        self._request = request
        self._readable = readable
        self._span = span
        self._at = span.start
        self._in_thread = in_thread
        self._paused: Optional[Deferred[None]] = None
        self._waiting: Optional[Deferred[None]] = None
        self._gone = bool(request.gone)
        self._join = join
        self._taker: Optional[Taker] = None
        self._turn: Optional[Deferred[None]] = None
        self._stalls = request.site.stalls

    def stalled(self) -> None:
        """Drop a reader that has taken nothing for too long."""
        self._request.channel.forceAbortClient()

    async def run(self) -> int:
        """As `sending.send`."""
        if self._gone:
            raise ReaderGone
        self._stalls.begin(self)
        self._take_over()
        if self._join is not None:
            self._taker = self._join(self._hold, self._release)
        try:
            self._check()
            while self._at < self._span.end:
                await self._next()
        finally:
            self._stalls.end(self)
            if self._taker is not None:
                self._taker.end()
            self._give_back()
        return len(self._span)

    async def _next(self) -> None:
        """Send a block, or wait until there is one."""
        if self._turn is not None:
            self._stalls.end(self)
            await self._turn
            self._stalls.begin(self)
            self._check()
        end = min(self._readable.available(self._at), self._span.end)
        if end <= self._at:
            await self._wait()
            return
        if self._taker is not None:
            end = min(end, self._at + self._taker.share)
        count = await self._put(end)
        self._at += count
        if self._taker is not None:
            self._taker.took(count)
        if self._paused is not None:
            await self._paused
        self._check()
        self._stalls.begin(self)

    async def _wait(self) -> None:
        """Return when there are more bytes."""
        self._stalls.end(self)
        self._waiting = self._readable.wait(self._at)
        try:
            await self._waiting
        except Exception as error:
            self._check()
            raise self._broken(error) from None
        finally:
            self._waiting = None
            self._stalls.begin(self)
        self._check()

    @abstractmethod
    def _take_over(self) -> None:
        """Become the producer of the connection."""

    @abstractmethod
    def _give_back(self) -> None:
        """Be its producer no more."""

    @abstractmethod
    async def _put(self, end: int) -> int:
        """Send bytes from ``_at`` up to ``end`` at most, and return how many."""

    def _broken(self, error: BaseException) -> Broken:
        return Broken(self._at - self._span.start, error)

    def _hold(self) -> None:
        self._turn = Deferred()

    def _release(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.callback(None)

    def _check(self) -> None:
        if self._gone:
            raise ReaderGone

    def stopProducing(self) -> None:
        self._gone = True
        self._resume()
        self._release()
        if self._waiting is not None:
            self._waiting.cancel()

    def _resume(self) -> None:
        paused, self._paused = self._paused, None
        if paused is not None:
            paused.callback(None)


@implementer(IPushProducer)
class ReadSender(BlockSender):
    """Reads in a disk thread and writes to the request, ``piece`` bytes at most at once."""

    piece: int = READ

    def _take_over(self) -> None:
        self._request.registerProducer(self, True)

    def _give_back(self) -> None:
        if not self._gone:
            self._request.unregisterProducer()

    async def _put(self, end: int) -> int:
        try:
            data: bytes = await self._in_thread(
                self._readable.read, self._at, min(self.piece, end - self._at)
            )
        except OSError as error:
            raise self._broken(error) from None
        self._check()
        if not data:
            raise self._broken(OSError("the file is shorter than it was"))
        self._request.write(data)
        return len(data)

    def pauseProducing(self) -> None:
        if self._paused is None:
            self._paused = Deferred()

    def resumeProducing(self) -> None:
        self._resume()
