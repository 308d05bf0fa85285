"""
Manifests as files.

Tagged ones lie as Ollama lays them out, ``TAGS/NAMESPACE/MODEL/TAG``; every one
that was ever put lies by its digest too, ``DIGESTS/NAMESPACE/MODEL/sha256-HEX``.
A file's mtime is the time of the last check. All of it blocks: for a disk
thread, several at once.

What cannot be read, or is no manifest, counts as not stored; it is logged once.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Optional

from attrs import define, field
from twisted.logger import Logger

from yukari.manifest import MAX_BYTES, InvalidManifest, Manifest
from yukari.names import Digest, InvalidName, ModelName, Reference, Tag
from yukari.storage.disk.atomic import make_directories, replace_file
from yukari.storage.manifest_cache import Loaded, Stamp
from yukari.storage.ports import ManifestEntry, StoredManifest

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_LARGE = 256
"""A directory with as many names is remembered between two pages of a listing."""
_REMEMBERED = 8
"""So many such directories are."""
_SETTLED = 2_000_000_000
"""Nanoseconds after which a change must have another ctime, on any file system."""


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_mtime_ns, found.st_size, found.st_ino)


@define(eq=False)
class ManifestFiles:
    """The manifests of one upstream; ``made`` is a directory for files in the making."""

    _tags: str
    _digests: str
    _made: str
    _names: OrderedDict[str, tuple[int, list[str]]] = field(factory=OrderedDict, init=False)
    """Large directories: their ctime and their names in order."""
    _told: set[tuple[str, str]] = field(factory=set, init=False)
    _lock: Lock = field(factory=Lock, init=False)

    _log = Logger()

    # one manifest

    def load(self, name: ModelName, reference: Reference) -> Optional[Loaded]:
        """From its file; by a digest also from a tag's, for a directory that Ollama filled."""
        if isinstance(reference, Tag):
            return self._read(self._tag_path(name, reference))
        found = self._read(self._digest_path(name, reference))
        if found is not None and found.stored.manifest.digest == reference:
            return found
        if found is not None:
            self._tell(found.path, f"holds {found.stored.manifest.digest}")
        for tag, _ in self._tagged(name):
            found = self._read(self._tag_path(name, tag))
            if found is not None and found.stored.manifest.digest == reference:
                return found
        return None

    def reload(self, name: ModelName, reference: Reference, known: Loaded) -> Optional[Loaded]:
        """As `load`; ``known`` itself where its file is as it was."""
        try:
            if _stamp(os.stat(known.path)) == known.stamp:
                return known
        except OSError:
            pass
        return self.load(name, reference)

    def store(
        self, name: ModelName, reference: Reference, manifest: Manifest, checked_at: float
    ) -> None:
        """
        By its digest, then as the tag's; OSError leaves the tag as it was.

        What the tag named before is put by its digest first, where it is not yet.
        """
        checked = _nanoseconds(checked_at)
        if isinstance(reference, Tag):
            target = self._tag_path(name, reference)
            before = self._read(target)
            if before is not None and before.stored.manifest.digest != manifest.digest:
                self._store_digest(name, before.stored.manifest, before.stamp.mtime_ns, old=True)
        self._store_digest(name, manifest, checked)
        if isinstance(reference, Tag):
            make_directories(os.path.dirname(target))
            replace_file(target, manifest.body, checked, self._made)

    def touch(self, name: ModelName, tag: Tag, digest: Digest, checked_at: float) -> None:
        """Note a check, if the tag still names ``digest``."""
        path = self._tag_path(name, tag)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            return
        try:
            # Through the descriptor: whatever replaces the file meanwhile is not touched.
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
                return
            if Digest.of(_all_of(descriptor)) == digest:
                checked = _nanoseconds(checked_at)
                os.utime(descriptor, ns=(checked, checked))
        finally:
            os.close(descriptor)

    def _store_digest(
        self, name: ModelName, manifest: Manifest, checked: int, old: bool = False
    ) -> None:
        path = self._digest_path(name, manifest.digest)
        found = self._read(path)
        if found is not None and found.stored.manifest.body == manifest.body:
            if not old:
                os.utime(path, ns=(checked, checked))
            return
        make_directories(os.path.dirname(path))
        replace_file(path, manifest.body, checked, self._made)

    def _tag_path(self, name: ModelName, tag: Tag) -> str:
        return os.path.join(self._tags, name.namespace, name.model, tag.name)

    def _digest_path(self, name: ModelName, digest: Digest) -> str:
        return os.path.join(self._digests, name.namespace, name.model, digest.file_name)

    def _read(self, path: str) -> Optional[Loaded]:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise InvalidManifest("not a regular file")
                if found.st_size > MAX_BYTES:
                    raise InvalidManifest(f"{found.st_size} bytes: expected at most {MAX_BYTES}")
                body = _all_of(descriptor)
            finally:
                os.close(descriptor)
            manifest = Manifest.parse(body)
        except (OSError, InvalidManifest) as error:
            if not isinstance(error, OSError) or error.errno not in _ABSENT:
                self._tell(path, str(error))
            return None
        return Loaded(StoredManifest(manifest, found.st_mtime_ns / 1e9), path, _stamp(found))

    # many

    def tags(self, name: ModelName) -> list[Tag]:
        return [tag for tag, _ in self._tagged(name)]

    def count(self) -> int:
        """How many are tagged."""
        return sum(1 for name in self._models(None) for _ in self._tagged(name))

    def page(self, after: Optional[tuple[ModelName, Tag]], most: int) -> list[ManifestEntry]:
        """
        Tagged manifests in order, from behind ``after``.

        A page costs what is on it and one stat of each directory above:
        the names of large directories are remembered while these do not change.
        """
        entries: list[ManifestEntry] = []
        for name in self._models(after[0] if after else None):
            first = after[1].name if after and name == after[0] else ""
            for tag, checked_at in self._tagged(name, first):
                if len(entries) >= most:
                    return entries
                if after is None or (name, tag) > after:
                    entries.append(ManifestEntry(name, tag, checked_at))
        return entries

    def _models(self, first: Optional[ModelName]) -> Iterator[ModelName]:
        """Every directory that may hold tags, from ``first`` on."""
        for namespace in _since(self._listed(self._tags), first.namespace if first else ""):
            models = self._listed(os.path.join(self._tags, namespace))
            at_first = first is not None and namespace == first.namespace
            for model in _since(models, first.model if first and at_first else ""):
                try:
                    yield ModelName(namespace, model)
                except InvalidName:
                    continue

    def _tagged(self, name: ModelName, first: str = "") -> Iterator[tuple[Tag, float]]:
        """A model's tags in order, from ``first`` on, and when each was last checked."""
        path = os.path.join(self._tags, name.namespace, name.model)
        for entry in _since(self._listed(path), first):
            try:
                tag = Tag(entry)
                found = os.stat(os.path.join(path, entry))
            except (InvalidName, OSError):
                continue
            if stat.S_ISREG(found.st_mode) and found.st_size:
                yield tag, found.st_mtime_ns / 1e9

    def _listed(self, path: str) -> Sequence[str]:
        """The names in a directory, in order."""
        try:
            changed = os.stat(path).st_ctime_ns
            with self._lock:
                known = self._names.get(path)
                if known is not None and known[0] == changed:
                    self._names.move_to_end(path)
                    return known[1]
            settled = time.time_ns() - changed > _SETTLED
            names = sorted(os.listdir(path))
        except OSError as error:
            if error.errno not in _ABSENT:
                self._tell(path, str(error))
            return ()
        with self._lock:
            self._names.pop(path, None)
            if settled and len(names) >= _LARGE:
                self._names[path] = changed, names
                while len(self._names) > _REMEMBERED:
                    self._names.popitem(last=False)
        return names

    def _tell(self, path: str, why: str) -> None:
        """Warn, once for each file and reason."""
        with self._lock:
            if (path, why) in self._told:
                return
            if len(self._told) >= 1000:
                self._told.clear()
            self._told.add((path, why))
        self._log.warn("{path} counts as not stored: {why}", path=path, why=why)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _all_of(descriptor: int) -> bytes:
    """A file's bytes; a few beyond a manifest's limit at most."""
    body = bytearray()
    while len(body) <= MAX_BYTES and (piece := os.read(descriptor, 1 << 20)):
        body += piece
    return bytes(body)


def _since(names: Sequence[str], first: str) -> Iterator[str]:
    """Those of ``names`` that are not before ``first``."""
    for at in range(bisect_left(names, first), len(names)):
        yield names[at]
