"""
Keeping what is stored fresh, without ever losing it.

Every period a look goes through the stored manifests and asks upstream about
those whose last check is older than their lifetime; and a manifest that is
pulled is asked about behind the puller's back. Where upstream has another one
by now, its blobs are filled first and then it takes the old one's place in one
step. Whatever else upstream says, or does not say, changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Optional
from zlib import crc32

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredSemaphore, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from yukari.errors import RegistryError
from yukari.library import Library
from yukari.manifest import Manifest
from yukari.metrics import Metrics
from yukari.names import ModelName, Tag
from yukari.storage.interface import NoRoom, StoredManifest

log = Logger()

AT_ONCE = 5
"""Manifests that are asked about at the same time."""
PAGE = 500
"""Manifests that are listed at a time."""
JITTER = 0.1
"""
The part of a lifetime over which due times are spread, so that what was stored together is not due
together.
"""
RETRY_FIRST = 60.0
"""Seconds after which a check that failed may be tried again, doubling up to a lifetime."""

Key = tuple[ModelName, Tag]


@define
class _Failed:
    """How often a check has failed in a row, and when the next may be."""

    times: int
    again_at: float


@define(eq=False)
class Revalidator:
    """Times are in seconds; ``refresh_after`` 0 means that pulls check nothing."""

    _library: Library
    _clock: IReactorTime
    _period: float
    _lifetime: float
    _refresh_after: float
    _now: Callable[[], float] = time.time
    _metrics: Metrics = field(factory=Metrics)
    _loop: LoopingCall = field(init=False)
    _checking: dict[Key, Deferred[None]] = field(factory=dict, init=False)
    _failed: dict[Key, _Failed] = field(factory=dict, init=False)
    _few: DeferredSemaphore = field(factory=lambda: DeferredSemaphore(AT_ONCE), init=False)
    _looking: Optional[Deferred[None]] = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._loop = LoopingCall(self._look_once)
        self._loop.clock = self._clock

    def start(self) -> None:
        """Look now, and again every period; a look that takes longer delays the next."""
        self._loop.start(self._period, now=True)

    async def stop(self) -> None:
        """Look no more; a check under way is given up, and nothing of it is stored."""
        self._stopped = True
        if self._loop.running:
            self._loop.stop()
        for running in [self._looking, *self._checking.values()]:
            if running is not None:
                running.cancel()

    def _look_once(self) -> Deferred[None]:
        self._looking = Deferred.fromCoroutine(self.look())
        return self._looking.addErrback(
            lambda failure: None if self._stopped else log.failure("a look failed", failure)
        )

    async def look(self) -> None:
        """Ask about every manifest that is due; returns when all are answered."""
        after: Optional[Key] = None
        asked: list[Deferred[Any]] = []
        while not self._stopped:
            page = await self._library.store.manifests(after, PAGE)
            if not page:
                break
            for entry in page:
                key = entry.name, entry.tag
                if self._is_due(key, entry.checked_at) and self._library.rules.allow(entry.name):
                    asked.append(self._few.run(self._check, key))
            after = page[-1].name, page[-1].tag
            # One page a turn of the reactor, and no more checks queued than a page has.
            await deferLater(self._clock, 0)
            if len(asked) >= PAGE:
                await _all(asked)
                asked = []
        await _all(asked)

    def _is_due(self, key: Key, checked_at: float) -> bool:
        part = crc32(f"{key[0]}:{key[1]}".encode()) / 2**32
        return self._now() - checked_at >= self._lifetime * (1 - JITTER * part) and self._may_try(
            key
        )

    def _may_try(self, key: Key) -> bool:
        failed = self._failed.get(key)
        return failed is None or self._now() >= failed.again_at

    def pulled(self, name: ModelName, tag: Tag, stored: StoredManifest) -> None:
        """
        A stored manifest was asked for: see behind the asker's back whether there is a newer one.
        """
        key = name, tag
        if self._stopped or not self._refresh_after or key in self._checking:
            return
        if self._now() - stored.checked_at < self._refresh_after or not self._may_try(key):
            return
        self._few.run(self._check, key)

    def is_stale(self, name: ModelName, tag: Tag, stored: StoredManifest) -> bool:
        """Whether it is past its lifetime because the last try to check it failed."""
        return (name, tag) in self._failed and self._now() - stored.checked_at >= self._lifetime

    def _check(self, key: Key) -> Deferred[None]:
        """One check at a time of each manifest; never fails."""
        if self._stopped:
            return succeed(None)
        running = self._checking.get(key)
        if running is None:
            running = Deferred.fromCoroutine(self._check_now(*key))
            if not running.called:
                self._checking[key] = running
            running.addBoth(self._checked, key)
        shared: Deferred[None] = Deferred()
        running.addCallback(lambda _: shared.callback(None))
        return shared

    def _checked(self, result: Any, key: Key) -> None:
        self._checking.pop(key, None)
        error = getattr(result, "value", None)
        if error is None:
            self._failed.pop(key, None)
            return
        if self._stopped:
            return
        self._metrics.revalidated("failed")
        times = self._failed[key].times + 1 if key in self._failed else 1
        wait = min(self._lifetime, max(RETRY_FIRST, self._period) * 2 ** min(times - 1, 20))
        self._failed[key] = _Failed(times, self._now() + wait)
        if isinstance(error, (RegistryError, OSError, NoRoom)):
            log.warn(
                "{name}:{tag}: not checked, kept as it is: {error}",
                name=str(key[0]),
                tag=str(key[1]),
                error=str(error),
            )
        else:
            log.failure("{name}:{tag}: checking", result, name=str(key[0]), tag=str(key[1]))

    async def _check_now(self, name: ModelName, tag: Tag) -> None:
        library = self._library
        stored = await library.store.get_manifest(name, tag)
        if stored is None:
            return  # An operator has removed it meanwhile.
        agent = library.user_agent
        there = await library.upstream.manifest_digest(name, tag, agent)
        fresh: Optional[Manifest] = None
        if there is None or there != stored.manifest.digest:
            fresh = await library.upstream.manifest(name, tag, agent)
            there = fresh.digest
        if there == stored.manifest.digest:
            await library.store.touch_manifest(name, tag, there, self._now())
            self._metrics.revalidated("same")
            return
        assert fresh is not None
        await library.bring_whole(name, fresh)
        await library.store.put_manifest(name, tag, fresh, self._now())
        self._metrics.revalidated("replaced")
        log.info("{name}:{tag}: now {digest}", name=str(name), tag=str(tag), digest=str(there))


async def _all(waiting: list[Deferred[Any]]) -> None:
    for each in waiting:
        await each
