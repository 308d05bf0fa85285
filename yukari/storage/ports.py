"""
What a store is: manifests by name, blobs by digest, and spools for blobs on their way.

Every store keeps these promises, and `tests.storage` holds each of them to all:

- A manifest or a blob is seen whole or not at all, whenever the process dies.
- What is stored is never changed and never removed by a failure; a tag's
  manifest that is replaced stays reachable by its digest.
- A spool survives the death of the process with every write that returned.

Methods that touch a disk or a network are coroutines and never block the
reactor; `Spool` and `BlobFile` say which of theirs belong in a disk thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional, Protocol, runtime_checkable

from attrs import field, frozen

from yukari.manifest import AnyManifest, Variant
from yukari.names import Digest, ModelName, Reference, Tag
from yukari.sources.base import BlobSource, KeptSource
from yukari.spans import SpanSet
from yukari.storage.inventory import Inventory


class StoreUnusable(Exception):
    """The store cannot be used at all; the text is one line: which, and what to do."""


class NoRoom(Exception):
    """Storing this would leave less space free than is to be kept; the text has the numbers."""


class WrongDigest(Exception):
    """A blob's bytes are another blob's; ``found`` is what they hash to."""

    def __init__(self, found: Digest) -> None:
        super().__init__(f"upstream sent {found}")
        self.found = found


NEVER_CHECKED = 0.0
"""When upstream was asked about what nobody has asked it about yet, in seconds of the epoch."""


@frozen
class StoredManifest:
    """
    A manifest or a list, and when upstream was last asked about it, in seconds of the epoch.

    `NEVER_CHECKED` if it answers a `Variant` that upstream has never been asked for.
    """

    manifest: AnyManifest
    checked_at: float


@frozen(order=True)
class ManifestEntry:
    """
    A row of a listing: a tag, and when its variant that was checked first was, in seconds of the
    epoch; variants that were never checked do not count unless all are.
    """

    name: ModelName
    tag: Tag
    checked_at: float


@frozen(order=True)
class BlobEntry:
    """A row of a listing: a whole blob and its size in bytes."""

    digest: Digest
    size: int
    stored_at: float = field(default=0.0, eq=False)
    """When it was stored, in seconds of the epoch; a blob that was linked here counts from then."""


@frozen
class Unfinished:
    """A blob of ``size`` bytes on its way by a `DirectUpload` when the process ended."""

    digest: Digest
    size: int
    repository: ModelName


@frozen
class Holdings:
    """What a store holds: tagged manifests, whole blobs, and these blobs' bytes."""

    models: int
    blobs: int
    bytes: int


class BlobFile(Protocol):
    """A whole blob, opened for reading; it stays readable if the blob is removed meanwhile."""

    size: int

    def fileno(self) -> Optional[int]:
        """A descriptor that ``os.sendfile`` and ``os.pread`` take, or None where there is none."""

    def read(self, offset: int, count: int) -> bytes:
        """
        Up to ``count`` bytes from ``offset``; short only at the end.

        Blocks: for a disk thread, several at once if need be. ValueError once it is closed.
        """

    def share(self) -> BlobFile:
        """The same once more, to be closed by itself. ValueError once this one is closed."""

    def close(self) -> None:
        """Give the descriptor back; harmless when repeated."""


class Spool(Protocol):
    """
    A blob on its way: the bytes that have come so far, at their places.

    One fill owns it. `write`, `note_repository` and `discard` block and belong in a disk
    thread; one `write` at a time.
    """

    @property
    def digest(self) -> Digest: ...

    @property
    def size(self) -> int:
        """The blob's, in bytes."""

    @property
    def repositories(self) -> tuple[ModelName, ...]:
        """Repositories upstream that have the blob, the first to be asked first."""

    def covered(self) -> SpanSet:
        """A copy of what is there, as of the last `write` that returned."""

    def write(self, pieces: Sequence[tuple[int, Sequence[bytes]]]) -> None:
        """
        Put each ``(offset, buffers)`` in its place, the buffers one after the other.

        When this returns, all of it is noted as there, and a killed process finds it again. Raises
        OSError (ENOSPC, EIO, ...) with none of it noted as there, ValueError beyond the blob's
        size and once the spool is published, discarded or closed.
        """

    def note_repository(self, name: ModelName) -> None:
        """Another repository that has the blob; kept with the spool."""

    def open(self) -> BlobFile:
        """
        The same bytes for one reader, who closes it; it outlives the spool.

        What is not covered reads as zeros. Takes no new descriptor and does not block. ValueError
        once the spool is closed.
        """

    def discard(self) -> None:
        """Remove it for good and close it; harmless when repeated."""

    def close(self) -> None:
        """Close it and leave it for the next start; harmless when repeated."""


class DirectUpload(Protocol):
    """A blob's way into the store past a disk that has no room for it."""

    @property
    def came(self) -> int:
        """Bytes that came from the source so far."""

    @property
    def sent(self) -> int:
        """Bytes that the store has taken."""

    async def run(self) -> None:
        """
        Bring it; returns when it is stored, whole and right. To be called once.

        `SourceRefused` and `SourceFailed` where the source, OSError where the store fails for good,
        `WrongDigest`. Then nothing of it is left; when it is cancelled, nothing but what
        `Store.unfinished` tells the next process.
        """

    def give_up(self) -> None:
        """It is not wanted any more: once `run` is cancelled, no later process brings it."""


class ManifestStore(Protocol):
    """Manifests by name and by digest."""

    async def get_manifest(
        self,
        name: ModelName,
        reference: Reference,
        variant: Variant = Variant.PLAIN,
        *,
        anew: bool = False,
    ) -> Optional[StoredManifest]:
        """
        Return what is stored under a tag or a digest; None if nothing that parses is.

        A digest names one manifest or list, whatever the variant and whichever the repository; a
        blob that was published and is one counts too. Its ``checked_at`` is any time at which it
        was put. For a tag the answer depends on the variant:

        - `Variant.PLAIN`: a `Manifest`, never a list. If only a list is stored: the first of its
          children, in the order of preference, whose bytes are stored, as never checked.
        - `Variant.LIST`: what upstream said to a client that accepts lists, be it a list or a
          manifest. If upstream was never asked so: the plain manifest, as never checked.

        `yukari.storage.variants` decides so for every store.

        ``anew`` asks for what other daemons put or touched by now; else it may be some seconds old.
        """

    async def put_manifest(
        self,
        name: ModelName,
        reference: Reference,
        manifest: AnyManifest,
        checked_at: float,
        variant: Variant = Variant.PLAIN,
    ) -> None:
        """
        Store ``manifest`` by its digest and, if ``reference`` is a tag, as that variant of it.

        By its digest it can also be opened as a blob. The tag moves in one step, and what it named
        before stays reachable by digest. OSError or `NoRoom` leaves the tag as it was. A
        ``reference`` that is another digest is a ValueError, and so is a list as the plain variant.

        Of two variants of different versions (the plain manifest is not a child of the list) the
        one that was checked later supersedes the other, which is then reachable by its digest
        alone; a list does so only once one of its children is stored, be it put by its digest or
        published as a blob. That child is then the plain variant, as never checked.
        """

    async def touch_manifest(
        self,
        name: ModelName,
        tag: Tag,
        digest: Digest,
        checked_at: float,
        variant: Variant = Variant.PLAIN,
    ) -> None:
        """
        Note that upstream still had ``digest`` for that variant of the tag.

        Nothing happens if the variant names another by now; OSError if it cannot be noted.
        """

    async def tags(self, name: ModelName) -> list[Tag]:
        """The tags stored for a model, sorted by name; empty where it is not stored."""

    async def manifests(
        self, after: Optional[tuple[ModelName, Tag]] = None, most: int = 500
    ) -> list[ManifestEntry]:
        """
        A page of all tagged manifests in the order of (name, tag), from behind ``after``.

        Up to ``most`` of them, none at the end. Here and in `tags` a manifest that turns out to be
        damaged when it is got may be listed.
        """


class BlobStore(Protocol):
    """Whole blobs by digest."""

    async def blob_size(self, digest: Digest) -> Optional[int]:
        """The size of a whole blob in bytes, None where it is not stored."""

    async def open_blob(self, digest: Digest) -> Optional[BlobFile]:
        """
        A whole blob, opened; None where it is not stored. The caller closes it.

        OSError where it is there and cannot be read.
        """

    async def blobs(self, after: Optional[Digest] = None, most: int = 500) -> list[BlobEntry]:
        """Up to ``most`` of all blobs in the order of their digests, from behind ``after``."""

    async def delete_blob(self, digest: Digest) -> None:
        """
        Remove a stored blob; who has it open reads on.

        Harmless if it is not stored; OSError if it cannot be removed.
        """


class SpoolStore(Protocol):
    """Blobs on their way."""

    async def spools(self) -> list[Spool]:
        """
        Every spool that an earlier process left, opened; called once, after `start`.

        They hold their room, whether or not there would be enough for new ones.
        """

    async def new_spool(self, digest: Digest, size: int, repository: ModelName) -> Spool:
        """
        A spool with its room reserved until it is published, discarded or closed.

        It is empty, or the one of this blob that was closed, with all that it held. Raises
        `NoRoom`, OSError. The caller never asks for a digest whose spool is open.
        """

    async def publish(self, spool: Spool) -> None:
        """
        Make a whole, verified spool the stored blob, durably, then let its sidecar go.

        The spool can still be opened until it is closed, and `Spool.discard` only closes it by
        then. OSError leaves the spool as it was; bytes that are missing are a ValueError. Takes
        as long as a network does, where one is between; `interrupt` ends that.
        """


class Store(ManifestStore, BlobStore, SpoolStore, Protocol):
    """Manifests, blobs and spools in one place."""

    @property
    def inventory(self) -> Inventory:
        """What else the collector does with it."""

    def describe(self) -> str:
        """Where it stores, for a person: ``directory /var/cache/yukari``."""

    async def start(self) -> None:
        """Take hold of it; `StoreUnusable` where that cannot be."""

    def interrupt(self) -> None:
        """
        The process is about to stop: `publish` that waits for a network ends, with OSError.

        Harmless where nothing waits; everything else goes on until `stop`.
        """

    async def stop(self) -> None:
        """Let go of it; every call that was under way has ended by then."""

    async def check(self) -> None:
        """
        Return where it can be read and written now; `StoreUnusable` or OSError say why not.

        Cheap enough to be asked every second; being full is no reason.
        """

    async def count(self) -> Holdings:
        """
        What it holds, found by looking at every name in it; OSError where that cannot be.

        Manifests count among the blobs too.

        Not for every second: 100,000 blobs take some tenths of a second on a disk, and in a bucket
        a hundred requests.
        """


@runtime_checkable
class RemoteBlobs(Protocol):
    """What a `Store` can do besides if its blobs are elsewhere than on this disk."""

    def source(self, digest: Digest, size: int) -> KeptSource:
        """
        Where a fill finds a blob that is stored and that `open_blob` does not have here: one that
        `blob_size` knows, or that another daemon stores while it comes.
        """

    async def presigned(self, digest: Digest) -> Optional[str]:
        """
        A URL at which anybody finds such a blob for hours; None where there can be none.
        """


@runtime_checkable
class DirectUploads(Protocol):
    """What a `Store` can do besides if blobs need not go by this disk."""

    def straight(
        self, digest: Digest, size: int, repository: ModelName, source: BlobSource
    ) -> Optional[DirectUpload]:
        """
        How a blob comes into the store where `new_spool` says `NoRoom`; None where it cannot.
        """

    async def unfinished(self) -> list[Unfinished]:
        """
        Blobs that were on their way by `straight` when an earlier process ended; each begins anew.

        Called once, after `spools`.
        """
