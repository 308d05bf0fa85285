"""
Manifests as files, in the two trees that `Layout` describes.

A tag's file in ``manifests`` is its plain variant, its link in ``manifests-v2`` the
variant for clients that accept lists. The mtime of either is the time of its last
check; 0 if upstream was never asked for it, and the file is only there so that
both kinds of Ollama find the model. All of it blocks: for a disk thread, several
at once.

What cannot be read, or is no manifest, counts as not stored; it is logged once.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Optional

from attrs import define, field, frozen
from twisted.logger import Logger

from yukari.manifest import (
    DOCKER_MANIFEST,
    MANIFEST_LIST,
    MAX_BYTES,
    OCI_MANIFEST,
    AnyManifest,
    Descriptor,
    InvalidManifest,
    Manifest,
    Variant,
    parse_manifest,
)
from yukari.names import Digest, ModelName, Reference, Tag
from yukari.storage.disk.atomic import ABSENT, make_directories, replace_file, replace_link
from yukari.storage.disk.layout import Layout, is_model, tag_path
from yukari.storage.disk.listing import TagListing
from yukari.storage.manifest_cache import cost_of
from yukari.storage.ports import NEVER_CHECKED, StoredManifest
from yukari.storage.variants import Variants, differ

_NAMED_BY_ANCHORS = (DOCKER_MANIFEST, OCI_MANIFEST, MANIFEST_LIST)
"""Media types of the layers by which Ollama 0.40 names manifests in ``manifests``."""

_SMALL = 1024 * 1024
"""Bytes; a larger blob is not looked at for whether it is the child of a list."""

Stamp = Optional[tuple[int, int, int]]
"""What changes when a file does; None if it is not there."""
Watched = dict[tuple[str, bool], Stamp]
"""Files that an answer depends on, and whether a link counts as what it links to."""


@frozen
class Loaded:
    """A manifest, and the files that said that it is the one."""

    stored: StoredManifest
    watched: Watched

    @property
    def cost(self) -> int:
        """About how many bytes it takes in memory."""
        return cost_of(self.stored)


@frozen
class _File:
    """A manifest's file as it was read."""

    path: str
    manifest: AnyManifest
    checked_at: float

    @property
    def stored(self) -> StoredManifest:
        return StoredManifest(self.manifest, self.checked_at)


@define
class _Found:
    """The files of a tag and what they mean."""

    plain: Optional[_File] = None
    linked: Optional[_File] = None
    variants: Variants = field(factory=Variants)


@define(eq=False)
class ManifestFiles:
    """The manifests of one upstream; ``made`` is a directory for files in the making."""

    layout: Layout
    _made: str
    listing: TagListing = field(init=False)
    _told: set[tuple[str, str]] = field(factory=set, init=False)
    _lock: Lock = field(factory=Lock, init=False)
    _tag_locks: tuple[Lock, ...] = field(
        factory=lambda: tuple(Lock() for _ in range(16)), init=False
    )
    """Held while a tag's files are changed."""

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self.listing = TagListing(self.layout, self._tell)

    # reading

    def load(self, name: ModelName, reference: Reference, variant: Variant) -> Optional[Loaded]:
        """Return the answer; a digest also from a tag's file, for what Ollama 0.34 filled."""
        watched: Watched = {}
        if isinstance(reference, Tag):
            stored = self._find(name, reference, watched).variants.answer(variant)
            return None if stored is None else Loaded(stored, watched)
        found = self._blob(reference, watched)
        if found is not None:
            return Loaded(found.stored, watched)
        for tag in self.listing.tags(name):
            for path in self._plain_paths(name, tag):
                found = self._read(path, watched)
                if found is not None and found.manifest.digest == reference:
                    return Loaded(found.stored, watched)
        return None

    def reload(
        self, name: ModelName, reference: Reference, variant: Variant, known: Loaded
    ) -> Optional[Loaded]:
        """As `load`; ``known`` itself if its files are as they were."""
        if all(_stamp(*each) == stamp for each, stamp in known.watched.items()):
            return known
        return self.load(name, reference, variant)

    def _find(self, name: ModelName, tag: Tag, watched: Optional[Watched] = None) -> _Found:
        watched = {} if watched is None else watched
        found = _Found()
        if not is_model(name, tag.name):
            return found
        for directory in self.layout.linked:
            found.linked = self._linked(tag_path(directory, name, tag), watched)
            if found.linked is not None:
                break
        files = (self._read(path, watched) for path in self._plain_paths(name, tag))
        file = next((each for each in files if each and isinstance(each.manifest, Manifest)), None)
        plain, listed, runnable = None, None, None
        if found.linked is not None:
            listed = found.linked.stored
            runnable = self._runnable(listed.manifest, watched)
        if file is not None and not _is_anchor(file.manifest):
            found.plain, plain = file, file.stored
        elif file is not None and runnable is None:
            for each in self._anchored(file.manifest, watched):
                if isinstance(each, Manifest):
                    runnable = runnable or each
                elif listed is None:
                    listed = StoredManifest(each, file.checked_at)
        if listed is not None and listed.checked_at == NEVER_CHECKED:
            # It mirrors the plain one, for Ollama 0.40.
            listed = None
            if plain is not None:
                runnable = None
        found.variants = Variants(plain, listed, runnable)
        return found

    def _runnable(self, found: AnyManifest, watched: Watched) -> Optional[Manifest]:
        """The manifest that a client gets which does not accept lists, if it is stored."""
        if isinstance(found, Manifest):
            return found
        for child in found.by_preference():
            if child.inline is not None:
                return child.inline
            file = self._blob(child.digest, watched)
            if file is not None and isinstance(file.manifest, Manifest):
                return file.manifest
        return None

    def _anchored(self, anchor: AnyManifest, watched: Watched) -> Iterable[AnyManifest]:
        """The manifests that are stored of those that Ollama 0.40 names in ``manifests``."""
        for layer in _layers(anchor):
            if layer.media_type in _NAMED_BY_ANCHORS:
                file = self._blob(layer.digest, watched)
                if file is not None:
                    yield file.manifest

    def _plain_paths(self, name: ModelName, tag: Tag) -> list[str]:
        return [tag_path(directory, name, tag) for directory in self.layout.plain]

    # one file

    def _linked(self, path: str, watched: Watched) -> Optional[_File]:
        """The manifest that an entry of ``manifests-v2`` stands for."""
        watched[path, False] = _stamp(path, False)
        try:
            target = os.readlink(path)
        except OSError:
            return self._read(path, watched)
        digest = self.layout.blob_linked(path, target)
        if digest is None:
            self._tell(path, f"it links to {target}: expected a blob")
            return None
        file = self._blob(digest, watched)
        stamp = watched[path, False]
        return file and stamp and _File(path, file.manifest, stamp[0] / 1e9)

    def _blob(self, digest: Digest, watched: Watched) -> Optional[_File]:
        """The manifest in a blob; most blobs are none, and are not told of."""
        file = self._read(self.layout.blob(digest), watched, lambda path, why: None)
        if file is not None and file.manifest.digest != digest:
            self._tell(file.path, f"its bytes are {file.manifest.digest}")
            return None
        return file

    def _read(
        self,
        path: str,
        watched: Watched,
        tell: Optional[Callable[[str, str], None]] = None,
    ) -> Optional[_File]:
        watched[path, True] = None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                found = os.fstat(descriptor)
                watched[path, True] = _stamp_of(found)
                if not stat.S_ISREG(found.st_mode):
                    raise InvalidManifest("not a regular file")
                if found.st_size > MAX_BYTES:
                    raise InvalidManifest(f"{found.st_size} bytes: expected at most {MAX_BYTES}")
                body = _all_of(descriptor)
            finally:
                os.close(descriptor)
            return _File(path, parse_manifest(body), found.st_mtime_ns / 1e9)
        except (OSError, InvalidManifest) as error:
            if not isinstance(error, OSError) or error.errno not in ABSENT:
                (tell or self._tell)(path, str(error))
            return None

    # writing

    def store(
        self,
        name: ModelName,
        reference: Reference,
        manifest: AnyManifest,
        checked_at: float,
        variant: Variant,
    ) -> list[Tag]:
        """
        Store it as a blob, then as that variant of the tag; OSError leaves the tag as it was.

        What the tag named before is stored as a blob first, if it is none yet. Returns other tags
        that were changed, as `settle` does.
        """
        self._store_blob(manifest, checked_at)
        if isinstance(reference, Digest):
            return self.settle(name, manifest)
        with self._changing(name, reference):
            found = self._find(name, reference)
            if found.plain is not None:
                self._store_blob(found.plain.manifest, found.plain.checked_at, old=True)
            if found.variants.outdates(manifest, checked_at, variant):
                return []
            if isinstance(manifest, Manifest) and variant is Variant.PLAIN:
                self._write_plain(name, reference, manifest, checked_at)
                self._mirror(name, reference, manifest, found)
                return []
            before = found.variants.answer(Variant.PLAIN)
            self._write_link(name, reference, manifest, checked_at)
            now = self._find(name, reference).variants
            answer = before if now.runnable is None else now.answer(Variant.PLAIN)
            self._keep_plain(name, reference, answer, found)
        return []

    def settle(self, name: ModelName, child: AnyManifest) -> list[Tag]:
        """Have Ollama 0.34 find the models whose lists have a child that is stored now: which."""
        changed: list[Tag] = []
        if not isinstance(child, Manifest):
            return changed
        for tag in self.listing.tags(name):
            with self._changing(name, tag):
                found = self._find(name, tag)
                variants = found.variants
                if variants.listed is None or variants.runnable is None:
                    continue
                if self._keep_plain(name, tag, variants.answer(Variant.PLAIN), found):
                    changed.append(tag)
        return changed

    def published(
        self, digest: Digest, size: int, names: Iterable[ModelName]
    ) -> list[tuple[ModelName, Tag]]:
        """As `settle`, for a blob that may be a child."""
        file = self._blob(digest, {}) if size <= _SMALL else None
        if file is None:
            return []
        try:
            return [(name, tag) for name in names for tag in self.settle(name, file.manifest)]
        except OSError as error:
            self._log.warn("{path}: {error}", path=file.path, error=str(error))
            return []

    def touch(
        self, name: ModelName, tag: Tag, digest: Digest, checked_at: float, variant: Variant
    ) -> None:
        """Note a check of a variant, if that is still ``digest``."""
        with self._changing(name, tag):
            found = self._find(name, tag)
            stored = found.variants.answer(variant)
            if stored is None or stored.manifest.digest != digest:
                return
            manifest = stored.manifest
            file = found.plain if variant is Variant.PLAIN else found.linked
            if file is not None and file.manifest.digest == digest:
                checked = _nanoseconds(checked_at)
                os.utime(file.path, ns=(checked, checked), follow_symlinks=False)
            elif variant is Variant.LIST:
                self._store_blob(manifest, checked_at, old=True)
                self._write_link(name, tag, manifest, checked_at)
            elif isinstance(manifest, Manifest):
                self._write_plain(name, tag, manifest, checked_at)
            if variant is Variant.LIST:
                self._keep_plain(name, tag, found.variants.answer(Variant.PLAIN), found)
            elif found.linked is not None and found.variants.listed is None:
                self._mirror(name, tag, manifest, found)

    def _keep_plain(
        self, name: ModelName, tag: Tag, answer: Optional[StoredManifest], found: _Found
    ) -> bool:
        """Have the tag's file in ``manifests`` be what plain clients get: whether it was not."""
        if answer is None or not isinstance(answer.manifest, Manifest):
            return False
        if found.plain is not None and found.plain.manifest.digest == answer.manifest.digest:
            return False
        self._write_plain(name, tag, answer.manifest, answer.checked_at)
        return True

    def _mirror(self, name: ModelName, tag: Tag, manifest: AnyManifest, found: _Found) -> None:
        """Have Ollama 0.40 find the plain manifest, unless it has a list of it."""
        if found.linked is None or differ(manifest, found.linked.manifest):
            self._write_link(name, tag, manifest, NEVER_CHECKED)

    def _write_plain(
        self, name: ModelName, tag: Tag, manifest: Manifest, checked_at: float
    ) -> None:
        target = tag_path(self.layout.plain[0], name, tag)
        make_directories(os.path.dirname(target))
        replace_file(target, manifest.body, _nanoseconds(checked_at), self._made)

    def _write_link(
        self, name: ModelName, tag: Tag, manifest: AnyManifest, checked_at: float
    ) -> None:
        target = tag_path(self.layout.linked[0], name, tag)
        directory = os.path.dirname(target)
        make_directories(directory)
        to = os.path.relpath(self.layout.blob(manifest.digest), directory)
        checked = _nanoseconds(checked_at)
        if not replace_link(target, to, checked, self._made):
            replace_file(target, manifest.body, checked, self._made)

    def _store_blob(self, manifest: AnyManifest, checked_at: float, old: bool = False) -> None:
        path = self.layout.blob(manifest.digest)
        checked = _nanoseconds(checked_at)
        found = self._blob(manifest.digest, {})
        if found is None:
            make_directories(os.path.dirname(path))
            replace_file(path, manifest.body, checked, self._made)
        elif not old:
            os.utime(path, ns=(checked, checked))

    def _changing(self, name: ModelName, tag: Tag) -> Lock:
        return self._tag_locks[hash((name, tag)) % len(self._tag_locks)]

    def _tell(self, path: str, why: str) -> None:
        """Warn, once for each file and reason."""
        with self._lock:
            if (path, why) in self._told:
                return
            if len(self._told) >= 1000:
                self._told.clear()
            self._told.add((path, why))
        self._log.warn("{path} counts as not stored: {why}", path=path, why=why)


def _layers(found: AnyManifest) -> tuple[Descriptor, ...]:
    return found.blobs if isinstance(found, Manifest) else ()


def _is_anchor(found: AnyManifest) -> bool:
    """Whether Ollama 0.40 made it of a manifest, for older versions; no registry has it."""
    return any(layer.media_type in _NAMED_BY_ANCHORS for layer in _layers(found))


def _stamp(path: str, follow: bool) -> Stamp:
    try:
        return _stamp_of(os.stat(path) if follow else os.lstat(path))
    except OSError:
        return None


def _stamp_of(found: os.stat_result) -> Stamp:
    return found.st_mtime_ns, found.st_size, found.st_ino


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _all_of(descriptor: int) -> bytes:
    """A file's bytes; a few beyond a manifest's limit at most."""
    body = bytearray()
    while len(body) <= MAX_BYTES and (piece := os.read(descriptor, 1 << 20)):
        body += piece
    return bytes(body)
