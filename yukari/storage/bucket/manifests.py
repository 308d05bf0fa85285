"""
A bucket's manifests: got, put under conditions, touched.

::

    v2/NAMESPACE/MODEL/manifests/TAG            a tag's plain variant, as the original Yukari has it
    v2/NAMESPACE/MODEL/manifests/sha256:HEX     the same by digest; never a list
    v2/NAMESPACE/MODEL/lists/TAG                the variant for clients that accept lists
    blobs/sha256:HEX                            every manifest and list too

Those of other registries than the default one begin otherwise, see `yukari.storage.bucket.keys`.

The original asks for keys below ``manifests/`` and ``blobs/`` only, so that it never serves a
list as a manifest.

Several daemons put into one bucket. A manifest is put only if no later check of
upstream has put another there (If-None-Match, If-Match). Of two variants that are
of different versions, the one that was checked later counts; so neither is ever deleted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Optional, Union

from attrs import define, field
from twisted.logger import Logger

from yukari.large import IsLarge, LargeManifests, is_large
from yukari.manifest import (
    LARGE,
    MAX_BYTES,
    AnyManifest,
    InvalidManifest,
    Manifest,
    ManifestList,
    Variant,
    parse_manifest,
)
from yukari.names import Digest, InvalidName, Reference, Repository, Tag
from yukari.s3.body import FileBody
from yukari.s3.client import Streamed
from yukari.s3.errors import BeingRemoved, S3Error
from yukari.storage.bucket.bucket import Bucket
from yukari.storage.bucket.keys import (
    blob_key,
    manifest_key,
    metadata_of,
    model_root,
)
from yukari.storage.bucket.pending import PendingManifests
from yukari.storage.bucket.reading import BucketReader, InBucket
from yukari.storage.manifest_cache import Key, ManifestCache
from yukari.storage.ports import Answers, StoredManifest
from yukari.storage.variants import Variants, alone, check_put
from yukari.tasks import all_of, together

TRUSTED_FOR = 30.0
"""Seconds for which a manifest is served without asking S3 again."""
READ_TOGETHER = 2
"""Tags that are read anew at the same time by one call, each by two requests."""
_TRIES = 5


@define(eq=False, repr=False)
class BucketManifests:
    """
    The manifests' part of `Store`. What S3 cannot take now waits in ``late``.
    """

    _bucket: Bucket
    _late_in: str
    _learn: Callable[[AnyManifest], None]
    """Told of every manifest that is seen."""
    _changed: Callable[[], None]
    """Told that one was put, or may have been."""
    _adopt: Callable[[AnyManifest], Awaitable[None]]
    """`BucketBlobs.adopt`."""
    _large: LargeManifests
    _reader: BucketReader = field(init=False)
    late: PendingManifests = field(init=False)
    cache: ManifestCache[InBucket] = field(init=False)
    changes: int = field(default=0, init=False)

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        bucket = self._bucket
        self._reader = BucketReader(bucket, self._large, self._learn)
        self.cache = ManifestCache(bucket.clock)
        self.late = PendingManifests(
            self._put_everywhere, bucket.clock, self._late_in, bucket.made_in, bucket.in_thread
        )

    async def get(
        self, name: Repository, reference: Reference, variant: Variant
    ) -> Optional[StoredManifest]:
        if isinstance(reference, Digest):
            return await self._object((name, reference, Variant.PLAIN), False)
        return (await self._variants(name, reference, False)).answer(variant)

    async def read_anew(self, keys: Sequence[tuple[Repository, Reference]]) -> list[Answers]:
        """As `ManifestStore.read_anew`."""
        found = list[Answers]()
        for start in range(0, len(keys), READ_TOGETHER):
            read = await all_of(self._answers(*key) for key in keys[start:][:READ_TOGETHER])
            found += read
            if any(is_large(each.manifest) for answers in read for each in answers.values()):
                break
        return found

    async def _answers(self, name: Repository, reference: Reference) -> Answers:
        if isinstance(reference, Digest):
            return alone(await self._object((name, reference, Variant.PLAIN), True))
        return (await self._variants(name, reference, True)).answers()

    async def _variants(self, name: Repository, tag: Tag, anew: bool) -> Variants:
        keys = [(name, tag, variant) for variant in (Variant.PLAIN, Variant.LIST)]
        asked = [self._object(key, anew) for key in keys]
        if anew or not all(self.cache.get(key)[1] < TRUSTED_FOR for key in keys):
            plain, listed = await together(*asked)
        else:
            plain, listed = [await each for each in asked]
        if plain is not None and isinstance(plain.manifest, ManifestList):
            # The original puts what its first client got, and that may be a list.
            listed, plain = listed or plain, None
        if listed is None:
            return Variants(plain)
        if Variants(plain, listed).outdates(listed.manifest, listed.checked_at, Variant.LIST):
            return Variants(plain)
        found = Variants(plain, listed)
        if plain is None or found.conflict:
            return Variants(plain, listed, await self._runnable(name, listed.manifest))
        return found

    async def _runnable(self, name: Repository, found: AnyManifest) -> Optional[AnyManifest]:
        """Return the manifest for clients that do not accept lists, if it is stored."""
        if isinstance(found, Manifest):
            return found
        for child in found.by_preference():
            if child.inline is not None:
                return child.inline
            stored = await self._object((name, child.digest, Variant.PLAIN), False)
            if stored is not None:
                return stored.manifest
        return None

    async def _object(self, key: Key, anew: bool) -> Optional[StoredManifest]:
        """Return the manifest under one key, stored or waiting for S3 to take it."""
        known, age = self.cache.get(key)
        if known is None or age >= TRUSTED_FOR or anew:
            changes = self.changes
            try:
                found = await self._fetch(key, anew)
            except S3Error as error:
                self._bucket.contact.complain(error)
            else:
                if changes == self.changes and (known is not None or not anew):
                    # Reading all manifests anew must not evict those that clients ask for.
                    self._keep(key, found)
                known = found
        return self.late.newest(key, None if known is None else known.stored)

    async def _fetch(self, key: Key, anew: bool) -> InBucket:
        """
        Return the object of a key, while a client waits; `S3Error`.

        A large one is read in its turn; waiting for that does not count as S3's time.
        """
        try:
            return await self._bucket.contact.in_time(self._reader.look(key, LARGE))
        except IsLarge:
            pass
        async with self._large.from_store:
            known, age = self.cache.get(key)
            if known is not None and age < TRUSTED_FOR and not anew:
                return known  # Another client's turn has brought it meanwhile.
            changes = self.changes
            found = await self._bucket.contact.in_time(self._reader.look(key, MAX_BYTES))
            if changes == self.changes and not anew:
                self._keep(key, found)
            return found

    async def put(
        self,
        name: Repository,
        reference: Reference,
        manifest: AnyManifest,
        checked_at: float,
        variant: Variant,
    ) -> None:
        check_put(reference, manifest, variant)
        self._learn(manifest)
        key = name, reference, variant
        try:
            if is_large(manifest):
                async with self._large.to_store:
                    await self._put_in_time(key, manifest, checked_at)
            else:
                await self._put_in_time(key, manifest, checked_at)
        except BeingRemoved:
            await self.late.add(key, StoredManifest(manifest, checked_at))
        except S3Error as error:
            self._bucket.contact.complain(error)
            if not error.passing:
                raise
            await self.late.add(key, StoredManifest(manifest, checked_at))
            self.changes += 1

    async def _put_in_time(self, key: Key, manifest: AnyManifest, checked_at: float) -> None:
        await self._bucket.contact.in_time(self._put_everywhere(*key, manifest, checked_at))

    async def _put_everywhere(
        self,
        name: Repository,
        reference: Reference,
        variant: Variant,
        manifest: AnyManifest,
        checked_at: float,
    ) -> None:
        stored = StoredManifest(manifest, checked_at)
        try:
            await self._put_by_digest(name, stored)
            if isinstance(reference, Digest):
                await self.settle(name, manifest)
                return
            before = None
            if variant is Variant.LIST:
                before = (await self._variants(name, reference, False)).answer(Variant.PLAIN)
            await self._put((name, reference, variant), stored)
            if variant is Variant.LIST:
                await self._keep_plain(name, reference, before)
            await self._adopt(manifest)
        finally:
            self.changes += 1
            self._changed()

    async def settle(self, name: Repository, child: AnyManifest) -> None:
        """Put the plain variant of each list with this child: the original finds no lists."""
        if not isinstance(child, Manifest):
            return
        page = await self._bucket.client.list_objects(f"{model_root(name)}lists/")
        for row in page.objects:
            try:
                tag = Tag(row.key.rpartition("/")[2])
            except InvalidName:
                continue
            await self._keep_plain(name, tag, None)
        await self._adopt(child)

    async def published(self, digest: Digest, body: bytes, names: Iterable[Repository]) -> None:
        """As `settle`, for a blob that may be a child."""
        try:
            child = parse_manifest(body)
        except InvalidManifest:
            return
        for name in names:
            self.cache.forget((name, digest, Variant.PLAIN))
            self.changes += 1
            try:
                await self._bucket.contact.in_time(self.settle(name, child))
            except S3Error as error:
                self._bucket.contact.complain(error)

    async def _keep_plain(
        self, name: Repository, tag: Tag, before: Optional[StoredManifest]
    ) -> None:
        """Have the plain variant's object be what plain clients get."""
        found = await self._variants(name, tag, False)
        answer = before if found.runnable is None else found.answer(Variant.PLAIN)
        if answer is None or found.listed is None or answer == found.plain:
            return
        if found.plain is None or found.plain.manifest.digest != answer.manifest.digest:
            await self._put((name, tag, Variant.PLAIN), answer, over=found.listed.checked_at)

    async def _put_by_digest(self, name: Repository, stored: StoredManifest) -> None:
        """Put it as a blob, and where the original looks for a manifest by its digest."""
        manifest = stored.manifest
        key = name, manifest.digest, Variant.PLAIN
        keys = [blob_key(manifest.digest)]
        if isinstance(manifest, Manifest):
            keys.append(manifest_key(*key))
        etag = None
        for each in keys:
            # Also if it is there: what it stands on is kept for some time from now on.
            etag = await self._bucket.client.put_object(
                each, self._body(manifest), manifest.media_type, metadata=metadata_of(stored)
            )
        self._keep(key, InBucket(etag, stored) if len(keys) > 1 else None)

    async def _put(self, key: Key, stored: StoredManifest, over: Optional[float] = None) -> None:
        """
        Put it unless a newer one is there: the later check of upstream wins.

        ``over`` is the time of the last check that does not win; ``stored``'s own if it is None.
        """
        name, reference, variant = key
        last = stored.checked_at if over is None else over
        for attempt in range(_TRIES):
            found = await self._reader.read(key)
            there = found.stored
            if there is not None and (there.checked_at > last or there == stored):
                if there.manifest.digest != stored.manifest.digest:
                    self._log.info(
                        "{name}:{tag} was put by another daemon, later than it was checked here",
                        name=str(name),
                        tag=str(reference),
                    )
                self._keep(key, found)
                return
            if there is not None and there.manifest.digest != stored.manifest.digest:
                # The original Yukari, or an operator, may have put it by its tag alone.
                await self._put_by_digest(name, there)
            try:
                put = await self._put_over(key, stored, found.etag)
            except S3Error as error:
                if error.unanswered and attempt + 1 < _TRIES:
                    continue
                raise
            if put is not None:
                self._keep(key, InBucket(put, stored))
                return
        where = manifest_key(*key)
        raise S3Error("PreconditionFailed", 412, f"{where} is put by others all the time")

    async def _put_over(
        self, key: Key, stored: StoredManifest, etag: Optional[str]
    ) -> Optional[str]:
        """Return the new ETag; None if the object there is no longer the one of ``etag``."""
        return await self._bucket.client.put_object(
            manifest_key(*key),
            self._body(stored.manifest),
            stored.manifest.media_type,
            metadata=metadata_of(stored),
            only_new=etag is None,
            only_over=etag,
            anyway=True,
        )

    async def touch(
        self, name: Repository, tag: Tag, digest: Digest, checked_at: float, variant: Variant
    ) -> None:
        key = name, tag, variant
        known, _ = self.cache.get(key)
        try:
            found = await self._reader.read(key)
            there = found.stored
            if there is None or there.manifest.digest != digest:
                there = (await self._variants(name, tag, True)).answer(variant)
                if there is None or there.manifest.digest != digest:
                    return
                # It answers this variant, but was put as the other one.
                await self._put(key, StoredManifest(there.manifest, checked_at))
            else:
                stored = StoredManifest(there.manifest, checked_at)
                put = await self._put_over(key, stored, found.etag)
                self._keep(key, None if put is None or known is None else InBucket(put, stored))
        except S3Error as error:
            self._bucket.contact.complain(error)
            raise
        self.changes += 1

    async def remove(self, key: Key) -> None:
        """Remove a tag's variant, also if it waits to be put."""
        await self.late.drop(key)
        await self._bucket.client.delete_object(manifest_key(*key))
        self.cache.forget(key)
        self.changes += 1
        self._changed()

    def _body(self, manifest: AnyManifest) -> Union[bytes, Streamed]:
        """A manifest's bytes as `S3Client.put_object` takes them."""
        body = manifest.body
        if isinstance(body, bytes):
            return body
        return lambda sent: FileBody(body.read, body.span, self._bucket.in_thread, sent)

    def _keep(self, key: Key, found: Optional[InBucket]) -> None:
        if found is None:
            self.cache.forget(key)
        else:
            self.cache.keep(key, found)
