"""
Models in a bucket, of Tigris or of any other S3, with a disk in front.

In the bucket, as the original Yukari has them::

    v2/NAMESPACE/MODEL/manifests/TAG            Content-Type: the manifest's media type
    v2/NAMESPACE/MODEL/manifests/sha256:HEX     the same by digest
    v2/NAMESPACE/MODEL/lists/TAG                ours: see `yukari.storage.bucket.manifests`
    registries/HOST/v2/…                        ours: the same of other registries
    blobs/sha256:HEX                            Content-Type: the layer's media type

and in ``spool_dir``::

    yukari-spool.lock                           held while a daemon owns the directory
    name                                        what the daemon is called in the bucket
    sha256-HEX.spool, .cover, .upload           blobs on their way, down and up
    tier/sha256-HEX                             whole blobs that S3 has too
    late/                                       manifests that S3 could not take yet
    tmp/                                        files in the making; emptied at the start

Several daemons share a bucket, each with a ``spool_dir`` of its own. A
manifest's time of check is in its metadata, or is LastModified if another
program put the manifest. What S3 cannot tell because it is down counts as not stored:
upstream is asked then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import Any, Optional, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from yukari.config.files import read_file
from yukari.config.units import FreeSpace
from yukari.large import LargeManifests
from yukari.manifest import AnyManifest, Variant
from yukari.memory import Memory
from yukari.names import Digest, Reference, Repository, Tag
from yukari.net.budget import HostLimit
from yukari.net.host_line import HostLine
from yukari.net.useful import LEAST, Useful
from yukari.s3.client import S3Client
from yukari.s3.signing import Signing
from yukari.sources.base import BlobSource, KeptSource
from yukari.sources.pace import HostPace
from yukari.storage.bucket.blobs import BucketBlobs
from yukari.storage.bucket.bucket import Bucket
from yukari.storage.bucket.copies import BucketCopies
from yukari.storage.bucket.direct import BucketUpload
from yukari.storage.bucket.direct_uploads import BucketDirectUploads
from yukari.storage.bucket.inventory import BucketInventory
from yukari.storage.bucket.listing import BucketListing
from yukari.storage.bucket.manifests import BucketManifests
from yukari.storage.bucket.roots import BucketRoots
from yukari.storage.bucket.shared import BucketShared
from yukari.storage.bucket.spools import BucketSpools
from yukari.storage.bucket.sweep import Sweeper
from yukari.storage.capabilities import Unfinished
from yukari.storage.disk.atomic import replace_file
from yukari.storage.disk.cache import Tier
from yukari.storage.disk.space import Statvfs
from yukari.storage.disk.spool_dir import OwnedDirectories, SpoolDir, clear
from yukari.storage.manifest_cache import Key
from yukari.storage.ports import (
    Answers,
    BlobEntry,
    BlobFile,
    Holdings,
    ManifestEntry,
    Spool,
    StoredManifest,
    StoreUnusable,
)
from yukari.storage.readable import work_on_each
from yukari.threads import DiskWork, InThread

T = TypeVar("T")


def _absolute(path: str) -> str:
    return os.path.abspath(path)


@define(eq=False, repr=False)
class BucketStore(DiskWork):
    """
    `Store` in a bucket. ``seen`` signs URLs for clients; ``spool_max`` bounds the bytes on disk;
    ``line`` has the client's connections.

    `start` opens the directory on the disk; `connect` waits until the bucket can be used.
    """

    client: S3Client
    spool_dir: str = field(converter=_absolute)
    _in_thread: InThread
    _clock: IReactorTime
    seen: Optional[Signing] = None
    min_free: FreeSpace = FreeSpace(percent=5.0)
    spool_max: Optional[int] = None
    _statvfs: Statvfs = os.statvfs
    _line: HostLine = field(factory=HostLine)
    _large: LargeManifests = field(factory=LargeManifests)
    _memory: Memory = field(factory=Memory)
    """For blobs that go past the disk."""
    tier: Tier = field(init=False)
    _owned: OwnedDirectories = field(init=False)
    _bucket: Bucket = field(init=False)
    _listing: BucketListing = field(init=False)
    _blobs: BucketBlobs = field(init=False)
    _manifests: BucketManifests = field(init=False)
    _direct: BucketDirectUploads = field(init=False)
    _spools: BucketSpools = field(init=False)
    _sweeper: Sweeper = field(init=False)
    inventory: BucketInventory = field(init=False)
    _under_way: set[Deferred[Any]] = field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        client = self.client
        self._bucket = bucket = Bucket(client, self.spool_dir, self._run, self._clock)
        late = os.path.join(self.spool_dir, "late")
        self.tier = Tier(os.path.join(self.spool_dir, "tier"), self.spool_max)
        files = SpoolDir(self.spool_dir, self.min_free, self._statvfs)
        directories = self.spool_dir, self.tier.path, bucket.made_in, late
        self._owned = OwnedDirectories(directories, (files.lock,))
        self._listing = BucketListing(client, self._clock)
        # As from a registry: blobs that come from afar must not take the whole line.
        pace = HostPace(limit=HostLimit(Useful(LEAST)), line=self._line)
        self._blobs = BucketBlobs(bucket, self.tier, self.seen, pace)
        self._manifests = BucketManifests(
            bucket,
            late,
            self._blobs.learn,
            self._listing.changed,
            self._blobs.adopt,
            self._large,
        )
        self._direct = BucketDirectUploads(bucket, self._blobs, self._memory)
        self._spools = BucketSpools(
            bucket, self._blobs, self._manifests, self._direct, self.tier, files, self._owned
        )
        self._sweeper = Sweeper(bucket, self._blobs, self._spools, self._direct)
        copies = BucketCopies(bucket, self._blobs.sizes.forget)
        self.inventory = BucketInventory(
            bucket,
            self._manifests,
            self.tier,
            files.room,
            (self.tier.copies(self._run), copies),
            BucketShared(bucket, BucketRoots(client)),
        )

    @property
    def changes(self) -> int:
        """As `Store.changes`."""
        return self._manifests.changes

    @property
    def reachable(self) -> bool:
        """Whether S3 answered when it was last asked."""
        return self._bucket.contact.reachable

    def describe(self) -> str:
        return f"bucket {self.client.describe()}, with {self.spool_dir} in front"

    # start and stop

    async def start(self) -> None:
        await self._manifests.late.restore(await self._run(self._take_hold))

    async def check(self) -> None:
        await self._bucket.calls.run(self._bucket.contact.check())

    async def connect(self) -> None:
        """As `Contact.connect`."""
        await self._bucket.contact.connect()

    def interrupt(self) -> None:
        self._manifests.late.stop()
        self._spools.interrupt()
        self._bucket.contact.stop()

    async def stop(self) -> None:
        """As `Store.stop`: requests to S3 are cancelled, uploads past the disk aborted in time."""
        self.interrupt()
        await self._bucket.calls.stop()
        await self._disk_work_ended()
        self._owned.release()

    async def count(self) -> Holdings:
        blobs, total = await self._bucket.calls.run(self._blobs.count())
        return Holdings(await self._bucket.calls.run(self._listing.count()), blobs, total)

    # manifests

    async def get_manifest(
        self, name: Repository, reference: Reference, variant: Variant = Variant.PLAIN
    ) -> Optional[StoredManifest]:
        return await self._bucket.calls.run(self._manifests.get(name, reference, variant))

    async def read_anew(self, keys: Sequence[tuple[Repository, Reference]]) -> list[Answers]:
        return await self._bucket.calls.run(self._manifests.read_anew(keys))

    async def put_manifest(
        self,
        name: Repository,
        reference: Reference,
        manifest: AnyManifest,
        checked_at: float,
        variant: Variant = Variant.PLAIN,
    ) -> None:
        await self._bucket.calls.run(
            self._manifests.put(name, reference, manifest, checked_at, variant)
        )

    async def touch_manifest(
        self,
        name: Repository,
        tag: Tag,
        digest: Digest,
        checked_at: float,
        variant: Variant = Variant.PLAIN,
    ) -> None:
        await self._bucket.calls.run(self._manifests.touch(name, tag, digest, checked_at, variant))

    async def tags(self, name: Repository) -> list[Tag]:
        return await self._bucket.calls.run(self._bucket.contact.heard(self._listing.tags(name)))

    async def manifests(
        self, after: Optional[tuple[Repository, Tag]] = None, most: int = 500
    ) -> list[ManifestEntry]:
        return await self._bucket.calls.run(
            self._bucket.contact.heard(self._listing.page(after, most))
        )

    # blobs

    async def blob_size(self, digest: Digest) -> Optional[int]:
        """As `BlobStore.blob_size`; None without a request if an earlier process left a spool."""
        size = self._blobs.known_size(digest)
        if size is not None:
            return size
        if self._spools.is_resumed(digest):
            return None
        return await self._bucket.calls.run(self._blobs.look_for(digest))

    async def open_blob(self, digest: Digest) -> Optional[BlobFile]:
        return await self._blobs.open(digest)

    async def each_blob(
        self, digests: Sequence[Digest], work: Callable[[BlobFile], T]
    ) -> list[Optional[T]]:
        return await self._run(work_on_each, self.tier.open, digests, work)

    def source(self, digest: Digest, size: int) -> KeptSource:
        return self._blobs.source(digest, size)

    async def presigned(self, digest: Digest) -> Optional[str]:
        return await self._bucket.calls.run(self._blobs.presigned(digest))

    async def blobs(self, after: Optional[Digest] = None, most: int = 500) -> list[BlobEntry]:
        return await self._bucket.calls.run(self._blobs.page(after, most))

    async def delete_blob(self, digest: Digest) -> None:
        await self._bucket.calls.run(self._blobs.delete(digest))
        self._manifests.changes += 1

    # spools

    async def spools(self) -> list[Spool]:
        return await self._spools.reopen()

    async def new_spool(self, digest: Digest, size: int, repository: Repository) -> Spool:
        return await self._spools.new(digest, size, repository)

    async def publish(self, spool: Spool) -> None:
        await self._spools.publish(spool)

    # past the disk

    def direct_upload(
        self, digest: Digest, size: int, repository: Repository, source: BlobSource
    ) -> BucketUpload:
        return self._direct.new(digest, size, repository, source)

    async def unfinished(self) -> list[Unfinished]:
        return self._direct.unfinished()

    # the periodic job

    async def sweep(self) -> int:
        """As `Sweeper.sweep`."""
        return await self._bucket.calls.run(self._sweeper.sweep())

    def facts(self) -> dict[str, Any]:
        """Return figures for people: bytes on disk, uploads in progress, requests sent to S3."""
        return {
            "reachable": self.reachable,
            "disk_bytes": self.tier.total,
            "uploads": {
                str(digest): {"size": upload.spool.size, "sent": upload.sent}
                for digest, upload in self._spools.uploads.items()
            },
            "direct": {
                str(way.digest): {"size": way.size, "sent": way.sent}
                for way in self._direct.running
            },
            "requests": dict(self.client.requests),
        }

    # in a disk thread

    def _take_hold(self) -> list[tuple[Key, StoredManifest]]:
        try:
            self._owned.take()
            clear(self._bucket.made_in)
            self.tier.scan()
            self._bucket.lease.holder = self._own_name()
            return self._manifests.late.read()
        except OSError as error:
            self._owned.release()
            where, why = error.filename or self.spool_dir, error.strerror or error
            raise StoreUnusable(f"SPOOL_DIR {self.spool_dir}: {where}: {why}") from None

    def _own_name(self) -> str:
        """The name of the daemon that owns this directory, for the others of its bucket."""
        path = os.path.join(self.spool_dir, "name")
        try:
            name = read_file(path, 64).decode("ascii").strip()
        except (FileNotFoundError, ValueError):
            name = ""
        if not name:
            name = token_hex(8)
            replace_file(path, name.encode(), time.time_ns(), self._bucket.made_in)
        return name
