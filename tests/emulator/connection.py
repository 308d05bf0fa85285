"""HTTP/1.1 by hand, so that an answer can be wrong at any byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Factory, Protocol

from tests.emulator.answers import Answer
from tests.emulator.counters import Request
from tests.emulator.sender import Sender

if TYPE_CHECKING:
    from tests.emulator.emulator import Emulator


class Connection(Protocol):
    """One client's connection to one of the hosts."""

    def __init__(self, emulator: Emulator, side: str) -> None:
        self.emulator = emulator
        self._side = side
        self._received = b""
        self._request: Request | None = None
        self._answer: Answer | None = None
        self._later: Any = None

    def connectionMade(self) -> None:
        self._transport.setTcpNoDelay(True)
        self.emulator.connected(self, self._side)

    def connectionLost(self, reason: object = None) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._done()
        self.emulator.disconnected(self, self._side)

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        if self._request is None:
            self._next()

    def abort(self) -> None:
        """Close at once, by RST."""
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def answered(self) -> None:
        """The whole answer has been handed over."""
        closes = self._answer is None or self._answer.closes
        self._done()
        if closes:
            self._transport.loseConnection()
        else:
            self._next()

    @property
    def _transport(self) -> Any:
        return self.transport

    def _done(self) -> None:
        request, self._request = self._request, None
        if request is not None:
            self.emulator.finished(request)

    def _next(self) -> None:
        request = self._parsed()
        if request is None:
            return
        self._request = request
        self._answer = answer = self.emulator.answer(request)
        if answer.silent:
            self.emulator.hold(self._send)
        elif answer.delay > 0:
            self._later = self.emulator.reactor.callLater(answer.delay, self._send)
        else:
            self._send()

    def _send(self) -> None:
        self._later = None
        answer = self._answer
        if self._request is None or answer is None:
            return
        if not answer.head:
            self._done()
            self._transport.loseConnection()
            return
        self._transport.write(answer.head)
        Sender(self, answer).start()

    def _parsed(self) -> Request | None:
        head, ended, rest = self._received.partition(b"\r\n\r\n")
        if not ended:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return None
        self._received = rest[length:]
        method, target, version = first.split(" ")
        keeps = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        peer = self._transport.getPeer().host
        return Request(
            method, target, headers, rest[:length], keeps_alive=keeps, peer=peer, side=self._side
        )


class Side(Factory):
    """Listens as one of the hosts."""

    noisy = False

    def __init__(self, emulator: Emulator, side: str) -> None:
        self._emulator = emulator
        self._side = side

    def buildProtocol(self, addr: object) -> Connection:
        return Connection(self._emulator, self._side)
