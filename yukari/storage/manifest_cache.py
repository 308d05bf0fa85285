"""Manifests in memory, so that a hit costs neither a thread nor a disk."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Optional, Protocol, TypeVar

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from yukari.manifest import Manifest, Variant
from yukari.names import Reference, Repository
from yukari.storage.ports import StoredManifest

MOST_BYTES = 64 * 1024 * 1024
TRUSTED_FOR = 1.0
"""Seconds; an operator may copy files in or delete them by hand."""

Key = tuple[Repository, Reference, Variant]


class Kept(Protocol):
    """A value that the cache keeps."""

    @property
    def cost(self) -> int:
        """About how many bytes it takes in memory."""


def cost_of(stored: StoredManifest) -> int:
    """About how many bytes a manifest takes in memory."""
    manifest = stored.manifest
    named = manifest.blobs if isinstance(manifest, Manifest) else manifest.children
    return len(manifest.body) + 512 * len(named) + 1024


K = TypeVar("K", bound=Kept)


@define(eq=False)
class ManifestCache(Generic[K]):
    """Manifests last asked for, up to ``most_bytes`` of memory; for the reactor's thread."""

    _clock: IReactorTime
    _most_bytes: int = MOST_BYTES
    _trusted_for: float = TRUSTED_FOR
    _kept: OrderedDict[Key, tuple[K, float]] = field(factory=OrderedDict, init=False)
    held: int = field(default=0, init=False)
    """About how many bytes they take in memory."""

    def get(self, key: Key) -> tuple[Optional[K], bool]:
        """Return the kept value, and whether it can be trusted without another look."""
        found = self._kept.get(key)
        if found is None:
            return None, False
        self._kept.move_to_end(key)
        loaded, seen = found
        return loaded, 0 <= self._clock.seconds() - seen < self._trusted_for

    def keep(self, key: Key, loaded: K) -> None:
        """It was just read, or seen to be unchanged."""
        self.forget(key)
        if loaded.cost > self._most_bytes:
            return
        self._kept[key] = loaded, self._clock.seconds()
        self.held += loaded.cost
        while self.held > self._most_bytes:
            _, (oldest, _) = self._kept.popitem(last=False)
            self.held -= oldest.cost

    def forget(self, key: Key) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self.held -= found[0].cost
