"""Pulls over a line that is shared: bounded from upstream, and to each client."""

from __future__ import annotations

from twisted.internet.defer import gatherResults

from tests.running import MODEL, SMALL16, RunningCase, until
from yukari.net import throttle as rates

AHEAD = "library/ahead:latest"


class RateCase(RunningCase):
    def setUp(self) -> None:
        self.holds = 0
        hold = rates.Taker.hold

        def counted(taker: rates.Taker, now: float) -> None:
            self.holds += 1
            hold(taker, now)

        self.patch(rates.Taker, "hold", counted)


class UpstreamRateTests(RateCase):
    async def test_many_connections_share_it_and_bring_every_byte_once(self) -> None:
        upstream = await self.upstream(f"{MODEL}=3MB,70000,10")
        daemon = await self.daemon(upstream, upstream_rate="3MB/s")
        model = upstream.models[MODEL]
        pulls = [self.begin(self.pull(daemon, MODEL, SMALL16)) for _ in range(3)]
        for pulled in await gatherResults(pulls):
            self.assert_whole(pulled, model)
        self.assert_sent_once(upstream, model)
        self.assertGreater(self.holds, 0)

    async def test_what_nobody_reads_gets_what_the_readers_leave(self) -> None:
        upstream = await self.upstream(f"{MODEL}=3MB", f"{AHEAD}=4MB")
        daemon = await self.daemon(upstream, upstream_rate="3MB/s")
        model, ahead = upstream.models[MODEL], upstream.models[AHEAD]
        pulling = self.begin(self.pull(daemon))
        digest, size = model.blobs[0]
        await until(lambda: (fill := daemon.fill(digest)) and fill.coverage.readers)
        read = daemon.fill(digest)
        assert read is not None
        asked = self.begin(self.ask(f"{daemon.url}/v2/library/ahead/manifests/latest"))
        await until(lambda: daemon.fill(ahead.blobs[0][0]))
        unread = daemon.fill(ahead.blobs[0][0])
        assert unread is not None
        # What the client still has to do then leaves the line to the other.
        await until(lambda: read.upstream_bytes == size)
        # Half and half would be as much as the other's, or more.
        self.assertLess(unread.upstream_bytes, size * 0.4)
        self.assert_whole(await pulling, model)
        await asked
        await until(lambda: daemon.fill(ahead.blobs[0][0]) is None)
        self.assert_stored(daemon, ahead)

    async def test_what_is_relayed_is_bounded_too(self) -> None:
        upstream = await self.upstream(f"{MODEL}=2MB")
        daemon = await self.daemon(upstream, upstream_rate="1MB/s", min_free="100%")
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
        self.assertGreater(self.holds, 0)


class ClientRateTests(RateCase):
    async def test_what_is_stored_and_what_comes_is_sent_no_faster(self) -> None:
        upstream = await self.upstream(f"{MODEL}=2MB,70000,10")
        daemon = await self.daemon(upstream, client_rate="2MB/s")
        for _ in range(2):
            before = self.holds
            self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
            self.assertGreater(self.holds, before)
            await daemon.idle()

    async def test_what_is_relayed_is_sent_no_faster(self) -> None:
        upstream = await self.upstream(f"{MODEL}=1MB")
        daemon = await self.daemon(upstream, client_rate="1MB/s", min_free="100%")
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
        self.assertGreater(self.holds, 0)

    async def test_without_a_rate_nobody_is_held(self) -> None:
        upstream = await self.upstream(f"{MODEL}=2MB")
        daemon = await self.daemon(upstream)
        self.assert_whole(await self.pull(daemon), upstream.models[MODEL])
        self.assertEqual(self.holds, 0)
