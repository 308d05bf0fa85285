"""
A client's connection: what is refused before any request is made of it, and what it may hold.

Twisted's channel begins every request that a client has sent ahead, however many replies wait to be
read, has no deadline for a header that comes a byte at a time, and knows neither half-closed
connections nor absolute-form request targets. This one does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Optional

from twisted.protocols.basic import LineReceiver
from twisted.web.http_headers import Headers

from yukari.config.networks import Address, parse_address
from yukari.sending.transports import bound_held, forget_producer, write_now
from yukari.web.ahead import InTurn
from yukari.web.deadlines import QUIET, Deadlines
from yukari.web.half_close import HalfCloses
from yukari.web.heads import BAD_REQUEST, HEADERS_TOO_LARGE, REQUEST_TIMEOUT, TOO_MANY
from yukari.web.repeats import Repeats, is_head
from yukari.web.request_head import HEAD_END, TLS_HANDSHAKE, find_path, read_head
from yukari.web.sharing import CHANNEL, share_names

READ_AHEAD = 16 * 1024
"""Bytes of requests sent ahead beyond which the connection is not read; one read may be 64 KiB."""
CLOSED_WITHIN = 60.0
"""Seconds that a client has to take what was written before the connection was closed."""


class RegistryChannel(HalfCloses):
    """
    Begins a request when the one before it has been answered and its reply has been taken.

    Refuses with a status where Twisted would hang up: a header line that is too long, too slow a
    header. And TLS with 400, where Twisted would wait for the line's end: clients try https first,
    and say or do something sensible only once they are answered.
    """

    __slots__ = (
        *("_at_start", "_awaited", "_begun_at", "_command", "_gone", "_has_turn", "_head"),
        *("_heard", "_host", "_path", "_peer", "_queue", "_quiet_since", "_repeats", "_too_many"),
        *("_version", "address", "asked", "head", "is_proxy", "name"),
    )
    """The attributes of every connection, beside those of `sharing.CHANNEL`."""
    asked: bool
    """Whether it has sent a request."""
    address: Optional[Address]
    """The client's address; None for a Unix socket."""
    name: str
    """The same as text."""
    is_proxy: bool
    """Whether it is a trusted proxy, which may name another client in each request."""
    head: Optional[bytes]
    """The bytes of the request in progress, if it is one whose reply may be given again."""
    _repeats: Optional[Repeats]
    """None for a trusted proxy."""
    _queue: Optional[InTurn]
    _awaited: Optional[Deadlines[Any]]
    """The deadlines that include its own for what is being read; None if it has none."""
    refused: bool = False
    """Whether the last request was refused, and nothing more is read."""
    _held: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.address, self.name, self.is_proxy = None, "-", False
        self.asked = self._heard = self._has_turn = self._too_many = False
        self._gone, self._at_start, self._head = False, True, b""
        self.head = self._repeats = self._queue = self._awaited = None
        self._quiet_since = self._begun_at = 0.0

    # the connection's beginning and end

    def connectionMade(self) -> None:
        self.timeOut = None
        super().connectionMade()
        self._peer, self._host = self.transport.getPeer(), self.transport.getHost()
        if (host := getattr(self._peer, "host", None)) is not None:
            self.address = parse_address(host)
            self.name = str(self.address or "-")
        self.is_proxy = self.address in self.site.trusted_proxies
        self._repeats = None if self.is_proxy else self.site.repeats
        self._quiet_since = self.site.clock.seconds()
        self.site.drain.joined(self)
        held = bound_held(self.transport, self.site.drain.count())
        self.totalHeadersSize = min(self.totalHeadersSize, held)
        self._too_many = not self.site.clients.joined(self, self.address)
        deadlines = self.site.deadlines
        self._expect(deadlines.first if self._too_many else deadlines.header)
        deadlines.idle.begin(self)

    def getPeer(self) -> Any:
        return self._peer

    def getHost(self) -> Any:  # Twisted would ask the system for it with every request.
        return self._host

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]
        self._gone = True
        self.stop_probing()
        self._expect(None)
        self.site.ahead.leave(self)
        if self._queue is not None:
            self._queue.leave(self)
        self.site.deadlines.idle.end(self)
        self.site.drain.left(self)
        self.site.clients.left(self, self.address)
        forget_producer(self.transport)
        leave = partial(super().connectionLost, reason)
        if not self.requests or self.site.crowds.leavers.may_begin(self):
            leave()
        else:
            # To give up what it waits for takes longer than all the rest.
            self.persistent, self.requests[0].gone = False, True
            self.site.crowds.leavers.wait(self, leave)

    def loseConnection(self) -> None:
        super().loseConnection()
        self._expect(None)
        self.site.deadlines.idle.end(self)
        if self._abortingCall is None and not self._gone:
            self._abortingCall = self.callLater(CLOSED_WITHIN, self.forceAbortClient)
        self.site.drain.closes(self)

    def forceAbortClient(self) -> None:
        """Drop the connection with what has not been sent."""
        if self._abortingCall is not None and self._abortingCall.active():
            self._abortingCall.cancel()
        super().forceAbortClient()

    def is_unused(self) -> bool:
        """Whether it can be closed to make room: it is idle, or its request does not arrive."""
        if self._handlingRequest or self.waits:
            return False
        between = self.asked and not self.requests and not self._buffer
        return between or self.site.clock.seconds() - self._quiet_since >= QUIET

    @property
    def waits(self) -> bool:
        """Whether its request waits for its turn."""
        return self._queue is not None

    @property
    def quiet_since(self) -> float:
        """When it was last read or answered, by the site's clock."""
        return self._quiet_since

    # what is read, and when

    def dataReceived(self, data: bytes) -> None:
        self._quiet_since = self.site.clock.seconds()
        if self._repeats is not None and is_head(data) and self._is_between:
            if self._repeat(self._repeats, data):
                return
            if self._repeats.is_asked_again(data):
                self.head = data
        if not self._heard and data.startswith(TLS_HANDSHAKE):
            self.refuse(BAD_REQUEST)
        elif self._too_many:
            self.refuse(TOO_MANY)
        elif not self.refused:
            self._heard = True
            has_turn = self._at_start and not self.paused and HEAD_END in data
            if has_turn:
                has_turn = self._take_turn(data, self._go_on)
            self._read(data, has_turn=has_turn)

    def _take_turn(self, head: bytes, begin: Callable[[], None]) -> bool:
        """Whether a request may begin now; otherwise ``begin`` is called when it may."""
        queue, path = self.site.crowds.of(head)
        if queue.may_begin(self):
            return True
        self.paused, self._queue = True, queue
        queue.wait(self, begin, path)
        return False

    def _go_on(self) -> None:
        """Read what has waited for its turn."""
        data, self._buffer = self._buffer, b""
        self._at_start, self.paused, self._queue = True, False, None
        self._read(data, has_turn=True)

    @property
    def _is_between(self) -> bool:
        """Whether the next byte begins a request, and nothing speaks against its reply."""
        return not (
            self.requests
            or self._buffer
            or self.paused
            or not self._at_start
            or self.refused
            or self._too_many
            or self._held
            or self._half_closed
            or self._waitingForTransport
            or not self.persistent
            or self.transport.disconnecting
            or self.site.drain.stopping
            or self.site.log_requests
        )

    def _repeat(self, repeats: Repeats, head: bytes) -> bool:
        """Give the reply that this head was given a moment ago; False if there is none."""
        reply = repeats.give(self, head)
        if reply is None:
            return False
        self._heard = self.asked = True
        if self._awaited is not None:
            self._expect(None)
        self.site.deadlines.idle.begin(self)
        write_now(self.transport, reply)
        return True

    def _read(self, data: bytes, *, has_turn: bool) -> None:
        """
        Read a request; what follows it waits in ``_buffer``. One that ends here begins now if it
        ``has_turn``, and otherwise when it gets one.
        """
        self._has_turn = has_turn
        begins = self._at_start and not (self.requests or self._buffer or self.paused)
        self._at_start = False
        if not (begins and self._read_whole(data)):
            LineReceiver.dataReceived(self, data)
        if self._busyReceiving or self.refused or self.transport.disconnecting:
            return
        self._regulate()
        is_read = not (self.paused or self._held) and (self.requests or self._buffer)
        if self._awaited is None and is_read:
            self._expect(self.site.deadlines.header)
        if self._half_closed and not self._handlingRequest:
            self._close_if_read()

    def _read_whole(self, data: bytes) -> bool:
        """Read a request that has arrived in one piece; False if Twisted has to."""
        head = read_head(data) if self.persistent else None
        if head is None:
            return False
        request: Any = self.requestFactory(self)
        self.requests.append(request)
        self._command, self._path, self._version, request.requestHeaders = head
        self.allHeadersReceived()
        self.allContentReceived()
        return True

    def _regulate(self) -> None:
        """Read the connection, unless more than enough of it is buffered."""
        waits = self._waitingForTransport and not self._handlingRequest
        if waits or self._held or len(self._buffer) > READ_AHEAD:
            self._networkProducer.pauseProducing()
        elif not self._half_closed:
            self._networkProducer.resumeProducing()

    def expect_upload(self) -> None:
        """Set a deadline for an upload's next bytes, unless the client is not read for now."""
        self._expect(None if self._held else self.site.deadlines.upload)

    def hold(self, held: bool) -> None:
        """Pause or resume reading an upload."""
        self._held = held
        if not self._at_start:  # The body has not ended.
            self.expect_upload()
        self._regulate()

    def allHeadersReceived(self) -> None:
        self._expect(self.site.deadlines.body if self.length != 0 else None)
        path = find_path(self._path, self._version, self.requests[-1].requestHeaders)
        if path is None:
            self.refuse(BAD_REQUEST)
        else:
            self._path = path
            super().allHeadersReceived()

    def allContentReceived(self) -> None:
        self._expect(None)
        self.paused = True  # until the reply has been taken
        self._at_start = True
        if not self.refused:
            self._begun_at = self.site.clock.seconds()
            begins = b"%b %b " % (self._command, self._path)
            if self._has_turn or self._take_turn(begins, self._begin):
                self._begin()

    def _begin(self) -> None:
        """Begin the request that has been read."""
        self._queue = None
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        """
        Note that a reply is complete. Requests sent ahead wait for another turn of the reactor.
        """
        if request is not self.requests[0]:
            raise TypeError("only the first request can be done")
        del self.requests[0]
        self.head = None
        if not self.persistent:
            self.loseConnection()
            return
        self._handlingRequest = False
        self._quiet_since = self.site.clock.seconds()
        self.site.deadlines.idle.begin(self)
        self._buffer = b"".join(self._dataBuffer) + self._buffer
        self._dataBuffer.clear()
        self.line_mode = 1
        self._next_later()

    def resumeProducing(self) -> None:
        """The client has taken what was written."""
        self._waitingForTransport = False
        if self._requestProducer is not None:
            self._requestProducer.resumeProducing()
        if not self._handlingRequest:
            self._next_later()

    def _next_later(self) -> None:
        if self._waitingForTransport or self in self.site.ahead:
            self._regulate()
        elif self._buffer:
            self.site.ahead.wait(self, self._next)
        else:
            self.paused = False
            self._regulate()
            if self._half_closed:
                self._close_if_read()

    def _next(self) -> None:
        if not self._waitingForTransport and not self._handlingRequest:
            self.paused = False
            self._read(b"", has_turn=True)

    # deadlines

    def _expect(self, deadlines: Optional[Deadlines[Any]]) -> None:
        """Set a deadline, among others of its kind, for what is being read; None if nothing is."""
        if self._awaited is not None:
            self._awaited.end(self)
        if self._gone or self.refused or self.transport.disconnecting:
            deadlines = None
        self._awaited = deadlines
        if deadlines is not None:
            deadlines.begin(self)

    def not_read(self) -> None:
        """Close: what is being read has not arrived in time."""
        self._awaited = None
        if self.requests or self._buffer:
            self.refuse(REQUEST_TIMEOUT)
        else:
            self.loseConnection()  # it has sent nothing that could be answered

    # what is refused

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        self.asked = True
        # Twisted reads the first header alone, and no commas.
        wishes = b",".join(request.requestHeaders.getRawHeaders(b"connection", ())).lower()
        if self.site.drain.stopping or b"close" in wishes.replace(b",", b" ").split():
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
            return False
        return version == b"HTTP/1.1"

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(HEADERS_TOO_LARGE)

    def _send100Continue(self) -> None:
        # Twisted asks for the body of a refused request as well.
        if not self.refused:
            super()._send100Continue()

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Twisted's own 400 leaves no trace in a log.
        self.refuse(BAD_REQUEST)

    def refuse(self, why: tuple[int, bytes]) -> None:
        """Answer the request that is being read with a bare status, and close."""
        if self.refused:
            return
        self.refused = True
        request: Any = self.requests[-1] if self.requests else self.requestFactory(self)
        # Twisted has these two from the request's first line to its end.
        method, uri = getattr(self, "_command", b"-"), getattr(self, "_path", b"-")
        request.refused(why[0], method, uri)
        headers = Headers({b"content-length": [b"0"], b"connection": [b"close"]})
        code = b"%d" % why[0]
        self.transport.write(self._make_head(request, b"HTTP/1.1", code, why[1], headers))
        self.loseConnection()


share_names(RegistryChannel, CHANNEL)
