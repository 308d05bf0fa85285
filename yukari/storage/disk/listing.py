"""Which tags a directory has, in order and page by page. Blocks: for a disk thread."""

from __future__ import annotations

import os
import stat
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from itertools import groupby
from threading import Lock
from typing import Optional

from attrs import define, field
from cachetools import LRUCache

from yukari.names import InvalidName, Repository, Tag
from yukari.storage.disk.atomic import ABSENT
from yukari.storage.disk.layout import Layout, checked_at, is_model, tag_path
from yukari.storage.ports import NEVER_CHECKED, ManifestEntry

_LARGE = 256
"""Names from which on a directory is remembered between two pages of a listing."""
_REMEMBERED = 16
"""Such directories that are remembered at most."""
_SETTLED = 2_000_000_000
"""Nanoseconds after which a change must have another ctime, on any file system."""


@define(eq=False, repr=False)
class TagListing:
    """Every tag of a `Layout`, be it in ``manifests``, in ``manifests-v2`` or in both."""

    _layout: Layout
    _note: Callable[[str, OSError], None]
    """Called with a path and why it cannot be read; raises that if it is a fault of the disk."""
    _tell: Callable[[str, str], None]
    """Called with a path and why it cannot be read, for the log."""
    _names: LRUCache[str, tuple[int, list[str]]] = field(
        factory=lambda: LRUCache(_REMEMBERED), init=False
    )
    """Large directories: their ctime and their names in order."""
    _lock: Lock = field(factory=Lock, init=False)

    def tags(self, name: Repository) -> list[Tag]:
        """The tags of one model, in order."""
        return [tag for tag, _ in self._tagged(name)]

    def count(self) -> int:
        """How many there are."""
        return sum(1 for name in self._models(None) for _ in self._tagged(name))

    def page(self, after: Optional[tuple[Repository, Tag]], most: int) -> list[ManifestEntry]:
        """
        Up to ``most`` of all tags in order, from behind ``after``.

        A page costs what is on it and one stat of each directory above:
        the names of large directories are remembered while these do not change.
        """
        entries: list[ManifestEntry] = []
        for name in self._models(after[0] if after else None):
            first = after[1].name if after and name == after[0] else ""
            for tag, at in self._tagged(name, first):
                if len(entries) >= most:
                    return entries
                if after is None or (name, tag) > after:
                    entries.append(ManifestEntry(name, tag, at))
        return entries

    def _models(self, first: Optional[Repository]) -> Iterator[Repository]:
        """Every directory that may hold tags, from ``first`` on."""
        for registry in self._layout.registries:
            if first is None or registry > first.registry:
                yield from self._models_of(registry, None)
            elif registry == first.registry:
                yield from self._models_of(registry, first)

    def _models_of(self, registry: str, first: Optional[Repository]) -> Iterator[Repository]:
        for namespace in self._union(registry, first=first.namespace if first else ""):
            since = first.model if first and namespace == first.namespace else ""
            for model in self._union(registry, namespace, first=since):
                try:
                    yield Repository(registry, namespace, model)
                except InvalidName:
                    continue

    def _tagged(self, name: Repository, first: str = "") -> Iterator[tuple[Tag, float]]:
        """A model's tags in order, from ``first`` on, and when each was last checked."""
        for entry in self._union(name.registry, name.namespace, name.model, first=first):
            try:
                tag = Tag(entry)
            except InvalidName:
                continue
            if is_model(name, entry):
                times = list(self._times(name, tag))
                if times:
                    yield tag, min(filter(None, times), default=NEVER_CHECKED)

    def _times(self, name: Repository, tag: Tag) -> Iterator[float]:
        """When each of the tag's files says that it was checked; none if it has no file."""
        found = False
        for directory in self._layout.plain(name.registry):
            path = tag_path(directory, name, tag)
            try:
                plain = os.stat(path)
            except OSError as error:
                self._note(path, error)
                continue
            if stat.S_ISREG(plain.st_mode) and plain.st_size:
                found = True
                yield checked_at(plain)
        for directory in self._layout.linked(name.registry):
            path = tag_path(directory, name, tag)
            try:
                linked = os.lstat(path)
                # A link that dangles, or leads to no blob, is no model by itself.
                if stat.S_ISLNK(linked.st_mode) and not found:
                    leads = self._layout.blob_linked(path, os.readlink(path)) is not None
                    found = leads and stat.S_ISREG(os.stat(path).st_mode)
            except OSError as error:
                self._note(path, error)
                continue
            if (found and stat.S_ISLNK(linked.st_mode)) or (
                stat.S_ISREG(linked.st_mode) and linked.st_size
            ):
                yield checked_at(linked)

    def _union(self, registry: str, *parts: str, first: str) -> Iterator[str]:
        """The names that are in any of a registry's directories, in order from ``first`` on."""
        named = [
            _since(self._listed(os.path.join(directory, *parts)), first)
            for directory in (*self._layout.plain(registry), *self._layout.linked(registry))
        ]
        return (name for name, _ in groupby(merge(*named)))

    def _listed(self, path: str) -> Sequence[str]:
        """The names in a directory, in order. OSError if the disk fails."""
        try:
            with self._lock:
                known = self._names.get(path)
            if known is not None and known[0] == os.stat(path).st_ctime_ns:
                return known[1]
            names = sorted(os.listdir(path))
            if len(names) < _LARGE:
                return names
            # Its time comes first: what changes after that is seen the next time.
            changed = os.stat(path).st_ctime_ns
            settled = time.time_ns() - changed > _SETTLED
            names = sorted(os.listdir(path))
        except OSError as error:
            self._note(path, error)
            if error.errno not in ABSENT:
                self._tell(path, error.strerror or str(error))
            return ()
        with self._lock:
            self._names.pop(path, None)
            if settled:
                self._names[path] = changed, names
        return names


def _since(names: Sequence[str], first: str) -> Iterator[str]:
    """Those of ``names`` that are not before ``first``."""
    for at in range(bisect_left(names, first), len(names)):
        yield names[at]
