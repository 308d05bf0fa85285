"""
Keeping what is stored fresh, without ever losing it.

Every period a look goes through the stored manifests and asks upstream about
those whose last check is older than their lifetime; and a manifest that is
pulled is checked in the background. If upstream has another one by now, its
blobs are fetched first, and then it takes the old one's place in one step.
Whatever else upstream says, or does not say, changes nothing.

Several daemons over one bucket share the work: each asks at times of its own,
and before it does it looks whether another has asked meanwhile.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import inf
from random import Random
from typing import Any, Optional
from zlib import crc32

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.config.patterns import ModelRules
from yukari.errors import RegistryError
from yukari.large import is_large
from yukari.leisure import Leisure
from yukari.library.events import Events
from yukari.library.versions import NewVersion, Versions
from yukari.metrics import Metrics
from yukari.names import Repository, Tag
from yukari.sources.upstreams import AnyUpstream
from yukari.storage.ports import ManifestEntry, NoRoom, Store, StoredManifest
from yukari.tasks import backoff

log = Logger()

MAX_CONCURRENT_CHECKS = 5
"""Manifests that are asked about at the same time."""
MAX_CONCURRENT_UPDATES = 5
"""Manifests whose new versions' blobs are awaited at the same time, beside the checks."""
PAGE = 500
"""Manifests that are listed at a time."""
JITTER = 0.1
"""
The part of a lifetime over which due times are spread, differently in each daemon, so that what was
stored together is not due together; and the part of a period by which a look is late.
"""
FIRST_LATE = 5.0
"""Seconds by which the first look is late at most: daemons that start together ask one by one."""
RETRY_FIRST = 60.0
"""Seconds after which a check that failed may be tried again, doubling up to a lifetime."""
SKEW = 3600.0
"""
Seconds that a last check may lie in the future, since another machine's clock may have set it. One
further ahead was set by a wrong clock, and counts as no check.
"""

Key = tuple[Repository, Tag]


@define
class _Failed:
    """How often a check has failed in a row, and when the next may be, by the clock."""

    times: int
    again_at: float
    error: str
    is_too_old: bool
    """Whether upstream called the tag's clients too old for what it has."""
    newer_at: Optional[float]
    """When another version could not be brought that upstream has, in seconds of the epoch."""


@frozen
class Freshness:
    """How often upstream is asked about what is stored; all in seconds."""

    period: float
    """From one look for manifests that are due to the next."""
    lifetime: float
    """After which a manifest is due for a check."""
    refresh_after: float
    """After which a pull is a reason to check; 0 if it never is."""
    lifetimes: Mapping[str, float] = field(factory=dict)
    """Those of registries that have one of their own."""

    def lifetime_of(self, name: Repository) -> float:
        """Return the lifetime of a repository's manifests."""
        return self.lifetimes.get(name.registry, self.lifetime)


@define(eq=False, repr=False)
class Revalidator:
    """Asks upstream about stored manifests, and replaces those that have a newer version."""

    _store: Store
    _upstream: AnyUpstream
    _versions: Versions
    _rules: ModelRules
    _clock: IReactorTime
    freshness: Freshness
    """May be changed while it runs, but for the period."""
    _events: Events = field(factory=Events)
    may_check: Callable[[Repository, Tag], bool] = lambda *_: True
    """Whether upstream is to be asked about a tag."""
    _now: Callable[[], float] = time.time
    _metrics: Metrics = field(factory=Metrics)
    _random: Random = field(factory=Random)
    _leisure: Optional[Leisure] = None
    """Makes a look give way to requests; None for no rest."""
    _salt: float = field(init=False)
    _loop: LoopingCall = field(init=False)
    _checking: dict[Key, Deferred[None]] = field(factory=dict, init=False)
    _failed: dict[Key, _Failed] = field(factory=dict, init=False)
    _bringing: dict[Key, Deferred[None]] = field(factory=dict, init=False)
    """Manifests that have another version upstream, whose blobs are on their way."""
    _few: defaultdict[str, DeferredSemaphore] = field(
        factory=lambda: defaultdict(lambda: DeferredSemaphore(MAX_CONCURRENT_CHECKS)), init=False
    )
    """Bounds the checks of each registry: one that is slow holds up no other."""
    _few_brought: DeferredSemaphore = field(
        factory=lambda: DeferredSemaphore(MAX_CONCURRENT_UPDATES), init=False
    )
    _looking: Optional[Deferred[None]] = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._salt = self._random.random()
        self._loop = LoopingCall(self._look_once)
        self._loop.clock = self._clock

    def start(self) -> None:
        """Look soon, and again every period; a look that takes longer delays the next."""
        self._loop.start(self.freshness.period, now=True)

    async def stop(self) -> None:
        """Look no more, and cancel the checks in progress: nothing of them is stored."""
        self._stopped = True
        if self._loop.running:
            self._loop.stop()
        # The last first: each check that ends lets the next one in the queue begin.
        waiting = [*reversed(self._bringing.values()), *reversed(self._checking.values())]
        for running in [self._looking, *waiting]:
            if running is not None:
                running.cancel()

    def _look_once(self) -> Deferred[None]:
        late = self._random.random() * JITTER * self.freshness.period
        if self._looking is None:
            late = min(late, self._random.random() * FIRST_LATE)
        self._looking = Deferred.fromCoroutine(self.look(late))
        return self._looking.addErrback(self._look_failed)

    def _look_failed(self, failure: Failure) -> None:
        if self._stopped:
            return
        if failure.check(OSError):
            log.warn("a look at the stored manifests failed: {error}", error=str(failure.value))
        else:
            log.failure("a look at the stored manifests failed", failure)

    async def look(self, late: float = 0.0) -> None:
        """
        Ask, after ``late`` seconds, about every manifest that is due.

        Returns when all are answered. Of a registry that is down, one manifest alone finds out
        whether it is back.
        """
        await deferLater(self._clock, late)
        after: Optional[Key] = None
        probed: set[str] = set()
        gone = set(self._failed)
        while not self._stopped:
            page = await self._list(after)
            if not page:
                for key in gone:
                    self._failed.pop(key, None)
                return
            after = page[-1].name, page[-1].tag
            gone.difference_update((entry.name, entry.tag) for entry in page)
            due = [
                (entry.name, entry.tag)
                for entry in page
                if self._is_due((entry.name, entry.tag), entry.checked_at)
                and self._rules.allow(entry.name)
                and self.may_check(entry.name, entry.tag)
            ]
            self._random.shuffle(due)
            await self._probe(due, probed)
            keys = iter(due)
            await gatherResults(
                [
                    Deferred.fromCoroutine(self._ask_about(keys))
                    for _ in range(MAX_CONCURRENT_CHECKS)
                ],
                consumeErrors=True,
            )
            # One page a turn of the reactor.
            await deferLater(self._clock, 0)

    async def _list(self, after: Optional[Key]) -> list[ManifestEntry]:
        if self._leisure is None:
            return await self._store.manifests(after, PAGE)
        self._leisure.begin()
        page = await self._store.manifests(after, PAGE)
        await self._leisure.rest()
        return page

    async def _probe(self, due: list[Key], probed: set[str]) -> None:
        """Ask about one manifest of each registry that is down and was not ``probed`` so yet."""
        for key in list(due):
            registry = key[0].registry
            if registry not in probed and self._upstream.is_down(key[0]):
                probed.add(registry)
                due.remove(key)
                await self._check(key, partial(self._is_due, key))

    async def _ask_about(self, keys: Iterator[Key]) -> None:
        """Check them one after another, and never two in one turn of the reactor."""
        for key in keys:
            if self._stopped:
                return
            if self._upstream.is_down(key[0]):
                continue
            await self._check(key, partial(self._is_due, key))
            await deferLater(self._clock, 0)

    def _is_due(self, key: Key, checked_at: float) -> bool:
        lifetime = self.freshness.lifetime_of(key[0])
        lifetimes = self._age(checked_at) / lifetime if lifetime else 1.0
        if lifetimes < 1 - JITTER:
            return False
        part = crc32(f"{self._salt} {key[0]}:{key[1]}".encode()) / 2**32
        return lifetimes >= 1 - JITTER * part and self._may_try(key)

    def _may_try(self, key: Key) -> bool:
        failed = self._failed.get(key)
        if key in self._bringing:
            return False
        if failed is None or self._clock.seconds() >= failed.again_at:
            return True
        # A newer client need not wait because an older one was refused.
        return failed.is_too_old and not self._versions.agents.is_refused(*key)

    def pulled(self, name: Repository, tag: Tag, stored: StoredManifest) -> None:
        """
        Note a pull of a stored manifest, and look in the background whether there is a newer one.
        """
        key = name, tag

        def is_due(checked_at: float) -> bool:
            is_old = self._age(checked_at) >= self.freshness.refresh_after
            return is_old and self._may_try(key) and self.may_check(*key)

        if self.freshness.refresh_after and not self._stopped and is_due(stored.checked_at):
            self._check(key, is_due)

    def moved(self, name: Repository, tag: Tag) -> None:
        """Upstream has another version than is stored: bring it, whenever the last check was."""
        if not self._stopped and self._may_try((name, tag)) and self.may_check(name, tag):
            self._check((name, tag), lambda _: True)

    def newer(self, name: Repository, tag: Tag, checked_at: float) -> Optional[str]:
        """
        Return why another version that upstream has is not here, "" while it is on its way.

        None if none is known that is newer than what was last checked ``checked_at``, in seconds of
        the epoch.
        """
        if (name, tag) in self._bringing:
            return ""
        failed = self._failed.get((name, tag))
        if failed is None or failed.newer_at is None or failed.newer_at <= checked_at:
            return None
        return failed.error

    def is_stale(self, name: Repository, tag: Tag, stored: StoredManifest) -> bool:
        """Whether it is past its lifetime because upstream could not be asked about it."""
        untold = (name, tag) in self._failed or self._upstream.is_down(name)
        return (
            untold
            and self.may_check(name, tag)
            and self._age(stored.checked_at) >= self.freshness.lifetime_of(name)
        )

    def _age(self, checked_at: float) -> float:
        age = self._now() - checked_at
        return age if age > -SKEW else inf

    def _check(self, key: Key, is_due: Callable[[float], bool]) -> Deferred[None]:
        """Check a manifest, one check of each at a time, a few of all; never fails."""
        running = self._checking.get(key)
        if running is None:
            running = self._few[key[0].registry].run(self._check_now, *key, is_due)
            self._checking[key] = running
            running.addBoth(self._checked, key)
        shared: Deferred[None] = Deferred()
        running.addCallback(lambda _: shared.callback(None))
        return shared

    def _checked(self, result: Any, key: Key) -> None:
        del self._checking[key]
        if isinstance(result, Failure):
            self._not_checked(result, key)

    def _not_checked(self, failure: Failure, key: Key, *, is_newer: bool = False) -> None:
        """Note that a check failed or, with ``is_newer``, that fetching the new version did."""
        if self._stopped:
            return
        self._metrics.revalidated("failed")
        error: Any = failure.value
        before = self._failed.get(key)
        newer_at = None if before is None else before.newer_at
        if is_newer:
            newer_at = self._now()
        elif failure.check(RegistryError) and error.status == 404:
            newer_at = None
            self._events.checked(*key, self._now(), gone=True)
        times = 1 if before is None else before.times + 1
        first = max(RETRY_FIRST, self.freshness.period)
        wait = backoff(times, first, self.freshness.lifetime_of(key[0]))
        again_at = self._clock.seconds() + wait
        is_too_old = failure.check(RegistryError) is not None and error.status == 412
        self._failed[key] = _Failed(times, again_at, str(error), is_too_old, newer_at)
        name, tag = map(str, key)
        if failure.check(RegistryError, OSError, NoRoom):
            log.warn(
                "{name}:{tag}: not checked, kept as it is: {error}",
                name=name,
                tag=tag,
                error=str(failure.value),
            )
        else:
            log.failure("{name}:{tag}: checking", failure, name=name, tag=tag)

    async def _check_now(self, name: Repository, tag: Tag, is_due: Callable[[float], bool]) -> None:
        if self._stopped:
            return
        new = await self._newest(name, tag, is_due)
        if new is not None:
            self._replace((name, tag), new)

    async def _newest(
        self, name: Repository, tag: Tag, is_due: Callable[[float], bool]
    ) -> Optional[NewVersion]:
        """Return the version that upstream has if it is another; else note that it was asked."""
        new = await self._versions.check(name, tag, is_due)
        if new is not None and new.fresh:
            return new
        self._failed.pop((name, tag), None)
        if new is not None:
            self._events.checked(name, tag, self._now(), gone=False)
            self._metrics.revalidated("same")
        return None

    def _replace(self, key: Key, new: NewVersion) -> None:
        """
        Start to fetch a new version in the background.

        A large one that must wait for others is asked for anew when it is its turn.
        """
        waits = not self._few_brought.tokens and any(map(is_large, new.fresh.values()))
        bringing = self._few_brought.run(self._replace_now, key, None if waits else new)
        self._bringing[key] = bringing
        bringing.addBoth(self._replaced, key)

    def _replaced(self, result: Any, key: Key) -> None:
        del self._bringing[key]
        if isinstance(result, Failure):
            self._not_checked(result, key, is_newer=True)

    async def _replace_now(self, key: Key, new: Optional[NewVersion]) -> None:
        if self._stopped:
            return
        if new is None:
            new = await self._newest(*key, lambda _: True)
            if new is None:
                return
        await self._versions.replace(new)
        self._events.tag_stored(*key)
        self._failed.pop(key, None)
        self._metrics.revalidated("replaced")
        log.info(
            "{name}:{tag}: now {digest}",
            name=str(new.name),
            tag=str(new.tag),
            digest=", ".join(str(manifest.digest) for manifest in new.fresh.values()),
        )
