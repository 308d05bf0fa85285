"""Manifests in memory, so that a hit costs neither a thread nor a disk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import inf
from typing import Generic, Optional, Protocol, TypeVar

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from yukari.descriptors import Descriptor, PackedBlobs
from yukari.manifest import Body, ManifestList, Variant, bodies_of, manifests_in
from yukari.names import Reference, Repository
from yukari.storage.ports import StoredManifest

MAX_CACHED_BYTES = 32 * 1024 * 1024
"""Bytes of memory that the manifests of one cache take at most."""

_A_FILE = 512 * 1024
"""Bytes that count for the open file of a large manifest, so that not too many are open."""

Key = tuple[Repository, Reference, Variant]


class Kept(Protocol):
    """A value that the cache keeps."""

    @property
    def cost(self) -> int:
        """About how many bytes it takes in memory."""


def cost_of(stored: StoredManifest) -> int:
    """About how many bytes a manifest takes in memory."""
    manifest = stored.manifest
    cost = 1024 + sum(map(_in_memory, bodies_of(manifest)))
    if not isinstance(manifest.body, bytes):
        cost += _A_FILE
    if isinstance(manifest, ManifestList):
        cost += 512 * len(manifest.children)
    return cost + sum(_cost_of_blobs(each.blobs) for each in manifests_in(manifest))


def _in_memory(body: Body) -> int:
    return len(body) if isinstance(body, bytes) else body.in_memory


def _cost_of_blobs(blobs: Sequence[Descriptor]) -> int:
    return (64 if isinstance(blobs, PackedBlobs) else 512) * len(blobs)


K = TypeVar("K", bound=Kept)


@define(eq=False, repr=False)
class ManifestCache(Generic[K]):
    """Manifests last asked for, up to ``most_bytes`` of memory; for the reactor's thread."""

    _clock: IReactorTime
    _most_bytes: int = MAX_CACHED_BYTES
    _kept: OrderedDict[Key, tuple[K, float]] = field(factory=OrderedDict, init=False)
    held: int = field(default=0, init=False)
    """About how many bytes they take in memory."""

    def get(self, key: Key) -> tuple[Optional[K], float]:
        """
        Return the kept value, and how many seconds ago it was read or seen to be unchanged.
        """
        found = self._kept.get(key)
        if found is None:
            return None, inf
        self._kept.move_to_end(key)
        loaded, seen = found
        return loaded, self._clock.seconds() - seen

    def keep(self, key: Key, loaded: K) -> None:
        """Keep a value that was just read, or seen to be unchanged."""
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
