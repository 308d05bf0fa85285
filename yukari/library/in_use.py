"""Which blobs and tags are in use just now, so that nothing takes them away."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Union

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime

from yukari.descriptors import raw_digests
from yukari.manifest import Manifest
from yukari.names import Digest, Repository, Tag

IN_USE_FOR = 60.0
"""Seconds after a request for it in which a blob still counts as being pulled."""
NOTED_EVERY = 5.0
"""Seconds in which a manifest that is asked for often has its blobs noted once."""
MAX_REMEMBERED = 100_000
"""Blobs and tags whose last request is remembered."""

Key = Union[Digest, tuple[Repository, Tag]]
_Kept = Union[bytes, tuple[Repository, Tag]]
"""As it is remembered: a digest as its bytes, in half the memory."""


@define(eq=False, repr=False)
class InUse:
    """The models and blobs that clients ask for or that work in progress needs."""

    _clock: IReactorTime
    _asked: dict[_Kept, float] = field(factory=dict, init=False)
    """When each was last asked for, in that order."""
    _held: dict[_Kept, int] = field(factory=dict, init=False)

    def ask(self, keys: Iterable[Key]) -> None:
        """Note that these are asked for, or are about to be."""
        self._ask(map(_kept, keys))

    def _ask(self, keys: Iterable[_Kept]) -> None:
        now = self._clock.seconds()
        asked = self._asked
        for key in keys:
            asked.pop(key, None)
            asked[key] = now
        if len(asked) > MAX_REMEMBERED:
            # Many at once: to find the first key, a dictionary goes past all that were deleted.
            for key in list(islice(asked, len(asked) - MAX_REMEMBERED * 9 // 10)):
                del asked[key]

    def ask_whole(self, manifest: Manifest) -> None:
        """Note that a manifest was asked for, and its blobs are about to be."""
        if self.asked_at(manifest.digest) <= self._clock.seconds() - NOTED_EVERY:
            self._ask([_kept(manifest.digest), *raw_digests(manifest.blobs)])

    def hold(self, keys: Iterable[Key]) -> Hold:
        """Return a context: these are needed until it ends, and for `IN_USE_FOR` from then."""
        return Hold(self, tuple(map(_kept, keys)))

    def hold_whole(self, manifest: Manifest) -> Hold:
        """As `hold`, of a manifest and its blobs."""
        return Hold(self, (_kept(manifest.digest), *raw_digests(manifest.blobs)))

    def _begin(self, keys: Iterable[_Kept]) -> None:
        for key in keys:
            self._held[key] = self._held.get(key, 0) + 1

    def _end(self, keys: Iterable[_Kept]) -> None:
        for key in keys:
            left = self._held[key] - 1
            if left:
                self._held[key] = left
            else:
                del self._held[key]
        self._ask(keys)

    def asked_at(self, key: Key) -> float:
        """Return when something was last asked for, by the clock; minus infinity for never."""
        return self._asked.get(_kept(key), float("-inf"))

    def is_held(self, key: Key) -> bool:
        """Whether something is needed just now, and not only was a moment ago."""
        return _kept(key) in self._held

    def __contains__(self, key: Key) -> bool:
        return self.is_held(key) or self.asked_at(key) > self._clock.seconds() - IN_USE_FOR


@frozen(eq=False, repr=False)
class Hold:
    """A context in which blobs and tags are in use, whatever happens to them elsewhere."""

    _in_use: InUse
    _keys: tuple[_Kept, ...]

    def __enter__(self) -> None:
        self._in_use._begin(self._keys)

    def __exit__(self, *_: object) -> None:
        self._in_use._end(self._keys)


def _kept(key: Key) -> _Kept:
    return key.raw if isinstance(key, Digest) else key
