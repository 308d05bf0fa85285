"""
HTTP's own edges: what is refused before any resource sees it, and the log line of each request.
"""

from __future__ import annotations

import re
from random import getrandbits
from typing import Any, Optional

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from yukari import __version__
from yukari.config.networks import NOBODY, Networks
from yukari.metrics import Metrics
from yukari.sending.transports import flush, plain_socket
from yukari.web import clients
from yukari.web.drain import Drain
from yukari.web.htpasswd import Passwords

log = Logger()

LARGEST_BODY = 64 * 1024
"""Bytes of a request's body that are read and ignored; no request here has one."""
TLS_HANDSHAKE = b"\x16"
"""What a connection begins with whose other end takes this for an https server."""
IDLE = 60
"""Seconds that a connection may be silent between and inside requests."""


class _Nowhere:
    """Takes a request's body and keeps nothing."""

    def write(self, data: bytes) -> int:
        return len(data)

    def seek(self, *_: Any) -> int:
        return 0

    def tell(self) -> int:
        return 0

    def read(self, *_: Any) -> bytes:
        return b""

    def close(self) -> None:
        pass


class RegistryRequest(Request):
    """A request that counts what it sends and says at its end how it went."""

    channel: Any
    site: Any
    result: str = "-"
    """One of `yukari.metrics.RESULTS` or, where the question does not arise, ``-``."""
    sent_directly: int = 0
    """Bytes of body that left by ``sendfile``, past `write`."""
    id: str = ""
    """In the log, in the reply, and where a trusted proxy says one, the proxy's."""
    told: Optional[str] = None
    """The error that the client was told."""
    gone: bool = False
    """Whether the client has left."""
    _began: float = 0.0
    _first_byte: Optional[float] = None
    _body: int = 0

    def gotLength(self, length: Optional[int]) -> None:
        self.content = _Nowhere()
        if length is not None and length > LARGEST_BODY:
            self.channel.refuse(TOO_LARGE)

    def handleContentChunk(self, data: bytes) -> None:
        self._body += len(data)
        if self._body > LARGEST_BODY:
            self.channel.refuse(TOO_LARGE)

    def process(self) -> None:
        if self.channel.refused:
            return
        self._begin()
        self.setHeader(b"x-request-id", self.id.encode())
        self.notifyFinish().addBoth(self._log_end)
        super().process()

    def _begin(self) -> None:
        self.site = self.channel.site
        self._began = self.site.clock.seconds()
        self.id = clients.said_id(self) or f"{getrandbits(64):016x}"

    def refused(self, status: int, method: bytes, uri: bytes) -> None:
        """Log that no resource ever saw this request: what is known of it may be ``-``."""
        self._begin()
        self.code, self.method, self.path = status, method, uri.partition(b"?")[0]
        self._log_end(None)

    @property
    def shown_path(self) -> str:
        """Its path for the log: what a client takes a proxy for has a user before its host."""
        return re.sub("//[^/]*@", "//***@", self.path.decode("latin-1"))

    def connectionLost(self, reason: Any) -> None:
        self.gone = True
        super().connectionLost(reason)

    def render(self, resrc: Any) -> None:
        self.setHeader(b"server", f"yukari/{__version__}".encode())
        super().render(resrc)

    def write(self, data: bytes) -> None:
        if self._first_byte is None:
            self._first_byte = self.site.clock.seconds() - self._began
        super().write(data)

    def finish(self) -> None:
        transport = plain_socket(self)
        super().finish()
        if transport is not None:
            flush(transport)

    def _log_end(self, failure: object) -> None:
        self.site.metrics.replied(
            path=self.path,
            method=self.method,
            status=self.code,
            result=self.result,
            sent=self.sentLength + self.sent_directly,
            first_byte=self._first_byte,
        )
        if not self.site.log_requests:
            return
        client = clients.address(self)
        log.info(
            "{method} {path} {status} {bytes} bytes in {seconds} s: {told}"
            if self.told
            else "{method} {path} {status} {bytes} bytes in {seconds} s: {result}",
            method=self.method.decode("latin-1"),
            path=self.shown_path,
            status=self.code,
            bytes=self.sentLength + self.sent_directly,
            seconds=round(self.site.clock.seconds() - self._began, 4),
            result=self.result,
            told=self.told,
            client="-" if client is None else str(client),
            user_agent=(self.getHeader(b"user-agent") or b"").decode("latin-1")[:200],
            left=failure is not None,
            request=self.id,
        )


TOO_LARGE = 413, b"Content Too Large"


class RegistryChannel(HTTPChannel):
    """
    Says 431 to a header line that is too long, where Twisted would hang up.

    And 400 to TLS, where Twisted would wait for the line's end: clients try
    https first, and say or do something sensible only once they are answered.
    """

    site: Any
    transport: Any
    requests: list[RegistryRequest]
    refused: bool = False
    """Whether the last request was, and nothing more is read."""
    asked: bool = False
    """Whether it has brought a request."""
    _heard: bool = False

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.drain.joined(self)

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]
        super().connectionLost(reason)
        self.site.drain.left(self)

    def loseConnection(self) -> None:
        super().loseConnection()
        self.site.drain.closes(self)

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        self.asked = True
        if self.site.drain.stopping:
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
            return False
        return bool(super().checkPersistence(request, version))

    def dataReceived(self, data: bytes) -> None:
        if not self._heard and data.startswith(TLS_HANDSHAKE):
            self.refuse((400, b"Bad Request"))
            return
        self._heard = True
        super().dataReceived(data)

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse((431, b"Request Header Fields Too Large"))

    def _send100Continue(self) -> None:
        # Twisted asks for the body of what is refused, too.
        if not self.refused:
            super()._send100Continue()

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Twisted's own way to say 400, which leaves no trace in a log.
        self.refuse((400, b"Bad Request"))

    def refuse(self, why: tuple[int, bytes]) -> None:
        """Answer the request that is being read with a bare status, and hang up."""
        if self.refused:
            return
        self.refused = True
        request = self.requests[-1] if self.requests else RegistryRequest(self)
        # Twisted has these two from the request's first line to its end.
        method, uri = getattr(self, "_command", b"-"), getattr(self, "_path", b"-")
        request.refused(why[0], method, uri)
        self.transport.write(
            b"HTTP/1.1 %d %b\r\nContent-Length: 0\r\nConnection: close\r\nX-Request-Id: %b\r\n\r\n"
            % (*why, request.id.encode())
        )
        self.loseConnection()


class RegistrySite(Site):
    """
    The site of a resource tree; ``clock`` is that of the log's seconds, ``drain`` has its
    connections. Whoever reaches one that ``is_admins`` may do what else only this machine may.
    A request whose Via has the ``pseudonym`` is the cache's own. What ``trusted_proxies`` say of
    whom they pass on is believed. Admins have one of ``passwords``, where there are any.
    """

    protocol = RegistryChannel  # type: ignore[assignment]
    displayTracebacks = False
    noisy = False

    def __init__(
        self,
        resource: IResource,
        clock: IReactorTime,
        *,
        drain: Optional[Drain] = None,
        metrics: Optional[Metrics] = None,
        is_admins: bool = False,
        pseudonym: Optional[str] = None,
        trusted_proxies: Networks = NOBODY,
        passwords: Optional[Passwords] = None,
        log_requests: bool = True,
    ) -> None:
        super().__init__(resource, requestFactory=RegistryRequest, timeout=IDLE)
        self.clock = clock
        self.drain = drain or Drain(clock)
        self.metrics = metrics or Metrics()
        self.is_admins = is_admins
        self.pseudonym = pseudonym
        self.trusted_proxies = trusted_proxies
        self.passwords = passwords
        self.log_requests = log_requests

    def log(self, request: Any) -> None:
        """Nothing: a request logs itself, and does so while the port is closing too."""
