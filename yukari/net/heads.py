"""
Bounds on the head of a reply: its status line, its headers, and the interim replies before it; and
on how many chunks its body is cut into.

Twisted bounds the length of one line alone: an upstream that never stops sending headers, or
``103 Early Hints``, would take all memory and a core, and so would a body in chunks of a byte. Nor
does it end a connection whose request is not read after the reply to it is complete.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Optional

from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web._newclient import HEADER, STATUS, HTTP11ClientProtocol  # Exported nowhere.
from twisted.web.client import HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.http import _ChunkedTransferDecoder, maxChunkSizeLineLength

MAX_BYTES = 512 * 1024
"""
Bytes of a reply before its body, interim replies included. Signed URLs take a few thousand; some
proxies add hundreds of thousands, and Go's client accepts ten million.
"""
MAX_LINES = 1000
"""Lines of those bytes: what a header costs in memory is many times its few bytes."""
MAX_INTERIM = 8
"""Interim replies (1xx) to one request; Go's client takes five."""

LINES_OF_CHUNKS = 1000
LEAST_BETWEEN = 16
"""
Line ends that a chunked body may have, and the bytes for which it may have one more; each chunk has
two.
"""

EXTENSIONS = 64 * 1024
LEAST_BETWEEN_EXTENSIONS = 16
"""
Bytes that may stand behind the sizes of a body's chunks, and the bytes of body for which there may
be one more.
"""

HEAD_READ = 32 * 1024
"""Bytes of one read until a reply's head has arrived, so that little of a body waits."""
HEARD_WITHIN = 1.0
"""Seconds in which something is to arrive on a new connection, before unused ones make way."""

_END = re.compile(rb"\n\r?\n")


class HeadTooLarge(Exception):
    """A reply's head, or its chunks, exceed a bound; the text says which."""


class _Client(HTTP11ClientProtocol):
    """Twisted's client of one connection, which drops it if the head of a reply is too large."""

    _bytes = _lines = _interim = 0
    _body = _ends = 0
    """Bytes and line ends of the body."""
    _tail = b""
    """The last bytes of the head so far, in which its end may have begun."""
    late: Optional[IDelayedCall] = None
    """Called if nothing arrives on a new connection."""
    _pieces: Optional[list[bytes]] = None
    """What one read of the socket has brought over TLS so far; None between two reads."""
    unheard: Optional[set[_Client]] = None
    """Where it is while nothing has arrived for so long."""

    _socket: Any = None
    """The transport that reads the socket, up to ``_most`` bytes at once; None for any other."""
    _most = 0

    def read_heads_apart(self, socket: Any) -> None:
        """Read little at once while a reply's head is awaited, for this is the ``socket``."""
        self._socket, self._most = socket, socket.bufferSize

    def request(self, request: Any) -> Any:
        if self._socket is not None:
            # A range is wanted as soon as it comes.
            little = not request.headers.hasHeader(b"range")
            self._socket.bufferSize = min(HEAD_READ, self._most) if little else self._most
        self._bytes = self._lines = self._interim = self._body = self._ends = 0
        self._tail = b""
        asked = super().request(request)
        if self._parser is not None:
            _make_lenient(self._parser)
        return asked

    def begin_read(self) -> None:
        """Gather what arrives until `end_read`."""
        self._pieces = []

    def end_read(self) -> None:
        """Take what has been gathered, in one piece."""
        pieces, self._pieces = self._pieces, None
        if pieces:
            self.dataReceived(b"".join(pieces))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._is_accepted()
        self.end_read()
        super().connectionLost(reason)

    @property
    def _awaits_head(self) -> bool:
        return self._parser is not None and self._parser.state in (STATUS, HEADER)

    def _is_accepted(self) -> None:
        late, self.late = self.late, None
        if late is not None and late.active():
            late.cancel()
        if self.unheard is not None:
            self.unheard.discard(self)
            self.unheard = None

    def dataReceived(self, data: bytes) -> None:
        if self._pieces is not None:
            self._pieces.append(data)
            return
        if self.late is not None:
            self._is_accepted()
        # The head of each reply is passed on by itself: the parser's state then tells an interim
        # reply, after which another head is expected, from the one that counts.
        while data and self._awaits_head:
            end = _END.search(self._tail + data)
            size = len(data) if end is None else end.end() - len(self._tail)
            head, data = data[:size], data[size:]
            self._tail = (self._tail + head)[-2:] if end is None else b""
            self._bytes += size
            self._lines += head.count(b"\n")
            self._interim += end is not None
            if self._bytes > MAX_BYTES or self._lines > MAX_LINES:
                self._refuse("a reply with too many headers")
            elif self._interim > MAX_INTERIM + 1:
                self._refuse("too many interim replies")
            else:
                super().dataReceived(head)
                continue
            return
        if self._socket is not None and not self._awaits_head:
            self._socket.bufferSize = self._most
        if data and self._is_in_chunks():
            self._body += len(data)
            self._ends += data.count(b"\r\n")
            if self._ends > LINES_OF_CHUNKS + self._body // LEAST_BETWEEN:
                self._refuse("a body in tiny chunks")
                return
        if data:
            super().dataReceived(data)

    def _giveUp(self, reason: Failure) -> None:  # noqa: N802 (Twisted's name)
        super()._giveUp(reason)
        if self._state == "TRANSMITTING_AFTER_RECEIVING_RESPONSE":
            # Twisted sends the rest of the request, however long it is not read. Go's client closes
            # such a connection, too.
            transport: Any = self.transport
            transport.abortConnection()

    def _is_in_chunks(self) -> bool:
        decoder = getattr(self._parser, "bodyDecoder", None)
        return isinstance(decoder, _ChunkedTransferDecoder)

    def _refuse(self, text: str) -> None:
        transport: Any = self.transport
        transport.abortConnection()
        # It has received something: a request without any reply would be sent once more.
        super().dataReceived(b"")
        self._disconnectParser(Failure(HeadTooLarge(text)))


class _WholeReads:
    """
    Stands between a socket and TLS, so that a client takes in one piece what one read has brought.

    TLS passes on each record by itself, of 16 KiB at most, and a piece of a blob is handed on
    through some fifty calls.
    """

    def __init__(self, secure: Any, client: _Client) -> None:
        self._secure = secure
        self._client = client

    def dataReceived(self, data: bytes) -> None:
        self._client.begin_read()
        try:
            self._secure.dataReceived(data)
        finally:
            self._client.end_read()

    def connectionLost(self, reason: Failure) -> None:
        self._secure.connectionLost(reason)


def take_whole_reads(client: Any, transport: Any) -> None:
    """
    Let an HTTP client over TLS take each read of the socket below it as one piece, and any HTTP
    client read little at once until a reply's head has arrived.
    """
    if not isinstance(client, _Client):
        return
    client.read_heads_apart(transport)
    if client.transport is not transport:
        transport.protocol = _WholeReads(transport.protocol, client)


class _Chunks(_ChunkedTransferDecoder):
    """
    Twisted's decoder, which ignores whatever stands behind a chunk's size, as Go's does, unless it
    is more than the chunks themselves.
    """

    _buffer: bytearray
    _start: int
    """Where the line's end is looked for."""
    length: int
    """The last chunk's."""
    _ignored = 0
    _chunks = 0
    """Bytes behind sizes, and of chunks."""

    def _dataReceived_CHUNK_LENGTH(self) -> bool:  # noqa: N802 (Twisted's name)
        end = self._buffer.find(b"\r\n")
        if 0 < end < maxChunkSizeLineLength:
            size = self._buffer[:end].partition(b";")[0].rstrip(b" \t")
            self._ignored += end - len(size)
            if self._ignored > EXTENSIONS + self._chunks // LEAST_BETWEEN_EXTENSIONS:
                raise HeadTooLarge("a body with too much beside its chunks")
            self._buffer[:end] = size
            self._start = 0
        is_read = bool(super()._dataReceived_CHUNK_LENGTH())
        if is_read:
            self._chunks += self.length
        return is_read


def _make_lenient(parser: Any) -> None:
    """
    Let a reply's parser take what Go's does: one long line, spaces before the status, and odd
    headers as if not there.
    """
    received, begun = parser.headerReceived, parser.statusReceived

    def status_received(line: bytes) -> None:
        protocol, _, status = line.partition(b" ")
        begun(protocol + b" " + status.lstrip(b" "))

    def header_received(name: bytes, value: bytes) -> None:
        with suppress(ValueError):
            received(name, value)

    parser.headerReceived, parser.statusReceived = header_received, status_received
    parser.MAX_LENGTH = MAX_BYTES
    parser._transferDecoders = {b"chunked": _Chunks}


class _Factory(_HTTP11ClientFactory):
    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> HTTP11ClientProtocol:
        return _Client(self._quiescentCallback)


class BoundedPool(HTTPConnectionPool):
    """
    Connections whose replies' heads are bounded, and at most ``max_idle`` unused ones in all.

    Twisted bounds those of each host: a registry that redirects every blob to another host would
    take all descriptors.

    A host that serves one connection at a time does not hear a new one while an unused one is kept:
    those are closed if nothing arrives on the new one, and then each that comes to be unused.
    """

    _factory = _Factory
    max_idle = 64
    _connections: dict[Any, list[Any]]
    _timeouts: dict[Any, Any]

    def __init__(self, reactor: Any, persistent: bool = True) -> None:
        super().__init__(reactor, persistent)
        self._unheard: dict[Any, set[_Client]] = {}

    def _putConnection(self, key: Any, connection: Any) -> None:
        super()._putConnection(key, connection)
        while len(self._timeouts) > self.max_idle:
            oldest, timeout = next(iter(self._timeouts.items()))
            timeout.cancel()
            self._removeConnection(self._key_of(oldest), oldest)
        if len(self._connections) > 2 * self.max_idle:
            self._connections = {key: kept for key, kept in self._connections.items() if kept}
        if key in self._unheard:
            self._reactor.callLater(0, self._make_way, key)  # Unless it is used again at once.

    def _newConnection(self, key: Any, endpoint: Any) -> Any:
        return super()._newConnection(key, endpoint).addCallback(self._made, key)

    def _made(self, connection: Any, key: Any) -> Any:
        connection.late = self._reactor.callLater(HEARD_WITHIN, self._is_late, connection, key)
        return connection

    def _is_late(self, connection: Any, key: Any) -> None:
        self._unheard = {each: late for each, late in self._unheard.items() if late}
        connection.unheard = self._unheard.setdefault(key, set())
        connection.unheard.add(connection)
        self._made(connection, key)
        self._make_way(key)

    def _make_way(self, key: Any) -> None:
        """Close the unused connections to a host that does not hear a new one."""
        if not self._unheard.get(key):
            self._unheard.pop(key, None)
            return
        for unused in list(self._connections.get(key, ())):
            self._timeouts[unused].cancel()
            self._removeConnection(key, unused)

    def _key_of(self, connection: Any) -> Any:
        return next(key for key, kept in self._connections.items() if connection in kept)
