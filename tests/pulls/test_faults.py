"""What goes wrong upstream in the middle of a pull, and how little of it clients notice."""

from __future__ import annotations

import json
import os
from typing import Any, Optional

from attrs import define

from tests.clients import ClientError, Generation, Reply
from tests.emulator import Emulator, Fault, Model
from tests.running import (
    GENERATIONS,
    MODEL,
    SMALL16,
    SMALL_TRANSFER,
    Daemon,
    Hurried,
    RunningCase,
    reactor,
    stored_at,
    until,
    until_sent,
)
from yukari.fills import retries as tries
from yukari.fills.machine import State

HURRIED = Hurried(10)
"""The clock of daemons whose patience is to pass quickly."""
IN_A_HURRY = Hurried(40)
"""The clock of daemons whose patience is to end."""
HASTY = SMALL16.scaled(direct_seconds=0.5, tries=2)
"""A client that gives up soon."""


class FaultCase(RunningCase):
    """A daemon that tries again soon, and an upstream that things go wrong with."""

    def setUp(self) -> None:
        self.patch(tries, "BACKOFF", 0.01)
        self.patch(tries, "PATIENCE_AT_FIRST", 4.0)

    async def both(
        self,
        *faults: Fault,
        clock: Any = reactor,
        connections: str = "32/64",
        **settings: Any,
    ) -> tuple[Emulator, Daemon]:
        """An upstream with one blob of many parts and two small ones, and a daemon."""
        upstream = await self.upstream(f"{MODEL}=1500KB,3000,10", **settings)
        for fault in faults:
            upstream.faults.add(fault)
        daemon = await self.daemon(upstream, clock=clock, upstream_connections=connections)
        return upstream, daemon

    async def told(
        self, daemon: Daemon, digest: str, headers: Optional[dict[str, str]] = None
    ) -> tuple[Reply, str]:
        """The reply to a GET of a blob that is not to be had, and what its JSON says."""
        reply, body = await self.ask(f"{daemon.url}/v2/library/m/blobs/{digest}", headers)
        self.assertGreaterEqual(reply.status, 400, body[:100])
        self.assertNotIn("location", reply.headers)
        return reply, json.loads(body)["errors"][0]["message"]

    async def assert_survived(
        self,
        *faults: Fault,
        most: float = 1.0,
        generation: Generation = SMALL16,
        **settings: Any,
    ) -> Emulator:
        """A pull goes through, faults happen, and upstream sends at most so much of the model."""
        upstream, daemon = await self.both(*faults, **settings)
        self.assert_whole(await self.pull(daemon, MODEL, generation), upstream.models[MODEL])
        for fault in faults:
            self.assertGreater(fault.happened, 0)
        self.assert_sent(upstream, most)
        await daemon.idle()
        self.assert_stored(daemon, upstream.models[MODEL])
        return upstream

    def assert_sent(self, upstream: Emulator, most: float) -> None:
        """Upstream has sent every byte, and at most so many times the model."""
        size = upstream.models[MODEL].size
        self.assertGreaterEqual(upstream.counters.sent, size)
        self.assertLessEqual(upstream.counters.sent, most * size)


class BrokenConnectionTests(FaultCase):
    """Connections that end too early."""

    async def test_a_cut_connection_costs_no_byte(self) -> None:
        await self.assert_survived(Fault("store GET", "cut", after=20_000, times=1))

    async def test_connections_cut_again_and_again_cost_no_byte(self) -> None:
        await self.assert_survived(Fault("store GET", "cut", after=50_000, times=12))

    async def test_a_connection_that_is_reset_loses_what_was_in_its_socket(self) -> None:
        reset = Fault("store GET", "cut", after=40_000, times=3, reset=True)
        await self.assert_survived(reset, most=1.1)

    async def test_a_connection_closed_without_an_answer_is_tried_again(self) -> None:
        await self.assert_survived(
            Fault("store GET", "drop", times=3), Fault("blob GET", "drop", times=2)
        )

    async def test_a_body_shorter_than_its_range_is_continued(self) -> None:
        await self.assert_survived(Fault("store GET", "truncate", after=1000, times=2))

    async def test_an_upstream_that_goes_and_comes_back_is_noticed_by_nobody(self) -> None:
        upstream, daemon = await self.both(line=3_000_000)
        model = upstream.models[MODEL]
        pulling = self.begin(self.pull(daemon))
        await until_sent(upstream, model.size // 2)
        # What is in sockets is lost: how much that is, is another test's.
        upstream.settings.line = 1
        moved = daemon.service.parts.metrics.moved
        await until(lambda: moved().received == upstream.counters.sent)
        await upstream.down()
        upstream.settings.line = None
        upstream.up()
        self.assert_whole(await pulling, model)
        self.assert_sent(upstream, 1.1)


class SilenceTests(FaultCase):
    """Connections that say nothing."""

    async def test_a_silent_store_is_asked_again(self) -> None:
        silence = Fault("store GET", "silence", times=2)
        await self.assert_survived(silence, most=1.5, clock=HURRIED)

    async def test_a_silent_registry_is_asked_again(self) -> None:
        silence = Fault("blob GET", "silence", times=1)
        await self.assert_survived(silence, most=1.5, clock=HURRIED)

    async def test_a_body_that_stalls_is_asked_for_from_where_it_stood(self) -> None:
        stall = Fault("store GET", "stall", after=30_000, times=2)
        await self.assert_survived(stall, most=1.5, clock=HURRIED)

    async def test_a_registry_that_never_answers_is_504_in_time(self) -> None:
        _, daemon = await self.both(Fault("manifest", "silence"), clock=IN_A_HURRY)
        said = await self.failing(self.pull(daemon))
        self.assertRegex(said, "^504: .*does not answer")

    async def test_a_store_that_never_answers_is_504_in_time(self) -> None:
        upstream, daemon = await self.both(Fault("store", "silence"), clock=IN_A_HURRY)
        for headers in ({}, {"Range": "bytes=1000-1999"}):
            reply, said = await self.told(daemon, upstream.models[MODEL].layers[0][0], headers)
            self.assertEqual(reply.status, 504)
            self.assertIn("does not answer", said)


class RefusalTests(FaultCase):
    """Answers that are no blob."""

    async def test_urls_that_expire_in_the_middle_are_asked_for_anew(self) -> None:
        upstream, daemon = await self.both(line=3_000_000, connections="2/2")
        model = upstream.models[MODEL]
        pulling = self.begin(self.pull(daemon))
        for quarter in (1, 2, 3):
            await until_sent(upstream, quarter * model.size // 4)
            upstream.expire_urls()
        self.assert_whole(await pulling, model)
        self.assert_sent(upstream, 1.0)
        self.assertGreaterEqual(upstream.counters.answers["store GET 403"], 1)

    async def test_urls_that_serve_a_few_requests_only_are_asked_for_anew(self) -> None:
        upstream = await self.assert_survived(url_uses=2)
        self.assertGreater(upstream.counters.answers["store GET 403"], 0)

    async def test_a_url_is_used_until_it_fails(self) -> None:
        upstream = await self.assert_survived()
        blobs = len(upstream.models[MODEL].blobs)
        self.assertEqual(upstream.counters.requests["blob GET"], blobs)

    async def test_errors_of_the_store_are_outlived(self) -> None:
        await self.assert_survived(
            Fault("store GET", "error", status=500, times=2),
            Fault("store GET", "error", status=503, times=1),
            Fault("store GET", "unhealthy", times=1),
        )

    async def test_cloudflares_html_is_taken_for_no_blob(self) -> None:
        await self.assert_survived(
            Fault("blob GET", "cloudflare", times=2), Fault("store GET", "cloudflare", times=2)
        )

    async def test_a_store_that_asks_to_wait_is_obeyed(self) -> None:
        busy = Fault("store GET", "error", status=429, retry_after=4, times=2)
        await self.assert_survived(busy, most=1.5, clock=HURRIED)

    async def test_a_store_that_asks_to_wait_is_left_alone_meanwhile(self) -> None:
        busy = Fault("store GET", "error", status=429, retry_after=3600, times=1)
        upstream, daemon = await self.both(busy)
        digest, _ = upstream.models[MODEL].layers[0]
        for _ in range(2):
            reply, said = await self.told(daemon, digest)
            self.assertEqual(reply.status, 429)
            self.assertGreater(int(reply.headers["retry-after"]), 3000)
            self.assertIn("429", said)
        self.assertEqual(upstream.counters.requests["store GET"], 1)

    async def test_a_portals_page_is_taken_for_no_blob(self) -> None:
        await self.assert_survived(Fault("blob GET", "portal", times=1))

    async def test_a_portals_page_in_the_middle_costs_nothing_that_has_come(self) -> None:
        for page in (
            Fault("store GET", "portal", skip=6, times=1),
            Fault("store GET", "error", status=416, skip=6, times=1),
        ):
            await self.assert_survived(page, most=1.1, connections="2/2", rate=3_000_000)

    async def test_a_redirect_without_a_location_is_tried_again(self) -> None:
        await self.assert_survived(Fault("blob GET", "no-location", times=2))

    async def test_a_blob_that_stays_broken_is_an_error_that_says_so(self) -> None:
        upstream, daemon = await self.both(Fault("store", "cloudflare"), clock=HURRIED)
        for headers in ({}, {"Range": "bytes=1000-1999"}):
            reply, said = await self.told(daemon, upstream.models[MODEL].layers[0][0], headers)
            self.assertEqual(reply.status, 502)
            self.assertIn("upstream does not send this blob: upstream answered 502", said)
        self.assertEqual(upstream.counters.sent, 0)

    async def test_a_private_blob_is_403(self) -> None:
        upstream, daemon = await self.both(Fault("blob", "error", status=401))
        reply, said = await self.told(daemon, upstream.models[MODEL].layers[0][0])
        self.assertEqual(reply.status, 403)
        self.assertNotIn("www-authenticate", reply.headers)
        self.assertIn("private upstream", said)

    async def test_a_blob_that_upstream_lost_is_404(self) -> None:
        upstream, daemon = await self.both()
        missing = upstream.add_model("library/other:latest", [77], seed=9).layers[0][0]
        upstream.delete_model("library/other:latest")
        reply, said = await self.told(daemon, missing)
        self.assertEqual(reply.status, 404)
        self.assertIn(missing, said)

    async def test_a_blob_of_another_size_than_its_manifest_says_is_an_error(self) -> None:
        upstream, daemon = await self.both()
        model = upstream.models[MODEL]
        lie = model.manifest_bytes.replace(b'"size":1500000', b'"size":1500001')
        upstream.set_manifest(MODEL, lie)
        manifest = f"{daemon.url}/v2/library/m/manifests/latest"
        await self.ask(manifest, method="HEAD")
        digest, _ = model.layers[0]
        reply, said = await self.told(daemon, digest)
        self.assertEqual(reply.status, 502)
        self.assertIn("has 1500000 bytes upstream, its manifest says 1500001", said)
        # Upstream was asked for the size by then.
        _, body = await self.ask(f"{daemon.url}/v2/library/m/blobs/{digest}")
        self.assertEqual(body == model.read(digest), True)


class OtherUpstreamTests(FaultCase):
    """Upstreams that do things in their own way."""

    async def test_one_that_ignores_range_sends_the_blob_once(self) -> None:
        for generation in GENERATIONS:
            await self.assert_survived(generation=generation, ignore_range=True)

    async def test_one_that_ignores_range_now_and_then_costs_little(self) -> None:
        odd = Fault("store GET", "ignore-range", skip=3, times=1)
        await self.assert_survived(odd, most=2.0)

    async def test_one_that_ignores_range_and_breaks_off_begins_again(self) -> None:
        cut = Fault("store GET", "cut", after=700_000, times=1)
        await self.assert_survived(cut, most=1.5, ignore_range=True)

    async def test_one_that_redirects_nothing(self) -> None:
        for generation in GENERATIONS:
            await self.assert_survived(generation=generation, redirect=False)

    async def test_one_that_sends_chunks(self) -> None:
        await self.assert_survived(framing="chunked")

    async def test_one_that_ends_each_body_by_closing(self) -> None:
        await self.assert_survived(framing="close")

    async def test_one_that_sends_chunks_and_ignores_range(self) -> None:
        await self.assert_survived(framing="chunked", ignore_range=True)

    async def test_one_that_is_a_cache_itself(self) -> None:
        upstream, nearer = await self.both()
        model = upstream.models[MODEL]
        for generation in GENERATIONS:
            farther = await self.daemon(upstream, upstream_registry=nearer.url)
            self.assert_whole(await self.pull(farther, MODEL, generation), model)
        self.assert_sent_once(upstream, model)

    async def test_one_whose_head_is_a_redirect(self) -> None:
        upstream, daemon = await self.both(head_redirects=True)
        digest, size = upstream.models[MODEL].layers[0]
        url = f"{daemon.url}/v2/library/m/blobs/{digest}"
        reply, _ = await self.ask(url, method="HEAD")
        self.assertEqual((reply.status, reply.length), (200, size))
        self.assertEqual(upstream.counters.answers["store HEAD 200"], 1)
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])

    async def test_one_that_sends_another_part_than_was_asked_for(self) -> None:
        await self.assert_survived(
            Fault("store GET", "content-range", at=5, skip=2, times=2), most=1.5
        )

    async def test_one_that_counts_from_one_is_believed_by_its_lengths(self) -> None:
        """Each pull took two seconds more, until the whole was asked for."""
        upstream, daemon = await self.both(Fault("store GET", "content-range", at=1))
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
        self.assertEqual(upstream.counters.answers["store GET 200"], 0)

    async def test_one_that_always_sends_another_part_is_asked_for_the_whole(self) -> None:
        upstream, daemon = await self.both(Fault("store GET", "content-range", at=5), clock=HURRIED)
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])


class WrongByteTests(FaultCase):
    """Bytes that are not those of the digest."""

    def nothing_published(self, daemon: Daemon, model: Model) -> None:
        """The large blob is not in the store."""
        self.assertFalse(os.path.exists(stored_at(daemon, model.layers[0][0])))

    async def test_no_unranged_get_gets_the_whole_wrong_blob(self) -> None:
        upstream, daemon = await self.both()
        model = upstream.models[MODEL]
        digest, size = model.layers[0]
        upstream.faults.add(Fault("store", "flip", digest=digest, at=1_234_567))
        reply = await self.http().open("GET", f"{daemon.url}/v2/library/m/blobs/{digest}", {})
        self.assertEqual((reply.status, reply.length), (200, size))
        with self.assertRaises(ClientError):
            await reply.body()
        self.assertLess(reply.read, size)
        self.nothing_published(daemon, model)

    async def test_nor_does_one_of_a_small_blob(self) -> None:
        upstream, daemon = await self.both()
        digest, size = upstream.models[MODEL].layers[1]
        upstream.faults.add(Fault("store", "flip", digest=digest, at=size - 1))
        reply = await self.http().open("GET", f"{daemon.url}/v2/library/m/blobs/{digest}", {})
        try:
            body = await reply.body()
        except ClientError:
            self.assertLess(reply.read, size)
        else:
            self.assertEqual(reply.status, 502)
            self.assertIn("wrong bytes", json.loads(body)["errors"][0]["message"])

    async def test_a_pull_of_it_fails_and_nothing_is_published(self) -> None:
        for generation in (HASTY, SMALL_TRANSFER.scaled(tries=2)):
            upstream, daemon = await self.both()
            model = upstream.models[MODEL]
            upstream.faults.add(Fault("store", "flip", digest=model.layers[0][0], at=5))
            await self.failing(self.pull(daemon, MODEL, generation))
            self.nothing_published(daemon, model)

    async def test_the_pull_works_once_upstream_is_well(self) -> None:
        upstream, daemon = await self.both()
        model = upstream.models[MODEL]
        flip = upstream.faults.add(Fault("store", "flip", digest=model.layers[0][0], at=5))
        await self.failing(self.pull(daemon, MODEL, HASTY))
        filling = daemon.fill(model.layers[0][0])
        assert filling is not None
        await until(lambda: filling.state is State.SUSPENDED)
        upstream.faults.remove(flip)
        self.assert_whole(await self.pull(daemon), model)
        await daemon.idle()
        self.assert_stored(daemon, model)

    async def test_one_wrong_answer_is_mended_without_being_asked(self) -> None:
        upstream, daemon = await self.both()
        model = upstream.models[MODEL]
        digest, size = model.layers[0]
        upstream.faults.add(Fault("store", "flip", digest=digest, at=5, times=1))
        self.assert_whole(await self.pull(daemon, MODEL, SMALL_TRANSFER), model)
        await daemon.idle()
        self.assert_stored(daemon, model)
        self.assertLessEqual(upstream.counters.sent_by_digest[digest], 2 * size)


@define
class Crowded(Fault):
    """Happens to GETs of the store while it sends ``most`` bodies."""

    emulator: Optional[Emulator] = None
    most: int = 0

    def meets(self, request: Any) -> bool:
        if self.emulator is None or not super().meets(request):
            return False
        return self.emulator.counters.blob_requests >= self.most


class ReluctantUpstreamTests(FaultCase):
    """Upstreams that are slow to answer, or serve few connections at once."""

    async def test_one_that_is_slow_to_answer_is_asked_for_few_long_ranges(self) -> None:
        for seconds in (0.25, 0.8):
            upstream = await self.upstream(f"{MODEL}=20MB", latency=seconds)
            daemon = await self.daemon(upstream, clock=HURRIED)
            self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
            self.assertLess(upstream.counters.requests["store GET"], 20)

    async def test_one_that_serves_two_at_once_is_seldom_asked_for_more(self) -> None:
        for do in ("error", "drop", "silence"):
            upstream = await self.upstream(f"{MODEL}=20MB", rate=10_000_000)
            crowded = Crowded("store GET", do, status=503, emulator=upstream, most=2)
            upstream.faults.add(crowded)
            daemon = await self.daemon(upstream)
            self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
            self.assertGreater(crowded.happened, 0)
            self.assertLess(crowded.happened, 40)
            upstream.release()
