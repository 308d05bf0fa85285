"""
Manifests read from the two trees that `Layout` describes.

All of it blocks: for a disk thread, several at once. What may not be read, or is no
manifest, counts as not stored; it is logged once. OSError if the disk fails, or descriptors
are short.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import local
from typing import Optional

from attrs import define, field, frozen
from twisted.logger import Logger

from yukari.descriptors import Descriptor
from yukari.large import IsLarge
from yukari.manifest import (
    DOCKER_MANIFEST,
    LARGE,
    MANIFEST_LIST,
    MAX_BYTES,
    OCI_MANIFEST,
    AnyManifest,
    InvalidManifest,
    Manifest,
    bodies_of,
    parse_manifest,
    with_bodies,
)
from yukari.names import Digest, Repository, Tag
from yukari.spans import Span
from yukari.storage.disk.atomic import ABSENT, hides, is_fault
from yukari.storage.disk.bodies import KeptBody, KeptFiles
from yukari.storage.disk.files import FileBlob, Share
from yukari.storage.disk.layout import Layout, checked_at, is_model, tag_path
from yukari.storage.disk.once import Once
from yukari.storage.ports import NEVER_CHECKED, StoredManifest
from yukari.storage.variants import Variants

_NAMED_BY_ANCHORS = (DOCKER_MANIFEST, OCI_MANIFEST, MANIFEST_LIST)
"""Media types of the layers by which Ollama 0.40 names manifests in ``manifests``."""

Stamp = Optional[tuple[int, int, int]]
"""A value that changes when a file does; None if there is no file."""
Watched = dict[tuple[str, bool], Stamp]
"""Stamps of the files that an answer depends on; with each path, whether to follow a link."""


@frozen
class File:
    """A manifest's file as it was read."""

    path: str
    manifest: AnyManifest
    checked_at: float

    @property
    def stored(self) -> StoredManifest:
        return StoredManifest(self.manifest, self.checked_at)


@define
class Found:
    """The files of a tag and what they mean."""

    plain: Optional[File] = None
    linked: Optional[File] = None
    variants: Variants = field(factory=Variants)


@define(eq=False, repr=False)
class ManifestReader:
    """
    Reads a tag's files in all trees of a `Layout`, and decides which version they stand for.

    The bytes of large manifests stay in their files, or in ``kept``.
    """

    layout: Layout
    kept: KeptFiles
    unread: Optional[OSError] = field(default=None, init=False)
    """The first failure to read something that is there; `ManifestFiles.unread` sets it to None."""
    _once: Once = field(factory=Once, init=False)
    _here: local = field(factory=local, init=False)

    _log = Logger()

    @contextmanager
    def small_only(self) -> Iterator[None]:
        """Make this thread raise `IsLarge` instead of reading a large manifest."""
        self._here.small_only = True
        try:
            yield
        finally:
            self._here.small_only = False

    def find(self, name: Repository, tag: Tag, watched: Optional[Watched] = None) -> Found:
        """Return what a tag stands for; every file that it depends on is put into ``watched``."""
        watched = {} if watched is None else watched
        found = Found()
        if not is_model(name, tag.name):
            return found
        for directory in self.layout.linked(name.registry):
            found.linked = self._linked(tag_path(directory, name, tag), watched)
            if found.linked is not None:
                break
        files = (self.read(path, watched) for path in self.plain_paths(name, tag))
        file = next((each for each in files if each and isinstance(each.manifest, Manifest)), None)
        plain, listed, runnable = None, None, None
        if found.linked is not None:
            listed = found.linked.stored
            runnable = self._runnable(listed.manifest, watched)
        if file is not None and not is_anchor(file.manifest):
            found.plain, plain = file, file.stored
        elif file is not None and runnable is None:
            for each in self._anchored(file.manifest, watched):
                if isinstance(each, Manifest):
                    runnable = runnable or each
                elif listed is None:
                    listed = StoredManifest(each, file.checked_at)
        if listed is not None and listed.checked_at == NEVER_CHECKED:
            # It mirrors the plain one, for Ollama 0.40.
            if found.plain is not None and self._has_rotted(found.plain, listed.manifest, watched):
                why = f"its bytes have changed, {listed.manifest.digest} is served"
                self.tell(found.plain.path, why)
                plain = StoredManifest(listed.manifest, found.plain.checked_at)
                found.plain = None
            listed = None
            if plain is not None:
                runnable = None
        found.variants = Variants(plain, listed, runnable)
        if (
            plain is not None
            and runnable is not None
            and found.variants.conflict
            and not self._is_whole(runnable, watched)
            and self._is_whole(plain.manifest, watched)
        ):
            # Ollama up to 0.39 has pulled another version since, and removed the old one's blobs.
            found.variants = Variants(plain)
        return found

    def _has_rotted(self, plain: File, mirror: AnyManifest, watched: Watched) -> bool:
        """
        Whether a tag's file is not what its ``mirror`` was made of, though nobody wrote to it.

        Ollama up to 0.39 writes it without the mirror: at another time, once all blobs are there.
        """
        if mirror.digest == plain.manifest.digest or not isinstance(mirror, Manifest):
            return False
        blob = watched.get((self.layout.blob(mirror.digest), True))
        file = watched.get((plain.path, True))
        if blob and file and blob[0] == file[0] and plain.checked_at != NEVER_CHECKED:
            return True
        return self._is_whole(mirror, watched) and not self._is_whole(plain.manifest, watched)

    def _is_whole(self, manifest: AnyManifest, watched: Watched) -> bool:
        """Whether all blobs of a manifest are there."""
        for blob in _layers(manifest):
            path = self.layout.blob(blob.digest)
            stamp = watched[path, True] = stamp_of(path, True)
            if stamp is None:
                return False
        return True

    def _runnable(self, found: AnyManifest, watched: Watched) -> Optional[Manifest]:
        """Return the stored manifest for clients that accept no lists; None if there is none."""
        if isinstance(found, Manifest):
            return found
        for child in found.by_preference():
            if child.inline is not None:
                return child.inline
            file = self.blob(child.digest, watched)
            if file is not None and isinstance(file.manifest, Manifest):
                return file.manifest
        return None

    def _anchored(self, anchor: AnyManifest, watched: Watched) -> Iterable[AnyManifest]:
        """Yield the stored ones of the manifests that an anchor names (see `is_anchor`)."""
        for layer in _layers(anchor):
            if layer.media_type in _NAMED_BY_ANCHORS:
                file = self.blob(layer.digest, watched)
                if file is not None:
                    yield file.manifest

    def plain_paths(self, name: Repository, tag: Tag) -> list[str]:
        """Return where the plain manifest of a tag may be."""
        return [tag_path(directory, name, tag) for directory in self.layout.plain(name.registry)]

    # one file

    def _linked(self, path: str, watched: Watched) -> Optional[File]:
        """The manifest that an entry of ``manifests-v2`` stands for."""
        watched[path, False] = stamp_of(path, False)
        try:
            target = os.readlink(path)
        except OSError as error:
            if is_fault(error):
                raise
            return self.read(path, watched)
        digest = self.layout.blob_linked(path, target)
        if digest is None:
            self.tell(path, f"it links to {target}: expected a blob")
            return None
        file = self.blob(digest, watched)
        try:
            return file and File(path, file.manifest, checked_at(os.lstat(path)))
        except OSError as error:
            self.note(path, error)
            return None

    def blob(self, digest: Digest, watched: Watched) -> Optional[File]:
        """Return the manifest in a blob; None if it has none, as most, which is not logged."""
        file = self.read(self.layout.blob(digest), watched, lambda path, why: None)
        if file is not None and file.manifest.digest != digest:
            self.tell(file.path, f"its bytes are {file.manifest.digest}")
            return None
        return file

    def read(
        self,
        path: str,
        watched: Watched,
        tell: Optional[Callable[[str, str], None]] = None,
    ) -> Optional[File]:
        """
        Read the manifest or list in a file; None, and ``tell`` is called, if it has none. OSError.
        """
        watched[path, True] = None
        try:
            opened = Share.of(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            try:
                with opened.used() as descriptor:
                    found = os.fstat(descriptor)
                    watched[path, True] = _stamp(found)
                    if not stat.S_ISREG(found.st_mode):
                        raise InvalidManifest("not a regular file")
                    if found.st_size > MAX_BYTES:
                        size = found.st_size
                        raise InvalidManifest(f"{size} bytes: expected at most {MAX_BYTES}")
                    if found.st_size > LARGE:
                        self._check_large(descriptor)
                    body = _all_of(descriptor, found.st_size)
                manifest = parse_manifest(body)
                if len(body) > LARGE:
                    manifest = self._keep(manifest, opened, len(body))
            finally:
                opened.close()
            return File(path, manifest, checked_at(found))
        except (OSError, InvalidManifest) as error:
            if isinstance(error, OSError):
                self.note(path, error)
            if not isinstance(error, OSError) or error.errno not in ABSENT:
                (tell or self.tell)(path, str(error))
            return None

    def _check_large(self, descriptor: int) -> None:
        """`InvalidManifest` for what is none at a glance, as most blobs."""
        if not os.pread(descriptor, 1000, 0).lstrip().startswith(b"{"):
            raise InvalidManifest("not a JSON object")
        if getattr(self._here, "small_only", False):
            raise IsLarge

    def _keep(self, manifest: AnyManifest, opened: Share, size: int) -> AnyManifest:
        """Return a large manifest without its bytes in memory."""
        own = KeptBody(FileBlob(size, opened.share()), Span(0, size))
        inline = bodies_of(manifest)[1:]
        return with_bodies(manifest, [own, *(self.kept.keep(inline) if inline else ())])

    def note(self, path: str, error: OSError) -> None:
        """Remember why something that is there cannot be read; raise a fault of the disk."""
        if is_fault(error):
            raise error
        if self.unread is None and hides(path, error):
            self.unread = OSError(error.errno, error.strerror, path)

    def tell(self, path: str, why: str) -> None:
        """Warn, once for each file and reason."""
        if self._once.is_new((path, why)):
            self._log.warn("{path} counts as not stored: {why}", path=path, why=why)


def _layers(found: AnyManifest) -> Sequence[Descriptor]:
    return found.blobs if isinstance(found, Manifest) else ()


def is_anchor(found: AnyManifest) -> bool:
    """Whether Ollama 0.40 made it, for older versions, in a manifest's place."""
    return any(layer.media_type in _NAMED_BY_ANCHORS for layer in _layers(found))


def stamp_of(path: str, follow: bool) -> Stamp:
    """Return the stamp of a file, of what a link leads to if ``follow``."""
    try:
        return _stamp(os.stat(path) if follow else os.lstat(path))
    except OSError:
        return None


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_mtime_ns, found.st_size, found.st_ino


def _all_of(descriptor: int, size: int) -> bytes:
    """Read a file, of about ``size``, to its end, or to a little more than a manifest may have."""
    body = os.read(descriptor, size + 1)
    while len(body) <= MAX_BYTES and (piece := os.read(descriptor, 1 << 20)):
        body += piece
    return body
