"""
Keeping the catalog true to the store.

What is stored is reported to `Index.tag_stored` and `Index.blob_stored`, and read into the catalog
in the background. At the start, and again every `EVERY`, a look goes through all files: it finds
changes that nobody reported, and makes a catalog that was lost anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Optional

from attrs import define, field
from cachetools import TTLCache
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.errors import RegistryError
from yukari.leisure import Leisure
from yukari.library.catalog.catalog import Catalog, CatalogUnusable
from yukari.library.catalog.file import CatalogFile
from yukari.library.catalog.rows import SAME_TIME
from yukari.library.events import Observer
from yukari.library.models.details import Details
from yukari.library.upkeep.forgetting import forget_unseen
from yukari.library.upkeep.marks import Marks
from yukari.library.upkeep.stored_tags import Key, StoredTag, StoredTags
from yukari.library.upkeep.unread import Gaps, Unread
from yukari.names import DEFAULT, Digest, Repository, Tag
from yukari.storage.ports import Store
from yukari.tasks import Background, Waiters, all_of, backoff

log = Logger()

EVERY = 3600.0
"""Seconds from one look through the store to the next."""
SHARED_EVERY, SHARE = 300.0, 100
"""
Seconds from one look to the next if other daemons store there too; at least `SHARE` times as long
as a look takes.
"""
PAGE = 500
"""Blobs or tags that are looked at together."""
BATCH = 100
"""Tags that are read at the same time, and written together."""
READ_TOGETHER = 25
"""Tags that a disk thread reads one after the other."""
BESIDE_REQUESTS = 10
"""
Tags that are read while clients ask, by one thread: several would have each request wait for all of
them to let go of the interpreter's lock.
"""
QUICK = 1.0
"""Seconds. A list waits for another look if the last one took no longer than this."""
OLD_AFTER, OLD_SHARE = 2.0, 20
"""A list looks again if the last look is older than both: these seconds, and `OLD_SHARE` times as
long as it took."""
FIRST_LOOK_WITHIN = 5.0
"""Seconds for which a list waits for the first look, at most."""
RETRY_FIRST, RETRY_LONGEST = 10.0, 600.0
"""Seconds after which a look that failed is taken again, doubled up to the longest."""
DETAILS_EVERY = 10.0
"""
Seconds in which a large manifest without details is read about once, though its blobs are being
stored: of 2,000 layers, reading all after every few that had come took a third of a pull's CPU.
"""
MAX_LARGE = 1000
"""Tags of which it is remembered that they were read."""
ORPHANS = Repository(DEFAULT, "unknown", "unknown"), Tag("unknown")
"""Stands for the tag of superseded versions that nobody knows any more."""


@define(eq=False, repr=False)
class Index(Observer):
    """Reads the store into the catalog; ``now`` returns seconds of the epoch."""

    _store: Store
    _catalog: Catalog
    _marks: Marks
    _details: Details
    _clock: IReactorTime
    _now: Callable[[], float] = time.time
    _leisure: Optional[Leisure] = None
    """Makes a look give way to requests; None for no rest."""
    _stored: StoredTags = field(init=False)
    looked: bool = field(default=False, init=False)
    """Whether a look went through everything since the start: until then tags may be missing."""
    gaps: Gaps = field(init=False)
    _place: str = field(default="", init=False)
    """The directories that the last whole look read; see `Inventory.place`."""
    _old_at: float = field(default=inf, init=False)
    """When the last look becomes old."""
    _is_quick: bool = field(default=False, init=False)
    _tags: dict[Key, None] = field(factory=dict, init=False)
    """Tags that are to be read."""
    _models: dict[Repository, None] = field(factory=dict, init=False)
    """Models all of whose tags are to be read."""
    _checks: dict[Key, tuple[float, bool]] = field(factory=dict, init=False)
    """Checks that the catalog does not have yet."""
    _blobs: dict[Digest, int] = field(factory=dict, init=False)
    """Blobs that were stored and that the catalog does not have yet."""
    _large: TTLCache[Key, None] = field(init=False)
    """Tags of large manifests that were read of late."""
    _untold: dict[Key, None] = field(factory=dict, init=False)
    """Those of them that lack details and of which more blobs have been stored since."""
    _again: Optional[IDelayedCall] = field(default=None, init=False)
    """When these are read."""
    _awaiting: Waiters = field(factory=Waiters, init=False)
    """Those who wait for the first look."""
    _running: Background = field(factory=Background, init=False)
    _timer: Optional[IDelayedCall] = field(default=None, init=False)
    _due_in: float = field(default=EVERY, init=False)
    """Seconds to the next look after the last one."""
    _failures: int = field(default=0, init=False)
    _stopped: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._stored = StoredTags(self._store, self._marks, self._details)
        self.gaps = Gaps(self._store.inventory)
        self._large = TTLCache(MAX_LARGE, DETAILS_EVERY, self._clock.seconds)

    def start(self) -> None:
        """Look through the store now, and every so often."""
        self._catalog.lost = self._lost
        self.look_soon()

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        self._running.stop()
        for timer in (self._timer, self._again):
            if timer is not None:
                timer.cancel()
        self._timer = self._again = None

    @property
    def _is_shared(self) -> bool:
        return self._store.inventory.shared is not None

    # what is reported

    def tag_stored(self, name: Repository, tag: Tag) -> None:
        self._tags[name, tag] = None
        self._work_soon()

    def child_stored(self, name: Repository) -> None:
        self._models[name] = None
        self._work_soon()

    def checked(self, name: Repository, tag: Tag, at: float, gone: bool) -> None:
        self._checks[name, tag] = at, gone
        self._work_soon()

    def blob_stored(self, digest: Digest, size: int) -> None:
        self._blobs[digest] = size
        self._work_soon()

    def _work_soon(self) -> None:
        if not self._stopped and "work" not in self._running:
            self._running.start("work", self._work(), _failed)

    async def _work(self) -> None:
        while self._tags or self._models or self._blobs or self._checks:
            try:
                await self._work_off()
            except (CatalogUnusable, OSError) as error:
                # The next look through everything finds it.
                log.warn("not in the catalog: {error}", error=str(error))
                self.gaps.add(error)
                self._look_again_soon()

    async def _work_off(self) -> None:
        blobs, self._blobs = self._blobs, {}
        if blobs:
            await self._catalog.run(CatalogFile.blobs_stored, list(blobs.items()), self._now())
            self._read_details(await self._catalog.run(CatalogFile.lacking, list(blobs)))
        models, self._models = self._models, {}
        for name in models:
            self._tags.update(((name, tag), None) for tag in await self._store.tags(name))
        tags = list(self._tags)[:BATCH]
        for key in tags:
            del self._tags[key]
        await self._read(tags)
        if not self.gaps.is_all_read():
            self._look_again_soon()
        checks, self._checks = self._checks, {}
        for key, (at, gone) in checks.items():
            await self._catalog.run(CatalogFile.checked, *key, at, gone=gone)

    def _read_details(self, keys: Sequence[Key]) -> None:
        """Have tags read again whose details may be here now; a large one if it was not of late."""
        for key in keys:
            (self._untold if key in self._large else self._tags)[key] = None
        if self._untold and self._again is None and not self._stopped:
            self._again = self._clock.callLater(DETAILS_EVERY, self._read_untold)

    def _read_untold(self) -> None:
        self._again = None
        self._tags.update(self._untold)
        self._untold.clear()
        self._work_soon()

    async def settled(self) -> None:
        """Return when the catalog has everything that was reported."""
        await self._running.ended("work")

    async def first_look(self) -> None:
        """Return when a look has gone through everything since the start."""
        if not self.looked:
            await self._awaiting.wait()

    async def listable(self) -> None:
        """
        Wait, at most `FIRST_LOOK_WITHIN`, until a list of all is complete. `RegistryError`.
        """
        if not self.looked:
            looking = Deferred.fromCoroutine(self.first_look())
            await looking.addTimeout(FIRST_LOOK_WITHIN, self._clock, lambda *_: None)
        if not self.looked:
            why = "after the start" if self.gaps.why is None else f"again: {self.gaps.why}"
            message = f"the store is still being looked through {why}: try again"
            raise RegistryError("UNAVAILABLE", message, 503, round(FIRST_LOOK_WITHIN))
        await self.refresh()

    async def refresh(self) -> None:
        """Find changes that nobody reported, and wait if that is quick; for lists of all."""
        now = self._clock.seconds()
        if now >= self._old_at:
            self.look_soon()
            if self._is_quick:
                looking = Deferred.fromCoroutine(self._running.ended("look"))
                await looking.addTimeout(QUICK, self._clock, lambda *_: None)
        await self.settled()

    async def models(
        self, registry: str, after: Optional[Repository], most: int
    ) -> Optional[list[Repository]]:
        """As `yukari.library.listing.Models`."""
        if not self.looked:
            return None
        await self.refresh()
        try:
            return await self._catalog.run(CatalogFile.models, registry, after, most)
        except CatalogUnusable:
            return None

    # reading

    async def _read(self, keys: Sequence[Key]) -> dict[Key, float]:
        """Read tags into the catalog; return when those that are stored were checked. OSError."""
        parts = [
            keys[start : start + READ_TOGETHER] for start in range(0, len(keys), READ_TOGETHER)
        ]
        checked: dict[Key, float] = {}
        last = await all_of(self._read_part(part, checked) for part in parts)
        await self._put([each for part in last for each in part], checked)
        return checked

    async def _read_part(self, keys: Sequence[Key], checked: dict[Key, float]) -> list[StoredTag]:
        """Return the last of these tags that were read together; those before are put. OSError."""
        while True:
            found, keys = await self._stored.find(keys)
            if not keys:
                return found
            await self._put(found, checked)
            found = []  # They are not to be in memory while the next ones are read.

    async def _put(self, found: Sequence[StoredTag], checked: dict[Key, float]) -> None:
        if found:
            await self._catalog.run(_put, found, self._now())
        for each in found:
            checked[each.key] = each.checked_at
            if each.is_large:
                self._large[each.key] = None

    async def needs(self, name: Repository, tag: Tag) -> list[Digest]:
        """Return the blobs that a tag stands on, as it is in the store by now. OSError."""
        found, _ = await self._stored.find([(name, tag)])
        return await self._catalog.run(
            lambda _: [digest for each in found for digest in each.needs()]
        )

    # looking through everything

    def _lost(self) -> None:
        """The catalog is empty."""
        self.looked = False
        self.look_soon()

    def look_soon(self) -> None:
        """Look through the store now, unless that is being done."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._stopped and "look" not in self._running:
            self._running.start("look", self._look_again(), _failed)

    async def _look_again(self) -> None:
        wait = backoff(self._failures + 1, RETRY_FIRST, RETRY_LONGEST)
        try:
            await self.look()
            if self.gaps.why is None:
                wait, self._failures = self._due_in, 0
            else:
                wait, self._failures = min(wait, self._due_in), self._failures + 1
        except (CatalogUnusable, OSError) as error:
            self._failures += 1
            log.warn("the store was not looked through: {error}", error=str(error))
            self.gaps.add(error)
        finally:  # After an unexpected error too, or no look would ever follow.
            if not self._stopped:
                self._timer = self._clock.callLater(wait, self._look_due)

    def _look_due(self) -> None:
        self._timer = None
        self.look_soon()

    async def look(self) -> None:
        """Look through all blobs and tags. `CatalogUnusable`, OSError."""
        began, self._old_at = self._clock.seconds(), inf
        self.gaps.begin_look()
        if self._leisure is not None:
            self._leisure.begin()
        await self._marks.refresh()
        run, place = self._catalog.run, await self._store.inventory.place()
        await run(CatalogFile.begin_sweep)
        last: Optional[Digest] = None
        while blobs := await self._store.blobs(last, PAGE):
            last = blobs[-1].digest
            await run(CatalogFile.see_blobs, [(each.digest, each.size) for each in blobs])
            await self._rest()
        after: Optional[Key] = None
        while tags := await self._store.manifests(after, PAGE):
            after = tags[-1].name, tags[-1].tag
            rows = [(each.name, each.tag, each.checked_at) for each in tags]
            await run(CatalogFile.see_tags, [row[:2] for row in rows])
            changed = await run(CatalogFile.changed, rows)
            listed = {row[:2]: row[2] for row in rows}
            while changed:
                most = BATCH if self._is_alone() else BESIDE_REQUESTS
                keys, changed = changed[:most], changed[most:]
                read = await self._read(keys)
                # In a bucket they are listed with when they were put.
                other = [key for key in keys if abs(read.get(key, inf) - listed[key]) >= SAME_TIME]
                if other:
                    await run(CatalogFile.listed, [(*key, listed[key]) for key in other])
                await self._rest()
            await self._rest()
        if self.gaps.is_all_read():
            await forget_unseen(self._store, self._catalog, self.gaps, place, self._now())
        self.gaps.end_look()
        self._place = place
        self.looked = True
        self._awaiting.fire()
        now = self._clock.seconds()
        took = now - began
        self._old_at, self._is_quick = now + max(OLD_AFTER, OLD_SHARE * took), took <= QUICK
        self._due_in = min(EVERY, max(SHARED_EVERY, SHARE * took)) if self._is_shared else EVERY

    async def check(self) -> None:
        """`Unread` if a blob may be needed even if the catalog knows no manifest that names it."""
        if not self.looked:
            raise Unread("no blob is removed: the store is still being looked through")
        try:
            if await self._store.inventory.place() != self._place:
                raise Unread("no blob is removed: the directory of manifests has changed")
            self.gaps.check()
        except Unread:
            self._look_again_soon()
            raise

    def _look_again_soon(self) -> None:
        """Bring the next look forward, to find what the catalog may lack."""
        if self._timer is not None and self._timer.getTime() > self._clock.seconds() + RETRY_FIRST:
            self._timer.reset(RETRY_FIRST)

    def _is_alone(self) -> bool:
        return self._leisure is None or self._leisure.is_alone()

    async def _rest(self) -> None:
        if self._leisure is not None:
            await self._leisure.rest()


def _put(file: CatalogFile, found: Sequence[StoredTag], now: float) -> None:
    file.put((each.indexed(now) for each in found), now)


def _failed(failure: Failure) -> None:
    log.failure("the catalog", failure)
