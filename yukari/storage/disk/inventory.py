"""
The collector's view of a directory.

Every path that a tag may have is removed, and the removal is made durable before it returns: blobs
go only after the tags that stand on them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Optional

from attrs import define
from twisted.internet.defer import Deferred

from yukari.config.files import read_file
from yukari.manifest import MAX_BYTES, Manifest, parse_manifest
from yukari.names import Digest, Repository, Tag
from yukari.storage.disk.atomic import ABSENT, hides, remove, replace_file, temporary
from yukari.storage.disk.copies import DiskCopies, keep_in
from yukari.storage.disk.layout import tag_path
from yukari.storage.disk.manifests import ManifestFiles
from yukari.storage.disk.space import Room
from yukari.storage.disk.tolerance import sync_directory
from yukari.storage.inventory import FrontDisk


@define(eq=False, repr=False)
class DirectoryInventory:
    """
    `Inventory` of a directory store; ``run`` calls a function in a disk thread.

    ``own`` is the directory of what is not Ollama's; ``changed`` is called once a tag's files have
    changed.
    """

    _files: ManifestFiles
    _own: str
    _run: Callable[..., Deferred[Any]]
    _changed: Callable[[Repository, Tag], Callable[[], None]]
    _rooms: Callable[[], list[Room]]
    """Where a spool, and then the blob, take their room."""

    @property
    def shared(self) -> None:
        """None: one daemon owns a directory."""

    def copies(self) -> tuple[DiskCopies]:
        aside = os.path.join(self._own, "damaged")
        paths = self._files.layout.blob_paths
        kept = DiskCopies(
            self._run,
            paths,
            keep_in(aside),
            aside=lambda digest: os.path.join(aside, digest.file_name),
        )
        return (kept,)

    async def remove_tag(self, name: Repository, tag: Tag) -> None:
        await self._run(self._remove_tag, name, tag, ended=self._changed(name, tag))

    async def named_elsewhere(self) -> frozenset[Digest]:
        named: frozenset[Digest] = await self._run(self._named_elsewhere)
        return named

    async def place(self) -> str:
        place: str = await self._run(self._place)
        return place

    def unread(self) -> Optional[OSError]:
        return self._files.unread()

    async def short_of(self, size: int) -> int:
        short: list[int] = [await self._run(room.short_of, size) for room in self._rooms()]
        return max(short)

    async def free_space(self) -> Optional[int]:
        free: list[int] = [await self._run(room.free) for room in self._rooms()]
        return max(0, min(free))

    async def disk_size(self) -> int:
        size: int = await self._run(self._rooms()[-1].size)
        return size

    async def front_disk(self) -> Optional[FrontDisk]:
        return None

    async def load(self, name: str) -> Optional[tuple[bytes, str]]:
        found: Optional[tuple[bytes, str]] = await self._run(self._load, name)
        return found

    async def save(self, name: str, body: bytes, version: Optional[str]) -> bool:
        # One daemon owns the directory: nobody else changes what it has loaded.
        path = os.path.join(self._own, name)
        await self._run(replace_file, path, body, time.time_ns(), os.path.join(self._own, "tmp"))
        return True

    def link(self, path: str, digest: Digest) -> bool:
        """
        Store a file from elsewhere as a blob without copying its bytes; blocks.

        By a hard link, or by sharing its bytes if the file system can. False if neither works.
        """
        made = temporary(os.path.join(self._own, "tmp"))
        try:
            try:
                os.link(path, made)
            except OSError:
                _clone(path, made)
            target = self._files.layout.blob(digest)
            os.rename(made, target)
        except OSError:
            remove(made)
            return False
        sync_directory(os.path.dirname(target))
        return True

    # in a disk thread

    def _load(self, name: str) -> Optional[tuple[bytes, str]]:
        path = os.path.join(self._own, name)
        try:
            return read_file(path, MAX_DOCUMENT), ""
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error), path) from None

    def _place(self) -> str:
        # The first two are Ollama's own, which the store makes in the directory itself.
        return " ".join(map(_identity, self._files.layout.trees[:2]))

    def _remove_tag(self, name: Repository, tag: Tag) -> None:
        layout = self._files.layout
        directories = *layout.linked(name.registry), *layout.plain(name.registry)
        with self._files.changing(name, tag):
            for directory in directories:
                path = tag_path(directory, name, tag)
                if _unlink(path):
                    sync_directory(os.path.dirname(path))
        with ExitStack() as stack:
            # Nobody is about to put a file into what is empty now.
            for lock in self._files.tag_locks:
                stack.enter_context(lock)
            for directory in directories:
                _remove_empty(os.path.dirname(tag_path(directory, name, tag)), directory)

    def _named_elsewhere(self) -> frozenset[Digest]:
        layout = self._files.layout
        ours = set(layout.directories)
        found: set[Digest] = set()
        for tree in layout.trees:
            for host in _listed(tree):
                if host not in ours:
                    for path in _files_below(host):
                        found |= self._named_by(path)
        # What an older store has by digest, as long as it is not moved to the blobs.
        for path in _files_below(os.path.join(self._own, "manifests")):
            found |= self._named_by(path)
        return frozenset(found)

    def _named_by(self, path: str) -> set[Digest]:
        """The blobs that the manifest at ``path``, and what it lists, stand on."""
        try:
            digests = [self._files.layout.blob_linked(path, os.readlink(path))]
        except OSError:
            digests = []
        try:
            manifest = parse_manifest(read_file(path, MAX_BYTES))
        except FileNotFoundError:
            return {digest for digest in digests if digest is not None}
        except ValueError as error:
            raise OSError(errno.EINVAL, f"no manifest: {error}", path) from None
        named = {manifest.digest, *(digest for digest in digests if digest is not None)}
        if isinstance(manifest, Manifest):
            layers = {blob.digest for blob in manifest.blobs}
            # Ollama 0.40 names lists and children as layers of what older ones find.
            return named.union(layers, *map(self._named_by_blob, layers))
        children = {child.digest for child in manifest.children}
        return named.union(children, *map(self._named_by_blob, children))

    def _named_by_blob(self, digest: Digest) -> set[Digest]:
        path = self._files.layout.blob(digest)
        try:
            found = parse_manifest(read_file(path, MAX_CHILD))
        except (FileNotFoundError, ValueError):
            return set()
        if isinstance(found, Manifest):
            return {blob.digest for blob in found.blobs}
        return {child.digest for child in found.children}


_FICLONE = 0x40049409
MAX_DOCUMENT = 64 * 1024 * 1024
"""Bytes of a document that `load` returns, at most."""
MAX_CHILD = 1024 * 1024
"""Bytes; a larger blob is not looked at for whether it is a manifest."""


def _clone(path: str, target: str) -> None:
    """Make a file that shares another one's bytes (ioctl_ficlone(2)); OSError if it cannot be."""
    with open(path, "rb") as source, open(target, "xb") as made:
        fcntl.ioctl(made.fileno(), _FICLONE, source.fileno())


def _identity(directory: str) -> str:
    try:
        found = os.stat(directory)
    except OSError:
        return "-"
    return f"{found.st_dev}:{found.st_ino}"


def _unlink(path: str) -> bool:
    """Whether there was a file to remove."""
    try:
        os.unlink(path)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return False
    return True


def _remove_empty(directory: str, top: str) -> None:
    """Remove a directory and those above it, up to ``top``, that have nothing in them."""
    while directory != top:
        try:
            os.rmdir(directory)
        except OSError:
            return
        directory = os.path.dirname(directory)


def _listed(path: str) -> list[str]:
    try:
        return [os.path.join(path, name) for name in os.listdir(path)]
    except OSError as error:
        if hides(path, error):
            raise
        return []


def _files_below(path: str) -> Iterator[str]:
    """Every file below a directory; OSError if one cannot be listed."""

    def failed(error: OSError) -> None:
        if hides(error.filename, error):
            raise error

    for directory, _, names in os.walk(path, onerror=failed):
        for name in names:
            yield os.path.join(directory, name)
