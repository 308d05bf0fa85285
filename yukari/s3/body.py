"""Bodies of requests: bytes in memory, or a span of a file with backpressure."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from hashlib import md5
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from yukari.spans import Span

BLOCK = 256 * 1024
"""Bytes of one read from a file, and the most of it that waits for the socket."""


@implementer(IBodyProducer)
@define(eq=False, repr=False)
class BytesBody:
    """Bytes in memory as a request's body."""

    _body: bytes
    length: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.length = len(self._body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass


def _read(read: Callable[[int, int], bytes], offset: int, count: int, hashed: Any) -> bytes:
    """Read and hash a block. Blocks: for a disk thread."""
    data = read(offset, count)
    hashed.update(data)
    return data


@implementer(IBodyProducer, IPushProducer)
@define(eq=False, repr=False)
class FileBody:
    """
    A span of a file as a request's body, read a block at a time in a disk thread as the socket
    takes it. ``sent`` is called for each block that was written.
    """

    _read: Callable[[int, int], bytes]
    """`BlobFile.read`."""
    span: Span
    _in_thread: Callable[..., Deferred[Any]]
    sent: Callable[[], None] = field(default=lambda: None)
    length: int = field(init=False)
    _at: int = field(init=False)
    _md5: Any = field(init=False)
    _consumer: Optional[IConsumer] = field(default=None, init=False)
    _done: Optional[Deferred[None]] = field(default=None, init=False)
    _paused: bool = field(default=False, init=False)
    _reading: bool = field(default=False, init=False)
    _ready: Optional[bytes] = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.length = len(self.span)
        self._at = self.span.start
        self._md5 = md5(usedforsecurity=False)

    @property
    def md5(self) -> str:
        """The MD5 of the bytes read so far, in hex; of the whole span once all is sent."""
        return str(self._md5.hexdigest())

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self._consumer = consumer
        # Cancelling the request cancels this Deferred, and no more bytes are written.
        done: Deferred[None] = Deferred(lambda _: self.stopProducing())
        self._done = done
        self._go_on()
        return done

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._go_on()

    def stopProducing(self) -> None:
        # Its Deferred must not fire any more.
        self._done = self._consumer = None

    def _go_on(self) -> None:
        if self._consumer is None or self._reading or self._paused:
            return
        if self._ready is not None:
            data, self._ready = self._ready, None
            self._at += len(data)
            self.sent()
            self._consumer.write(data)
            if self._consumer is None or self._paused or self._reading:
                return
        if self._at >= self.span.end:
            done, self._done, self._consumer = self._done, None, None
            if done is not None:
                done.callback(None)
            return
        self._reading = True
        count = min(BLOCK, self.span.end - self._at)
        self._next(count).addBoth(self._was_read)

    def _next(self, count: int) -> Deferred[bytes]:
        """Return the next bytes, ``count`` at most, once their MD5 is known."""
        return self._in_thread(_read, self._read, self._at, count, self._md5)

    def _was_read(self, result: Any) -> None:
        self._reading = False
        if isinstance(result, bytes) and result:
            self._ready = result
            self._go_on()
            return
        done, self._done, self._consumer = self._done, None, None
        if done is not None:
            if not isinstance(result, Failure):
                result = Failure(EOFError(f"the file ends at byte {self._at}"))
            done.errback(result)


Come = Callable[[int, Any], Coroutine[Any, Any, bytes]]
"""Returns the next bytes of a stream, at most so many, and updates the MD5 by them."""


class StreamBody(FileBody):
    """A body whose bytes ``come`` in order as the socket takes them; they cannot be read again."""

    def __init__(
        self,
        come: Come,
        span: Span,
        in_thread: Callable[..., Deferred[Any]],
        sent: Callable[[], None],
    ) -> None:
        super().__init__(lambda *_: b"", span, in_thread, sent)
        self._come = come
        self._coming: Optional[Deferred[bytes]] = None

    def _next(self, count: int) -> Deferred[bytes]:
        self._coming = Deferred.fromCoroutine(self._come(count, self._md5))
        return self._coming

    def stopProducing(self) -> None:
        super().stopProducing()
        if self._coming is not None:
            self._coming.cancel()
