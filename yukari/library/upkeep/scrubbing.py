"""
Reading stored blobs again, to find those whose bytes have changed since they were stored.

Copies that were never found right are read first, then the one that was found right longest ago.
The catalog has the times, so a restart continues where the last process was. On average, reading
everything in a place takes about its period. While the daemon is idle, a blob is read at
`IDLE_RATE`, and the pause before the next one is longer.

A wrong copy is taken away, and the blob is fetched again if upstream still has it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import sha256
from typing import Optional

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.errors import RegistryError
from yukari.fills.fill import Fill
from yukari.library.catalog.catalog import Catalog, CatalogUnusable
from yukari.library.catalog.file import CatalogFile
from yukari.library.events import Observer
from yukari.library.library import Library
from yukari.metrics import Metrics
from yukari.names import Digest, Repository, Tag
from yukari.spans import Span
from yukari.storage.inventory import Copies, OpenCopy
from yukari.storage.ports import NoRoom
from yukari.tasks import Background

log = Logger()

HEADROOM = 1.25
"""Factor by which a place is read faster than its period requires, to make up for delays."""
IDLE_RATE = 4_000_000.0
"""Bytes a second at which a blob is read while nothing is fetched or sent."""
AT_LEAST_APART = 0.1
"""The part of the period that passes at least between two reads of the same copy."""
LOOK_EVERY = 600.0
"""Seconds between two looks for something to read if there was nothing."""
START_AFTER = 60.0
"""Seconds from the start to the first read; a hundredth of the period if that is less."""
MAX_TAGS = 20
"""Tags that upstream is asked about for one wrong blob."""
FETCHED = "it is fetched again"
"""The log's words for a wrong blob whose copy, set aside, goes once the right one is stored."""


@frozen
class ScrubStatus:
    """How far the copies in one place are read; times in seconds of the epoch."""

    place: str
    """``disk`` or ``bucket``."""
    period: float
    """Seconds."""
    verified_since: Optional[float]
    """Every copy was found right since then; None if some never was, or none was looked at yet."""
    read: int
    """Bytes read since the start."""
    damaged: int
    """Wrong or unreadable copies found since the start."""


@define(eq=False, kw_only=True)
class Scrubber(Observer):
    """
    Reads all copies in one place within each ``period``, in seconds.

    ``is_busy`` says whether blobs are being fetched or sent; ``may_check`` whether upstream is
    asked about a tag; ``now`` returns seconds of the epoch.
    """

    copies: Copies
    period: float
    _library: Library
    _catalog: Catalog
    _clock: IReactorTime
    _is_busy: Callable[[], bool]
    _may_check: Callable[[Repository, Tag], bool] = lambda *_: True
    _metrics: Metrics = field(factory=Metrics)
    _now: Callable[[], float] = time.time
    _running: Optional[Deferred[None]] = field(default=None, init=False)
    _dropping: Background = field(factory=Background, init=False)
    _verified_since: Optional[float] = field(default=None, init=False)
    _read: int = field(default=0, init=False)
    _damaged: int = field(default=0, init=False)
    _total: int = field(default=0, init=False)
    """Bytes of all copies."""
    _ahead: float = field(default=0.0, init=False)
    """Bytes that were read beyond the average rate."""
    _at: float = field(default=0.0, init=False)
    """When ``_ahead`` was updated, by the clock."""

    def start(self) -> None:
        """Begin to read, after `START_AFTER` at most."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._ended)

    def stop(self) -> None:
        """Stop reading."""
        self._dropping.stop()
        running, self._running = self._running, None
        if running is not None:
            running.cancel()

    def status(self) -> ScrubStatus:
        """Return how far the copies are read."""
        place = self.copies.place
        return ScrubStatus(place, self.period, self._verified_since, self._read, self._damaged)

    def blob_stored(self, digest: Digest, size: int) -> None:
        if self._running is not None:
            self._dropping.start(digest, self.copies.drop(digest), _not_dropped)

    def _ended(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            log.failure("reading stored blobs again", failure)

    async def _run(self) -> None:
        await self._sleep(min(START_AFTER, self.period / 100))
        while True:
            try:
                found = await self._next()
                if found is None:
                    await self._sleep(min(LOOK_EVERY, AT_LEAST_APART * self.period))
                else:
                    await self.scrub(found)
            except (CatalogUnusable, OSError) as error:
                log.warn("stored blobs are not read again: {error}", error=str(error))
                await self._sleep(min(LOOK_EVERY, self.period))
            except CancelledError:
                raise
            except Exception:
                log.failure("reading stored blobs again")
                await self._sleep(min(LOOK_EVERY, self.period))
            await self._rest()

    async def _next(self) -> Optional[Digest]:
        """Return the blob whose turn it is; None if each was read lately."""
        found = await self._catalog.run(
            CatalogFile.longest_unverified, self.copies.place, self.copies.among()
        )
        if found is None:
            return None
        self._verified_since, self._total = found.at, found.total
        age = self._now() - (found.at or 0.0)
        return None if 0 <= age < AT_LEAST_APART * self.period else found.digest

    async def scrub(self, digest: Digest) -> None:
        """Read the copy of a blob, and mend it if it is wrong. `CatalogUnusable`, OSError."""
        copy = await self.copies.open(digest)
        if copy is not None:
            try:
                await self._check(digest, copy)
            finally:
                copy.close()
        # A copy that is gone or cannot be read is tried again in the next round too.
        await self._catalog.run(CatalogFile.verified, self.copies.place, digest, self._now())

    # reading

    async def _check(self, digest: Digest, copy: OpenCopy) -> None:
        try:
            found = await self._hash(copy)
            if found != digest:
                # Read it again: it may have been replaced, or the first read may have been wrong.
                found = await self._hash(copy)
        except OSError as error:
            self._count_damaged()
            log.error(
                "{digest}: cannot be read from the {place}: {error}",
                digest=str(digest),
                place=self.copies.place,
                error=str(error),
            )
            return
        if found != digest:
            try:
                await self._replace(digest, found, copy)
            except (NoRoom, OSError) as error:
                log.error(
                    "{digest}: wrong, and no right copy can be stored: {error}",
                    digest=str(digest),
                    error=str(error),
                )

    async def _hash(self, copy: OpenCopy) -> Digest:
        hashed, done = sha256(), 0
        while done < copy.size:
            span = Span(done, min(copy.size, done + self.copies.step))
            began = self._clock.seconds()
            await copy.hash(hashed, span)
            done = span.end
            self._read += len(span)
            self._metrics.scrubbed(len(span))
            self._reckon(len(span))
            took = self._clock.seconds() - began
            await self._sleep(max(0.0, len(span) / self._rate() - took))
        return Digest(hashed.hexdigest())

    @property
    def _average(self) -> float:
        """Bytes a second that read everything in the period."""
        return max(1.0, HEADROOM * self._total / self.period)

    def _rate(self) -> float:
        """Bytes a second at which a blob is read now."""
        return self._average if self._is_busy() else max(self._average, IDLE_RATE)

    def _reckon(self, count: int = 0) -> None:
        """Note that ``count`` bytes were read, and that time has passed."""
        now = self._clock.seconds()
        self._ahead = max(0.0, self._ahead - (now - self._at) * self._average) + count
        self._at = now

    async def _rest(self) -> None:
        """Wait until reading is no longer ahead of the average rate."""
        self._reckon()
        while self._ahead >= 1:  # byte; a clock may not show the time that a part of one takes
            await self._sleep(min(LOOK_EVERY, self._ahead / self._average))
            self._reckon()

    async def _sleep(self, seconds: float) -> None:
        await deferLater(self._clock, seconds)

    # mending

    def _count_damaged(self) -> None:
        self._damaged += 1
        self._metrics.damaged(self.copies.place)

    async def _replace(self, digest: Digest, found: Digest, copy: OpenCopy) -> None:
        try:
            kept = await copy.set_aside()
        except OSError as error:
            kept, follows = "", f"it cannot be taken away: {error}"
        else:
            if kept is None:
                return  # It was replaced meanwhile.
            if self.copies.place == "disk":
                self._library.blobs.found_wrong(digest)
            else:
                self._library.blobs.invalidate()
            follows = await self._mend(digest)
        self._count_damaged()
        log.error(
            "{digest}: the {place} had {found} in its place: {follows}{kept}",
            digest=str(digest),
            place=self.copies.place,
            found=str(found),
            follows=follows,
            kept=f"; kept in {kept}" if kept and follows != FETCHED else "",
        )

    async def _mend(self, digest: Digest) -> str:
        """Have a right copy stored again, and return what follows, for people."""
        store = self._library.store
        if await store.blob_size(digest) is not None:
            return "another copy is served"
        await self._catalog.run(CatalogFile.blob_removed, digest)
        why = "no model stands on it"
        for name, tag in await self._catalog.run(CatalogFile.standing_on, digest, MAX_TAGS):
            if await self._put_again(name, tag, digest):
                return "stored again from its tag"
            if not self._library.rules.allow(name) or not self._may_check(name, tag):
                why = f"{name} is not fetched from upstream"
                continue
            try:
                await self._library.upstream.blob_size(name, digest)
                await self.copies.drop(digest)
                fill = await self._library.blobs.fetch(name, digest)
            except RegistryError as error:
                why = str(error)
                continue
            if isinstance(fill, Fill):
                fill.start()
            return FETCHED
        return f"it is served no more: {why}"

    async def _put_again(self, name: Repository, tag: Tag, digest: Digest) -> bool:
        """Store a manifest by its digest, if the tag's own file has it."""
        store = self._library.store
        (answers,) = await store.read_anew([(name, tag)])
        for found in answers.values():
            if found.manifest.digest == digest:
                await store.put_manifest(name, digest, found.manifest, found.checked_at)
                return True
        return False


def _not_dropped(failure: Failure) -> None:
    log.warn("a damaged blob is kept: {error}", error=str(failure.value))
