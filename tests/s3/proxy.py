"""A TCP proxy in front of an S3 server, that does what networks and busy servers do."""

from __future__ import annotations

from collections import deque
from socket import socket
from typing import Any, Optional, Union

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol

from tests.emulator import kept_port

SLOW_DOWN = (
    b'<?xml version="1.0"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)


def reply(status: int, body: bytes = b"", *headers: bytes) -> bytes:
    """An answer that is the proxy's own, behind which it closes the connection."""
    lines = [b"HTTP/1.1 %d Fault" % status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"Connection: close", b"", body])


@frozen
class Cut:
    """Close both ends after so many bytes of the answer."""

    after: int


@frozen
class Stall:
    """Pass on only so many bytes of the answer."""

    after: int


@frozen
class Lose:
    """Pass the request on, and close when the answer arrives: it was done, and nobody knows."""


Fault = Union[bytes, Cut, Stall, Lose]
_VERBS = (b"GET ", b"PUT ", b"HEAD ", b"POST ", b"DELETE ")


@define(eq=False)
class Proxy(Factory):  # type: ignore[misc]
    """
    Each request takes one of `faults` until there are none; only requests whose first line contains
    ``only`` do.
    """

    _reactor: Any
    _target: int
    faults: deque[Fault] = field(factory=deque)
    only: bytes = b""
    rate: Optional[float] = None
    """Bytes a second that a connection takes in, None for all there are."""
    requests: list[bytes] = field(factory=list)
    """The first line of each."""
    open: set[Any] = field(factory=set)
    port: Any = None
    _number: int = field(default=0, init=False)
    _kept: Optional[socket] = field(default=None, init=False)

    async def start(self) -> str:
        """Listen, on the same port as before if there was one, and return the URL."""
        if self._kept is not None:
            self._kept.close()
        self.port = self._reactor.listenTCP(self._number, self, interface="127.0.0.1")
        self._number = self.port.getHost().port
        return f"http://127.0.0.1:{self._number}"

    async def stop(self) -> None:
        """Cut all connections and refuse new ones; harmless when repeated."""
        for each in list(self.open):
            each.transport.abortConnection()
        await maybeDeferred(self.port.stopListening)
        if self._kept is None or self._kept.fileno() < 0:
            self._kept = kept_port("127.0.0.1", self._number)

    def buildProtocol(self, _: Any) -> Protocol:
        return _Near(self)


class _Near(Protocol):
    """The client's side."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.far: Optional[_Far] = None
        self.held: list[bytes] = []
        self.fault: Optional[Fault] = None
        self.passed = 0

    def connectionMade(self) -> None:
        self.proxy.open.add(self)
        endpoint = TCP4ClientEndpoint(self.proxy._reactor, "127.0.0.1", self.proxy._target)
        factory = Factory.forProtocol(lambda: _Far(self))
        connected: Deferred[Any] = endpoint.connect(factory)
        connected.addCallbacks(self.joined, lambda _: self.transport.abortConnection())

    def joined(self, far: _Far) -> None:
        self.far = far
        for data in self.held:
            far.transport.write(data)
        self.held.clear()

    def dataReceived(self, data: bytes) -> None:
        if data.startswith(_VERBS):
            line = data.partition(b"\r\n")[0]
            self.proxy.requests.append(line)
            self.passed, self.fault = 0, None
            if self.proxy.faults and self.proxy.only in line:
                self.fault = self.proxy.faults.popleft()
        if isinstance(self.fault, bytes):
            if self.fault:
                self.transport.write(self.fault)
                self.fault = b""
            self.transport.loseConnection()
            return
        if self.proxy.rate:
            self.transport.pauseProducing()
            wait = len(data) / self.proxy.rate
            self.proxy._reactor.callLater(wait, self.transport.resumeProducing)
        if self.far is None:
            self.held.append(data)
        else:
            self.far.transport.write(data)

    def answered(self, data: bytes) -> None:
        if isinstance(self.fault, Lose):
            self.transport.abortConnection()
        elif isinstance(self.fault, (Cut, Stall)):
            data = data[: max(0, self.fault.after - self.passed)]
            self.passed += len(data)
            self.transport.write(data)
            if isinstance(self.fault, Cut) and self.passed >= self.fault.after:
                self.transport.loseConnection()
        else:
            self.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.proxy.open.discard(self)
        if self.far is not None:
            self.far.transport.abortConnection()


class _Far(Protocol):
    """The server's."""

    def __init__(self, near: _Near) -> None:
        self.near = near

    def dataReceived(self, data: bytes) -> None:
        self.near.answered(data)

    def connectionLost(self, reason: Any = None) -> None:
        if not isinstance(self.near.fault, Stall):
            self.near.transport.loseConnection()
