"""Bodies of replies: read whole, thrown away, or counted as they arrive."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Optional
from typing import Protocol as Interface

from attrs import define
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse

from yukari.manifest import LARGE

SMALL_BODY = 64 * 1024
"""Bytes of an unwanted body that are read, so that its connection can be used again."""
BODY_WITHIN = 30.0
"""Seconds within which the body of a manifest or an error must be complete."""

LOOKS_EVERY = 2.5
"""Seconds between two looks at what a large manifest brings in its turn."""
LEAST_BETWEEN = 16 * 1024
"""Bytes that it must bring between them while others wait."""
SLOW_LOOKS = 2
"""
Looks in a row at which it brought less, after which it is given up: after one, this process itself
may have been held up.
"""


class TooLarge(Exception):
    """A body exceeds its limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"more than {limit} bytes")


class BadEncoding(Exception):
    """A body has a Content-Encoding that was not asked for, or is not what that says."""


_JSON = (b"{", b"[")
_GZIP = ("gzip", "x-gzip")
_COMPRESSIONS = frozenset({*_GZIP, "deflate", "br", "zstd", "compress", "x-compress"})
"""The Content-Encodings of compressed bytes; any other is a mere label."""


def _compressions(label: str) -> list[str]:
    return [each for each in label.lower().replace(" ", "").split(",") if each in _COMPRESSIONS]


def content_encoding(response: IResponse) -> str:
    """Return the Content-Encoding of a reply, of all its headers of that name; "" for none."""
    values = response.headers.getRawHeaders(b"content-encoding") or ()
    return ", ".join(value.decode("latin-1") for value in values)


def is_encoded(label: str) -> bool:
    """Whether a Content-Encoding says that a body is compressed."""
    return bool(_compressions(label))


def decoded(body: bytes, label: str, limit: int) -> bytes:
    """
    Return a body without its Content-Encoding ``label``; `BadEncoding`, `TooLarge`.

    Nothing but ``identity`` is ever asked for. Some send gzip all the same, which is undone once,
    up to ``limit`` bytes. JSON is JSON, whatever its label.
    """
    compressions = _compressions(label)
    if not compressions or body[:1000].lstrip().startswith(_JSON):
        return body  # No compressed body begins like this.
    if len(compressions) > 1 or compressions[0] not in _GZIP:
        raise BadEncoding(f"Content-Encoding {label[:40]!a}, which was not asked for")
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadEncoding(f"a body that is not the gzip it claims to be: {error}") from None
    if len(plain) > limit:
        raise TooLarge(limit)
    if not inflater.eof or inflater.unused_data:
        raise BadEncoding("a body that is not one whole gzip")
    return plain


class Body(Interface):
    """A body that has not been read yet: the part of `twisted.web.client.Response` that is used."""

    def deliverBody(self, protocol: IProtocol) -> None: ...


class Collector(Protocol):
    """
    Collects a body of at most ``limit`` bytes, `TooLarge` beyond; ``fed`` is called whenever some
    of it arrives.

    ``checked`` says that its reader notices if its end is missing: then the body may be one that
    has no length and ends when the connection is closed, as HTTP/1.0 has it.
    """

    def __init__(
        self, limit: int, fed: Callable[[], None] = lambda: None, *, checked: bool = False
    ) -> None:
        self._limit = self._most = limit
        self._ends = (ResponseDone, PotentialDataLoss) if checked else (ResponseDone,)
        self._fed = fed
        # A large body grows in place. Pieces of it would leave as large holes in memory.
        self._collected = bytearray()
        self.done: Deferred[bytes] = Deferred(lambda _: self._stop())

    def receive(self, response: IResponse) -> None:
        """Read a reply's body."""
        response.deliverBody(self)

    def _stop(self) -> None:
        self._collected = bytearray()  # It may be in a cycle with its connection.
        transport: Any = self.transport
        if transport is not None:
            transport.stopProducing()

    def dataReceived(self, data: bytes) -> None:
        if self.done.called:
            return
        self._limit -= len(data)
        if self._limit < 0:
            self._stop()
            self._fire(Failure(TooLarge(self._most)))
        else:
            self._fed()
            self._collected += data

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        collected, self._collected = self._collected, bytearray()
        self._fire(bytes(collected) if reason.check(*self._ends) else reason)

    def _fire(self, result: Any) -> None:
        if not self.done.called:
            self.done.callback(result)


class InTurn(Collector):
    """
    A `Collector` that reads more than `LARGE` bytes only in its turn; `release` it once its bytes
    have left memory.

    `TimeoutError` if it brings next to nothing in its turn while others wait for theirs.
    """

    def __init__(self, limit: int, turns: DeferredSemaphore, clock: IReactorTime) -> None:
        super().__init__(limit, checked=True)
        self._turns = turns
        self._clock = clock
        self._size = 0
        self._turn: Optional[Deferred[Any]] = None
        self._look: Optional[IDelayedCall] = None

    def receive(self, response: IResponse) -> None:
        """
        Read a reply's body. If it is said to be large, nothing of it is read before its turn: one
        read may bring a megabyte, for each of many that wait.
        """
        response.deliverBody(self)  # This resumes reading.
        is_large = response.length is not UNKNOWN_LENGTH and int(response.length) > LARGE
        if is_large and self._turn is None and not self.done.called:
            self._wait_for_turn()

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self._size += len(data)
        if self._turn is None and self._size > LARGE and not self.done.called:
            self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        transport: Any = self.transport
        transport.pauseProducing()
        self._turn = self._turns.acquire()
        self._turn.addCallback(lambda _: transport.resumeProducing())
        self._turn.addCallback(lambda _: self._look_later(self._size, 0))

    def _look_later(self, size: int, slow: int) -> None:
        """Look whether more than ``size`` have come; it was too slow at so many looks in a row."""
        self._look = self._clock.callLater(LOOKS_EVERY, self._look_now, size, slow)

    def _look_now(self, before: int, slow: int) -> None:
        self._look = None
        if self.done.called:
            return
        is_slow = bool(self._turns.waiting) and self._size - before < LEAST_BETWEEN
        if is_slow and slow + 1 == SLOW_LOOKS:
            self._stop()
            self._fire(Failure(TimeoutError()))
        else:
            self._look_later(self._size, slow + 1 if is_slow else 0)

    def release(self) -> None:
        """Let others have its turn."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        turn, self._turn = self._turn, None
        if turn is None:
            return
        if turn.called:
            self._turns.release()
        else:
            turn.addErrback(lambda failure: failure.trap(CancelledError))
            turn.cancel()


class Beginning(Collector):
    """The first ``limit`` bytes of a body, which may be longer; the rest is not read."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data[: self._limit])
        if not self._limit:
            self._fire(bytes(self._collected))
            self._stop()


class _Discard(Protocol):
    """
    Reads a small unwanted body to its end, so that the connection can be used again; for a large or
    silent one, drops the connection.
    """

    def __init__(self, length: int, clock: IReactorTime) -> None:
        self._left = SMALL_BODY
        self._length = length
        self._late = clock.callLater(BODY_WITHIN, self._stop)

    def connectionMade(self) -> None:
        if self._length > SMALL_BODY:
            self._stop()

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._stop()

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        if self._late.active():
            self._late.cancel()

    def _stop(self) -> None:
        if self._late.active():
            self._late.cancel()
        transport: Any = self.transport
        transport.stopProducing()


def discard(response: IResponse, clock: IReactorTime) -> None:
    """Dispose of a reply whose body is not wanted."""
    length = 0 if response.length is UNKNOWN_LENGTH else int(response.length)
    response.deliverBody(_Discard(length, clock))


class _Counting(Protocol):
    """Wraps the protocol that receives a body, counts its bytes, and keeps the first from it."""

    def __init__(self, taker: Any, count: Callable[[int], None], skipped: int) -> None:
        self._taker = taker
        self._count = count
        self._left = skipped

    def makeConnection(self, transport: Any) -> None:
        self._taker.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        self._count(len(data))
        if self._left:
            left, self._left = self._left, max(0, self._left - len(data))
            data = data[left:]
            if not data:
                return
        self._taker.dataReceived(data)

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        self._taker.connectionLost(reason)


@define
class Counted:
    """
    A blob's body without its first ``skipped`` bytes; ``count`` is called with the number of bytes
    whenever some arrive.
    """

    _response: IResponse
    _count: Callable[[int], None]
    _skipped: int = 0

    def deliverBody(self, protocol: IProtocol) -> None:
        self._response.deliverBody(_Counting(protocol, self._count, self._skipped))
