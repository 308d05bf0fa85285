"""
Keeping the store within its bounds, without losing what could not be fetched again.

Room for a blob is made before its spool is opened (`Collector.reserve`). What goes is chosen by
`yukari.library.upkeep.eviction`; before a model goes, upstream is asked whether it still has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import islice
from typing import Any, Optional

from attrs import define, field
from cachetools import TTLCache
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.config.units import shown_bytes
from yukari.errors import RegistryError, upstream_silent
from yukari.fills.manager import FillManager
from yukari.fills.ports import StoreFull
from yukari.library.catalog.catalog import CatalogUnusable
from yukari.library.catalog.file import CatalogFile
from yukari.library.catalog.rows import Candidate, Version
from yukari.library.events import Observer
from yukari.library.in_use import Key
from yukari.library.upkeep.eviction import EvictionPlan, Planner, Rules, Step
from yukari.library.upkeep.managed import Managed
from yukari.library.upkeep.removal import Removal
from yukari.library.upkeep.room import StoreRoom
from yukari.library.upkeep.sweeping import Sweep, Swept
from yukari.library.upkeep.unread import Unread
from yukari.metrics import Metrics
from yukari.names import Digest, Repository, Tag
from yukari.storage.ports import Spool
from yukari.tasks import all_of

log = Logger()

CHECKED_TOGETHER = 5
"""Models that upstream is asked about at the same time before they are evicted."""
ASKED_WITHIN = 10.0
"""
Seconds that upstream has to answer for one model: every fill that needs room waits meanwhile, and a
client gives up after 30.
"""
REFUSALS = (400, 401, 403)
REFUSED_FOR = 3600.0
"""Statuses with which a registry refuses a model, and seconds for which a refusal is believed."""
MAX_REFUSED = 10_000
"""Refused models that are remembered, at most."""
UNANSWERED = 3
"""Unanswered questions after which a registry is asked no more during one search for room."""
HOPELESS_FOR = 2.0
"""Seconds until the next search for room after one found too little; among 100,000 models a search
takes about as long."""


class Unknown(Exception):
    """Upstream does not say whether it has a model."""


@define(eq=False, repr=False)
class Collector(Observer):
    """
    Removes what has to go from the store.

    ``is_upstream`` asks the registry whether it has a tag, `RegistryError` if it does not say; None
    if it is never asked. ``registry`` is its host, for the patterns.
    """

    _managed: Managed
    _room: StoreRoom
    _fills: FillManager
    _sweep: Sweep
    _removal: Removal
    _is_upstream: Optional[Callable[[Repository, Tag], Coroutine[Any, Any, bool]]]
    _registry: str
    _removed: Callable[[], None] = lambda: None
    """Called when something was removed."""
    _metrics: Metrics = field(factory=Metrics)
    _lock: DeferredLock = field(factory=DeferredLock, init=False)
    _warned: bool = field(default=False, init=False)
    _hopeless: tuple[float, int] = field(default=(0.0, 0), init=False)
    """Until when, by the clock, no room is sought for so many bytes or more."""
    _refused: TTLCache[tuple[Repository, Tag], None] = field(init=False)
    """Tags that upstream has refused lately."""

    def __attrs_post_init__(self) -> None:
        self._refused = TTLCache(MAX_REFUSED, REFUSED_FOR, self._managed.clock.seconds)

    # events

    def blob_stored(self, digest: Digest, size: int) -> None:
        self._room.stored(size)

    # room

    async def reserve(
        self, digest: Digest, size: int, open_spool: Callable[[], Coroutine[Any, Any, Spool]]
    ) -> Spool:
        """Make room for a blob, then open its spool. `NoRoom`, OSError."""
        self._room.opening[digest] = size
        try:
            if await self._room.lacking(digest, size) > 0:
                await self._lock.run(self._make_room, digest, size)
            return await open_spool()
        finally:
            # An import of the same blob may have removed it already.
            self._room.opening.pop(digest, None)

    async def _make_room(self, digest: Digest, size: int) -> None:
        room = self._room
        lacking = await room.lacking(digest, size)
        if lacking > 0 and self._managed.bounds.evict:
            await self._evict_for(size, lacking)
        if await room.beyond_bound(digest) > 0:
            limit = await room.limit()
            raise StoreFull(
                f"no room for {shown_bytes(size)}: STORE_MAX is {shown_bytes(limit or 0)},"
                f" {shown_bytes(room.taken(digest) - size)} of it taken"
            )
        # Whether MIN_FREE leaves enough is decided as the spool is opened.

    async def recount(self) -> None:
        """Set the count of stored bytes from the catalog. `CatalogUnusable`."""
        await self._managed.index.settled()
        self._room.used = (await self._managed.catalog.run(CatalogFile.totals)).stored

    # evicting

    async def _evict_for(self, size: int, lacking: int) -> None:
        try:
            await self._evict(lacking, f"for a blob of {shown_bytes(size)}")
        except (CatalogUnusable, Unknown, OSError) as error:
            say, self._warned = (log.debug if self._warned else log.warn), True
            say("nothing is evicted: {error}", error=str(error))

    async def _evict(self, lacking: int, why: str) -> None:
        if not self._managed.index.looked:
            log.info("nothing is evicted {why}: the store is still being looked through", why=why)
            return
        until, least = self._hopeless
        if lacking >= least and self._managed.clock.seconds() < until:
            return
        await self._removal.check()
        tried: set[Version] = set()
        unanswered: Counter[str] = Counter()
        while lacking > 0:
            silent = [each for each, count in unanswered.items() if count >= UNANSWERED]
            found = await self.plan(lacking, tried, silent=silent)
            if found.frees < lacking:
                if unanswered:
                    raise Unknown("upstream does not say whether it still has what would go")
                self._warn(found, lacking, why)
                self._hopeless = self._managed.clock.seconds() + HOPELESS_FOR, lacking
                return
            self._warned = False
            freed = 0
            # One look at all that others store serves all of the steps.
            together = len(found.steps) if self._removal.shared else CHECKED_TOGETHER
            for start in range(0, len(found.steps), together or 1):
                if freed >= lacking:
                    break
                steps = found.steps[start : start + together]
                gone, mute = await self._take(steps, why)
                freed += gone
                tried.update(step.candidate.version for step in steps)
                unanswered += mute
                if mute:
                    break  # Others may go.
            lacking -= freed

    def _warn(self, found: EvictionPlan, lacking: int, why: str) -> None:
        say, self._warned = (log.debug if self._warned else log.warn), True
        reasons = sorted({kept.reason for kept in found.kept})
        say(
            "no room {why}: {lacking} are lacking and at most {frees} could be freed; what stays:"
            " {reasons}. It is relayed",
            why=why,
            lacking=shown_bytes(lacking),
            frees=shown_bytes(found.frees),
            reasons="; ".join(reasons[:5]) or "nothing else is stored",
        )

    async def plan(
        self,
        need: int,
        without: Iterable[Version] = (),
        most: Optional[int] = None,
        *,
        silent: Iterable[str] = (),
    ) -> EvictionPlan:
        """
        Return what would go if so many bytes were needed. `CatalogUnusable`, OSError.

        ``without`` are left out, since they were tried; at most ``most`` candidates are looked at.
        For ``silent`` see `Rules`.
        """
        await self._managed.marks.refresh()
        await self._managed.index.settled()
        await self._managed.catalog.flush()
        if self._removal.shared is not None:
            await self._removal.shared.pulls.refresh()
        tried, planner = set(without), Planner(self._rules(silent), need)

        # In the catalog's thread: what is asked there is only read.
        def planned(file: CatalogFile) -> EvictionPlan:
            found = file.candidates(planner.wants)
            return planner.plan(islice((each for each in found if each.version not in tried), most))

        return await self._managed.catalog.run(planned)

    def _rules(self, silent: Iterable[str]) -> Rules:
        def pinned(name: Repository, tag: Tag) -> Optional[str]:
            pin = self._managed.marks.pin(name, tag)
            return None if pin is None else pin.by

        return Rules(
            now=self._managed.now(),
            grace=self._managed.bounds.grace,
            superseded_lifetime=self._managed.bounds.superseded_lifetime,
            kept=lambda name: self._managed.bounds.keep.match(self._registry, name),
            pinned=pinned,
            in_use=self._why_in_use,
            silent=frozenset(silent),
        )

    def _why_in_use(self, candidate: Candidate) -> Optional[str]:
        """
        Return why a version stays for now; None if it may go.

        It stays if it, or a blob that only it needs, is in use, or if upstream has refused it.

        A licence that hundreds of models share does not count: it stays with the last of them.
        """
        version = candidate.version
        if candidate.superseded_at is None and (version.name, version.tag) in self._refused:
            return "upstream now refuses it"
        own = [need.digest for need, needed, _ in candidate.blobs() if needed == 1]
        if any(digest in self._fills.fills for digest in own):
            return "being fetched"
        keys: list[Key] = [version.digest, *own]
        if candidate.superseded_at is None:
            keys.append((version.name, version.tag))
        is_in_use = any(key in self._managed.in_use for key in keys)
        return "asked for within the last minute" if is_in_use else None

    async def _take(self, steps: Sequence[Step], why: str) -> tuple[int, Counter[str]]:
        """
        Let these go, if they may; return the bytes freed, and how many of these models belong to
        each registry that did not answer.
        """
        there = await all_of(map(self._can_go, steps))
        registries = [step.candidate.version.name.registry for step in steps]
        said = {each for each, can_go in zip(registries, there) if can_go is not None}
        freed, unneeded = 0, []
        for step, can_go in zip(steps, there):
            version = step.candidate.version
            if not can_go or self._why_in_use(step.candidate) is not None:
                continue
            let_go = await self._removal.let_go(step.candidate)
            if let_go is None:
                continue
            gone = 0 if self._removal.shared else await self._remove_blobs(let_go)
            unneeded += let_go
            freed += gone
            kind = "unused" if step.candidate.superseded_at is None else "superseded"
            self._metrics.evicted(kind, models=1, freed=gone)
            log.info(
                "{name}:{tag} evicted {why}: {reason}{bytes}",
                name=str(version.name),
                tag=str(version.tag),
                why=why,
                reason=step.reason,
                bytes="" if self._removal.shared else f", {shown_bytes(gone)} freed",
            )
        if unneeded and self._removal.shared:
            freed = await self._remove_blobs(unneeded)
            self._metrics.evicted("unused", freed=freed)
        return freed, Counter(each for each in registries if each not in said)

    async def _can_go(self, step: Step) -> Optional[bool]:
        """
        Whether a version may be removed: it is superseded, or upstream still has it.

        None if upstream does not say.
        """
        version = step.candidate.version
        if step.candidate.superseded_at is not None:
            return True
        if self._is_upstream is None:
            return None
        asking = Deferred.fromCoroutine(self._is_upstream(version.name, version.tag))
        late = Failure(upstream_silent("upstream does not answer in time"))
        try:
            there = await asking.addTimeout(ASKED_WITHIN, self._managed.clock, lambda *_: late)
        except RegistryError as error:
            log.info(
                "{name}:{tag} is not evicted: {error}",
                name=str(version.name),
                tag=str(version.tag),
                error=str(error),
            )
            if error.status in REFUSALS:
                self._refused[version.name, version.tag] = None
            return None
        await self._managed.catalog.run(
            CatalogFile.checked, version.name, version.tag, self._managed.now(), gone=not there
        )
        return there

    # removing

    async def remove(self, name: Repository, tag: Tag) -> int:
        """
        Remove a tag and what it named before; return how many bytes that freed.

        Blobs of a shared store are removed in the background. If a manifest cannot be read, the
        blobs stay. `CatalogUnusable`, OSError.
        """
        unneeded = await self._removal.tag(name, tag) or []
        self._removed()
        if self._removal.shared is not None:
            self._removal.shared.sweep.remove_soon(unneeded)
            return 0
        try:
            return await self._remove_blobs(unneeded, at_once=True)
        except Unread as error:
            log.warn(
                "{name}:{tag} is removed; {error}", name=str(name), tag=str(tag), error=str(error)
            )
            return 0

    async def _remove_blobs(self, unneeded: Iterable[Digest], *, at_once: bool = False) -> int:
        freed = await self._removal.blobs(unneeded, at_once=at_once)
        self._removed()
        self._room.freed(freed)
        return freed

    # periodically

    async def collect(self) -> Swept:
        """
        Remove superseded versions past their lifetime, and blobs that no version stands on.

        `CatalogUnusable`, OSError.
        """
        try:
            swept: Swept = await self._lock.run(self._collect)
        except (CatalogUnusable, Unknown, OSError):
            self._metrics.not_collected()
            raise
        self._metrics.collected(swept.blobs, swept.bytes)
        return swept

    async def _collect(self) -> Swept:
        if self._removal.shared is not None:
            self._room.used = None
            return await self._removal.shared.sweep.run()
        if self._managed.bounds.evict:
            await self._removal.check()
            for step in (await self.plan(0)).steps:
                await self._take([step], "after SUPERSEDED_LIFETIME")
        swept = await self._sweep.run(self._managed.bounds.grace)
        await self.recount()
        self._removed()
        return swept

    async def unneeded(self) -> Swept:
        """Return what `collect` would remove of blobs that no version stands on."""
        if self._removal.shared is not None:
            return await self._removal.shared.sweep.unneeded()
        return await self._sweep.run(self._managed.bounds.grace, dry=True)
