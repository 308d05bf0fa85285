"""
A bucket's manifests: got, put under conditions, touched.

Several daemons put into one bucket. A manifest is put only where no later check
of upstream has put another, by If-None-Match and If-Match.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from yukari.manifest import InvalidManifest, Manifest
from yukari.names import Digest, ModelName, Reference, Tag
from yukari.s3.client import S3Client
from yukari.s3.errors import S3Error
from yukari.s3.replies import Head
from yukari.storage.bucket.health import Contact
from yukari.storage.bucket.pending import PendingManifests
from yukari.storage.manifest_cache import Kept, Key, ManifestCache
from yukari.storage.ports import StoredManifest
from yukari.threads import InThread

TRUSTED_FOR = 30.0
"""Seconds for which a manifest is served without asking S3 again."""
_TRIES = 5
_CHECKED_AT = "checked-at"


@frozen
class InBucket(Kept):
    """A manifest, and the ETag of the object that it came from."""

    etag: str


@define(eq=False)
class BucketManifests:
    """
    The manifests' part of `Store`. What S3 cannot take now waits in ``late``, whose files are made
    in ``through``.
    """

    _client: S3Client
    _contact: Contact
    _clock: IReactorTime
    _late_in: str
    _through: str
    _in_thread: InThread
    _learn: Callable[[Manifest], None]
    """Told of every manifest that is seen."""
    _changed: Callable[[], None]
    """Told that one was put, or may have been."""
    late: PendingManifests = field(init=False)
    cache: ManifestCache[InBucket] = field(init=False)
    _changes: int = field(default=0, init=False)
    _unconditional: bool = field(default=False, init=False)
    """This S3 knows no conditional puts."""

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self.cache = ManifestCache(self._clock, trusted_for=TRUSTED_FOR)
        self.late = PendingManifests(
            self._put_everywhere, self._clock, self._late_in, self._through, self._in_thread
        )

    async def get(
        self, name: ModelName, reference: Reference, *, anew: bool = False
    ) -> Optional[StoredManifest]:
        key = name, reference
        known, trusted = self.cache.get(key)
        if known is None or not trusted or anew:
            changes = self._changes
            try:
                _, found = await self._contact.in_time(self._fetch(name, reference))
            except S3Error as error:
                self._contact.complain(error)
            else:
                if changes == self._changes and (known is not None or not anew):
                    # Who looks at all of them anew must not drive out what is asked for.
                    self._keep(key, found)
                known = found
        return self.late.newest(key, None if known is None else known.stored)

    async def _fetch(
        self, name: ModelName, reference: Reference
    ) -> tuple[Optional[str], Optional[InBucket]]:
        """The object's ETag, None where there is none, and the manifest in it; `S3Error`."""
        got = await self._client.get_whole(_manifest_key(name, reference))
        self._contact.answered()
        if got is None:
            return None, None
        head, body = got
        try:
            manifest = Manifest.parse(body)
        except InvalidManifest as error:
            self._log.warn(
                "{key} counts as not stored: {error}",
                key=_manifest_key(name, reference),
                error=str(error),
            )
            return head.etag, None
        if isinstance(reference, Digest) and manifest.digest != reference:
            self._log.warn("{key} is another manifest", key=_manifest_key(name, reference))
            return head.etag, None
        self._learn(manifest)
        return head.etag, InBucket(StoredManifest(manifest, _checked_at(head)), head.etag)

    async def put(
        self, name: ModelName, reference: Reference, manifest: Manifest, checked_at: float
    ) -> None:
        if isinstance(reference, Digest) and reference != manifest.digest:
            raise ValueError(f"manifest {manifest.digest} put as {reference}")
        self._learn(manifest)
        try:
            await self._contact.in_time(self._put_everywhere(name, reference, manifest, checked_at))
        except S3Error as error:
            self._contact.complain(error)
            if not error.passing:
                raise
            await self.late.add((name, reference), StoredManifest(manifest, checked_at))

    async def _put_everywhere(
        self, name: ModelName, reference: Reference, manifest: Manifest, checked_at: float
    ) -> None:
        try:
            await self._put(name, manifest.digest, manifest, checked_at)
            if isinstance(reference, Tag):
                await self._put(name, reference, manifest, checked_at)
        finally:
            self._changes += 1
            self._changed()

    async def _put(
        self, name: ModelName, reference: Reference, manifest: Manifest, checked_at: float
    ) -> None:
        """Put it where no newer one is: a check of upstream that was later wins."""
        stored = StoredManifest(manifest, checked_at)
        etag: Optional[str] = None
        for attempt in range(_TRIES):
            found: Optional[InBucket] = None
            if isinstance(reference, Tag) or attempt:
                etag, found = await self._fetch(name, reference)
            if found is not None and (
                isinstance(reference, Digest)
                or found.stored.checked_at > checked_at
                or found.stored == stored
            ):
                if found.stored.manifest.digest != manifest.digest:
                    self._log.info(
                        "{name}:{tag} was put by another daemon, later than it was checked here",
                        name=str(name),
                        tag=str(reference),
                    )
                self._keep((name, reference), found)
                return
            if found is not None and found.stored.manifest.digest != manifest.digest:
                # The original Yukari, or an operator, may have put it by its tag alone.
                before = found.stored
                await self._put(name, before.manifest.digest, before.manifest, before.checked_at)
            try:
                put = await self._put_over(name, reference, stored, etag)
            except S3Error as error:
                if error.unanswered and attempt + 1 < _TRIES:
                    continue
                raise
            if put is not None:
                self._keep((name, reference), InBucket(stored, put))
                return
        key = _manifest_key(name, reference)
        raise S3Error("PreconditionFailed", 412, f"{key} is put by others all the time")

    async def _put_over(
        self, name: ModelName, reference: Reference, stored: StoredManifest, etag: Optional[str]
    ) -> Optional[str]:
        """The new ETag, None where another than the one of ``etag`` is there by now."""

        def put(**condition: Any) -> Any:
            return self._client.put_object(
                _manifest_key(name, reference),
                stored.manifest.body,
                stored.manifest.media_type,
                metadata={_CHECKED_AT: repr(stored.checked_at)},
                **condition,
            )

        if not self._unconditional:
            try:
                done: Optional[str] = await put(only_new=etag is None, only_over=etag)
                return done
            except S3Error as error:
                if error.status != 501 and error.code != "NotImplemented":
                    raise
                self._unconditional = True
                self._log.warn("this S3 knows no conditional puts: the last manifest put wins")
        last: Optional[str] = await put()
        return last

    async def touch(self, name: ModelName, tag: Tag, digest: Digest, checked_at: float) -> None:
        known, _ = self.cache.get((name, tag))
        try:
            etag, found = await self._fetch(name, tag)
            if found is None or found.stored.manifest.digest != digest:
                return
            stored = StoredManifest(found.stored.manifest, checked_at)
            put = await self._put_over(name, tag, stored, etag)
        except S3Error as error:
            self._contact.complain(error)
            raise
        self._changes += 1
        self._keep((name, tag), None if put is None or known is None else InBucket(stored, put))

    def _keep(self, key: Key, found: Optional[InBucket]) -> None:
        if found is None:
            self.cache.forget(key)
        else:
            self.cache.keep(key, found)


def _manifest_key(name: ModelName, reference: Reference) -> str:
    return f"v2/{name}/manifests/{reference}"


def _checked_at(head: Head) -> float:
    try:
        return float(head.metadata[_CHECKED_AT])
    except (KeyError, ValueError):
        return head.modified
