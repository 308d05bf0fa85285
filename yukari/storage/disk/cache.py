"""
The disk in front of S3: whole blobs, those used least recently going first.

It is bounded by ``most`` bytes, counted here (on a pod's emptyDir ``statvfs``
shows the whole node), and gives way when the disk itself runs short.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from yukari.config.units import FreeSpace, shown_bytes
from yukari.names import Digest, InvalidName
from yukari.storage.disk.atomic import is_fault, remove
from yukari.storage.disk.copies import DiskCopies
from yukari.storage.disk.files import FileBlob
from yukari.storage.disk.space import Room
from yukari.storage.ports import NoRoom

_UNBOUNDED = 2**62


@define(eq=False, repr=False)
class Tier:
    """Blobs in the directory ``path``. Its methods block: for a disk thread, any number of them."""

    path: str
    most: Optional[int] = None
    total: int = field(default=0, init=False)
    """Bytes of all blobs here."""
    budget: Room = field(init=False)
    """The room that ``most`` leaves for spools."""
    _kept: OrderedDict[Digest, int] = field(factory=OrderedDict, init=False)
    _lock: Lock = field(factory=Lock, init=False)

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self.budget = Room(self.path, FreeSpace(bytes=0), self._statvfs)

    def scan(self) -> None:
        """Find the blobs that an earlier process left."""
        found = []
        for entry in os.scandir(self.path):
            try:
                digest = Digest.parse(entry.name)
                told = entry.stat(follow_symlinks=False)
            except (InvalidName, OSError):
                continue
            if entry.is_file(follow_symlinks=False):
                found.append((max(told.st_atime, told.st_mtime), digest, told.st_size))
        with self._lock:
            self._kept = OrderedDict((digest, size) for _, digest, size in sorted(found))
            self.total = sum(self._kept.values())

    def size(self, digest: Digest) -> Optional[int]:
        """Return a blob's size in bytes, None if it is not here. Does not block."""
        return self._kept.get(digest)

    def open(self, digest: Digest) -> Optional[FileBlob]:
        """Open a blob and mark it as used; None if it is not here."""
        if digest not in self._kept:
            return None
        path = self._path(digest)
        try:
            found = FileBlob.at(path)
            with suppress(OSError):
                os.utime(path)
        except OSError as error:
            if is_fault(error):
                raise
            self._log.warn("{path} is gone: {error}", path=path, error=error.strerror)
            self._forget(digest)
            return None
        with self._lock:
            if digest in self._kept:
                self._kept.move_to_end(digest)
        return found

    def take(self, digest: Digest, size: int, path: str) -> None:
        """Move the whole blob in the file ``path`` here; OSError."""
        os.rename(path, self._path(digest))
        with self._lock:
            self.total += size - self._kept.pop(digest, 0)
            self._kept[digest] = size

    def remove(self, digest: Digest) -> None:
        """Remove a blob; harmless if it is not here. Readers that have it open read on."""
        remove(self._path(digest))
        self._forget(digest)

    def copies(self, run: Callable[..., Deferred[Any]]) -> DiskCopies:
        """Return the blobs here as `Copies`; ``run`` calls a function in a disk thread."""

        def take_away(path: str) -> str:
            self.remove(Digest.parse(os.path.basename(path)))
            return ""

        return DiskCopies(run, lambda digest: (self._path(digest),), take_away, self._sizes)

    def _sizes(self) -> dict[Digest, int]:
        with self._lock:
            return dict(self._kept)

    def make_way(self, size: int, room: Room) -> None:
        """Evict blobs until ``size`` bytes fit; `NoRoom`, with none evicted, if they cannot."""
        if self.most is not None and size > self.most:
            raise NoRoom(
                f"{self.path}: {shown_bytes(size)} is more than SPOOL_MAX, {shown_bytes(self.most)}"
            )
        short = max(self.budget.short_of(size), room.short_of(size))
        if short > self.total:
            return  # reserving will say so
        while short > 0:
            with self._lock:
                if not self._kept:
                    return
                oldest = next(iter(self._kept))
                short -= self._kept[oldest]
            self._log.debug("{digest} leaves the disk, S3 has it", digest=str(oldest))
            self.remove(oldest)

    def _forget(self, digest: Digest) -> None:
        """Stop counting a blob, unless `take` has meanwhile stored it again."""
        with self._lock:
            path = self._path(digest)
            if not (os.path.isfile(path) and os.access(path, os.R_OK)):
                self.total -= self._kept.pop(digest, 0)

    def _path(self, digest: Digest) -> str:
        return os.path.join(self.path, digest.file_name)

    def _statvfs(self, _: str) -> os.statvfs_result:
        """Return what ``most`` leaves, as if it were a file system with blocks of one byte."""
        most = free = _UNBOUNDED
        if self.most is not None:
            most, free = self.most, max(0, self.most - self.total)
        return os.statvfs_result((1, 1, most, free, free, 0, 0, 0, 0, 255))
