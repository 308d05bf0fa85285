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

import errno
from collections.abc import Callable, Sequence
from typing import Optional, Protocol, TypeVar

from attrs import field, frozen

from yukari.manifest import AnyManifest, Variant
from yukari.names import Digest, Reference, Repository, Tag
from yukari.spans import SpanSet
from yukari.storage.inventory import Inventory

T = TypeVar("T")


class StoreUnusable(Exception):
    """The store cannot be used at all; the text is one line: which, and what to do."""


SHORT = frozenset((None, errno.EMFILE, errno.ENFILE, errno.ENOMEM))
"""Numbers of errors that say nothing about what is stored: this process, or S3, is short of it."""


class NoRoom(Exception):
    """Storing this would leave less space free than is to be kept; the text has the numbers."""


class WrongDigest(Exception):
    """A blob's bytes are another blob's; ``found`` is what they hash to."""

    def __init__(self, found: Digest) -> None:
        super().__init__(f"upstream sent {found}")
        self.found = found


NEVER_CHECKED = 0.0
"""The time of check of what upstream was never asked about, in seconds of the epoch."""


@frozen
class StoredManifest:
    """
    A manifest or a list, and when upstream was last asked about it, in seconds of the epoch.

    `NEVER_CHECKED` if it answers a `Variant` that upstream has never been asked for.
    """

    manifest: AnyManifest
    checked_at: float


Answers = dict[Variant, StoredManifest]
"""
What each kind of client gets of a tag, without a variant of which nothing is stored; what a digest
stands for is its plain one.
"""


@frozen(order=True)
class ManifestEntry:
    """
    A row of a listing: a tag and a time of check, in seconds of the epoch.

    Of a tag's two variants it is the earlier time; a variant that was never checked does not count
    unless neither was.
    """

    name: Repository
    tag: Tag
    checked_at: float


@frozen(order=True)
class BlobEntry:
    """A row of a listing: a whole blob and its size in bytes."""

    digest: Digest
    size: int
    stored_at: float = field(default=0.0, eq=False)
    """When it was stored or, if it was linked here, when that was; in seconds of the epoch."""


@frozen
class Holdings:
    """A store's holdings: tagged manifests, whole blobs, and these blobs' bytes."""

    models: int
    blobs: int
    bytes: int


class BlobFile(Protocol):
    """A whole blob, opened for reading; it stays readable if the blob is removed meanwhile."""

    size: int

    def fileno(self) -> Optional[int]:
        """Return a descriptor for ``os.sendfile`` and ``os.pread``, None if there is none."""

    def read(self, offset: int, count: int) -> bytes:
        """
        Return up to ``count`` bytes from ``offset``, fewer only at the end.

        Blocks: for disk threads, any number of them at once. ValueError once it is closed.
        """

    def share(self) -> BlobFile:
        """Return the same file again, to be closed separately. ValueError if this one is closed."""

    def close(self) -> None:
        """Give the descriptor back; harmless when repeated."""


class Spool(Protocol):
    """
    A blob on its way: the bytes that have arrived so far, at their places.

    One fill owns it. `write`, `note_repository` and `discard` block and belong in a disk
    thread; one `write` at a time.
    """

    @property
    def digest(self) -> Digest: ...

    @property
    def size(self) -> int:
        """The blob's, in bytes."""

    @property
    def repositories(self) -> tuple[Repository, ...]:
        """Repositories upstream that have the blob, the first to be asked first."""

    def covered(self) -> SpanSet:
        """Return a copy of the spans that are there, as of the last `write` that returned."""

    def write(self, pieces: Sequence[tuple[int, Sequence[bytes]]]) -> None:
        """
        Put each ``(offset, buffers)`` in its place, the buffers one after the other.

        When this returns, all of it is recorded as there, and the next process finds it even if
        this one is killed. OSError (ENOSPC, EIO, ...) with none of it recorded. ValueError beyond
        the blob's size, and once the spool is published, discarded or closed.
        """

    def note_repository(self, name: Repository) -> None:
        """Record another repository that has the blob, with the spool."""

    def open(self) -> BlobFile:
        """
        Open the same bytes for one reader, who closes the file; it outlives the spool.

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
        """Bytes that have arrived from the source so far."""

    @property
    def sent(self) -> int:
        """Bytes that the store has taken."""

    async def run(self) -> None:
        """
        Transfer the blob, and return when it is stored with the right digest. To be called once.

        `SourceRefused` and `SourceFailed` if the source fails, OSError if the store fails for good,
        `WrongDigest`. After an error nothing of the blob is left. If `run` is cancelled, the next
        process learns of the blob by `DirectUploads.unfinished`.
        """

    def give_up(self) -> None:
        """The blob is not wanted any more: after `run` is cancelled no later process fetches it."""


class ManifestStore(Protocol):
    """Manifests by name and by digest."""

    @property
    def changes(self) -> int:
        """
        A number that grows, before the call returns, with each call that changes or removes what
        `get_manifest` has returned. What other daemons or operators do does not count.
        """

    async def get_manifest(
        self, name: Repository, reference: Reference, variant: Variant = Variant.PLAIN
    ) -> Optional[StoredManifest]:
        """
        Return what is stored under a tag or a digest; None if nothing that parses is.

        A digest names one manifest or list, whatever the variant and whichever the repository; a
        blob that was published and is one counts too. Its ``checked_at`` is any time at which it
        was put. A large one's bytes are in a file. For a tag the answer depends on the variant:

        - `Variant.PLAIN`: a `Manifest`, never a list. If only a list is stored: the first of its
          children, in the order of preference, whose bytes are stored, as never checked.
        - `Variant.LIST`: what upstream said to a client that accepts lists, be it a list or a
          manifest. If upstream was never asked so: the plain manifest, as never checked.

        `yukari.storage.variants` decides so for every store. What other daemons put or touched is
        seen within seconds.
        """

    async def read_anew(self, keys: Sequence[tuple[Repository, Reference]]) -> list[Answers]:
        """
        Return what the first of these are by now, whatever other daemons put or touched: all of
        them, or at least one if some are large, of which memory holds few at once.

        Nothing more is kept in memory: 100,000 of them must not drive out what clients ask for.
        """

    async def put_manifest(
        self,
        name: Repository,
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
        name: Repository,
        tag: Tag,
        digest: Digest,
        checked_at: float,
        variant: Variant = Variant.PLAIN,
    ) -> None:
        """
        Note that upstream still had ``digest`` for that variant of the tag.

        Nothing happens if the variant names another by now; OSError if it cannot be noted.
        """

    async def tags(self, name: Repository) -> list[Tag]:
        """Return the tags stored for a model, sorted by name; none if it is not stored."""

    async def manifests(
        self, after: Optional[tuple[Repository, Tag]] = None, most: int = 500
    ) -> list[ManifestEntry]:
        """
        Return up to ``most`` tagged manifests that follow ``after``, in the order of (name, tag).

        None at the end. This and `tags` may list a manifest that `get_manifest` finds damaged.
        """


class BlobStore(Protocol):
    """Whole blobs by digest."""

    async def blob_size(self, digest: Digest) -> Optional[int]:
        """Return the size of a whole blob in bytes, None if it is not stored."""

    async def open_blob(self, digest: Digest) -> Optional[BlobFile]:
        """
        Open a whole blob; None if it is not stored. The caller closes it.

        OSError if it is stored and cannot be read.
        """

    async def each_blob(
        self, digests: Sequence[Digest], work: Callable[[BlobFile], T]
    ) -> list[Optional[T]]:
        """
        Return what ``work`` returns of each blob, which it gets in a disk thread.

        None for what `open_blob` does not find; OSError.
        """

    async def blobs(self, after: Optional[Digest] = None, most: int = 500) -> list[BlobEntry]:
        """Return up to ``most`` blobs that follow ``after``, in the order of their digests."""

    async def delete_blob(self, digest: Digest) -> None:
        """
        Remove a stored blob; readers that have it open read on.

        Harmless if it is not stored; OSError if it cannot be removed.
        """


class SpoolStore(Protocol):
    """Blobs on their way."""

    async def spools(self) -> list[Spool]:
        """
        Open every spool that an earlier process left. To be called once, after `start`.

        Each keeps its room reserved, even if new spools would not get as much.
        """

    async def new_spool(self, digest: Digest, size: int, repository: Repository) -> Spool:
        """
        Open a spool, its room reserved until it is published, discarded or closed.

        It is empty, or holds what an earlier spool of this blob held when it was closed. `NoRoom`,
        OSError. To be called only while no spool of this digest is open.
        """

    async def publish(self, spool: Spool) -> None:
        """
        Store the blob of a complete, verified spool durably, then remove the spool's sidecar.

        After this the spool can be opened until it is closed, and `Spool.discard` only closes it.
        OSError leaves the spool as it was; ValueError if bytes are missing. If blobs are stored
        over a network, this waits for it until `interrupt`.
        """


class Store(ManifestStore, BlobStore, SpoolStore, Protocol):
    """Manifests, blobs and spools in one place."""

    @property
    def inventory(self) -> Inventory:
        """The further operations that the collector needs."""

    def describe(self) -> str:
        """Return the place for people to read, such as ``directory /var/cache/yukari``."""

    async def start(self) -> None:
        """Open the store; `StoreUnusable` if that fails."""

    def interrupt(self) -> None:
        """
        End each `publish` that waits for a network, with OSError: the process is about to stop.

        All other calls go on until `stop`.
        """

    async def stop(self) -> None:
        """Close the store; when this returns, every call that was in progress has ended."""

    async def check(self) -> None:
        """
        Return if the store can be read and written now; `StoreUnusable` or OSError say why not.

        Cheap enough to be called every second. A full store passes.
        """

    async def count(self) -> Holdings:
        """
        Count what is stored by listing every name, manifests among the blobs too; OSError.

        100,000 blobs take some tenths of a second on a disk, and hundreds of requests in a bucket.
        """
