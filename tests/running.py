"""
The whole daemon and its emulated upstream, running in a test's own reactor on real sockets.

A test gets both, and clients, from `RunningCase`::

    upstream = await self.upstream("library/m:latest=300KB")
    daemon = await self.daemon(upstream)
    pulled = await self.pull(daemon, "library/m:latest", SMALL16)

Whatever a test leaves open is closed when it ends. Where patience is what a
test is about, `Hurried` makes the daemon's clock run faster than ours.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Coroutine
from hashlib import sha256
from typing import Any, Optional

from attrs import define, field
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface import directlyProvides, providedBy

from tests.clients import (
    CLASSIC3,
    CLASSIC16,
    CLASSIC64,
    LISTS,
    TRANSFER,
    Generation,
    Http,
    Pulled,
    PullFailed,
    Reply,
    pull,
)
from tests.emulator import Emulator, Model
from yukari.config.settings import Settings
from yukari.daemon.service import YukariService
from yukari.fills.fill import Fill
from yukari.fills.machine import State
from yukari.library.library import Library
from yukari.names import Digest
from yukari.web.site import RegistrySite

reactor: Any = _reactor

MODEL = "library/m:latest"
SMALL16 = CLASSIC16.scaled(part_min=50_000, backoff=0.01)
SMALL64 = CLASSIC64.scaled(part_min=50_000, backoff=0.01)
SMALL_TRANSFER = TRANSFER.scaled(backoff=0.01)
SMALL3 = CLASSIC3.scaled(part_min=50_000, backoff=0.01)
SMALL_LISTS = LISTS.scaled(part_min=50_000, backoff=0.01)
GENERATIONS = (SMALL64, SMALL3, SMALL16, SMALL_TRANSFER, SMALL_LISTS)
"""One client of each generation, for blobs of a few hundred kilobytes."""

LOOK = 0.005
"""Seconds between two looks at what a test waits for."""


class _HurriedCall:
    """A delayed call by the hurried clock."""

    def __init__(self, call: Any, times: float) -> None:
        self._call = call
        self._times = times

    def reset(self, seconds: float) -> None:
        self._call.reset(seconds / self._times)

    def delay(self, seconds: float) -> None:
        self._call.delay(seconds / self._times)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


class Hurried:
    """The test's reactor with a clock that runs so many times as fast."""

    def __init__(self, times: float) -> None:
        self._times = times
        directlyProvides(self, providedBy(reactor))

    def seconds(self) -> float:
        return float(reactor.seconds() * self._times)

    def callLater(self, delay: float, *call: Any, **keywords: Any) -> _HurriedCall:
        return _HurriedCall(reactor.callLater(delay / self._times, *call, **keywords), self._times)

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


async def until(holds: Callable[[], object]) -> None:
    """Returns when ``holds()`` is true; a test's own timeout is the bound."""
    while not holds():
        await deferLater(reactor, LOOK, lambda: None)


async def settle() -> None:
    """
    Return when what was on its way on loopback has come, and what that began.

    Counts turns of the reactor, because the clock runs on when this process does not.
    """
    for _ in range(10):
        await deferLater(reactor, LOOK / 2, lambda: None)


async def until_sent(upstream: Emulator, count: float) -> None:
    """Return when upstream has sent so many bytes of blobs."""
    await until(lambda: upstream.counters.sent >= count)


@define(eq=False)
class Daemon:
    """A `YukariService` that runs here; made by `RunningCase.daemon`."""

    service: YukariService
    _channels: set[Any] = field(factory=set, init=False)
    _running: bool = field(default=False, init=False)

    @property
    def url(self) -> str:
        """Its URL, without a slash at the end."""
        address = self.service.ports[0].getHost()
        return f"http://{address.host}:{address.port}"  # type: ignore[attr-defined]

    @property
    def library(self) -> Library:
        return self.service.parts.library

    def fill(self, digest: str) -> Optional[Fill]:
        """Return the blob's fill, None if there is none."""
        return self.library.fills.get(Digest.parse(digest))

    def start(self) -> None:
        """As twistd does."""
        self._watch_channels()
        self.service.privilegedStartService()
        self.service.startService()
        self._running = True

    async def stop(self) -> None:
        """As twistd does, and then, as the end of the process would, drop the connections."""
        if self._running:
            self._running = False
            await self.service.stopService()
            for channel in list(self._channels):
                channel.forceAbortClient()
            await until(lambda: not self._channels)

    def _watch_channels(self) -> None:
        for site in self.service.parts.sites.values():
            self._watch(site)

    def _watch(self, site: RegistrySite) -> None:
        build = site.buildProtocol

        def watched(address: Any) -> Any:
            channel: Any = build(address)
            lost = channel.connectionLost
            self._channels.add(channel)

            def gone(reason: Any) -> None:
                self._channels.discard(channel)
                lost(reason)

            channel.connectionLost = gone
            return channel

        site.buildProtocol = watched  # type: ignore[method-assign]

    async def idle(self) -> None:
        """Return when nothing is being fetched any more."""
        await until(lambda: is_idle(self.library))


def is_idle(library: Library) -> bool:
    """
    Whether nothing is fetched, or about to be, without a client.

    After a reader of a blob that is in the bucket, and has no room on the disk, its fill rests.
    """
    stored, suspended = library.filling.is_stored, State.SUSPENDED
    fetching = [
        fill for fill in library.fills.values() if fill.state is not suspended or not stored(fill)
    ]
    return not fetching and not len(library.prefetch.running)


class RunningCase(TestCase):
    """Tests of the whole daemon."""

    timeout = 180
    """Seconds; a bound on what hangs, far above what a busy machine needs."""

    async def upstream(self, *models: str, **settings: Any) -> Emulator:
        """Start an emulated registry with these models, or with one of three layers."""
        made = await Emulator.start(
            reactor, models or [f"{MODEL}=400KB,3000,10"], directory=os.getcwd(), **settings
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(made.stop()))
        return made

    def settings(self, upstream: Emulator, **flags: Any) -> Settings:
        """
        Return a daemon's settings: flags with _ for -; a store of its own unless one is given.
        """
        given = {
            "bind": "127.0.0.1:0",
            "upstream_registry": upstream.url,
            "upstreams": "none",
            "storage": flags.get("storage") or os.path.abspath(self.mktemp()),
            "min_free": "0",
            "grace": "0",
            "scrub_period": "0",
            **flags,
        }
        return Settings.read({name.replace("_", "-"): text for name, text in given.items()}, {})

    async def daemon(
        self,
        upstream: Emulator,
        *,
        clock: Any = reactor,
        service: Callable[..., YukariService] = YukariService,
        **flags: Any,
    ) -> Daemon:
        """A running daemon, of the kind that ``service`` makes."""
        made = Daemon(service(clock, self.settings(upstream, **flags)))
        made.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(made.stop()))
        return made

    async def restarted(self, daemon: Daemon, upstream: Emulator, **flags: Any) -> Daemon:
        """Stop the daemon, and start another on the same store."""
        await daemon.stop()
        storage = daemon.service._settings.storage
        return await self.daemon(upstream, storage=storage, **flags)

    async def pull(
        self, daemon: Daemon, model: str = MODEL, generation: Generation = SMALL16
    ) -> Pulled:
        """A pull through the daemon; raises `PullFailed`."""
        pulling = self.begin(pull(reactor, daemon.url, model, generation, directory=os.getcwd()))
        self.addCleanup(pulling.cancel)  # It would outlive a test that timed out.
        pulled: Pulled = await pulling
        return pulled

    async def failing(self, pulling: Awaitable[Pulled]) -> str:
        """Return the error that the user sees of a pull that must fail."""
        try:
            await pulling
        except PullFailed as failed:
            return str(failed)
        self.fail("the pull went through")

    async def under_way(self, **flags: Any) -> tuple[Emulator, Daemon]:
        """
        Start a daemon and a pull, with the config stored and many bytes still to fetch; they hardly
        come until the upstream's ``line`` is another.
        """
        upstream = await self.upstream(f"{MODEL}=2MB", line=400_000)
        daemon = await self.daemon(upstream, **flags)
        self.begin(self.pull(daemon)).addErrback(lambda _: None)
        await until(lambda: upstream.counters.sent > 100_000 and len(daemon.library.fills) == 1)
        upstream.settings.line = 1000
        return upstream, daemon

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        """Let it run beside the test, which cancels or awaits it."""
        return Deferred.fromCoroutine(coroutine)

    def http(self) -> Http:
        """A client for single requests."""
        http = Http(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(http.close()))
        return http

    async def ask(
        self, url: str, headers: Optional[dict[str, str]] = None, method: str = "GET"
    ) -> tuple[Reply, bytes]:
        """Send one request on a connection of its own; return the reply and its whole body."""
        http = Http(reactor)
        try:
            reply = await http.open(method, url, headers or {})
            return reply, await reply.body()
        finally:
            await http.close()

    def assert_whole(self, pulled: Pulled, model: Model) -> None:
        """The client has the manifest's very bytes and every blob, right."""
        self.assertEqual(pulled.manifest, model.manifest_bytes)
        self.assertEqual({d: b.size for d, b in pulled.blobs.items()}, dict(model.blobs))
        self.assertTrue(all(blob.ok for blob in pulled.blobs.values()))

    def assert_sent_once(self, upstream: Emulator, *models: Model) -> None:
        """Upstream has sent every byte of these models' blobs once, and no other."""
        expected = dict(blob for model in models for blob in model.blobs)
        self.assertEqual(dict(upstream.counters.sent_by_digest), expected)

    def assert_stored(self, daemon: Daemon, model: Model) -> None:
        """The store's files hold the model's blobs."""
        for digest, size in model.blobs:
            path = stored_at(daemon, digest)
            self.assertEqual(os.path.getsize(path), size)
            with open(path, "rb") as opened:
                self.assertEqual(f"sha256:{sha256(opened.read()).hexdigest()}", digest)


def stored_at(daemon: Daemon, digest: str) -> str:
    """The path of a blob's file, once it is stored."""
    blobs = os.path.join(daemon.service._settings.storage, "blobs")
    return os.path.join(blobs, digest.replace(":", "-"))
