"""The emulated upstream: its hosts, its life, and what tests wait for."""

from __future__ import annotations

import random
import socket
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from tests.emulator.answers import Answer
from tests.emulator.challenge import Challenger
from tests.emulator.connection import Connection, Side
from tests.emulator.content import Content
from tests.emulator.control import Control
from tests.emulator.counters import Counters, Request
from tests.emulator.faults import Faults
from tests.emulator.models import Catalog, ModelSpec
from tests.emulator.registry import Registry
from tests.emulator.sender import Line
from tests.emulator.settings import Settings
from tests.emulator.store import Store


def kept_port(host: str, port: int) -> socket.socket:
    """Keep a port that refuses connections, so that nobody else gets it meanwhile."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind((host, port))
    return kept


class Emulator(Catalog):
    """The registry, its store and another host of the registry's; made by `start`."""

    def __init__(self, reactor: Any, *, seed: int, directory: str | None, settings: Settings):
        super().__init__(Content(directory))
        self.reactor = reactor
        self.settings = settings
        self.counters = Counters()
        self.faults = Faults(random.Random(seed))
        self.line = Line(reactor, settings)
        self.challenger = Challenger(reactor, settings, self.counters)
        self.store = Store(self)
        self.log: deque[Request] = deque(maxlen=20_000)
        """The newest requests, as they came."""
        self._registry = Registry(self)
        self._control = Control(self)
        self._addresses = {"registry": ("", 0), "store": ("", 0), "other": ("", 0)}
        self._ports: dict[str, Any] = {}
        self._refusing: dict[str, socket.socket] = {}
        self._connections: set[Connection] = set()
        self._quiet: list[Deferred[None]] = []
        self._held: list[Callable[[], None]] = []
        self._holds = 0
        self._waiters: list[tuple[Callable[[], bool], Deferred[None]]] = []

    @classmethod
    async def start(
        cls,
        reactor: Any,
        models: Iterable[ModelSpec | str | Mapping[str, Any]] = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        store_host: str = "127.0.0.2",
        store_port: int = 0,
        other_host: str = "127.0.0.3",
        other_port: int = 0,
        seed: int = 0,
        directory: str | None = None,
        **settings: Any,
    ) -> Emulator:
        """
        Listen, with these models; ``settings`` are those of `Settings`.

        ``seed`` decides the faults that happen with a probability, ``directory``
        is where the content's temporary file lies.
        """
        made = cls(reactor, seed=seed, directory=directory, settings=Settings(**settings))
        for model in models:
            spec = ModelSpec.of(model)
            made.add_model(spec.name, spec.sizes, seed=spec.seed)
        made._addresses = {
            "registry": (host, port),
            "store": (store_host, store_port),
            "other": (other_host, other_port),
        }
        made.up()
        return made

    async def stop(self) -> None:
        """Close everything; returns when the reactor holds nothing of this any more."""
        await self.down()
        self._control.stop()
        while self._refusing:
            self._refusing.popitem()[1].close()
        waiters, self._waiters = self._waiters, []
        for _, waiter in waiters:
            waiter.cancel()
        self.content.close()

    @property
    def url(self) -> str:
        """The registry's, without a slash at the end."""
        return self._url("registry")

    @property
    def store_url(self) -> str:
        """The store's, without a slash at the end."""
        return self._url("store")

    @property
    def other_url(self) -> str:
        """The URL of the registry's other host, for realms and redirects."""
        return self._url("other")

    def _url(self, side: str) -> str:
        return "http://{}:{}".format(*self._addresses[side])

    # Up and down.

    def up(self) -> None:
        """Listen, on the same ports as before."""
        for side, (host, port) in self._addresses.items():
            if side not in self._ports:
                if side in self._refusing:
                    self._refusing.pop(side).close()
                listening = self.reactor.listenTCP(port, Side(self, side), 1024, host)
                self._ports[side] = listening
                self._addresses[side] = (host, listening.getHost().port)

    async def down(self) -> None:
        """Refuse connections and reset those there are."""
        ports, self._ports = self._ports, {}
        for side, port in ports.items():
            await maybeDeferred(port.stopListening)
            self._refusing[side] = kept_port(*self._addresses[side])
        self.reset_connections()
        if self._connections:
            quiet: Deferred[None] = Deferred()
            self._quiet.append(quiet)
            await quiet

    def reset_connections(self) -> None:
        """Cut every connection now, in the middle of whatever it does."""
        for connection in list(self._connections):
            connection.abort()

    def connected(self, connection: Connection, side: str) -> None:
        self._connections.add(connection)
        if side == "store":
            counters = self.counters
            counters.store_connections += 1
            counters.store_connections_peak = max(
                counters.store_connections_peak, counters.store_connections
            )

    def disconnected(self, connection: Connection, side: str) -> None:
        self._connections.discard(connection)
        if side == "store":
            self.counters.store_connections -= 1
        if not self._connections:
            quiet, self._quiet = self._quiet, []
            for waiting in quiet:
                waiting.callback(None)

    # Holding and waiting.

    def expire_urls(self) -> None:
        """Every signed URL given out until now answers 403."""
        self.store.expire()

    def hold(self, release: Callable[[], None]) -> None:
        self._held.append(release)
        self._holds += 1
        self._look()

    def release(self) -> None:
        """Let every answer that a ``silence`` or ``stall`` holds go on."""
        held, self._held = self._held, []
        for release in held:
            release()

    def until(self, holds: Callable[[], bool]) -> Deferred[None]:
        """Fires when ``holds()`` is true: it is asked at each request, answer's end and hold."""
        waiter: Deferred[None] = Deferred()
        self._waiters.append((holds, waiter))
        self._look()
        return waiter

    def seen(self, kind: str, count: int = 1) -> Deferred[None]:
        """Fires when ``count`` requests of a kind and method (``store GET``) have come."""
        return self.until(lambda: self.counters.requests[kind] >= count)

    def stalled(self, count: int = 1) -> Deferred[None]:
        """Fires when ``silence`` and ``stall`` have held ``count`` answers since the start."""
        return self.until(lambda: self._holds >= count)

    def idle(self) -> Deferred[None]:
        """Fires when no blob body is being sent."""
        return self.until(lambda: self.counters.blob_requests == 0)

    def _look(self) -> None:
        for entry in [entry for entry in self._waiters if entry[1].called or entry[0]()]:
            if entry in self._waiters:
                self._waiters.remove(entry)
                if not entry[1].called:
                    entry[1].callback(None)

    def finished(self, request: Request) -> None:
        """The request's answer has ended, or its client has gone."""
        if request.span is not None:
            self.counters.blob_requests -= 1
        self._look()

    # Answers.

    def answer(self, request: Request) -> Answer:
        """The answer to a request that has just come."""
        answer = self._registry.answer(request)
        self._look()
        return answer

    def signed(self, digest: str, method: str = "GET") -> str:
        """A URL of the store that serves the blob for a while."""
        return self.store.signed(digest, method)

    def control(self, orders: Mapping[str, Any]) -> None:
        """Carry out orders; see `Control.carry_out`."""
        self._control.carry_out(orders)

    def controlled(self, path: str, request: Request) -> Answer:
        """The answer to another process's order."""
        return self._control.answer(path, request)

    def described(self) -> dict[str, Any]:
        """Return its addresses and models, for the line that is printed when it is ready."""
        models = {
            name: {
                "digest": model.digest,
                "size": model.size,
                "layers": model.layers,
                "config": model.config,
            }
            for name, model in self.models.items()
        }
        return {
            "registry": self.url,
            "store": self.store_url,
            "other": self.other_url,
            "models": models,
        }
