"""
Manifests that clients asked for lately, in memory, compared with their files once a second.

An operator may copy files in or delete them by hand. So what is in memory is trusted for a second,
and then a request waits until a disk thread has compared it with its files. A thread for each costs
more than all the rest of a hit. So those that are asked for all the time are compared together,
before any request has to wait; and while others are compared, the next ones gather.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.large import LargeManifests
from yukari.storage.disk.manifests import Loaded, ManifestFiles
from yukari.storage.manifest_cache import Key, ManifestCache
from yukari.storage.ports import StoredManifest
from yukari.tasks import Background, Slices, Waiters

log = Logger()

TRUSTED_FOR = 1.0
"""Seconds after which a request waits until a manifest has been compared."""
GATHERED_FOR = TRUSTED_FOR / 4
"""Seconds for which manifests are gathered that are compared together."""
OLD_AFTER = TRUSTED_FOR / 2
"""Seconds after which a manifest that is asked for is compared again, before it must be."""
COMPARED_TOGETHER = 250
"""Manifests that are compared in one call to a disk thread, some milliseconds."""


@define(eq=False, repr=False)
class KeptManifests:
    """
    The manifests of ``files``; ``run`` calls a blocking function in a disk thread, ``changes``
    returns a number that grows when one is stored or removed.
    """

    _files: ManifestFiles
    _run: Callable[..., Deferred[Any]]
    _changes: Callable[[], int]
    _clock: IReactorTime
    _large: LargeManifests
    cache: ManifestCache[Loaded] = field(init=False)
    _asked: dict[Key, tuple[Loaded, Waiters]] = field(factory=dict, init=False)
    """Those that requests wait for until they are compared."""
    _slices: Slices = field(init=False)
    _is_asking: bool = field(default=False, init=False)
    _old: dict[Key, None] = field(factory=dict, init=False)
    """Those that were asked for and are to be compared."""
    _timer: Optional[IDelayedCall] = field(default=None, init=False)
    _comparing: Background = field(factory=Background, init=False)

    def __attrs_post_init__(self) -> None:
        self.cache = ManifestCache(self._clock)
        self._slices = Slices(self._clock)

    def stop(self) -> None:
        """Compare nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._comparing.stop()

    async def get(self, key: Key) -> Optional[StoredManifest]:
        """Return a manifest, None if it is not stored. OSError."""
        known, age = self.cache.get(key)
        if known is not None and age < TRUSTED_FOR:
            if age >= OLD_AFTER:
                self._compare_soon(key)
            return known.stored
        changes = self._changes()
        if known is not None and await self._is_unchanged(key, known):
            found: Optional[Loaded] = known
        else:
            load = partial(self._files.load, *key)
            found = await self._large.in_turn(
                self._run, self._files.small_only, load, (key, changes)
            )
        if changes == self._changes():
            # Else it may have been read before the change; the next one reads again.
            if found is None:
                self.cache.forget(key)
            else:
                self.cache.keep(key, found)
        return None if found is None else found.stored

    def forget(self, key: Key) -> None:
        """Read it again when it is asked for next."""
        self.cache.forget(key)

    async def _is_unchanged(self, key: Key, known: Loaded) -> bool:
        """Compare a manifest with its files now, or with all that wait for the thread at work."""
        asked, waiters = self._asked.setdefault(key, (known, Waiters(self._slices)))
        if asked is not known:
            return False  # It was read again since the other one asked.
        answer = waiters.wait()
        if not self._is_asking:
            Deferred.fromCoroutine(self._compare_asked())
        is_unchanged: bool = await answer
        return is_unchanged

    async def _compare_asked(self) -> None:
        self._is_asking = True
        while self._asked:
            asked, self._asked = self._asked, {}
            known = {key: loaded for key, (loaded, _) in asked.items()}
            try:
                changed = await self._run(_changed, self._files, known)
            except Exception:  # The threads are ended.
                changed = set(known)
            for key, (_, waiters) in asked.items():
                waiters.fire(key not in changed)
        self._is_asking = False

    def _compare_soon(self, key: Key) -> None:
        self._old[key] = None
        if self._timer is None and "compare" not in self._comparing:
            self._timer = self._clock.callLater(GATHERED_FOR, self._compare_old)

    def _compare_old(self) -> None:
        self._timer = None
        old, self._old = list(self._old), {}
        self._comparing.start("compare", self._compare(old), _failed)

    async def _compare(self, keys: list[Key]) -> None:
        for start in range(0, len(keys), COMPARED_TOGETHER):
            known = {}
            for key in keys[start : start + COMPARED_TOGETHER]:
                loaded, _ = self.cache.get(key)
                if loaded is not None:
                    known[key] = loaded
            changed = await self._run(_changed, self._files, known)
            for key, loaded in known.items():
                # One that was stored meanwhile is not there any more.
                if self.cache.get(key)[0] is loaded:
                    if key in changed:
                        self.cache.forget(key)
                    else:
                        self.cache.keep(key, loaded)


def _changed(files: ManifestFiles, known: dict[Key, Loaded]) -> set[Key]:
    """Return those whose files are not as they were. Blocks: for a disk thread."""
    return {key for key, loaded in known.items() if not files.is_unchanged(loaded)}


def _failed(failure: Failure) -> None:
    log.failure("comparing manifests with their files", failure)
