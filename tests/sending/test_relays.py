"""Blobs that the disk has no room for, by way of the memory to a client."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import Scene
from tests.sending.doubles import NAME, Talk, noise
from yukari.errors import blob_unknown
from yukari.fills.fill import Fill
from yukari.fills.ports import FillKeeper
from yukari.fills.retries import SILENCE_WAITED_FOR
from yukari.sending.stall import READ, STALL
from yukari.sources.base import SourceFailed, SourceRefused
from yukari.spans import Span, SpanSet
from yukari.storage.ports import NoRoom
from yukari.web.drain import WAITED

reactor: Any = _reactor
MIB = 1024 * 1024


class Full(FillKeeper[Fill]):
    """A keeper whose disk takes nothing."""

    async def vacated(self, fill: Any) -> None:
        pass

    async def open_spool(self, fill: Any) -> Any:
        raise NoRoom("no room")

    def ended(self, fill: Any) -> None:
        pass

    async def direct_upload(self, fill: Fill) -> None:
        return None


class RelayTests(SynchronousTestCase):
    """A blob that the disk has no room for, straight from upstream."""

    def scene(self, size: int, *headers: str) -> tuple[Talk, Scene]:
        """A client that asks for a blob of this size, which upstream is being asked for."""
        talk = Talk()
        keeper: Any = Full()
        scene = Scene(noise(size), clock=talk.clock, keeper=keeper)
        talk.shelf.blobs[scene.fill.digest] = scene.fill
        talk.ask(f"/v2/{NAME}/blobs/{scene.fill.digest}", *headers)
        return talk, scene

    def pour(self, scene: Scene) -> None:
        """Upstream answers and sends whatever it is asked, as long as it is read."""
        while any(not asked.transport.paused for asked in scene.source.open):
            scene.feed()

    def test_a_relayed_blob_arrives_whole_in_growing_pieces(self) -> None:
        talk, scene = self.scene(5 * MIB)
        self.pour(scene)
        (reply,) = talk.replies()
        self.assertEqual((reply.status, reply.body), (200, scene.content))
        lengths = [len(asked.span) for asked in scene.source.asked]
        self.assertEqual(lengths[:-1], sorted(lengths[:-1]))
        self.assertLess(len(lengths), 8)
        self.assertEqual(sum(map(len, scene.source.sent)), 5 * MIB)

    def test_only_the_requested_range_is_fetched(self) -> None:
        talk, scene = self.scene(MIB, "Range: bytes=1000-200999")
        self.pour(scene)
        (reply,) = talk.replies()
        self.assertEqual((reply.status, reply.body), (206, scene.content[1000:201_000]))
        asked = SpanSet.of(each.span for each in scene.source.asked)
        self.assertEqual(list(asked), [Span(1000, 201_000)])

    def test_an_upstream_that_ignores_range_is_read_from_its_first_byte_on(self) -> None:
        talk, scene = self.scene(MIB, "Range: bytes=300000-399999")
        (asked,) = scene.source.asked
        asked.answer(ignoring_range=True)
        while asked.open:
            asked.send(70_000)
        self.assertEqual(talk.replies()[0].body, scene.content[300_000:400_000])
        self.assertTrue(asked.transport.stopped)
        self.assertEqual(len(scene.source.asked), 1)

    def test_a_relay_is_named_in_the_log(self) -> None:
        with capturedLogs() as events:
            talk, scene = self.scene(100_000)
            self.pour(scene)
        (line,) = [event for event in events if "status" in event]
        self.assertEqual((line["result"], line["bytes"], line["left"]), ("relay", 100_000, False))

    def test_a_slow_client_keeps_little_in_memory(self) -> None:
        talk, scene = self.scene(5 * MIB)
        talk.wire.full = True
        window = scene.scheduler.window
        window.memory.most = MIB
        while not talk.wire.value().endswith(scene.content[-100:]):
            scene.feed()
            self.assertLessEqual(window.used, MIB)
            self.assertLess(talk.wire.untaken, 65536 + 2 * READ)
            talk.wire.take()
            scene.clock.advance(0.5)
        self.assertEqual(talk.replies()[0].body, scene.content)
        self.assertEqual(sum(map(len, scene.source.sent)), 5 * MIB)

    def test_a_client_of_a_slow_upstream_is_not_dropped(self) -> None:
        talk, scene = self.scene(MIB)
        while scene.source.open:
            for asked in scene.source.open:
                if not asked.answered:
                    asked.answer()
                else:
                    asked.send(10_000)
            talk.clock.advance(SILENCE_WAITED_FOR * 0.9)
        self.assertEqual(talk.replies()[0].body, scene.content)

    def test_a_client_that_takes_nothing_is_dropped(self) -> None:
        talk, scene = self.scene(5 * MIB)
        talk.wire.full = True
        self.pour(scene)
        talk.clock.advance(STALL - 1)
        self.assertTrue(talk.wire.connected)
        talk.clock.advance(1)
        talk.clock.advance(0)
        self.assertTrue(talk.wire.aborted)
        self.assertEqual(scene.source.open, [])
        self.assertEqual(talk.clock.getDelayedCalls(), [])

    def test_a_silent_upstream_is_asked_again_from_where_it_stood(self) -> None:
        talk, scene = self.scene(100_000)
        (asked,) = scene.source.open
        asked.answer()
        asked.send(10_000)
        talk.clock.pump([0.5] * 10)
        self.assertTrue(asked.transport.stopped)
        self.assertEqual(scene.source.asked[-1].span.start, 10_000)
        self.pour(scene)
        self.assertEqual(talk.replies()[0].body, scene.content)

    def test_a_cut_connection_resumes_at_its_byte(self) -> None:
        talk, scene = self.scene(200_000)
        for _ in range(20):
            for asked in scene.source.open:
                asked.answer()
                asked.send(7000)
                if asked.open:
                    asked.cut()
            talk.clock.pump([0.5] * 2)
        while scene.source.open:
            self.pour(scene)
            talk.clock.advance(0.5)
        self.assertEqual(talk.replies()[0].body, scene.content)
        self.assertEqual(sum(map(len, scene.source.sent)), 200_000)

    def test_an_upstream_that_never_sends_more_drops_the_client(self) -> None:
        talk, scene = self.scene(200_000)
        (asked,) = scene.source.open
        asked.answer()
        asked.send(7000)
        for _ in range(200):
            for asked in scene.source.open:
                if asked.answered:
                    asked.cut()
                else:
                    asked.refuse(SourceFailed("connection refused"))
            talk.clock.advance(0.5)
        self.assertTrue(talk.wire.aborted)
        self.assertEqual(scene.source.open, [])

    def test_an_upstream_that_does_not_answer_at_all_is_504(self) -> None:
        talk, scene = self.scene(200_000)
        talk.clock.pump([0.5] * 60)
        (reply,) = talk.replies()
        self.assertEqual(reply.status, 504)
        self.assertIn(b"does not answer", reply.body)
        self.assertEqual(scene.source.open, [])

    def test_upstreams_refusal_reaches_the_client(self) -> None:
        for error, status in (
            (SourceRefused(blob_unknown("x")), 404),
            (SourceFailed("upstream answered 500"), 502),
        ):
            talk, scene = self.scene(200_000, "Range: bytes=0-1999")
            for _ in range(40):
                for asked in scene.source.open:
                    asked.refuse(error)
                talk.clock.advance(0.5)
            (reply,) = talk.replies()
            self.assertEqual(reply.status, status)
            self.assertFalse(
                {"location", "etag", "content-range", "docker-content-digest"} & {*reply.headers}
            )

    def test_a_client_that_leaves_cancels_its_upstream_request(self) -> None:
        def before_the_answer(scene: Scene) -> None:
            pass

        def within_the_body(scene: Scene) -> None:
            scene.source.open[0].answer()
            scene.source.open[0].send(100)

        def before_the_second_answer(scene: Scene) -> None:
            scene.source.open[0].answer()
            scene.source.open[0].send(100_000)

        for moment in (before_the_answer, within_the_body, before_the_second_answer):
            talk, scene = self.scene(300_000)
            moment(scene)
            self.assertEqual(len(scene.source.open), 1)
            with capturedLogs() as events:
                talk.wire.leave()
            self.assertEqual(scene.source.open, [], moment)
            self.assertEqual([event["left"] for event in events], [True])
            self.assertEqual(talk.clock.getDelayedCalls(), [])

    def test_a_client_that_leaves_at_once_costs_little(self) -> None:
        talk, scene = self.scene(50 * MIB)
        scene.source.open[0].answer()
        talk.wire.leave()
        self.assertLessEqual(len(scene.source.asked[0].span), 65536)


class CrowdedTests(SynchronousTestCase):
    """A blob on its way, and hardly any room for another connection."""

    def test_a_reply_whose_first_byte_is_not_here_can_be_refused(self) -> None:
        """With 256 descriptors the readers of a slow blob kept all newcomers out meanwhile."""
        for room, status in ((None, b"206"), (2, b"206"), (1, b"503")):
            talk = Talk()
            talk.channel.site.drain.room = room
            scene = Scene(noise(MIB), clock=talk.clock)
            talk.shelf.blobs[scene.fill.digest] = scene.fill
            scene.fill.start()
            (asked,) = scene.source.open
            asked.answer()
            asked.send(1000)
            talk.ask(f"/v2/{NAME}/blobs/{scene.fill.digest}", "Range: bytes=900000-900009")
            talk.clock.advance(WAITED)
            talk.channel.site.drain.refuse_waiting(1)
            self.assertEqual(talk.wire.value()[9:12], status, room)
            ended = Deferred.fromCoroutine(scene.fill.stop())
            talk.clock.advance(1)
            self.successResultOf(ended)
