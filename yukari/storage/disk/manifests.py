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

import errno
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Lock
from typing import Any, Optional, TypeVar

from attrs import define, field, frozen
from twisted.logger import Logger

from yukari.large import IsLarge
from yukari.manifest import AnyManifest, Manifest, Variant
from yukari.names import DEFAULT, Digest, Reference, Repository, Tag
from yukari.storage.disk.atomic import make_directories, replace_file, replace_link
from yukari.storage.disk.bodies import KeptFiles
from yukari.storage.disk.layout import Layout, tag_path
from yukari.storage.disk.listing import TagListing
from yukari.storage.disk.reading import File, Found, ManifestReader, Watched, is_anchor, stamp_of
from yukari.storage.disk.tolerance import GENERAL
from yukari.storage.manifest_cache import cost_of
from yukari.storage.ports import NEVER_CHECKED, Answers, StoredManifest
from yukari.storage.variants import SMALL_MANIFEST, alone, differ

T = TypeVar("T")

_NO_COLON = (errno.EINVAL, errno.ENOENT, errno.EPERM)
"""How file systems refuse a directory whose name has a colon."""


@frozen
class Loaded:
    """A manifest, and the files that said that it is the one."""

    stored: StoredManifest
    watched: Watched

    @property
    def cost(self) -> int:
        """About how many bytes it takes in memory."""
        return cost_of(self.stored)


@define(eq=False, repr=False)
class ManifestFiles:
    """
    The manifests; ``made`` is a directory for files in the making.

    ``older`` is where a store of before ``manifests-v2`` has the default registry's by digest,
    until they are moved.
    """

    layout: Layout
    made: str
    older: Optional[str] = None
    listing: TagListing = field(init=False)
    _reader: ManifestReader = field(init=False)
    tag_locks: tuple[Lock, ...] = field(
        factory=lambda: tuple(Lock() for _ in range(16)), init=False
    )
    """Held while a tag's files are changed."""

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._reader = ManifestReader(self.layout, KeptFiles(self.made))
        self.listing = TagListing(self.layout, self._reader.note, self._reader.tell)

    # reading

    def unread(self) -> Optional[OSError]:
        """As `Inventory.unread`."""
        unread, self._reader.unread = self._reader.unread, None
        return unread

    def small_only(self, work: Callable[..., T], *args: Any) -> T:
        """Call ``work``; `IsLarge` if it comes to a large manifest, and then it is called anew."""
        with self._reader.small_only():
            return work(*args)

    def load(self, name: Repository, reference: Reference, variant: Variant) -> Optional[Loaded]:
        """Return a manifest, None if it is not stored; by digest also from the file of a tag."""
        watched: Watched = {}
        if isinstance(reference, Tag):
            stored = self._reader.find(name, reference, watched).variants.answer(variant)
            return None if stored is None else Loaded(stored, watched)
        found = self._reader.blob(reference, watched)
        if found is None and self.older is not None and name.registry == DEFAULT:
            path = os.path.join(self.older, name.namespace, name.model, reference.file_name)
            found = self._reader.read(path, watched)
            if found is None or found.manifest.digest != reference:
                # It may have been moved meanwhile.
                found = self._reader.blob(reference, watched)
        if found is not None:
            return Loaded(found.stored, watched)
        for tag in self.listing.tags(name):
            for path in self._reader.plain_paths(name, tag):
                found = self._reader.read(path, watched)
                if found is None or is_anchor(found.manifest):
                    continue
                if found.manifest.digest == reference:
                    return Loaded(found.stored, watched)
        return None

    def answers(self, keys: Iterable[tuple[Repository, Reference]]) -> list[Answers]:
        """
        As `ManifestStore.read_anew`; each file is read and parsed once. `IsLarge` if the first is.
        """
        found = list[Answers]()
        for key in keys:
            try:
                found.append(self._answers(*key))
            except IsLarge:
                if not found:
                    raise
                break
        return found

    def _answers(self, name: Repository, reference: Reference) -> Answers:
        if isinstance(reference, Tag):
            return self._reader.find(name, reference).variants.answers()
        found = self.load(name, reference, Variant.PLAIN)
        return alone(None if found is None else found.stored)

    def is_unchanged(self, known: Loaded) -> bool:
        """Whether all files that said that it is the manifest are as they were."""
        return all(stamp_of(*each) == stamp for each, stamp in known.watched.items())

    # writing

    def store(
        self,
        name: Repository,
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
        with self.changing(name, reference):
            found = self._reader.find(name, reference)
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
            now = self._reader.find(name, reference).variants
            answer = before if now.runnable is None else now.answer(Variant.PLAIN)
            self._keep_plain(name, reference, answer, found)
        return []

    def settle(self, name: Repository, child: AnyManifest) -> list[Tag]:
        """Write plain files of the tags whose lists have ``child``, and return these tags."""
        changed: list[Tag] = []
        if not isinstance(child, Manifest):
            return changed
        for tag in self.listing.tags(name):
            with self.changing(name, tag):
                found = self._reader.find(name, tag)
                variants = found.variants
                if variants.listed is None or variants.runnable is None:
                    continue
                if self._keep_plain(name, tag, variants.answer(Variant.PLAIN), found):
                    changed.append(tag)
        return changed

    def published(
        self, digest: Digest, size: int, names: Iterable[Repository]
    ) -> list[tuple[Repository, Tag]]:
        """As `settle`, for a blob that may be a child."""
        file = self._reader.blob(digest, {}) if size <= SMALL_MANIFEST else None
        if file is None:
            return []
        try:
            return [(name, tag) for name in names for tag in self.settle(name, file.manifest)]
        except OSError as error:
            self._log.warn("{path}: {error}", path=file.path, error=str(error))
            return []

    def touch(
        self, name: Repository, tag: Tag, digest: Digest, checked_at: float, variant: Variant
    ) -> None:
        """Record when a variant was checked, if it is still ``digest``."""
        with self.changing(name, tag):
            found = self._reader.find(name, tag)
            stored = found.variants.answer(variant)
            if stored is None or stored.manifest.digest != digest:
                return
            manifest = stored.manifest
            file = found.plain if variant is Variant.PLAIN else found.linked
            if file is not None and file.manifest.digest == digest:
                self._set_time(file, name, tag, checked_at, variant)
            elif variant is Variant.LIST:
                self._store_blob(manifest, checked_at, old=True)
                self._write_link(name, tag, manifest, checked_at)
            elif isinstance(manifest, Manifest):
                self._write_plain(name, tag, manifest, checked_at)
            if variant is Variant.LIST:
                self._keep_plain(name, tag, found.variants.answer(Variant.PLAIN), found)
            elif found.linked is not None and found.variants.listed is None:
                self._mirror(name, tag, manifest, found)

    def _set_time(
        self, file: File, name: Repository, tag: Tag, checked_at: float, variant: Variant
    ) -> None:
        checked = _nanoseconds(checked_at)
        try:
            os.utime(file.path, ns=(checked, checked), follow_symlinks=False)
            if variant is Variant.PLAIN:
                with suppress(OSError):  # By the same time it is known whose manifest this is.
                    os.utime(self.layout.blob(file.manifest.digest), ns=(checked, checked))
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno in GENERAL:
                raise
            # It is another user's, or the file system sets no times: a new file replaces it.
            if variant is Variant.LIST:
                self._write_link(name, tag, file.manifest, checked_at)
            elif isinstance(file.manifest, Manifest):
                self._write_plain(name, tag, file.manifest, checked_at)

    def link(self, name: Repository, tag: Tag) -> None:
        """Link a plain manifest for Ollama 0.40, if it has no link yet."""
        with self.changing(name, tag):
            found = self._reader.find(name, tag)
            if found.plain is not None and found.linked is None:
                self._store_blob(found.plain.manifest, found.plain.checked_at, old=True)
                manifest = found.plain.manifest
                self._write_link(name, tag, manifest, NEVER_CHECKED, durable=False)

    def _keep_plain(
        self, name: Repository, tag: Tag, answer: Optional[StoredManifest], found: Found
    ) -> bool:
        """Write what plain clients get into the tag's file; whether it was something else."""
        if answer is None or not isinstance(answer.manifest, Manifest):
            return False
        if found.plain is not None and found.plain.manifest.digest == answer.manifest.digest:
            return False
        self._write_plain(name, tag, answer.manifest, answer.checked_at)
        return True

    def _mirror(self, name: Repository, tag: Tag, manifest: AnyManifest, found: Found) -> None:
        """Link the plain manifest for Ollama 0.40, unless a list that has it is linked."""
        if found.linked is None or differ(manifest, found.linked.manifest):
            self._write_link(name, tag, manifest, NEVER_CHECKED)

    def _write_plain(
        self, name: Repository, tag: Tag, manifest: Manifest, checked_at: float
    ) -> None:
        directories = self.layout.plain(name.registry)
        first, last = directories[0], directories[-1]
        target = tag_path(first, name, tag)
        try:
            make_directories(os.path.dirname(target))
        except OSError as error:
            # On vfat and exfat no name has a colon; Ollama up to 0.39 cannot store there.
            if "%3A" not in os.path.basename(last) or error.errno not in _NO_COLON:
                raise
            target = tag_path(last, name, tag)
            make_directories(os.path.dirname(target))
        replace_file(target, manifest.body, _nanoseconds(checked_at), self.made)

    def _write_link(
        self,
        name: Repository,
        tag: Tag,
        manifest: AnyManifest,
        checked_at: float,
        *,
        durable: bool = True,
    ) -> None:
        target = tag_path(self.layout.linked(name.registry)[0], name, tag)
        directory = os.path.dirname(target)
        make_directories(directory, durable=durable)
        to = os.path.relpath(self.layout.blob(manifest.digest), directory)
        checked = _nanoseconds(checked_at)
        if not replace_link(target, to, checked, self.made, durable=durable):
            replace_file(target, manifest.body, checked, self.made)

    def _store_blob(self, manifest: AnyManifest, checked_at: float, old: bool = False) -> None:
        """Store it as a blob; an ``old`` one that is there keeps its time of check."""
        path = self.layout.blob(manifest.digest)
        checked = _nanoseconds(checked_at)
        found = self._reader.blob(manifest.digest, {})
        if found is None:
            replace_file(path, manifest.body, checked, self.made)
        elif not old:
            with suppress(OSError):
                os.utime(path, ns=(checked, checked))

    def changing(self, name: Repository, tag: Tag) -> Lock:
        """Return the lock that is held while a tag's files are changed."""
        return self.tag_locks[hash((name, tag)) % len(self.tag_locks)]


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
