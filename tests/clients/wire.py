"""One connection of a client, and the answers on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from tests.clients.results import ClientError, Cut, Lost, Stalled

if TYPE_CHECKING:
    from tests.clients.http import Http

READ = 1 << 18
"""Bytes read from a socket at once."""

Sink = Callable[[bytes], "Deferred[None] | None"]
"""Takes a body's bytes; a Deferred that it returns pauses the body until it fires."""


def count_only(_: bytes) -> None:
    """A sink for bodies whose bytes do not matter."""


@define
class Reply:
    """An answer whose head has come; its body has to be read or dropped."""

    status: int
    headers: dict[str, str]
    _wire: Wire
    read: int = 0
    """Body bytes read."""
    first_wait: float = 0.0
    gap_wait: float = 0.0
    complete: bool = False
    """The body ended as its framing said."""

    @property
    def length(self) -> int | None:
        given = self.headers.get("content-length")
        return int(given) if given is not None else None

    def drop(self) -> None:
        """Close the connection without reading the body; one that has been read is kept."""
        if not self.complete:
            self._wire.drop()

    async def copy(
        self,
        sink: Sink,
        length: int | None = None,
        *,
        stall: float | None = None,
        slow: Callable[[float, int], bool] | None = None,
        from_start: bool = True,
    ) -> None:
        """
        Read the body, or ``length`` bytes of it and no more, into the sink.

        Raises `Cut` where it ends before, `Stalled` after ``stall`` seconds
        without a byte, and a `ClientError` if ``slow(seconds, bytes)`` is true.
        """
        await self._wire.copy(self, sink, length, stall, from_start, slow)

    async def body(self) -> bytes:
        """All of the body; for small ones."""
        pieces: list[bytes] = []
        await self.copy(pieces.append)
        return b"".join(pieces)


class Chunks:
    """Takes chunked framing off a body."""

    def __init__(self) -> None:
        self._held = b""
        self._left = 0
        self._trailing = False
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """The payload in these bytes."""
        self._held += data
        payload = []
        while self._held and not self.ended:
            if self._left > 2:
                taken = self._held[: self._left - 2]
                payload.append(taken)
                self._held = self._held[len(taken) :]
                self._left -= len(taken)
            elif self._left:
                taken = self._held[: self._left]
                self._held = self._held[len(taken) :]
                self._left -= len(taken)
            else:
                line, found, rest = self._held.partition(b"\r\n")
                if not found:
                    break
                self._held = rest
                if self._trailing:
                    self.ended = not line
                    continue
                size = int(line.partition(b";")[0], 16)
                self._trailing = size == 0
                self._left = size + 2 if size else 0
        return b"".join(payload)


class Wire(Protocol):
    """One connection; it carries one exchange after another."""

    def __init__(self, http: Http, key: tuple[str, int]) -> None:
        self._http = http
        self._key = key
        self._head: Deferred[Reply] | None = None
        self._reply: Reply | None = None
        self._received = b""
        self._method = ""
        self._started = 0.0
        self._last = 0.0
        self._body: Deferred[None] | None = None
        self._sink: Sink = count_only
        self._wanted: int | None = None
        self._chunks: Chunks | None = None
        self._ended: Failure | None = None
        self.lost = False

    @property
    def _transport(self) -> Any:
        return self.transport

    def connectionMade(self) -> None:
        self._transport.bufferSize = READ
        self._transport.setTcpNoDelay(True)
        self._http.opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self._http.closed(self, self._key)
        self._ended = reason
        if self._head is not None:
            head, self._head = self._head, None
            error = Lost(f"EOF: {reason.getErrorMessage()}")
            error.silent = not self._received
            head.errback(error)
        elif self._body is not None:
            self._over()

    def drop(self) -> None:
        """Close now; what is unread is lost."""
        if not self.lost:
            self._transport.abortConnection()

    async def ask(self, method: str, head: bytes, seconds: float | None) -> Reply:
        """Send a request; its reply, the body paused, within ``seconds``."""
        self._method = method
        self._received = b""
        self._reply = None
        self._chunks = None
        self._started = self._last = self._http.reactor.seconds()
        waiting: Deferred[Reply] = Deferred(lambda _: self._forget())
        self._head = waiting
        self._transport.write(head)
        self._transport.resumeProducing()
        timer = None
        if seconds is not None:
            timer = self._http.reactor.callLater(seconds, self._too_late, seconds)
        try:
            return await waiting
        finally:
            if timer is not None and timer.active():
                timer.cancel()

    def _forget(self) -> None:
        self._head = None
        self.drop()

    def _too_late(self, seconds: float) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            self.drop()
            error = Stalled(f"no answer in {seconds:g} s")
            head.errback(error)

    def dataReceived(self, data: bytes) -> None:
        if self._head is not None:
            self._received += data
            self._read_head()
        elif self._body is not None:
            self._read_body(data)
        elif self._reply is not None and not self._reply.complete:
            self._received += data
        else:
            self.drop()

    def _read_head(self) -> None:
        top, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = top.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        status = int(first.split(" ")[1])
        self._received = rest
        if status < 200:
            self._read_head()
            return
        self._reply = reply = Reply(status, headers, self)
        if self._method == "HEAD" or status in (204, 304) or reply.length == 0:
            reply.complete = True
            self._recycle()
        else:
            if "chunked" in headers.get("transfer-encoding", "").lower():
                self._chunks = Chunks()
            self._transport.pauseProducing()
        head, self._head = self._head, None
        if head is not None:
            head.callback(reply)

    async def copy(
        self,
        reply: Reply,
        sink: Sink,
        wanted: int | None,
        stall: float | None,
        from_start: bool,
        slow: Callable[[float, int], bool] | None,
    ) -> None:
        """See `Reply.copy`."""
        reactor = self._http.reactor
        begun = reactor.seconds()
        every = min(1.0, (stall or 4.0) / 4)
        timer: Any = None
        ending: Deferred[None] = Deferred(lambda _: self._fail(None))

        def look() -> None:
            nonlocal timer
            now = reactor.seconds()
            if stall is not None and (reply.read or from_start) and now - self._last > stall:
                self._note_wait(reply, now)
                self._fail(Stalled(f"stalled after {reply.read} bytes"))
            elif slow is not None and slow(now - begun, reply.read):
                self._fail(ClientError("too slow"))
            else:
                timer = reactor.callLater(every, look)

        if reply.complete:
            if wanted:
                raise Cut("unexpected EOF at 0 bytes")
            return
        self._sink, self._wanted = sink, wanted
        self._body = ending
        if stall is not None or slow is not None:
            timer = reactor.callLater(every, look)
        try:
            held, self._received = self._received, b""
            if held:
                self._read_body(held)
            if self._body is not None:
                if self._ended is not None:
                    self._over()
                else:
                    self._transport.resumeProducing()
            await ending
        finally:
            if timer is not None and timer.active():
                timer.cancel()

    def _note_wait(self, reply: Reply, now: float) -> None:
        if reply.read:
            reply.gap_wait = max(reply.gap_wait, now - self._last)
        else:
            reply.first_wait = now - self._started

    def _read_body(self, data: bytes) -> None:
        reply = self._reply
        assert reply is not None
        payload = data if self._chunks is None else self._chunks.feed(data)
        ends = reply.length
        if self._wanted is not None:
            payload = payload[: self._wanted - reply.read]
        if payload:
            now = self._http.reactor.seconds()
            self._note_wait(reply, now)
            self._last = now
            reply.read += len(payload)
            room = self._sink(payload)
            if room is not None:
                self._transport.pauseProducing()
                room.addCallback(self._room)
        if self._chunks.ended if self._chunks is not None else reply.read == ends:
            reply.complete = True
        if reply.complete or (self._wanted is not None and reply.read >= self._wanted):
            self._finish(reply)

    def _room(self, _: None) -> None:
        if self._body is not None and not self.lost:
            self._transport.resumeProducing()

    def _finish(self, reply: Reply) -> None:
        body, self._body = self._body, None
        short = self._wanted is not None and reply.read < self._wanted
        if reply.complete:
            self._recycle()
        else:
            self.drop()
        if body is not None:
            if short:
                body.errback(Cut(f"EOF: {reply.read} bytes of {self._wanted}, {reply.status}"))
            else:
                body.callback(None)

    def _over(self) -> None:
        """The connection has gone while the body was being read."""
        body, self._body = self._body, None
        reply, ended = self._reply, self._ended
        if body is None or reply is None or ended is None:
            return
        clean = isinstance(ended.value, ConnectionDone)
        to_the_end = clean and self._chunks is None and reply.length is None
        if to_the_end and (self._wanted is None or reply.read >= self._wanted):
            reply.complete = True
            body.callback(None)
        elif clean:
            body.errback(Cut(f"unexpected EOF after {reply.read} bytes"))
        else:
            body.errback(Lost(f"{ended.getErrorMessage()} after {reply.read} bytes"))

    def _fail(self, error: ClientError | None) -> None:
        """Give the body up; None if its Deferred is being cancelled."""
        body, self._body = self._body, None
        self.drop()
        if body is not None and error is not None:
            body.errback(error)

    def _recycle(self) -> None:
        reply = self._reply
        if self.lost:
            return
        if reply is not None and reply.headers.get("connection", "").lower() == "close":
            self.drop()
        else:
            self._http.idle(self, self._key)
