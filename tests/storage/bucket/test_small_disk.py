"""The whole daemon, over a bucket, on a disk that is smaller than its blobs."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Sequence
from typing import Any

from twisted.trial.unittest import SkipTest

from tests.emulator import Emulator, Fault, Model
from tests.running import MODEL, Daemon, RunningCase, reactor, until
from tests.s3.against import AgainstServer, for_each_server
from tests.s3.proxy import Cut, Proxy
from tests.s3.servers import ACCESS, MOTO, SECRET
from yukari.library import blobs
from yukari.names import Digest
from yukari.storage.bucket import sweep
from yukari.storage.bucket.store import BucketStore
from yukari.storage.disk.spool import SpoolFile

LARGE = 20_000_000
"""Three parts; the small layers of a model fit the disk, this one does not."""
SPOOL_MAX = 100_000


class SmallDiskTests(AgainstServer, RunningCase):
    """A model whose largest blob goes straight into the bucket."""

    async def setUp(self) -> None:
        await super().setUp()
        if self.server is MOTO:
            # It says of every upload that it was begun in 2010: one that is just begun would be
            # taken for a dead daemon's.
            self.patch(sweep, "ORPHANED_AFTER", math.inf)

    async def bucket_daemon(self, upstream: Emulator, endpoint: str = "", **flags: Any) -> Daemon:
        if self.server is None:
            raise SkipTest("of the subclasses")
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL_S3": endpoint or self.server.endpoint(),
            "AWS_REGION": "us-east-1",
        }
        self.patch(os, "environ", environment)
        given = {"spool_dir": self.mktemp(), "spool_max": str(SPOOL_MAX), "redirect": "off"}
        return await self.daemon(
            upstream, storage="tigris", tigris_bucket=self.bucket, **{**given, **flags}
        )

    def store(self, daemon: Daemon) -> BucketStore:
        found = daemon.library.store
        assert isinstance(found, BucketStore)
        return found

    async def assert_in_bucket(self, model: Model) -> None:
        listed = await self.client.list_objects("blobs/")
        stored = {row.key: row.size for row in listed.objects}
        manifest = (model.digest, len(model.manifest_bytes))  # it is a blob as well
        expected = {f"blobs/{digest}": size for digest, size in (*model.blobs, manifest)}
        self.assertEqual(stored, expected)
        self.assertEqual(await self.client.list_multipart_uploads(), [])

    async def prefetched(self, daemon: Daemon) -> None:
        """Ask for the manifest and no blob, and wait until all is stored."""
        await self.ask(f"{daemon.url}/v2/library/m/manifests/latest")
        await until(lambda: not len(daemon.library.prefetch.running))
        await daemon.idle()

    async def test_a_model_is_stored_whole_and_each_byte_fetched_once(self) -> None:
        upstream = await self.upstream(f"{MODEL}={LARGE},3000,10")
        daemon = await self.bucket_daemon(upstream)
        await self.prefetched(daemon)
        model = upstream.models[MODEL]
        await self.assert_in_bucket(model)
        self.assert_sent_once(upstream, model)
        self.assertLessEqual(self.store(daemon).tier.total, SPOOL_MAX)

    async def test_a_puller_has_it_from_upstream_at_once_and_then_from_the_bucket(self) -> None:
        upstream = await self.upstream(f"{MODEL}={LARGE},3000,10")
        daemon = await self.bucket_daemon(upstream)
        model = upstream.models[MODEL]
        self.assert_whole(await self.pull(daemon), model)
        await daemon.idle()
        await self.assert_in_bucket(model)
        before = dict(upstream.counters.sent_by_digest)
        self.assert_whole(await self.pull(daemon), model)
        self.assertEqual(dict(upstream.counters.sent_by_digest), before)
        await daemon.idle()
        self.assertLessEqual(self.store(daemon).tier.total, SPOOL_MAX)

    async def test_a_disk_that_has_nothing_streams_from_the_bucket_alone(self) -> None:
        upstream = await self.upstream(f"{MODEL}={LARGE},3000,10")
        await self.prefetched(await self.bucket_daemon(upstream))
        model = upstream.models[MODEL]
        other = await self.bucket_daemon(upstream, offline=True)
        self.assert_whole(await self.pull(other), model)
        self.assert_sent_once(upstream, model)

    async def test_a_bucket_that_cuts_is_asked_for_the_rest(self) -> None:
        assert self.server is not None
        proxy = Proxy(reactor, self.server.port)
        endpoint = await proxy.start()
        self.addCleanup(proxy.stop)
        upstream = await self.upstream(f"{MODEL}={LARGE},3000,10")
        await self.prefetched(await self.bucket_daemon(upstream))
        model = upstream.models[MODEL]
        digest, _ = model.layers[0]
        other = await self.bucket_daemon(upstream, endpoint, offline=True)
        proxy.only = b"GET /" + f"{self.bucket}/blobs/sha256%3A{digest[7:]}".encode()
        proxy.faults.extend([Cut(20_000), Cut(300_000), Cut(1_000_000)])
        reply, body = await self.ask(f"{other.url}/v2/library/m/blobs/{digest}")
        self.assertEqual((reply.status, body == model.read(digest)), (200, True))
        self.assertEqual(list(proxy.faults), [])
        self.assert_sent_once(upstream, model)

    async def test_a_redirect_leads_to_what_was_uploaded_directly(self) -> None:
        self.patch(blobs, "LEAST_REDIRECTED", 5000)
        upstream = await self.upstream(f"{MODEL}={LARGE},3000,10")
        daemon = await self.bucket_daemon(upstream, redirect="on")
        await self.prefetched(daemon)
        digest, size = upstream.models[MODEL].layers[0]
        assert self.server is not None
        http = self.http()
        path = f"{daemon.url}/v2/library/m/blobs/{digest}"
        reply = await http.open("GET", path, {"Host": "cache.example"})
        await reply.body()
        self.assertEqual(reply.status, 307)
        url = reply.headers["location"]
        self.assertTrue(url.startswith(self.server.endpoint()), url)
        there, body = await self.ask(url, {"Range": f"bytes={size - 9}-"})
        self.assertEqual(body, upstream.models[MODEL].read(digest, size - 9, size))

    async def test_a_newer_manifest_waits_for_the_blob_that_is_uploaded_directly(self) -> None:
        upstream = await self.upstream(f"{MODEL}=3000,10")
        daemon = await self.bucket_daemon(upstream, revalidate_after="1ms")
        await self.prefetched(daemon)
        old = upstream.models[MODEL]
        new = upstream.add_model(MODEL, [LARGE, 4000], seed=7)
        upstream.settings.line = LARGE / 10
        await self.ask(f"{daemon.url}/v2/library/m/manifests/latest")
        store = self.store(daemon)
        await until(lambda: store._direct.running)
        reply, body = await self.ask(f"{daemon.url}/v2/library/m/manifests/latest")
        self.assertEqual(body, old.manifest_bytes)
        upstream.settings.line = None
        while body == old.manifest_bytes:
            reply, body = await self.ask(f"{daemon.url}/v2/library/m/manifests/latest")
        self.assertEqual(body, new.manifest_bytes)
        head = await self.client.head_object(f"blobs/{new.layers[0][0]}")
        assert head is not None
        self.assertEqual(head.size, LARGE)

    async def test_a_disk_that_runs_full_in_the_middle_is_left_for_the_bucket(self) -> None:
        write = SpoolFile.write

        def limited(spool: SpoolFile, pieces: Sequence[tuple[int, Sequence[bytes]]]) -> None:
            if max(offset for offset, _ in pieces) > LARGE // 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(spool, pieces)

        self.patch(SpoolFile, "write", limited)
        upstream = await self.upstream(f"{MODEL}={LARGE},3000,10")
        daemon = await self.bucket_daemon(upstream, spool_max=str(10 * LARGE))
        model = upstream.models[MODEL]
        self.assert_whole(await self.pull(daemon), model)
        await daemon.idle()
        await self.assert_in_bucket(model)
        store = self.store(daemon)
        left = [name for name in os.listdir(store.spool_dir) if name.startswith("sha256-")]
        self.assertEqual((left, store._spools.files.room.reserved), ([], 0))

    async def test_wrong_bytes_are_not_stored_and_fetched_again_later(self) -> None:
        upstream = await self.upstream(f"{MODEL}={LARGE},3000,10")
        model = upstream.models[MODEL]
        digest, size = model.layers[0]
        upstream.faults.add(Fault("store GET", "flip", digest=digest, at=size // 2, times=1))
        daemon = await self.bucket_daemon(upstream)
        await self.ask(f"{daemon.url}/v2/library/m/manifests/latest")
        await until(lambda: daemon.library.filling._retries)
        (fill,) = daemon.library.filling._retries
        self.assertIsNone(await self.client.head_object(f"blobs/{digest}"))
        self.assertEqual(await self.client.list_multipart_uploads(), [])
        fill.start()
        await daemon.idle()
        await self.assert_in_bucket(model)

    async def half_way(self) -> Emulator:
        """An upstream that says no more once two of the large blob's parts have come."""
        upstream = await self.upstream(f"{MODEL}={LARGE},3000,10")
        digest, _ = upstream.models[MODEL].layers[0]
        upstream.faults.add(Fault("store GET", "stall", digest=digest, after=LARGE - 1000))
        return upstream

    async def test_one_that_the_operator_stops_leaves_nothing(self) -> None:
        upstream = await self.half_way()
        daemon = await self.bucket_daemon(upstream)
        await self.ask(f"{daemon.url}/v2/library/m/manifests/latest")
        store = self.store(daemon)
        await until(lambda: any(way.sent for way in store._direct.running))
        digest, _ = upstream.models[MODEL].layers[0]
        fill = daemon.fill(digest)
        assert fill is not None
        facts = fill.facts()
        self.assertEqual(facts["state"], "direct")
        self.assertLess(0, facts["covered"])
        self.assertLessEqual(facts["covered"], facts["upstream_bytes"])
        stopping = daemon.library.stop_fill(Digest.parse(digest))
        assert stopping is not None
        await stopping
        self.assertEqual(store._direct.running, set())
        self.assertEqual(await self.client.list_multipart_uploads(), [])
        await daemon.idle()

    async def test_a_daemon_that_stops_leaves_nothing_half(self) -> None:
        upstream = await self.half_way()
        daemon = await self.bucket_daemon(upstream)
        await self.ask(f"{daemon.url}/v2/library/m/manifests/latest")
        store = self.store(daemon)
        await until(lambda: any(way.sent for way in store._direct.running))
        await daemon.stop()
        self.assertEqual(await self.client.list_multipart_uploads(), [])
        model = upstream.models[MODEL]
        self.assertIsNone(await self.client.head_object(f"blobs/{model.layers[0][0]}"))
        upstream.faults.clear()
        again = await self.bucket_daemon(upstream, spool_dir=store.spool_dir)
        await again.idle()
        await self.assert_in_bucket(model)


for_each_server(SmallDiskTests)(globals())
