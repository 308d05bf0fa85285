"""The store in a bucket: every store's promises, and what only this one does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine
from hashlib import sha256
from itertools import product
from typing import Any, Optional

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.web.client import ResponseDone

from tests.running import until
from tests.s3.against import KEYS, AgainstServer, for_each_server, reactor
from tests.s3.proxy import SLOW_DOWN, Lose, Stall, reply
from tests.s3.servers import CEPH
from tests.storage.contract import (
    BODY,
    DIGEST,
    LATEST,
    LISTED,
    NAME,
    NEW,
    OLD,
    OTHER,
    StoreContract,
)
from tests.storage.disk.test_space import Disk
from yukari.config.units import FreeSpace
from yukari.manifest import LARGE as LARGE_MANIFEST
from yukari.manifest import Manifest, Variant
from yukari.metrics import Metrics
from yukari.names import DEFAULT, Digest, Repository, Tag
from yukari.s3 import requests as requests_module
from yukari.s3.body import BytesBody
from yukari.s3.client import S3Client
from yukari.s3.credentials import AccessKeys
from yukari.s3.replies import UnfinishedUpload
from yukari.sources.base import SourceFailed, SourceRefused
from yukari.spans import Span
from yukari.storage.bucket import health as contact
from yukari.storage.bucket import listing as bucketlisting
from yukari.storage.bucket import manifests as manifests_module
from yukari.storage.bucket import pending as pending_module
from yukari.storage.bucket import sweep, upload
from yukari.storage.bucket.multipart import Note, note_path, part_size
from yukari.storage.bucket.store import BucketStore
from yukari.storage.ports import (
    ManifestEntry,
    NoRoom,
    Store,
    StoredManifest,
    StoreUnusable,
)

NOTHING = FreeSpace(bytes=0)
MIB = 1024 * 1024
LARGE = b"".join(sha256(b"%d" % number).digest() for number in range(20 * MIB // 32 + 9))
LARGE_DIGEST = Digest.of(LARGE)


class Stores(AgainstServer):
    def store(self, client: Optional[S3Client] = None, **keywords: Any) -> BucketStore:
        keywords = {"spool_dir": self.mktemp(), "min_free": NOTHING, **keywords}
        return BucketStore(
            client=client or self.client, in_thread=self.threads, clock=reactor, **keywords
        )


class Contract(StoreContract, Stores):
    """Every promise."""

    def make_store(self, room: Optional[int] = None) -> Store:
        if room is None:
            return self.store()
        disk = Disk()
        return self.store(min_free=FreeSpace(bytes=disk.free - room), statvfs=disk.statvfs)

    def after_a_kill(self, store: Store) -> Store:
        assert isinstance(store, BucketStore)
        store.interrupt()
        store._owned.release()
        return self.store(spool_dir=store.spool_dir)

    async def body_of(self, store: Store, digest: Digest) -> Optional[bytes]:
        found = await self.client.get_whole(f"blobs/{digest}")
        return found and found[1]

    def assert_listed(self, listed: list[ManifestEntry], wanted: list[ManifestEntry]) -> None:
        self.assertEqual(
            [(entry.name, entry.tag) for entry in listed],
            [(entry.name, entry.tag) for entry in wanted],
        )
        for entry in listed:
            self.assertLess(abs(entry.checked_at - time.time()), 120.0)


class _Read(Protocol):
    def __init__(self) -> None:
        self.body = bytearray()
        self.done: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.body += data

    def connectionLost(self, reason: Any = None) -> None:
        if reason.check(ResponseDone):
            self.done.callback(bytes(self.body))
        else:
            self.done.errback(reason)


class _Killed(BaseException):
    """The process ended here."""


class _Dying:
    """A client whose process is killed at its ``steps``-th put: before it, or once it is done."""

    def __init__(self, client: S3Client, steps: int, done: bool) -> None:
        self._client = client
        self._left = steps
        self._done = done
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def put_object(self, *arguments: Any, **keywords: Any) -> str:
        if self._left == 0:
            self.dead = True
            if self._done:
                await self._client.put_object(*arguments, **keywords)
            raise _Killed
        self._left -= 1
        return await self._client.put_object(*arguments, **keywords)


class _Counted(Metrics):
    def __init__(self) -> None:
        self.to = self.came = 0

    def to_store(self, count: int) -> None:
        self.to += count

    def from_store(self, count: int) -> None:
        self.came += count


class BucketTests(Stores):
    """What only this one does."""

    async def started(self, client: Optional[S3Client] = None, **keywords: Any) -> BucketStore:
        store = self.store(client, **keywords)
        await store.start()
        self.addCleanup(store.stop)
        return store

    async def published(self, store: BucketStore, body: bytes = BODY) -> None:
        spool = await store.new_spool(Digest.of(body), len(body), NAME)
        self.addCleanup(spool.close)
        await self.threads(spool.write, [(0, [body])])
        await store.publish(spool)

    async def objects(self) -> dict[str, int]:
        return {row.key: row.size for row in (await self.client.list_objects()).objects}

    # the layout

    async def test_the_keys_and_media_types_are_the_originals(self) -> None:
        store = await self.started()
        manifest = Manifest.parse(
            b'{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json"'
            b',"layers":[{"mediaType":"application/vnd.ollama.image.model","digest":"%s",'
            b'"size":%d}]}' % (str(DIGEST).encode(), len(BODY))
        )
        await store.put_manifest(NAME, LATEST, manifest, 1000.0)
        await self.published(store)
        self.assertEqual(
            await self.objects(),
            {
                f"blobs/{DIGEST}": len(BODY),
                f"blobs/{manifest.digest}": len(manifest.body),
                "v2/library/m/manifests/latest": len(manifest.body),
                f"v2/library/m/manifests/{manifest.digest}": len(manifest.body),
            },
        )
        for key, kind in (
            (f"blobs/{DIGEST}", "application/vnd.ollama.image.model"),
            ("v2/library/m/manifests/latest", manifest.media_type),
        ):
            head = await self.client.head_object(key)
            assert head is not None
            self.assertEqual(head.content_type, kind)

    async def test_what_the_original_put_is_served(self) -> None:
        await self.client.put_object("v2/library/m/manifests/latest", OLD.body, OLD.media_type)
        await self.client.put_object("v2/library/m/tags/list", b"{}", "text/plain")
        await self.client.put_object("v2/library/bad/manifests/latest", b"<html>", "text/html")
        await self.client.put_object(f"blobs/{DIGEST}", BODY, "application/octet-stream")
        store = await self.started()
        found = await store.get_manifest(NAME, LATEST)
        assert found is not None
        self.assertEqual(found.manifest, OLD)
        self.assertLess(abs(found.checked_at - time.time()), 120.0)
        self.assertEqual(await store.tags(NAME), [LATEST])
        self.assertEqual(await store.blob_size(DIGEST), len(BODY))

    async def test_a_list_that_the_original_put_is_served_to_whom_accepts_lists(self) -> None:
        """It puts what its first client got, also for those that come later."""
        key = "v2/library/m/manifests/latest"
        await self.client.put_object(key, LISTED.body, LISTED.media_type)
        await self.client.put_object("blobs/" + str(NEW.digest), NEW.body, NEW.media_type)
        store = await self.started()
        listed = await store.get_manifest(NAME, LATEST, Variant.LIST)
        assert listed is not None
        self.assertEqual(listed.manifest, LISTED)
        await store.touch_manifest(NAME, LATEST, LISTED.digest, time.time() + 60, Variant.LIST)
        for each in store, await self.started():
            for variant, manifest in ((Variant.LIST, LISTED), (Variant.PLAIN, NEW)):
                found = await each.get_manifest(NAME, LATEST, variant)
                assert found is not None
                self.assertEqual(found.manifest, manifest)

    async def test_what_the_original_put_stays_by_digest_when_it_is_replaced(self) -> None:
        await self.client.put_object("v2/library/m/manifests/latest", OLD.body, OLD.media_type)
        store = await self.started()
        await store.put_manifest(NAME, LATEST, NEW, time.time() + 60)
        for each in store, await self.started():
            for reference, manifest in ((LATEST, NEW), (OLD.digest, OLD), (NEW.digest, NEW)):
                found = await each.get_manifest(NAME, reference)
                assert found is not None
                self.assertEqual(found.manifest, manifest)

    # kills

    async def _killed_in_a_replacement(self, steps: int, *, done: bool) -> bool:
        """
        OLD is there by its tag alone and NEW takes its place, killed at that step: the next
        process finds the one or the other, whole. Whether it came to that step.
        """
        for key in await self.objects():
            await self.client.delete_object(key)
        await self.client.put_object(
            "v2/library/m/manifests/latest",
            OLD.body,
            OLD.media_type,
            metadata={"checked-at": "1000.0"},
        )
        dying: Any = _Dying(self.client, steps, done)
        store = await self.started(dying)
        try:
            await store.put_manifest(NAME, LATEST, NEW, 2000.0)
        except _Killed:
            pass
        after = await self.started()
        found = await after.get_manifest(NAME, LATEST)
        self.assertIn(found, (StoredManifest(OLD, 1000.0), StoredManifest(NEW, 2000.0)))
        if found == StoredManifest(NEW, 2000.0):
            for manifest in OLD, NEW:
                by_digest = await after.get_manifest(NAME, manifest.digest)
                assert by_digest is not None
                self.assertEqual(by_digest.manifest, manifest)
        await after.put_manifest(NAME, LATEST, NEW, 3000.0)
        self.assertEqual(await after.get_manifest(NAME, LATEST), StoredManifest(NEW, 3000.0))
        was: bool = dying.dead
        return was

    async def test_a_kill_at_any_step_of_a_replacement_leaves_the_old_or_the_new(self) -> None:
        for done in (False, True):
            steps = 0
            while await self._killed_in_a_replacement(steps, done=done):
                steps += 1
            self.assertGreaterEqual(steps, 3)

    # replicas

    async def test_a_newer_manifest_of_another_daemon_is_not_overwritten(self) -> None:
        one, two = await self.started(), await self.started()
        await two.put_manifest(NAME, LATEST, NEW, 2000.0)
        await one.put_manifest(NAME, LATEST, OLD, 1000.0)
        for store in (one, two):
            self.assertEqual(await store.get_manifest(NAME, LATEST), StoredManifest(NEW, 2000.0))
        await one.put_manifest(NAME, LATEST, OLD, 3000.0)
        fresh = await self.started()
        self.assertEqual(await fresh.get_manifest(NAME, LATEST), StoredManifest(OLD, 3000.0))

    async def test_of_many_puts_at_once_the_latest_check_wins(self) -> None:
        stores = [await self.started() for _ in range(3)]
        puts = [
            Deferred.fromCoroutine(store.put_manifest(NAME, LATEST, manifest, when))
            for store, manifest, when in zip(stores, (OLD, NEW, OLD), (1000.0, 3000.0, 2000.0))
        ]
        for put in puts:
            await put
        fresh = await self.started()
        self.assertEqual(await fresh.get_manifest(NAME, LATEST), StoredManifest(NEW, 3000.0))

    async def test_anew_a_manifest_is_as_another_daemon_left_it(self) -> None:
        one, two = await self.started(), await self.started()
        await one.put_manifest(NAME, LATEST, OLD, 1000.0)
        await two.get_manifest(NAME, LATEST)
        await one.touch_manifest(NAME, LATEST, OLD.digest, 2000.0)
        self.assertEqual(await two.get_manifest(NAME, LATEST), StoredManifest(OLD, 1000.0))
        (found,) = await two.read_anew([(NAME, LATEST)])
        self.assertEqual(found[Variant.PLAIN], StoredManifest(OLD, 2000.0))
        self.assertEqual(await two.get_manifest(NAME, LATEST), StoredManifest(OLD, 2000.0))

    async def test_who_looks_at_all_of_them_anew_drives_out_none(self) -> None:
        one, two = await self.started(), await self.started()
        await one.put_manifest(NAME, LATEST, OLD, 1000.0)
        (found,) = await two.read_anew([(NAME, LATEST)])
        await two.touch_manifest(NAME, LATEST, OLD.digest, 2000.0)
        self.assertEqual(found[Variant.PLAIN], StoredManifest(OLD, 1000.0))
        self.assertEqual(two._manifests.cache.held, 0)

    async def test_large_ones_that_are_read_anew_are_few_at_a_time(self) -> None:
        """Of tags that are indexed together, dozens may have 12,000 layers."""
        store = await self.started()
        sizes = 1, 2, 3, LARGE_MANIFEST, LARGE_MANIFEST, 1
        stored = [Manifest.parse(bytes(OLD.body) + b" " * n) for n in sizes]
        for at, manifest in enumerate(stored):
            await store.put_manifest(NAME, Tag(f"t{at}"), manifest, 1000.0)
        for first, after in ((0, 4), (4, 6)):
            found = await store.read_anew([(NAME, Tag(f"t{at}")) for at in range(first, 6)])
            read = [each[Variant.PLAIN].manifest for each in found]
            self.assertEqual(read, stored[first:after])

    async def test_a_listing_is_in_order_of_names_over_many_pages(self) -> None:
        """S3 has a-b/ and a.b/ before a/."""
        self.patch(bucketlisting, "KEYS_A_PAGE", 2)
        store = await self.started()
        models = [Repository(DEFAULT, *each) for each in product(("a", "a-b", "a.b"), repeat=2)]
        for name, tag in product(models, (Tag("b"), Tag("b-c"))):
            await self.client.put_object(f"v2/{name}/manifests/{tag}", OLD.body, OLD.media_type)
        listed: list[ManifestEntry] = []
        while page := await store.manifests(
            (listed[-1].name, listed[-1].tag) if listed else None, 5
        ):
            self.assertLessEqual(len(page), 5)
            listed += page
        names = [(entry.name, entry.tag) for entry in listed]
        self.assertEqual(names, sorted(product(models, (Tag("b"), Tag("b-c")))))

    async def test_two_daemons_publish_the_same_blob(self) -> None:
        one, two = await self.started(), await self.started()
        first = Deferred.fromCoroutine(self.published(one, LARGE))
        second = Deferred.fromCoroutine(self.published(two, LARGE))
        await first
        await second
        self.assertEqual(await self.objects(), {f"blobs/{LARGE_DIGEST}": len(LARGE)})
        self.assertEqual(await self.client.list_multipart_uploads(), [])

    # few requests

    async def test_a_warm_pull_costs_no_request_after_the_first(self) -> None:
        store = await self.started()
        await store.put_manifest(NAME, LATEST, OLD, 1000.0)
        await self.client.put_object(f"blobs/{DIGEST}", BODY, "application/octet-stream")
        again = await self.started(self.client_at(self.client.endpoint))
        for _ in range(3):
            await again.get_manifest(NAME, LATEST)
            await again.blob_size(DIGEST)
        self.assertEqual(again.client.requests, {"get_object": 2, "head_object": 1})

    # blobs out of the bucket

    async def test_a_blob_that_is_not_on_disk_comes_by_ranges(self) -> None:
        await self.client.put_object(f"blobs/{DIGEST}", BODY, "application/octet-stream")
        store = await self.started()
        self.assertIsNone(await store.open_blob(DIGEST))
        source = store.source(DIGEST, len(BODY))
        assert source is not None
        self.assertTrue(source.ranges)
        answer = await source.fetch(Span(100, 300))
        self.assertEqual((answer.span, answer.asked), (Span(100, 300), True))
        reader = _Read()
        answer.body.deliverBody(reader)
        self.assertEqual(await reader.done, BODY[100:300])

    async def test_bytes_to_and_from_the_bucket_are_counted(self) -> None:
        counted = _Counted()
        self.client.metrics = counted
        store = await self.started()
        await self.published(store, LARGE)
        self.assertGreaterEqual(counted.to, len(LARGE))
        self.assertLess(counted.to, len(LARGE) + 2000)  # the list of the parts
        source = store.source(LARGE_DIGEST, len(LARGE))
        assert source is not None
        before = counted.came
        answer = await source.fetch(Span(100, 300))
        reader = _Read()
        answer.body.deliverBody(reader)
        await reader.done
        self.assertEqual(counted.came - before, 200)

    async def test_a_blob_that_the_bucket_lost_is_known_no_more(self) -> None:
        await self.client.put_object(f"blobs/{DIGEST}", BODY, "application/octet-stream")
        store = await self.started()
        self.assertEqual(await store.blob_size(DIGEST), len(BODY))
        await self.client.delete_object(f"blobs/{DIGEST}")
        source = store.source(DIGEST, len(BODY))
        assert source is not None
        try:
            await source.fetch(Span(0, 10))
        except SourceRefused as refused:
            self.assertEqual(refused.error.status, 404)
        else:
            self.fail("it was there")
        self.assertIsNone(await store.blob_size(DIGEST))

    async def test_a_busy_bucket_is_a_source_that_failed_for_now(self) -> None:
        proxy, client = await self.through_proxy()
        store = await self.started(client)
        source = store.source(DIGEST, len(BODY))
        assert source is not None
        proxy.faults.append(reply(503, SLOW_DOWN, b"Retry-After: 7"))
        try:
            await source.fetch(Span(0, 10))
        except SourceFailed as failed:
            self.assertEqual((failed.retry_after, failed.busy), (7.0, True))
        else:
            self.fail("it did not fail")

    # the disk in front

    async def test_the_disk_gives_up_what_was_used_least_recently(self) -> None:
        store = await self.started(spool_max=3000)
        bodies = [bytes([number]) * 1000 for number in range(4)]
        for body in bodies[:3]:
            await self.published(store, body)
        first = await store.open_blob(Digest.of(bodies[0]))
        assert first is not None
        first.close()
        await self.published(store, bodies[3])
        on_disk = [store.tier.size(Digest.of(body)) is not None for body in bodies]
        self.assertEqual(on_disk, [True, False, True, True])
        self.assertEqual(await store.blob_size(Digest.of(bodies[1])), 1000)
        spool = await store.new_spool(DIGEST, 2500, NAME)
        self.addCleanup(spool.discard)
        self.assertEqual(store.tier.total, 0)
        try:
            await store.new_spool(Digest.of(b"x"), 1000, NAME)
        except NoRoom as error:
            self.assertTrue(str(error))
        else:
            self.fail("there was room")

    async def test_the_disk_outlives_the_process(self) -> None:
        store = await self.started()
        await self.published(store)
        await store.stop()
        again = await self.started(spool_dir=store.spool_dir)
        blob = await again.open_blob(DIGEST)
        assert blob is not None
        self.assertEqual(blob.read(0, 2000), BODY)
        blob.close()

    # up, with everything that can go wrong

    async def test_parts_go_up_while_the_blob_comes_in_any_order(self) -> None:
        store = await self.started()
        spool = await store.new_spool(LARGE_DIGEST, len(LARGE), NAME)
        self.addCleanup(spool.close)
        part = part_size(len(LARGE))
        await self.threads(spool.write, [(part, [LARGE[part:]])])
        await until(lambda: len(store._spools.uploads[LARGE_DIGEST]._done) == 2)
        self.assertEqual(await self.objects(), {})
        await self.threads(spool.write, [(0, [LARGE[:part]])])
        await store.publish(spool)
        self.assertEqual(await self.objects(), {f"blobs/{LARGE_DIGEST}": len(LARGE)})
        got = await self.client.get_whole(f"blobs/{LARGE_DIGEST}", 1 << 30)
        assert got is not None
        self.assertEqual(Digest.of(got[1]), LARGE_DIGEST)
        self.assertFalse([e for e in os.listdir(store.spool_dir) if e.startswith("sha256-")])

    async def test_a_killed_daemons_parts_are_used_again(self) -> None:
        store = await self.started()
        spool = await store.new_spool(LARGE_DIGEST, len(LARGE), NAME)
        part = part_size(len(LARGE))
        await self.threads(spool.write, [(0, [LARGE[: 2 * part]])])
        await until(lambda: len(store._spools.uploads[LARGE_DIGEST]._done) == 2)
        store.interrupt()
        store._owned.release()
        spool.close()
        client = self.client_at(self.client.endpoint)
        again = await self.started(client, spool_dir=store.spool_dir)
        (resumed,) = await again.spools()
        self.addCleanup(resumed.close)
        self.assertIsNone(await again.blob_size(LARGE_DIGEST))
        await self.threads(resumed.write, [(2 * part, [LARGE[2 * part :]])])
        await again.publish(resumed)
        self.assertEqual(client.requests["upload_part"], 1)
        self.assertEqual(await self.objects(), {f"blobs/{LARGE_DIGEST}": len(LARGE)})
        self.assertEqual(await self.client.list_multipart_uploads(), [])

    async def test_an_s3_that_is_silent_is_asked_for_a_rivals_object_once(self) -> None:
        self.patch(upload, "LOOK_EVERY", 0.01)
        self.patch(upload, "RIVAL_EVERY", 0.0)
        proxy, client = await self.through_proxy()
        store = await self.started(client)
        proxy.only = b"HEAD "
        proxy.faults.extend([Stall(0)] * 50)
        spool = await store.new_spool(LARGE_DIGEST, len(LARGE), NAME)
        self.addCleanup(spool.close)
        await self.threads(spool.write, [(0, [LARGE])])
        await until(lambda: len(store._spools.uploads[LARGE_DIGEST]._done) == 3)
        self.assertEqual(client.requests["head_object"], 1)

    async def test_a_discarded_spools_upload_is_aborted(self) -> None:
        store = await self.started()
        spool = await store.new_spool(LARGE_DIGEST, len(LARGE), NAME)
        await self.threads(spool.write, [(0, [LARGE])])
        await until(lambda: store._spools.uploads[LARGE_DIGEST]._done)
        await self.threads(spool.discard)
        await until(lambda: not store._spools.uploads)
        self.assertEqual(await self.client.list_multipart_uploads(), [])
        self.assertEqual(await self.objects(), {})

    async def test_an_old_upload_that_still_gets_parts_is_somebodys(self) -> None:
        store, key = await self.started(), f"blobs/{DIGEST}"
        listing = self.client.list_multipart_uploads

        async def begun_long_ago(prefix: str) -> list[UnfinishedUpload]:
            return [evolve(each, initiated=0.0) for each in await listing(prefix)]

        self.patch(S3Client, "list_multipart_uploads", lambda _, prefix: begun_long_ago(prefix))
        for _ in range(2):
            upload_id = await self.client.init_multipart_upload(key, "a/b")
        await self.client.upload_part(key, upload_id, 1, lambda _: BytesBody(b"part"))
        self.assertEqual(await store.sweep(), 1)
        (left,) = await listing()
        self.assertEqual(left.upload_id, upload_id)
        self.patch(sweep, "ORPHANED_AFTER", -60.0)
        self.assertEqual(await store.sweep(), 1)

    async def test_uploads_of_nobody_are_swept(self) -> None:
        store = await self.started()
        await self.client.init_multipart_upload(f"blobs/{DIGEST}", "a/b")
        if self.server is CEPH:  # moto says that all were begun in 2010
            self.assertEqual(await store.sweep(), 0)
        self.patch(sweep, "ORPHANED_AFTER", -60.0)
        spool = await store.new_spool(LARGE_DIGEST, len(LARGE), NAME)
        self.addCleanup(spool.close)
        await self.threads(spool.write, [(0, [LARGE])])
        await until(lambda: store._spools.uploads[LARGE_DIGEST]._done)
        self.assertEqual(await store.sweep(), 1)
        (left,) = await self.client.list_multipart_uploads()
        self.assertEqual(left.key, f"blobs/{LARGE_DIGEST}")
        await store.publish(spool)
        self.assertEqual(await self.objects(), {f"blobs/{LARGE_DIGEST}": len(LARGE)})

    async def test_one_that_begins_while_they_are_listed_is_left_alone(self) -> None:
        store = await self.started()
        spool = await store.new_spool(LARGE_DIGEST, len(LARGE), NAME)
        self.addCleanup(spool.close)
        self.patch(sweep, "ORPHANED_AFTER", -60.0)
        listing = self.client.list_multipart_uploads

        async def meanwhile(prefix: str) -> list[UnfinishedUpload]:
            await self.threads(spool.write, [(0, [LARGE])])
            await until(lambda: store._spools.uploads[LARGE_DIGEST]._done)
            return await listing(prefix)

        self.patch(S3Client, "list_multipart_uploads", lambda _, prefix: meanwhile(prefix))
        self.assertEqual(await store.sweep(), 0)
        await store.publish(spool)
        self.assertEqual(await self.objects(), {f"blobs/{LARGE_DIGEST}": len(LARGE)})

    async def test_one_that_s3_does_not_abort_keeps_none_of_the_others_back(self) -> None:
        self.patch(requests_module, "FIRST_WAIT", 0.01)
        proxy, client = await self.through_proxy()
        store = await self.started()
        digests = [Digest.of(b"%d" % number) for number in range(4)]
        for digest in digests:
            begun = await self.client.init_multipart_upload(f"blobs/{digest}", "a/b")
            if digest in digests[:2]:
                note = Note("a/b", begun, part_size(1))
                note.write(note_path(store.spool_dir, digest), store.spool_dir)
        await store.stop()
        self.patch(sweep, "ORPHANED_AFTER", -60.0)
        again = await self.started(client, spool_dir=store.spool_dir)
        await again.spools()
        for stuck in digests[0], digests[2]:
            proxy.only = b"DELETE /" + f"{self.bucket}/blobs/sha256%3A{stuck.hex}".encode()
            proxy.faults.extend([reply(500)] * requests_module.ATTEMPTS * 2)
            await again.sweep()
            proxy.faults.clear()
            left = [each.key for each in await self.client.list_multipart_uploads()]
            self.assertEqual(left, [f"blobs/{stuck}"])
            await self.client.init_multipart_upload(f"blobs/{digests[2]}", "a/b")
        await again.sweep()
        self.assertEqual(await self.client.list_multipart_uploads(), [])

    async def test_an_s3_that_fails_in_the_middle_is_waited_for(self) -> None:
        self.patch(upload, "FIRST_WAIT", 0.05)
        self.patch(requests_module, "FIRST_WAIT", 0.01)
        proxy, client = await self.through_proxy()
        store = await self.started(client)
        proxy.faults.extend([reply(503, SLOW_DOWN)] * 11)
        await self.published(store, LARGE)
        self.assertEqual(await self.objects(), {f"blobs/{LARGE_DIGEST}": len(LARGE)})
        self.assertEqual(await self.client.list_multipart_uploads(), [])

    async def test_a_lost_answer_to_complete_is_no_failure(self) -> None:
        self.patch(upload, "FIRST_WAIT", 0.05)
        proxy, client = await self.through_proxy()
        store = await self.started(client)
        proxy.only = (
            b"POST /"
            + self.bucket.encode()
            + b"/blobs/sha256%3A"
            + (LARGE_DIGEST.hex.encode() + b"?uploadId")
        )
        proxy.faults.append(Lose())
        await self.published(store, LARGE)
        self.assertEqual(list(proxy.faults), [])
        self.assertEqual(await self.objects(), {f"blobs/{LARGE_DIGEST}": len(LARGE)})

    async def test_a_publish_that_waits_for_s3_ends_with_the_process(self) -> None:
        proxy, client = await self.through_proxy()
        store = await self.started(client)
        await proxy.port.stopListening()
        publishing = Deferred.fromCoroutine(self.published(store, LARGE))
        await until(lambda: LARGE_DIGEST in store._spools.uploads)
        store.interrupt()
        try:
            await publishing
        except OSError as error:
            self.assertTrue(str(error))
        else:
            self.fail("it was published")
        await proxy.start()

    async def test_a_publish_that_waits_for_s3_to_complete_ends_with_the_process(self) -> None:
        proxy, client = await self.through_proxy()
        store = await self.started(client)
        spool = await store.new_spool(LARGE_DIGEST, len(LARGE), NAME)
        self.addCleanup(spool.close)
        await self.threads(spool.write, [(0, [LARGE])])
        await until(lambda: len(store._spools.uploads[LARGE_DIGEST]._done) == 3)
        stalled = Stall(0)
        proxy.faults.append(stalled)
        proxy.only = b"POST "
        publishing = Deferred.fromCoroutine(store.publish(spool))
        await until(lambda: not proxy.faults)
        store.interrupt()
        self.failureResultOf(publishing, OSError)
        await store.stop()

    async def test_calls_that_wait_for_s3_end_with_the_store(self) -> None:
        """Else they would go on with a directory that another process owns by then."""
        proxy, client = await self.through_proxy()
        store = await self.started(client)
        discarded = await store.new_spool(LARGE_DIGEST, len(LARGE), NAME)
        await self.threads(discarded.write, [(0, [LARGE])])
        await until(lambda: store._spools.uploads[LARGE_DIGEST]._done)
        abandoned = store._spools.uploads[LARGE_DIGEST]
        source = store.source(DIGEST, len(BODY))
        calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
            lambda: store.get_manifest(NAME, LATEST),
            lambda: store.put_manifest(NAME, LATEST, OLD, 1000.0),
            lambda: store.touch_manifest(NAME, LATEST, OLD.digest, 2000.0),
            lambda: store.tags(NAME),
            store.manifests,
            store.blobs,
            lambda: store.blob_size(DIGEST),
            lambda: store.presigned(DIGEST),
            lambda: store.delete_blob(DIGEST),
            store.count,
            store.check,
            store.connect,
            store.sweep,
            lambda: store.inventory.remove_tag(NAME, LATEST),
            lambda: store.inventory.load("gc"),
            lambda: store.inventory.save("gc", b"{}", None),
            lambda: source.fetch(Span(0, 1)),
            abandoned.abandon,
        ]
        for _ in range(100):
            proxy.faults.append(Stall(0))
        running = [Deferred.fromCoroutine(call()) for call in calls]
        for each in running:
            each.addErrback(lambda failure: failure.trap(OSError, SourceFailed))
        self.assertEqual([each.called for each in running], [False] * len(running))
        await store.stop()
        self.assertEqual([each.called for each in running], [True] * len(running))
        discarded.close()

    # S3 down, or set up wrong

    async def test_while_s3_is_down_nothing_is_stored_but_nothing_breaks(self) -> None:
        self.patch(requests_module, "FIRST_WAIT", 0.01)
        proxy, client = await self.through_proxy()
        store = await self.started(client)
        await store.put_manifest(NAME, LATEST, OLD, 1000.0)
        await proxy.port.stopListening()
        for each in list(proxy.open):
            each.transport.abortConnection()
        self.assertIsNone(await store.get_manifest(OTHER, LATEST))
        self.assertIsNone(await store.blob_size(DIGEST))
        self.assertFalse(store.reachable)
        self.patch(manifests_module, "TRUSTED_FOR", 0.0)
        self.assertEqual(await store.get_manifest(NAME, LATEST), StoredManifest(OLD, 1000.0))
        await proxy.start()

    async def test_a_manifest_that_s3_cannot_take_now_is_served_and_put_later(self) -> None:
        self.patch(requests_module, "FIRST_WAIT", 0.01)
        self.patch(pending_module, "AGAIN", (0.05, 0.2))
        proxy, client = await self.through_proxy()
        store, other = await self.started(client), await self.started()
        await store.put_manifest(NAME, LATEST, OLD, 1000.0)
        await proxy.stop()
        await store.put_manifest(NAME, LATEST, NEW, 2000.0)
        await store.put_manifest(NAME, LATEST, OLD, 1500.0)  # not the newest
        await store.put_manifest(OTHER, LATEST, OLD, 2000.0)
        self.assertEqual(await store.get_manifest(NAME, LATEST), StoredManifest(NEW, 2000.0))
        self.assertEqual(await store.get_manifest(NAME, NEW.digest), StoredManifest(NEW, 2000.0))
        await other.put_manifest(OTHER, LATEST, NEW, 3000.0)  # by one that can reach S3
        await proxy.start()
        await until(lambda: not store._manifests.late._waiting)
        fresh = await self.started()
        self.assertEqual(await fresh.get_manifest(NAME, LATEST), StoredManifest(NEW, 2000.0))
        self.assertEqual(await fresh.get_manifest(OTHER, LATEST), StoredManifest(NEW, 3000.0))

    async def test_a_manifest_that_s3_cannot_take_outlives_the_process(self) -> None:
        self.patch(requests_module, "FIRST_WAIT", 0.01)
        proxy, client = await self.through_proxy()
        store = await self.started(client)
        await proxy.stop()
        await store.put_manifest(NAME, LATEST, OLD, 1000.0)
        await store.put_manifest(NAME, LATEST, NEW, 2000.0)
        store._owned.release()  # It is killed.
        again = await self.started(client, spool_dir=store.spool_dir)
        self.assertEqual(await again.get_manifest(NAME, LATEST), StoredManifest(NEW, 2000.0))
        await again.stop()
        self.patch(pending_module, "AGAIN", (0.05, 0.2))
        await proxy.start()
        last = await self.started(client, spool_dir=store.spool_dir)
        await until(lambda: not os.listdir(last._manifests.late.directory))
        fresh = await self.started()
        self.assertEqual(await fresh.get_manifest(NAME, LATEST), StoredManifest(NEW, 2000.0))

    async def test_a_silent_s3_keeps_nobody_waiting(self) -> None:
        self.patch(contact, "WITHIN", 0.2)
        proxy, client = await self.through_proxy()
        store = await self.started(client)
        proxy.faults.extend([Stall(0)] * 9)
        self.assertIsNone(await store.blob_size(DIGEST))
        self.assertFalse(store.reachable)
        asked = len(proxy.requests)
        self.assertIsNone(await store.get_manifest(NAME, LATEST))
        self.assertEqual(len(proxy.requests), asked)

    async def test_the_check_waits_for_an_s3_that_is_busy(self) -> None:
        self.patch(contact, "CHECK_AGAIN", (0.01, 0.02))
        self.patch(requests_module, "FIRST_WAIT", 0.01)
        proxy, client = await self.through_proxy()
        store = await self.started(client)
        proxy.faults.extend([reply(503, SLOW_DOWN)] * 9)
        await store.connect()
        self.assertTrue(store.reachable)

    async def test_a_clock_that_is_wrong_is_named(self) -> None:
        proxy, client = await self.through_proxy()
        store = await self.started(client)
        skewed = b"<Error><Code>RequestTimeTooSkewed</Code><Message>too large</Message></Error>"
        proxy.faults.append(reply(403, skewed))
        try:
            await store.connect()
        except StoreUnusable as error:
            self.assertRegex(str(error), "^the clock of this machine .* too large$")
        else:
            self.fail("it can be used")

    async def test_the_check_names_the_setting_that_is_wrong(self) -> None:
        assert self.server is not None
        endpoint = self.server.endpoint()
        wrong = [(self.client_at(endpoint, bucket="absent"), "TIGRIS_BUCKET absent")]
        if self.server is CEPH:
            keys = AccessKeys(KEYS.access, "wrong", None, None)
            wrong.append((self.client_at(endpoint, keys=keys), "AWS_SECRET_ACCESS_KEY"))
        for client, named in wrong:
            store = await self.started(client)
            try:
                await store.connect()
            except StoreUnusable as error:
                self.assertIn(named, str(error))
                self.assertNotIn("\n", str(error))
            else:
                self.fail("it can be used")


for_each_server(Contract, BucketTests)(globals())
