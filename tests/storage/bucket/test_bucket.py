"""Daemons that share a bucket, over a real S3 gateway: Ceph's."""

from __future__ import annotations

import json
import re
from typing import Any

from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from tests.emulator import Emulator, Fault, Model
from tests.processes import YukariProcess, reactor
from tests.running import GENERATIONS, MODEL, until, until_sent
from tests.s3.daemons import BucketCase, store_of
from yukari.library import blobs
from yukari.library.upkeep import shared_pulls
from yukari.s3 import requests as requests_module
from yukari.s3.replies import Part, UnfinishedUpload
from yukari.storage.bucket import upload

SIZES = "20MB,300KB,11"


class OneBucketTests(BucketCase):
    """What each daemon owes to upstream, to S3 and to the others."""

    async def model(self, sizes: str = SIZES, **settings: Any) -> tuple[Emulator, Model]:
        """An upstream with a model whose largest blob goes up in three parts."""
        upstream = await self.upstream(f"{MODEL}={sizes}", **settings)
        return upstream, upstream.models[MODEL]

    async def filled(self, sizes: str = SIZES) -> tuple[Emulator, Model]:
        """A model that a daemon has put into the bucket, and upstream, which is dead by now."""
        upstream, model = await self.model(sizes)
        first = await self.daemon(upstream)
        await self.pull(first)
        await first.idle()
        await first.stop()
        await upstream.down()
        upstream.counters.clear()
        return upstream, model

    def blob_requests(self, upstream: Emulator) -> int:
        return sum(
            count
            for kind, count in upstream.counters.requests.items()
            if kind.startswith(("blob", "store"))
        )

    async def test_a_cold_pull_costs_upstream_the_model_once(self) -> None:
        upstream, model = await self.model()
        daemon = await self.daemon(upstream)
        self.assert_whole(await self.pull(daemon), model)
        await daemon.idle()
        self.assert_sent_once(upstream, model)
        await self.assert_in_bucket(model)

    async def test_an_empty_disk_serves_the_bucket_without_upstream(self) -> None:
        """Small blobs come from the cache itself: clients refuse redirects of some."""
        self.patch(blobs, "LEAST_REDIRECTED", 5000)
        upstream, model = await self.filled("1MB,300KB,11")
        small = sum(size for _, size in model.blobs if size < 5000)
        for redirect, host, goes_to_s3 in (
            ("off", "127.0.0.2", False),
            ("on", "127.0.0.2", True),
            ("on", "127.0.0.1", False),  # the very name by which clients come
        ):
            self.s3_at(self.server.endpoint(host))
            for generation in GENERATIONS:
                daemon = await self.daemon(upstream, redirect=redirect)
                self.assert_whole(await self.pull(daemon, generation=generation), model)
                await daemon.idle()
                on_disk = small if goes_to_s3 else model.size
                self.assertEqual(store_of(daemon).tier.total, on_disk, (redirect, host))
                await daemon.stop()
        self.assertEqual(self.blob_requests(upstream), 0)

    async def test_a_herd_reads_s3_once(self) -> None:
        upstream, model = await self.filled()
        daemon = await self.daemon(upstream)
        pulls = [self.begin(self.pull(daemon)) for _ in range(5)]
        for pulled in await gatherResults(pulls):
            self.assert_whole(pulled, model)
        await daemon.idle()
        told = daemon.service.parts.metrics.text()
        found = re.search(rb'yukari_store_bytes_total{direction="from"} (.*)', told)
        assert found is not None
        self.assertLess(float(found[1]), 1.01 * model.size)

    async def test_two_at_once_both_succeed(self) -> None:
        upstream, model = await self.model(line=15e6)
        daemons = [await self.daemon(upstream) for _ in range(2)]
        for pulled in await gatherResults([self.begin(self.pull(each)) for each in daemons]):
            self.assert_whole(pulled, model)
        for each in daemons:
            await each.idle()
        self.assertLessEqual(upstream.counters.sent, 2 * model.size)
        await self.assert_in_bucket(model)

    async def test_a_daemon_takes_from_s3_what_another_has_put_there_first(self) -> None:
        self.patch(upload, "RIVAL_EVERY", 0.2)
        fast, slow = [await self.upstream(f"{MODEL}=40MB,300KB") for _ in range(2)]
        slow.settings.line = 2e6
        model = slow.models[MODEL]
        first, second = await self.daemon(fast), await self.daemon(slow)
        pulling = self.begin(self.pull(second))
        await until_sent(slow, 1e6)
        slow.settings.line = 5e5  # A busy machine takes its time to fill the first one's.
        self.assert_whole(await self.pull(first), model)
        await first.idle()
        self.assert_whole(await pulling, model)
        await second.idle()
        self.assertLess(slow.counters.sent, 0.85 * model.size)
        await self.assert_in_bucket(model)

    # killed

    async def test_killed_in_the_middle_of_an_upload(self) -> None:
        proxy = await self.proxied()
        proxy.rate = 4e6
        upstream, model = await self.model(line=15e6)
        disk = self.directory()
        daemon = await self.process(upstream.url, disk=disk)
        await self.ask(f"{daemon.url}/v2/library/m/manifests/latest")
        while not any([await self.parts(each) for each in await self.unfinished()]):
            self.assertIsNone(daemon.status)
        daemon.signal("KILL")
        self.assertEqual(await daemon.ended, -9)
        proxy.rate = None
        again = await self.process(upstream.url, disk=disk)
        self.assert_whole(await self.pull(again), model)  # type: ignore[arg-type]
        await self.idle(again)
        self.assertLessEqual(upstream.counters.sent / model.size, 1.10)
        await self.assert_in_bucket(model)

    async def test_a_direct_upload_that_is_killed_begins_anew_unasked(self) -> None:
        upstream, model = await self.model()
        digest, size = model.layers[0]
        # It cannot be complete before the kill.
        upstream.faults.add(Fault("store GET", "stall", digest=digest, after=size - 1000))
        disk = self.directory()
        daemon = await self.process(upstream.url, "--spool-max=100kB", disk=disk)
        await self.ask(f"{daemon.url}/v2/library/m/manifests/latest")
        while not any([await self.parts(each) for each in await self.unfinished()]):
            self.assertIsNone(daemon.status)
        daemon.signal("KILL")
        await daemon.ended
        self.assertEqual(len(await self.unfinished()), 1)
        upstream.faults.clear()
        again = await self.process(upstream.url, "--spool-max=100kB", disk=disk)
        while await self.client.head_object(f"blobs/{digest}") is None:
            self.assertIsNone(again.status)
        await self.idle(again)
        await self.assert_in_bucket(model)

    async def unfinished(self) -> list[UnfinishedUpload]:
        return await self.client.list_multipart_uploads()

    async def parts(self, upload: UnfinishedUpload) -> list[Part]:
        return await self.client.list_parts(upload.key, upload.upload_id) or []

    async def idle(self, daemon: YukariProcess) -> None:
        """Returns when nothing is on its way any more."""
        while json.loads((await self.ask(f"{daemon.url}/fills"))[1])["fills"]:
            await deferLater(reactor, 0.02, lambda: None)

    # S3 down, or emptied behind our back

    async def test_s3_goes_away_in_the_middle_and_comes_back(self) -> None:
        self.patch(upload, "FIRST_WAIT", 0.1)
        self.patch(upload, "LONGEST_WAIT", 0.5)
        self.patch(requests_module, "FIRST_WAIT", 0.01)
        proxy = await self.proxied()
        upstream, model = await self.model(line=15e6)
        daemon = await self.daemon(upstream)
        pulling = self.begin(self.pull(daemon))
        await until_sent(upstream, 10e6)
        await proxy.stop()
        self.assert_whole(await pulling, model)
        self.assertEqual((await self.ask(f"{daemon.url}/readyz"))[0].status, 503)
        self.assertTrue(daemon.library.fills)

        other = upstream.add_model("library/other:latest", [100_000])
        self.assert_whole(await self.pull(daemon, other.name), other)

        await proxy.start()
        await daemon.idle()
        await self.assert_in_bucket(model, other)
        self.assert_sent_once(upstream, model, other)
        await until(lambda: store_of(daemon).reachable)
        store_of(daemon)._checked_at = None
        self.assertEqual((await self.ask(f"{daemon.url}/readyz"))[0].status, 200)

    async def test_an_object_deleted_behind_its_back_is_filled_again_at_once(self) -> None:
        upstream, model = await self.filled()
        for redirect in ("off", "on"):
            daemon = await self.daemon(upstream, redirect=redirect)
            for digest, _ in model.blobs:
                await self.ask(f"{daemon.url}/v2/library/m/blobs/{digest}", method="HEAD")
                await self.client.delete_object(f"blobs/{digest}")
            upstream.up()
            self.assert_whole(await self.pull(daemon), model)
            await daemon.idle()
            await self.assert_in_bucket(model)
            await daemon.stop()

    async def test_a_bucket_that_is_not_there_ends_the_start_with_one_line(self) -> None:
        self.bucket = "absent"
        daemon = await self.process("http://127.0.0.1:9")
        self.assertEqual(await daemon.ended, 1)
        said = "yukari: TIGRIS_BUCKET absent: "
        self.assertEqual(sum(line.startswith(said) for line in daemon.text.splitlines()), 1)
        self.assertNotIn("Traceback", daemon.text)

    # few requests

    async def test_what_a_warm_pull_costs_s3(self) -> None:
        upstream, model = await self.filled()
        # The pull is noted for other daemons a moment later: two requests a tag in ten minutes.
        self.patch(shared_pulls, "NOTE_EVERY", 3600.0)
        for redirect in ("off", "on"):
            # Offline there is no look through all manifests, which may fall anywhere; the catalog's
            # and the look at the default registry are waited for.
            daemon = await self.daemon(upstream, redirect=redirect, offline=True)
            await self.pull(daemon)
            await daemon.idle()
            parts: Any = daemon.service.parts
            await until(lambda parts=parts: parts.management.index.looked and parts.keeper.compared)
            # The blobs have come from the bucket: the catalog reads what they belong to again.
            await parts.management.index.settled()
            asked = store_of(daemon).client.requests
            asked.clear()
            await self.pull(daemon)
            await daemon.idle()
            self.assertLessEqual(asked.get("head_object", 0), len(model.blobs))
            self.assertEqual(set(asked) - {"head_object"}, set(), redirect)
            await daemon.stop()
