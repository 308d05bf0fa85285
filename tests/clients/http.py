"""Requests over a small pool of connections."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.internet.protocol import Factory

from tests.clients.results import ClientError, Lost
from tests.clients.wire import Reply, Wire


class Dialler(Factory):
    """Makes the connections of a pool."""

    noisy = False

    def __init__(self, http: Http, key: tuple[str, int]) -> None:
        self._http = http
        self._key = key

    def buildProtocol(self, addr: object) -> Wire:
        return Wire(self._http, self._key)


class Http:
    """Requests over a pool of connections that keeps, as Go does, a few idle ones per host."""

    def __init__(self, reactor: Any, idle_per_host: int = 2) -> None:
        self.reactor = reactor
        self._idle_per_host = idle_per_host
        self._idle: dict[tuple[str, int], list[Wire]] = {}
        self._open: set[Wire] = set()
        self._empty: list[Deferred[None]] = []

    async def open(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes = b"",
        *,
        seconds: float | None = None,
    ) -> Reply:
        """Ask, and give the reply once its head has come, within ``seconds``."""
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ClientError(f"unsupported protocol scheme in {url!r}")
        key = (parts.hostname, parts.port or 80)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        sent = {"Host": parts.netloc, **headers}
        lines = [
            f"{method} {target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in sent.items()),
        ]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
        while self._idle.get(key):
            try:
                return await self._idle[key].pop().ask(method, head, seconds)
            except Lost as error:
                if not error.silent:
                    raise
        endpoint = TCP4ClientEndpoint(self.reactor, *key)
        try:
            wire: Any = await endpoint.connect(Dialler(self, key))
        except ConnectingCancelledError:
            raise CancelledError from None  # as in every other moment
        except (OSError, ConnectError) as error:
            raise Lost(f"dial tcp {parts.netloc}: {error}") from None
        reply: Reply = await wire.ask(method, head, seconds)
        return reply

    async def close(self) -> None:
        """Drop every connection; returns when they are gone."""
        for wire in list(self._open):
            wire.drop()
        if self._open:
            empty: Deferred[None] = Deferred()
            self._empty.append(empty)
            await empty

    def opened(self, wire: Wire) -> None:
        self._open.add(wire)

    def closed(self, wire: Wire, key: tuple[str, int]) -> None:
        self._open.discard(wire)
        if wire in self._idle.get(key, ()):
            self._idle[key].remove(wire)
        if not self._open:
            empty, self._empty = self._empty, []
            for waiting in empty:
                waiting.callback(None)

    def idle(self, wire: Wire, key: tuple[str, int]) -> None:
        kept = self._idle.setdefault(key, [])
        if len(kept) < self._idle_per_host:
            kept.append(wire)
        else:
            wire.drop()
