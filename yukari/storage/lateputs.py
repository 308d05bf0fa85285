"""Manifests that S3 could not take: served from memory, and put again until it does."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.manifest import Manifest
from yukari.names import Digest, ModelName, Reference
from yukari.s3.errors import S3Error
from yukari.storage.interface import StoredManifest
from yukari.storage.manifestcache import MOST_BYTES, Key

MOST = 1000
"""
Manifests that wait, of `MOST_BYTES` together; the oldest goes first, and is fetched from upstream
again.
"""
AGAIN = (1.0, 30.0)
"""Seconds between two tries, doubling from the first to the second."""

log = Logger()


@define(eq=False)
class LatePuts:
    """The newest manifest of each key; ``put`` raises `S3Error`."""

    _put: Callable[[ModelName, Reference, Manifest, float], Awaitable[None]]
    _clock: IReactorTime
    _waiting: OrderedDict[Key, StoredManifest] = field(factory=OrderedDict, init=False)
    _task: Optional[Deferred[None]] = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def add(self, key: Key, stored: StoredManifest) -> None:
        """It was not put, for a reason that passes."""
        if self.newest(key, stored) is not stored:
            return
        self._waiting[key] = stored
        self._waiting.move_to_end(key)
        while len(self._waiting) > MOST or self._held() > MOST_BYTES:
            self._waiting.popitem(last=False)
        if self._task is None and not self._stopped:
            self._task = Deferred.fromCoroutine(self._put_all())
            self._task.addBoth(self._ended)

    def _held(self) -> int:
        return sum(len(stored.manifest.body) for stored in self._waiting.values())

    def newest(self, key: Key, found: Optional[StoredManifest]) -> Optional[StoredManifest]:
        """What was found under a key, or what waits to be put there over it."""
        name, reference = key
        if isinstance(reference, Digest):
            if found is None:
                for (other, _), stored in self._waiting.items():
                    if other == name and stored.manifest.digest == reference:
                        return stored
            return found
        waiting = self._waiting.get(key)
        if waiting is None or (found is not None and found.checked_at > waiting.checked_at):
            return found
        return waiting

    def stop(self) -> None:
        """Try no more."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()

    async def _put_all(self) -> None:
        wait, longest = AGAIN
        while self._waiting:
            await deferLater(self._clock, wait * (0.75 + random.random() / 2))
            wait = min(longest, 2 * wait)
            for key, stored in list(self._waiting.items()):
                try:
                    await self._put(*key, stored.manifest, stored.checked_at)
                except S3Error as error:
                    if error.passing:
                        # The others come before it the next time: it may be alone in this.
                        if key in self._waiting:
                            self._waiting.move_to_end(key)
                        break
                    log.error(
                        "{name}:{reference}: manifest not stored: {error}",
                        name=str(key[0]),
                        reference=str(key[1]),
                        error=str(error),
                    )
                if self._waiting.get(key) is stored:
                    del self._waiting[key]

    def _ended(self, result: Any) -> None:
        self._task = None
        if isinstance(result, Failure) and not result.check(CancelledError):
            log.failure("putting manifests late", result)
