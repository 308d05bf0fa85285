"""Whole blobs as files. All of it blocks: for a disk thread, several at once."""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_right
from typing import Optional

from attrs import define, field
from twisted.logger import Logger

from yukari.names import Digest
from yukari.storage.disk.atomic import ABSENT, is_fault, move, remove, temporary, write_all
from yukari.storage.disk.files import FileBlob
from yukari.storage.disk.layout import Layout, is_blob
from yukari.storage.disk.once import Once
from yukari.storage.disk.spool import SpoolFile
from yukari.storage.disk.tolerance import sync_file
from yukari.storage.ports import BlobEntry

_BLOCK = 1024 * 1024


@define(eq=False, repr=False)
class BlobFiles:
    """The blobs of a `Layout`."""

    _layout: Layout
    _listed: list[str] = field(factory=list, init=False)
    """The digests as of the first page of the last listing, in order, until its end."""
    _once: Once = field(factory=Once, init=False)

    _log = Logger()

    def size(self, digest: Digest) -> Optional[int]:
        """Return a blob's size in bytes; None if it is not stored. OSError if the disk fails."""
        found = self._stat(digest)
        return None if found is None else found.st_size

    def _stat(self, digest: Digest) -> Optional[os.stat_result]:
        for path in self._layout.blob_paths(digest):
            try:
                found = os.stat(path)
                if not stat.S_ISREG(found.st_mode):
                    raise OSError(errno.EINVAL, "not a regular file")
                if not os.access(path, os.R_OK):
                    raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            except OSError as error:
                if is_fault(error):
                    raise
                self._unreadable(path, error)
            else:
                return found
        return None

    def open(self, digest: Digest) -> Optional[FileBlob]:
        """Open a blob; None if it is not stored, or may not be read. OSError if the disk fails."""
        for path in self._layout.blob_paths(digest):
            try:
                return FileBlob.at(path)
            except OSError as error:
                if is_fault(error):
                    raise
                self._unreadable(path, error)
        return None

    def delete(self, digest: Digest) -> None:
        """Remove a blob; harmless if it is not stored. OSError."""
        for path in self._layout.blob_paths(digest):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            self._log.info("{path} is removed", path=path)

    def page(self, after: Optional[Digest], most: int) -> list[BlobEntry]:
        """Return a page of all blobs, as `BlobStore.blobs` does."""
        listed = self._listed  # Another thread may begin or end a listing meanwhile.
        if after is None or not listed:
            names = filter(is_blob, os.listdir(self._layout.blobs))
            listed = self._listed = sorted({name[-64:] for name in names})
        entries: list[BlobEntry] = []
        first = 0 if after is None else bisect_right(listed, after.hex)
        for at in range(first, len(listed)):
            digest = Digest(listed[at])
            found = self._stat(digest)
            if found is not None:
                # A manifest's mtime is when it was checked, a link's that of what was linked.
                stored_at = max(found.st_mtime, found.st_ctime)
                entries.append(BlobEntry(digest, found.st_size, stored_at))
                if len(entries) == most:
                    break
        if not entries:
            self._listed = []
        return entries

    def count(self) -> tuple[int, int]:
        """Return how many blobs there are, and their bytes."""
        blobs = total = 0
        with os.scandir(self._layout.blobs) as entries:
            for entry in entries:
                if is_blob(entry.name) and entry.is_file():
                    blobs += 1
                    total += entry.stat().st_size
        return blobs, total

    def _unreadable(self, path: str, error: OSError) -> None:
        # Some file systems have no name with a colon and call it invalid.
        if error.errno in ABSENT or (error.errno == errno.EINVAL and ":" in path):
            return
        # Every reader of the blob and every listing meet the same error.
        if self._once.is_new((path, error.errno)):
            self._log.warn("{path} counts as not stored: {error}", path=path, error=error.strerror)


def copy_spool(spool: SpoolFile, target: str, through: str) -> None:
    """
    Put a spool's bytes at ``target``, from another file system or from a file that was removed.

    They go through a file in the directory ``through``. OSError leaves ``target`` as it was.
    """
    made = temporary(through)
    source = spool.open()
    try:
        number = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            for offset in range(0, spool.size, _BLOCK):
                write_all(number, source.read(offset, _BLOCK))
            sync_file(number, made)
            if os.fstat(number).st_size != spool.size:
                raise OSError(errno.EIO, "the spool was cut", spool.path)
        finally:
            os.close(number)
        move(made, target)
    except OSError:
        remove(made)
        raise
    finally:
        source.close()
