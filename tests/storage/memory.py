"""
A store in memory: the deterministic double of the others.

It forgets everything with the process, completes every call at once and never
fails but for want of room, which ``capacity`` sets. Handed from one library to
the next it is a disk that outlives a restart: a spool that was not published or
discarded is found again by `MemoryStore.spools`, closed or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Optional, TypeVar, cast

from attrs import define, field

from yukari.manifest import (
    AnyManifest,
    InvalidManifest,
    Manifest,
    Variant,
    parse_manifest,
)
from yukari.names import Digest, Reference, Repository, Tag
from yukari.spans import Span, SpanSet
from yukari.storage.inventory import FrontDisk
from yukari.storage.ports import (
    NEVER_CHECKED,
    Answers,
    BlobEntry,
    BlobFile,
    Holdings,
    ManifestEntry,
    NoRoom,
    Spool,
    StoredManifest,
)
from yukari.storage.readable import MemoryBlob, work_on_each
from yukari.storage.variants import Variants, alone, check_put

T = TypeVar("T")


@define(eq=False, repr=False)
class _Lying:
    """The remains of a spool that is closed."""

    digest: Digest
    repositories: tuple[Repository, ...]
    body: bytearray
    cover: SpanSet = field(factory=SpanSet)


@define(eq=False, repr=False)
class MemorySpool:
    """`Spool` over bytes that the store keeps."""

    _store: MemoryStore
    _lying: _Lying
    _closed: bool = field(default=False, init=False)

    @property
    def digest(self) -> Digest:
        return self._lying.digest

    @property
    def size(self) -> int:
        return len(self._lying.body)

    @property
    def repositories(self) -> tuple[Repository, ...]:
        return self._lying.repositories

    def covered(self) -> SpanSet:
        return SpanSet.of(self._lying.cover)

    def write(self, pieces: Sequence[tuple[int, Sequence[bytes]]]) -> None:
        joined = [(offset, b"".join(buffers)) for offset, buffers in pieces]
        for offset, body in joined:
            if not 0 <= offset <= offset + len(body) <= self.size:
                raise ValueError(f"bytes {offset}-{offset + len(body)} of a blob of {self.size}")
        self._own()
        for offset, body in joined:
            self._lying.body[offset : offset + len(body)] = body
            self._lying.cover.add(offset, offset + len(body))

    def note_repository(self, name: Repository) -> None:
        if name not in self._lying.repositories:
            self._lying.repositories += (name,)

    def open(self) -> MemoryBlob:
        if self._closed:
            raise ValueError("this file is closed")
        return MemoryBlob(self.size, self._lying.body)

    def discard(self) -> None:
        if self._store._spools.get(self.digest) is self._lying:
            del self._store._spools[self.digest]
        self.close()

    def close(self) -> None:
        self._closed = True

    def _own(self) -> None:
        """ValueError if the bytes may be a stored blob's by now, which nothing may change."""
        if self._closed or self._store._spools.get(self.digest) is not self._lying:
            raise ValueError(f"the spool of {self.digest} was published, discarded or closed")


@define(eq=False, repr=False)
class MemoryStore:
    """`Store` in memory that takes ``capacity`` bytes in all, None for any number."""

    capacity: Optional[int] = None
    changes: int = field(default=0, init=False)
    _tags: dict[Repository, dict[Tag, dict[Variant, StoredManifest]]] = field(
        factory=dict, init=False
    )
    _by_digest: dict[Digest, StoredManifest] = field(factory=dict, init=False)
    _blobs: dict[Digest, bytearray] = field(factory=dict, init=False)
    _spools: dict[Digest, _Lying] = field(factory=dict, init=False)
    _documents: dict[str, tuple[bytes, str]] = field(factory=dict, init=False)

    @property
    def inventory(self) -> MemoryStore:
        """The store itself."""
        return self

    @property
    def shared(self) -> None:
        """None: one process has it."""

    def describe(self) -> str:
        return "memory"

    def copies(self) -> tuple[MemoryCopies]:
        return (MemoryCopies(self._blobs),)

    async def start(self) -> None:
        pass

    def interrupt(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def check(self) -> None:
        pass

    async def count(self) -> Holdings:
        sizes = self._sizes()
        models = sum(len(tags) for tags in self._tags.values())
        return Holdings(models, blobs=len(sizes), bytes=sum(sizes.values()))

    # manifests

    async def get_manifest(
        self, name: Repository, reference: Reference, variant: Variant = Variant.PLAIN
    ) -> Optional[StoredManifest]:
        if isinstance(reference, Digest):
            return self._manifest(reference)
        return self._variants(name, reference).answer(variant)

    async def read_anew(self, keys: Sequence[tuple[Repository, Reference]]) -> list[Answers]:
        return [
            alone(self._manifest(reference))
            if isinstance(reference, Digest)
            else self._variants(name, reference).answers()
            for name, reference in keys
        ]

    def _manifest(self, digest: Digest) -> Optional[StoredManifest]:
        if digest not in self._by_digest and digest in self._blobs:
            with suppress(InvalidManifest):
                return StoredManifest(parse_manifest(bytes(self._blobs[digest])), NEVER_CHECKED)
        return self._by_digest.get(digest)

    def _variants(self, name: Repository, tag: Tag) -> Variants:
        kept = self._tags.get(name, {}).get(tag, {})
        listed = kept.get(Variant.LIST)
        if listed is None or self._manifest(listed.manifest.digest) is None:
            return Variants(kept.get(Variant.PLAIN))
        return Variants(kept.get(Variant.PLAIN), listed, self._runnable(listed.manifest))

    def _runnable(self, found: AnyManifest) -> Optional[AnyManifest]:
        if isinstance(found, Manifest):
            return found
        for child in found.by_preference():
            stored = self._manifest(child.digest)
            if stored is not None:
                return stored.manifest
            if child.inline is not None:
                return child.inline
        return None

    async def put_manifest(
        self,
        name: Repository,
        reference: Reference,
        manifest: AnyManifest,
        checked_at: float,
        variant: Variant = Variant.PLAIN,
    ) -> None:
        check_put(reference, manifest, variant)
        self.changes += 1
        if manifest.digest not in self._by_digest:
            self._reserve(len(manifest.body))
        stored = self._by_digest[manifest.digest] = StoredManifest(manifest, checked_at)
        outdated = isinstance(reference, Tag) and self._variants(name, reference).outdates(
            manifest, checked_at, variant
        )
        if isinstance(reference, Tag) and not outdated:
            kept = self._tags.setdefault(name, {}).setdefault(reference, {})
            kept[variant] = stored
            if variant is Variant.PLAIN and self._variants(name, reference).conflict:
                kept.pop(Variant.LIST)
        self._settle()

    def _settle(self) -> None:
        """Make the child of each list the plain variant, if it is stored by now."""
        for name, tags in self._tags.items():
            for tag, kept in tags.items():
                found = self._variants(name, tag)
                plain = found.answer(Variant.PLAIN)
                if plain is not None and (found.conflict or found.plain is None):
                    kept[Variant.PLAIN] = plain

    async def touch_manifest(
        self,
        name: Repository,
        tag: Tag,
        digest: Digest,
        checked_at: float,
        variant: Variant = Variant.PLAIN,
    ) -> None:
        self.changes += 1
        found = self._variants(name, tag).answer(variant)
        if found is not None and found.manifest.digest == digest:
            self._tags[name][tag][variant] = StoredManifest(found.manifest, checked_at)

    async def tags(self, name: Repository) -> list[Tag]:
        return sorted(self._tags.get(name, ()))

    async def manifests(
        self, after: Optional[tuple[Repository, Tag]] = None, most: int = 500
    ) -> list[ManifestEntry]:
        entries = sorted(
            ManifestEntry(name, tag, _first_check(kept.values()))
            for name, tags in self._tags.items()
            for tag, kept in tags.items()
            if after is None or (name, tag) > after
        )
        return entries[:most]

    # blobs

    async def blob_size(self, digest: Digest) -> Optional[int]:
        found = self._body(digest)
        return None if found is None else len(found)

    async def open_blob(self, digest: Digest) -> Optional[BlobFile]:
        return self._open(digest)

    async def each_blob(
        self, digests: Sequence[Digest], work: Callable[[BlobFile], T]
    ) -> list[Optional[T]]:
        return work_on_each(self._open, digests, work)

    def _open(self, digest: Digest) -> Optional[BlobFile]:
        found = self._body(digest)
        return None if found is None else MemoryBlob(len(found), found)

    def _body(self, digest: Digest) -> Optional[bytearray]:
        if digest not in self._blobs and digest in self._by_digest:
            return bytearray(bytes(self._by_digest[digest].manifest.body))
        return self._blobs.get(digest)

    async def blobs(self, after: Optional[Digest] = None, most: int = 500) -> list[BlobEntry]:
        entries = sorted(BlobEntry(digest, size) for digest, size in self._sizes().items())
        return [each for each in entries if after is None or each.digest > after][:most]

    def _sizes(self) -> dict[Digest, int]:
        sizes = {digest: len(body) for digest, body in self._blobs.items()}
        return sizes | {
            digest: len(stored.manifest.body) for digest, stored in self._by_digest.items()
        }

    async def delete_blob(self, digest: Digest) -> None:
        self.changes += 1
        self._blobs.pop(digest, None)
        self._by_digest.pop(digest, None)

    # what the collector does

    async def remove_tag(self, name: Repository, tag: Tag) -> None:
        self.changes += 1
        tags = self._tags.get(name, {})
        tags.pop(tag, None)
        if not tags:
            self._tags.pop(name, None)

    async def named_elsewhere(self) -> frozenset[Digest]:
        return frozenset()

    async def place(self) -> str:
        return ""

    def unread(self) -> Optional[OSError]:
        return None

    async def short_of(self, size: int) -> int:
        return 0 if self.capacity is None else max(0, self._taken() + size - self.capacity)

    async def free_space(self) -> Optional[int]:
        return None if self.capacity is None else max(0, self.capacity - self._taken())

    async def front_disk(self) -> Optional[FrontDisk]:
        return None

    async def disk_size(self) -> int:
        if self.capacity is None:
            raise OSError("memory has no size")
        return self.capacity

    async def load(self, name: str) -> Optional[tuple[bytes, str]]:
        return self._documents.get(name)

    async def save(self, name: str, body: bytes, version: Optional[str]) -> bool:
        if version != self._documents.get(name, (b"", None))[1]:
            return False
        self._documents[name] = body, f"{int(version or 0) + 1}"
        return True

    # spools

    async def spools(self) -> list[Spool]:
        return [MemorySpool(self, self._spools[digest]) for digest in sorted(self._spools)]

    async def new_spool(self, digest: Digest, size: int, repository: Repository) -> Spool:
        lying = self._spools.pop(digest, None)
        if lying is not None and len(lying.body) == size:
            self._spools[digest] = lying
            return MemorySpool(self, lying)
        self._reserve(size)
        made = self._spools[digest] = _Lying(digest, (repository,), bytearray(size))
        return MemorySpool(self, made)

    async def publish(self, spool: Spool) -> None:
        ready = cast(MemorySpool, spool)
        ready._own()
        if ready.covered().total < ready.size:
            raise ValueError(f"bytes of {ready.digest} are missing")
        self.changes += 1
        self._blobs[ready.digest] = self._spools.pop(ready.digest).body
        self._settle()

    def _reserve(self, size: int) -> None:
        taken = self._taken()
        if self.capacity is not None and taken + size > self.capacity:
            raise NoRoom(f"memory: no room for {size} bytes: {taken} of {self.capacity} taken")

    def _taken(self) -> int:
        taken = sum(len(stored.manifest.body) for stored in self._by_digest.values())
        taken += sum(len(body) for body in self._blobs.values())
        return taken + sum(len(lying.body) for lying in self._spools.values())


def _first_check(variants: Iterable[StoredManifest]) -> float:
    times = (stored.checked_at for stored in variants)
    return min((time for time in times if time != NEVER_CHECKED), default=NEVER_CHECKED)


@define(eq=False, repr=False)
class MemoryCopy:
    """An `OpenCopy` of one of ``blobs``."""

    _blobs: dict[Digest, bytearray]
    _digest: Digest
    _body: bytearray

    @property
    def size(self) -> int:
        return len(self._body)

    async def hash(self, into: Any, span: Span) -> None:
        into.update(self._body[span.start : span.end])

    async def set_aside(self) -> Optional[str]:
        if self._blobs.get(self._digest) is not self._body:
            return None
        del self._blobs[self._digest]
        return ""

    def close(self) -> None:
        pass


@define(eq=False, repr=False)
class MemoryCopies:
    """`Copies` of ``blobs``."""

    _blobs: dict[Digest, bytearray]
    place: str = "disk"
    step: int = 1024

    def among(self) -> None:
        pass

    async def open(self, digest: Digest) -> Optional[MemoryCopy]:
        body = self._blobs.get(digest)
        return None if body is None else MemoryCopy(self._blobs, digest, body)

    async def drop(self, digest: Digest) -> None:
        pass
