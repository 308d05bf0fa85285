"""The copies of blobs in a directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Optional

from attrs import define
from twisted.internet.defer import Deferred

from yukari.names import Digest
from yukari.spans import Span
from yukari.storage.disk.atomic import ABSENT, make_directories, remove
from yukari.storage.disk.files import FileBlob
from yukari.storage.disk.page_cache import in_memory
from yukari.storage.disk.tolerance import sync_directory
from yukari.storage.readable import close_found

STEP = 1024 * 1024
"""Bytes that are read and hashed in one call to a disk thread."""


@define(eq=False, repr=False)
class DiskCopy:
    """An `OpenCopy` in the file ``path``; ``run`` calls a function in a disk thread."""

    _file: FileBlob
    _path: str
    _run: Callable[..., Deferred[Any]]
    _take_away: Callable[[str], str]

    @property
    def size(self) -> int:
        return self._file.size

    async def hash(self, into: Any, span: Span) -> None:
        await self._run(self._hash, into, span)

    async def set_aside(self) -> Optional[str]:
        kept: Optional[str] = await self._run(self._set_aside)
        return kept

    def close(self) -> None:
        self._file.close()

    # in a disk thread

    def _hash(self, into: Any, span: Span) -> None:
        number = self._file.fileno()
        was_in_memory = number is None or in_memory(number, span.start, span.end)
        data = self._file.read(span.start, len(span))
        if len(data) < len(span):
            raise OSError(f"{self._path} ends at byte {span.start + len(data)}")
        into.update(data)
        if number is not None and not was_in_memory:
            with suppress(OSError):
                os.posix_fadvise(number, span.start, len(span), os.POSIX_FADV_DONTNEED)

    def _set_aside(self) -> Optional[str]:
        number = self._file.fileno()
        try:
            there = os.stat(self._path)
        except OSError as error:
            if error.errno not in ABSENT:
                raise
            return None
        if number is None or not os.path.samestat(there, os.fstat(number)):
            return None
        return self._take_away(self._path)


@define(eq=False, repr=False)
class DiskCopies:
    """
    `Copies` in files.

    ``paths`` returns the paths at which a blob may be. ``take_away`` moves a wrong file away, or
    removes it, and returns the path where it is kept, "" if nowhere. ``aside`` returns that path
    for a blob; None if none are kept.
    """

    _run: Callable[..., Deferred[Any]]
    _paths: Callable[[Digest], Sequence[str]]
    _take_away: Callable[[str], str]
    _among: Callable[[], Optional[Mapping[Digest, int]]] = lambda: None
    _aside: Optional[Callable[[Digest], str]] = None
    place: str = "disk"
    step: int = STEP

    def among(self) -> Optional[Mapping[Digest, int]]:
        return self._among()

    async def open(self, digest: Digest) -> Optional[DiskCopy]:
        found: Optional[DiskCopy] = await self._run(self._open, digest, undo=close_found)
        return found

    async def drop(self, digest: Digest) -> None:
        if self._aside is not None:
            await self._run(remove, self._aside(digest))

    def _open(self, digest: Digest) -> Optional[DiskCopy]:
        for path in self._paths(digest):
            try:
                return DiskCopy(FileBlob.at(path), path, self._run, self._take_away)
            except OSError as error:
                if error.errno not in ABSENT:
                    raise
        return None


def keep_in(directory: str) -> Callable[[str], str]:
    """Return a function that moves a file into a directory of the same file system."""

    def move(path: str) -> str:
        make_directories(directory)
        kept = os.path.join(directory, os.path.basename(path).replace(":", "-"))
        os.rename(path, kept)
        sync_directory(os.path.dirname(path))
        return kept

    return move
