"""A fill whose blob goes straight into the store, and its bytes in order."""

from __future__ import annotations

import errno
from typing import Optional
from unittest.mock import Mock

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import Keeper, Scene, ScriptedSource, content_of
from yukari.errors import RegistryError
from yukari.fills import spooler
from yukari.fills.fill import DISK_RESTS, Fill
from yukari.fills.machine import State
from yukari.net.throttle import Line
from yukari.sources import sequential as inorder
from yukari.sources.base import SourceFailed, SourceRefused
from yukari.sources.sequential import SequentialReader
from yukari.storage.ports import DirectUpload, NoRoom, Spool
from yukari.storage.readable import SpoolLost

WRONG_SIZE = RegistryError("SIZE_INVALID", "it has 9 bytes upstream", 502)


@define(eq=False)
class HeldUpload:
    """A `DirectUpload` that ends when the test says so."""

    came: int = 0
    sent: int = 0
    ended: Deferred[None] = field(factory=Deferred)

    async def run(self) -> None:
        await self.ended


@define(eq=False, slots=False)
class FullDisk(Keeper):
    """It has no room."""

    async def open_spool(self, fill: Fill) -> Spool:
        raise NoRoom("no room")


@define(eq=False, slots=False)
class SlowKeeper(Keeper):
    """It takes its time to say whether there is another way."""

    asking: Deferred[None] = field(factory=Deferred)

    async def direct_upload(self, fill: Fill) -> Optional[DirectUpload]:
        await self.asking
        return self.way


class GoingStraightTests(SynchronousTestCase):
    def going(self) -> tuple[Scene, HeldUpload]:
        way = HeldUpload()
        scene = Scene(content_of(1000), keeper=FullDisk(way=way))
        scene.fill.start()
        self.assertIs(scene.fill.state, State.DIRECT)
        return scene, way

    def test_a_bug_on_the_way_leaves_a_fill_that_can_be_tried_again(self) -> None:
        scene, way = self.going()
        way.ended.errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIs(scene.fill.state, State.SUSPENDED)
        self.assertEqual(scene.keeper.ends, [scene.fill])
        scene.keeper.way = HeldUpload()
        scene.fill.start()
        self.assertIs(scene.fill.state, State.DIRECT)

    def test_upstream_that_asks_for_a_wait_is_left_alone_for_as_long(self) -> None:
        scene, way = self.going()
        way.ended.errback(SourceFailed("later", 3600.0, busy=True))
        self.assertIs(scene.fill.state, State.SUSPENDED)
        scene.keeper.way = HeldUpload()
        scene.clock.advance(3599.0)
        scene.fill.start()
        self.assertIs(scene.fill.state, State.SUSPENDED)
        scene.clock.advance(1.0)
        scene.fill.start()
        self.assertIs(scene.fill.state, State.DIRECT)

    def test_one_that_has_a_spool_does_not_go_straight(self) -> None:
        scene = Scene(content_of(1000), keeper=Keeper(way=HeldUpload()))
        self.patch(spooler, "Verifier", Mock(side_effect=OSError(errno.EMFILE, "too many")))
        scene.fill.start()
        self.assertIs(scene.fill.state, State.SUSPENDED)
        self.assertIsNone(scene.fill.spool)  # nothing was in it


class FailingDiskTests(SynchronousTestCase):
    """A disk that fails while a blob is written to it."""

    def failing(self, way: Optional[HeldUpload] = None) -> Scene:
        scene = Scene(content_of(3_000_000), keeper=Keeper(way=way))
        scene.fill.start()
        scene.source.open[0].answer()
        scene.source.open[0].send(1000)
        scene.clock.advance(0.06)
        scene.disk.failing = OSError(errno.ENOSPC, "No space left on device")
        scene.source.open[0].send(1000)
        return scene

    def spools(self, scene: Scene) -> list[Spool]:
        found = Deferred.fromCoroutine(scene.keeper.store.spools())
        spools: list[Spool] = self.successResultOf(found)
        return spools

    def test_the_blob_goes_straight_and_gives_its_space_back(self) -> None:
        way = HeldUpload()
        scene = self.failing(way)
        reader = scene.fill.open_reader(2000, whole=False)
        waiting = reader.wait(2000)
        scene.clock.advance(0.06)
        self.failureResultOf(waiting, SpoolLost)
        self.assertIs(scene.fill.state, State.DIRECT)
        self.assertEqual(self.spools(scene), [])
        self.assertEqual(scene.keeper.ends, [])
        way.ended.callback(None)
        self.assertIs(scene.fill.state, State.DONE)

    def test_what_came_is_kept_where_there_is_no_other_way(self) -> None:
        scene = self.failing()
        scene.clock.advance(0.06)
        self.assertIs(scene.fill.state, State.SUSPENDED)
        self.assertEqual(scene.keeper.ends, [scene.fill])
        (spool,) = self.spools(scene)
        self.assertEqual(spool.covered().total, 1000)

    def test_it_is_left_alone_a_while_though_readers_come(self) -> None:
        scene = self.failing()
        scene.clock.advance(0.06)
        asked = len(scene.source.asked)
        for _ in range(20):
            reader = scene.fill.open_reader(2000, whole=False)
            self.failureResultOf(reader.wait(2000), SpoolLost)
            reader.close()
        self.assertEqual(len(scene.source.asked), asked)
        scene.disk.failing = None
        scene.keeper.ends.clear()
        scene.clock.advance(DISK_RESTS)
        scene.fill.open_reader(2000, whole=False)
        scene.answer_all()
        self.assertEqual(scene.stored(), scene.content)

    def test_one_that_stops_meanwhile_does_not_begin(self) -> None:
        asking: Deferred[None] = Deferred()
        scene = Scene(content_of(1000), keeper=SlowKeeper(way=HeldUpload(), asking=asking))
        scene.disk.failing = OSError(errno.EFBIG, "File too large")
        scene.fill.start()
        scene.feed()
        scene.feed()
        scene.clock.advance(0.06)
        stopping = Deferred.fromCoroutine(scene.fill.stop())
        self.assertNoResult(stopping)
        asking.callback(None)
        self.successResultOf(stopping)
        self.assertIs(scene.fill.state, State.QUEUED)


class InOrderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.source = ScriptedSource(content_of(100_000))
        self.stream = SequentialReader(self.source, 100_000, self.clock)
        self.addCleanup(self.stream.close)

    def read(self, count: int) -> tuple[bytearray, Deferred[None]]:
        buffer = bytearray(count)
        return buffer, Deferred.fromCoroutine(self.stream.read_into(buffer))

    def test_one_that_waits_for_its_turn_on_the_line_is_not_silent(self) -> None:
        self.source.line = Line(1000.0, self.clock)
        buffer, reading = self.read(60_000)
        (asked,) = self.source.asked
        asked.answer()
        asked.send(50_000)
        while asked.transport.paused:
            self.clock.advance(0.25)
        self.assertGreater(self.clock.seconds(), 2 * inorder.SILENCE)
        self.assertFalse(asked.transport.stopped)
        asked.send(50_000)
        self.assertIsNone(self.successResultOf(reading))
        self.assertEqual(bytes(buffer), self.source.content[:60_000])
        self.assertEqual(len(self.source.asked), 1)

    def test_one_that_sends_nothing_on_a_line_that_is_free_is_silent(self) -> None:
        self.source.line = Line(1e9, self.clock)
        _, reading = self.read(60_000)
        self.source.asked[0].answer()
        self.clock.advance(inorder.SILENCE)
        self.assertTrue(self.source.asked[0].transport.stopped)
        self.clock.advance(1.0)
        self.assertEqual(len(self.source.asked), 2)
        reading.cancel()
        self.failureResultOf(reading)

    def test_clients_have_the_line_first(self) -> None:
        line = self.source.line = Line(1000.0, self.clock)
        _, reading = self.read(60_000)
        self.source.asked[0].answer()
        self.source.asked[0].send(2000)
        self.assertTrue(self.source.asked[0].transport.paused)
        self.assertFalse(line.is_short)
        reading.cancel()
        self.failureResultOf(reading)

    def test_a_size_that_was_right_before_is_asked_for_again(self) -> None:
        buffer, reading = self.read(100_000)
        self.source.asked[0].answer()
        self.source.asked[0].send(40_000)
        self.source.asked[0].cut()
        self.clock.advance(1.0)
        self.source.asked[1].refuse(SourceRefused(WRONG_SIZE))
        self.assertNoResult(reading)
        self.clock.advance(2.0)
        self.source.asked[2].answer()
        self.source.asked[2].send(60_000)
        self.assertIsNone(self.successResultOf(reading))
        self.assertEqual(bytes(buffer), self.source.content)

    def test_upstream_that_asks_to_wait_for_an_hour_is_not_waited_for(self) -> None:
        """For an hour nothing else had its turn to go into the bucket, from any registry."""
        _, reading = self.read(100_000)
        self.source.asked[0].refuse(SourceFailed("later", 3600.0, busy=True))
        self.failureResultOf(reading, SourceFailed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_size_that_is_wrong_from_the_first_is_refused(self) -> None:
        _, reading = self.read(100_000)
        self.source.asked[0].refuse(SourceRefused(WRONG_SIZE))
        self.failureResultOf(reading, SourceRefused)
