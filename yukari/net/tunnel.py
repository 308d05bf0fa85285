"""
Connections by way of a proxy: to it, and by CONNECT through it (RFC 9110, section 9.3.6).

Twisted's ProxyAgent sends even https in the clear (twisted#5324, #8806).
"""

from __future__ import annotations

import re
from typing import Any, Optional, Union

from attrs import define
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from yukari import __version__
from yukari.config.proxies import Proxy, host_and_port
from yukari.net.http import why

ANSWER_WITHIN = 25.0
"""
Seconds for a proxy to connect to the target and answer: less than UPSTREAM_TIMEOUT by default, so
that the error names the proxy.
"""
LONGEST_HEAD = 16 * 1024
"""Bytes of a proxy's answer to CONNECT."""

_STATUS = re.compile(rb"HTTP/1\.[0-9] ([0-9]{3})(?: ([^\r\n]*))?\r?\n")


class ProxyFailed(Exception):
    """No way through a proxy; the text names it without its credentials."""


def refused(proxy: Proxy, code: int, phrase: bytes) -> ProxyFailed:
    """Describe a proxy's own refusal."""
    said = re.sub(r"[^ -~]", "?", phrase.decode("latin-1"))[:100].strip()
    return ProxyFailed(f"the proxy {proxy} refused: {code} {said}".rstrip())


@implementer(IStreamClientEndpoint)
@define(eq=False, repr=False)
class ToProxy:
    """Connects to ``proxy`` by its ``endpoint``; an error says that the proxy has failed."""

    proxy: Proxy
    _endpoint: IStreamClientEndpoint

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        return self._endpoint.connect(factory).addErrback(self._failed)

    def _failed(self, failure: Failure) -> Failure:
        if failure.check(CancelledError, ProxyFailed):
            return failure
        return Failure(ProxyFailed(f"the proxy {self.proxy}: {why(failure.value)}"))


@implementer(IStreamClientEndpoint)
@define(eq=False, repr=False)
class Tunnel:
    """
    Connects to a host and port through a proxy; ``clock`` bounds the wait for its answer.

    ``opening`` makes the protocol that asks the proxy for the connection, `Connect` or another
    `Opening`.
    """

    _to_proxy: ToProxy
    _host: str
    _port: int
    _clock: IReactorTime
    _opening: Optional[type[Opening]] = None

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        opening = self._opening or Connect
        asking = opening(self._to_proxy.proxy, self._host, self._port, factory)
        await self._to_proxy.connect(Factory.forProtocol(lambda: asking))
        late = self._clock.callLater(
            ANSWER_WITHIN, asking.fail, ProxyFailed(f"the proxy {self._to_proxy.proxy} is silent")
        )
        try:
            return await asking.opened
        finally:
            if late.active():
                late.cancel()


class Opening(Protocol):
    """
    Asks a proxy for a connection to a host and port, then passes it to the protocol that uses it.

    A subclass has `begin`, which asks, and `look`, which reads what has arrived in ``_head``; they
    call `open` or `fail`.
    """

    def __init__(self, proxy: Proxy, host: str, port: int, factory: IProtocolFactory) -> None:
        self._proxy = proxy
        self._host = host
        self._port = port
        self._made_by = factory
        self._head = b""
        self._inner: Optional[Any] = None
        self.opened: Deferred[IProtocol] = Deferred(lambda _: self._drop())

    def begin(self) -> None:
        """Ask the proxy."""
        raise NotImplementedError

    def look(self) -> None:
        """More of its answer is in ``_head``."""
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        """Write to the proxy."""
        transport: Any = self.transport
        transport.write(data)

    def connectionMade(self) -> None:
        self.begin()

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
        elif not self.opened.called:
            self._head += data
            self.look()

    def open(self, already: bytes) -> None:
        """Start the protocol; ``already`` are the bytes for it that have arrived."""
        transport: Any = self.transport
        address: IAddress = transport.getPeer()
        inner: Any = self._made_by.buildProtocol(address)
        self._inner, self._head = inner, b""
        inner.makeConnection(transport)
        self.opened.callback(inner)
        if already:
            inner.dataReceived(already)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        else:
            self.fail(ProxyFailed(f"the proxy {self._proxy} closed the connection"))

    def fail(self, error: Union[BaseException, Failure]) -> None:
        """Report that the proxy gives no connection."""
        if not self.opened.called:
            self.opened.errback(error)
            self._drop()

    def _drop(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()


class Connect(Opening):
    """Asks an HTTP proxy for a tunnel."""

    def begin(self) -> None:
        target = host_and_port(self._host, self._port)
        lines = [
            f"CONNECT {target} HTTP/1.1",
            f"Host: {target}",
            f"User-Agent: yukari/{__version__}",
        ]
        if self._proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {self._proxy.authorization}")
        self.send("\r\n".join([*lines, "", ""]).encode("ascii"))

    def look(self) -> None:
        end = re.search(rb"\r?\n\r?\n", self._head)
        if end is None and len(self._head) <= LONGEST_HEAD:
            return
        status = _STATUS.match(self._head)
        if end is None or status is None:
            self.fail(ProxyFailed(f"the proxy {self._proxy} does not answer as an HTTP proxy"))
        elif not status[1].startswith(b"2"):
            self.fail(refused(self._proxy, int(status[1]), status[2] or b""))
        else:
            # Some send a page, too. Whoever is behind the tunnel waits to be spoken to.
            self.open(b"")
