"""Facts about blobs, kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Optional, TypeVar

from attrs import define, field

from yukari.names import Digest

MAX_FACTS = 100_000
"""Blobs of which something is remembered; the oldest is forgotten first."""

T = TypeVar("T")


@define(eq=False)
class Known(Generic[T]):
    """One fact of each blob, by its hex: the garbage collector does not track strings."""

    _facts: OrderedDict[str, T] = field(factory=OrderedDict, init=False)

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, Digest) and digest.hex in self._facts

    def get(self, digest: Digest) -> Optional[T]:
        return self._facts.get(digest.hex)

    def remember(self, digest: Digest, fact: T) -> None:
        self._facts[digest.hex] = fact
        self._facts.move_to_end(digest.hex)
        while len(self._facts) > MAX_FACTS:
            self._facts.popitem(last=False)

    def forget(self, digest: Digest) -> None:
        """Forget a blob's fact; harmless if there is none."""
        self._facts.pop(digest.hex, None)
