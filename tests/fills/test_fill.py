"""A fill's life: what comes, in which order, and who gets it when."""

from __future__ import annotations

import errno
from typing import Any, Optional

from attrs import evolve
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import NAME, Scene, ScriptedDisk, content_of
from tests.storage.memory import MemoryStore
from yukari.errors import RegistryError, blob_unknown
from yukari.fills.fill import Fill
from yukari.fills.hangs import Hangs
from yukari.fills.machine import State
from yukari.fills.reader import FillReader
from yukari.fills.retries import BACKOFF, PATIENCE
from yukari.fills.verifier import WITHHELD
from yukari.names import Digest
from yukari.net.throttle import Line
from yukari.sources.base import SourceFailed, SourceRefused
from yukari.sources.pace import FIRST
from yukari.spans import Span, SpanSet
from yukari.storage.readable import SpoolLost

MIB = 1024 * 1024


class Drinker:
    """Reads from a `FillReader` whatever it may, and keeps it."""

    def __init__(
        self, scene: Scene, start: int, end: int, *, whole: bool = False, client: object = None
    ) -> None:
        self.reader: FillReader = scene.fill.open_reader(start, whole=whole, client=client)
        self.start, self.at, self.end = start, start, end
        self.got = b""
        self.broken: Optional[BaseException] = None
        self.begun = False
        self._pending: Optional[Deferred[None]] = None
        ready = Deferred.fromCoroutine(self.reader.ready(start))
        ready.addCallbacks(self._begin, self._break)

    def _begin(self, _: object) -> None:
        self.begun = True
        self.drink()

    def _break(self, failure: Failure) -> None:
        self._pending = None
        self.broken = failure.value

    def drink(self, most: int = 10**9) -> None:
        """Take up to ``most`` bytes; wait where there are none."""
        if not self.begun or self._pending is not None or self.done or self.broken:
            return
        until = min(self.reader.available(self.at), self.end, self.at + most)
        if until > self.at:
            self.got += self.reader.read(self.at, until - self.at)
            self.at = until
        if not self.done and self.reader.available(self.at) <= self.at:
            waiting = self.reader.wait(self.at)
            self._pending = waiting
            waiting.addCallbacks(self._more, self._break)

    def _more(self, _: object) -> None:
        self._pending = None
        self.drink()

    @property
    def done(self) -> bool:
        return self.at == self.end

    def close(self) -> None:
        self.reader.close()


class FillTests(SynchronousTestCase):
    def scene(self, size: int = 3 * MIB, **settings: Any) -> Scene:
        scene = Scene(content_of(size), **settings)
        scene.source.pace_now.serves_several = True
        scene.fill.start()
        return scene

    def test_a_fill_without_readers_comes_whole_and_is_stored(self) -> None:
        scene = self.scene()
        scene.answer_all()
        self.assertIs(scene.fill.state, State.DONE)
        self.assertEqual(scene.stored(), scene.content)

    def test_no_byte_crosses_the_line_twice(self) -> None:
        scene = self.scene()
        scene.answer_all()
        self.assertEqual(sum(map(len, scene.source.sent)), len(scene.content))

    def test_an_empty_blob_needs_no_upstream(self) -> None:
        scene = self.scene(0)
        self.assertEqual(scene.stored(), b"")
        self.assertEqual(scene.source.asked, [])

    def test_one_connection_until_the_host_has_honoured_a_range_and_sent_a_byte(self) -> None:
        scene = self.scene()
        self.assertEqual(len(scene.source.open), 1)
        scene.source.open[0].answer()
        self.assertEqual(len(scene.source.open), 1)
        scene.source.open[0].send(1)
        self.assertEqual(len(scene.source.open), 4)

    def test_the_first_request_is_short(self) -> None:
        self.assertEqual(self.scene().source.asked[0].span, Span(0, FIRST))

    def test_a_reader_in_the_middle_is_served_before_work_ahead(self) -> None:
        scene = self.scene()
        drinker = Drinker(scene, 2 * MIB, 2 * MIB + 10)
        scene.source.open[0].answer()
        scene.source.open[0].send(1)
        self.assertIn(2 * MIB, [asked.span.start for asked in scene.source.open])
        scene.answer_all()
        self.assertEqual(drinker.got, scene.content[2 * MIB : 2 * MIB + 10])

    def test_a_reader_gets_bytes_before_the_blob_is_whole(self) -> None:
        scene = self.scene()
        drinker = Drinker(scene, 0, 3 * MIB)
        scene.source.open[0].answer()
        scene.source.asked[0].send(1000)
        scene.clock.advance(0.06)
        self.assertEqual(drinker.got, scene.content[:1000])

    def test_a_reader_that_leaves_stops_nothing(self) -> None:
        scene = self.scene()
        Drinker(scene, 0, 3 * MIB).close()
        scene.answer_all()
        self.assertEqual(scene.stored(), scene.content)

    def test_the_end_of_a_whole_read_waits_for_the_verdict(self) -> None:
        scene = self.scene(disk=ScriptedDisk(held=frozenset({"advance"})))
        whole = Drinker(scene, 0, 3 * MIB, whole=True)
        part = Drinker(scene, 2 * MIB + 5, 3 * MIB)
        for _ in range(10):
            scene.feed()
            scene.clock.advance(0.06)
        self.assertTrue(part.done)
        self.assertEqual(whole.at, 3 * MIB - WITHHELD)
        scene.disk.held = frozenset()
        scene.answer_all()
        self.assertEqual(whole.got, scene.content)

    def test_should_the_verdict_take_long_bytes_trickle_but_never_the_last(self) -> None:
        scene = self.scene(disk=ScriptedDisk(held=frozenset()))
        whole = Drinker(scene, 0, 3 * MIB, whole=True)
        for _ in range(10):
            if scene.fill.coverage.plan.covered.total > 2 * MIB:
                scene.disk.held = frozenset({"advance"})
            scene.feed()
            scene.clock.advance(0.06)
        self.assertTrue(scene.fill.coverage.plan.whole)
        before = whole.at
        scene.clock.advance(10.0)
        self.assertGreater(whole.at, before)
        scene.clock.pump([2.0] * 3000)
        self.assertEqual(whole.at, 3 * MIB - 1)

    def test_wrong_bytes_reach_nobody_whole_and_are_not_stored(self) -> None:
        scene = Scene(content_of(3 * MIB), digest=Digest("0" * 64))
        scene.fill.start()
        whole = Drinker(scene, 0, 3 * MIB, whole=True)
        scene.answer_all()
        self.assertIs(scene.fill.state, State.SUSPENDED)
        self.assertLessEqual(whole.at, 3 * MIB - WITHHELD)
        self.assertIsInstance(whole.broken, RegistryError)
        self.assertIsNone(scene.stored())
        # Once more from scratch, and no more by itself:
        self.assertEqual(sum(map(len, scene.source.sent)), 6 * MIB)

    def test_attempt_after_a_wrong_copy_was_removed_does_not_count(self) -> None:
        """Else a wrong copy in a bucket would cost upstream one of its two attempts."""
        right = content_of(3 * MIB)
        scene = Scene(content_of(3 * MIB, seed=1), digest=Digest.of(right))
        scene.source.removes = [True]
        scene.fill.start()
        while len(scene.source.set_asides) < 2:
            scene.feed()
            scene.clock.advance(0.1)
        scene.source.content = right
        scene.answer_all()
        self.assertEqual(scene.stored(), right)
        self.assertEqual(scene.source.set_asides, [True, True])

    def test_wrong_digest_of_what_an_earlier_process_began_accuses_nobody(self) -> None:
        scene = Scene(content_of(3 * MIB), digest=Digest("0" * 64))
        store = scene.keeper.store
        spool = self.successResultOf(
            Deferred.fromCoroutine(store.new_spool(scene.fill.digest, 3 * MIB, NAME))
        )
        spool.write([(0, [b"x" * 10])])
        scene.fill = scene.new_fill(spool)
        scene.fill.start()
        scene.answer_all()
        self.assertEqual(scene.source.set_asides, [False, True])

    def test_wrong_bytes_once_then_right_ones(self) -> None:
        right = content_of(3 * MIB)
        scene = Scene(content_of(3 * MIB, seed=1), digest=Digest.of(right))
        scene.fill.start()
        while scene.fill.attempt == 1:
            scene.feed()
            scene.clock.advance(0.1)
        scene.source.content = right
        late = Drinker(scene, 0, 3 * MIB, whole=True)
        scene.answer_all()
        self.assertEqual(scene.stored(), right)
        self.assertEqual(late.got, right)

    def test_a_cut_goes_on_where_it_stood(self) -> None:
        scene = self.scene()
        first = scene.source.open[0]
        first.answer()
        first.send(100)
        first.cut()
        scene.answer_all()
        self.assertEqual(scene.stored(), scene.content)
        self.assertEqual(sum(map(len, scene.source.sent)), len(scene.content))

    def test_a_source_that_ignores_range_is_one_stream(self) -> None:
        scene = self.scene()
        drinker = Drinker(scene, 2 * MIB, 3 * MIB)
        scene.source.open[0].answer(ignoring_range=True)
        self.assertEqual(len(scene.source.open), 1)
        scene.source.asked[0].send(MIB)
        scene.clock.advance(1.0)
        self.assertEqual(len(scene.source.asked), 1)
        scene.source.asked[0].send(10**9)
        scene.clock.advance(1.0)
        self.assertEqual(scene.stored(), scene.content)
        self.assertTrue(drinker.done)

    def test_a_source_that_ignores_range_and_breaks_is_read_again(self) -> None:
        scene = self.scene()
        scene.source.open[0].answer(ignoring_range=True)
        scene.source.asked[0].send(MIB)
        scene.source.asked[0].cut()
        scene.clock.advance(1.0)
        scene.source.open[0].answer(ignoring_range=True)
        scene.source.open[0].send(10**9)
        scene.clock.advance(1.0)
        self.assertEqual(scene.stored(), scene.content)

    def test_a_silent_connection_is_dropped_in_three_seconds_while_a_reader_waits(self) -> None:
        scene = self.scene()
        Drinker(scene, 0, 3 * MIB)
        silent = scene.source.open[0]
        silent.answer()
        silent.send(10)
        for _ in range(8):
            scene.clock.advance(0.5)
        self.assertTrue(silent.transport.stopped)

    def test_a_host_that_leaves_one_request_hanging_is_not_taken_to_need_longer(self) -> None:
        """It bears too few: what hung next was waited for twice as long, and so on."""
        scene = self.scene()
        Drinker(scene, 0, 3 * MIB)
        scene.source.open[0].answer()
        scene.source.open[0].send(1)
        hanging, *others = [asked for asked in scene.source.open if not asked.answered]
        before = scene.source.pace.answers_within
        scene.clock.advance(0.1)
        for asked in others:
            asked.answer()
            asked.send(1)
        for _ in range(5):
            scene.clock.advance(0.5)
        self.assertTrue(hanging.reply.called)
        self.assertEqual(scene.source.pace.answers_within, before)

    def test_what_a_process_that_was_held_up_did_not_read_is_not_silence(self) -> None:
        scene = self.scene()
        Drinker(scene, 0, 3 * MIB)
        silent = scene.source.open[0]
        silent.answer()
        silent.send(10)
        scene.clock.advance(1.0)
        scene.clock.advance(20.0)
        scene.clock.advance(1.0)
        self.assertFalse(silent.transport.stopped)
        for _ in range(8):
            scene.clock.advance(0.5)
        self.assertTrue(silent.transport.stopped)

    def test_without_readers_silence_is_borne_longer(self) -> None:
        scene = self.scene()
        silent = scene.source.open[0]
        silent.answer()
        silent.send(10)
        for _ in range(18):
            scene.clock.advance(0.5)
        self.assertFalse(silent.transport.stopped)
        for _ in range(4):
            scene.clock.advance(0.5)
        self.assertTrue(silent.transport.stopped)

    def test_a_source_that_never_answers_is_given_up_and_readers_fail(self) -> None:
        scene = self.scene()
        drinker = Drinker(scene, 0, 3 * MIB)
        for _ in range(60):
            scene.clock.advance(0.5)
        self.assertEqual(drinker.broken.status, 504)  # type: ignore[union-attr]

    def test_a_source_that_fails_is_given_up_within_seconds(self) -> None:
        scene = self.scene()
        drinker = Drinker(scene, 0, 3 * MIB)
        for _ in range(40):
            for asked in scene.source.open:
                asked.refuse(SourceFailed("connection refused"))
            scene.clock.advance(0.5)
        self.assertEqual(drinker.broken.status, 502)  # type: ignore[union-attr]
        self.assertLess(len(scene.source.asked), 12)

    def test_a_fill_that_gave_up_goes_on_for_the_next_reader(self) -> None:
        scene = self.scene()
        for _ in range(40):
            for asked in scene.source.open:
                asked.refuse(SourceFailed("connection refused"))
            scene.clock.advance(0.5)
        self.assertIs(scene.fill.state, State.SUSPENDED)
        scene.keeper.ends.clear()
        drinker = Drinker(scene, 0, 3 * MIB)
        scene.answer_all()
        self.assertEqual(drinker.got, scene.content)

    def test_a_source_that_is_gone_is_given_up_though_nobody_reads(self) -> None:
        for seconds_to_refuse in (0, 8):  # a proxy that is dead, one that is silent
            scene = self.scene()
            drinker = Drinker(scene, 0, 3 * MIB)
            scene.source.open[0].answer()
            scene.source.open[0].send(1000)
            drinker.close()
            scene.source.open[0].cut()
            died_at, seen = scene.clock.seconds(), {}
            while scene.fill.state is State.FILLING:
                scene.clock.advance(0.5)
                now = scene.clock.seconds()
                for asked in scene.source.open:
                    if now - seen.setdefault(asked, now) >= seconds_to_refuse:
                        asked.refuse(SourceFailed("the proxy 127.0.0.1:3128: connection refused"))
                self.assertLess(now - died_at, PATIENCE + 1)
            self.assertIs(scene.fill.state, State.SUSPENDED)
            self.assertEqual(scene.scheduler.fills, {})

    def test_a_refusal_is_final_and_passed_on_as_it_is(self) -> None:
        scene = self.scene()
        drinker = Drinker(scene, 0, 3 * MIB)
        scene.source.open[0].refuse(SourceRefused(blob_unknown(scene.fill.digest)))
        self.assertEqual(drinker.broken.status, 404)  # type: ignore[union-attr]

    def test_a_connection_that_the_line_holds_back_is_not_silent(self) -> None:
        scene = self.scene()
        scene.source.line = line = Line(16_000, scene.clock)
        Drinker(scene, 0, 3 * MIB)
        held = scene.source.open[0]
        held.answer()
        other = line.join(lambda: None, lambda: None)
        other.took(20 * 16_000)
        other.end()
        held.send(16_100)
        scene.clock.pump([0.5] * 38)
        self.assertTrue(held.transport.paused)
        self.assertFalse(held.transport.stopped)
        scene.clock.pump([0.5] * 8)
        self.assertFalse(held.transport.paused)
        self.assertFalse(held.transport.stopped)

    def test_what_fell_silent_together_is_noticed_together(self) -> None:
        scene = self.scene()
        Drinker(scene, 0, 3 * MIB)
        scene.source.pace.has_brought_much = True
        scene.source.open[0].answer()
        for asked in scene.source.open:
            if not asked.answered:
                asked.answer()
        silent = scene.source.open
        self.assertEqual(len(silent), 4)
        scene.clock.pump([0.5] * 22)
        self.assertTrue(all(asked.transport.stopped for asked in silent))

    def test_after_a_failure_all_connections_come_back_with_the_first_byte(self) -> None:
        scene = self.scene()
        scene.source.pace.has_brought_much = True
        scene.source.open[0].answer()
        for asked in scene.source.open:
            if not asked.answered:
                asked.answer()
            asked.cut()
        scene.clock.pump([0.5] * 4)
        (probe,) = scene.source.open
        probe.answer()
        probe.send(10)
        self.assertEqual(len(scene.source.open), 4)

    def test_a_second_stream_of_the_whole_is_not_read(self) -> None:
        scene = self.scene()
        scene.source.open[0].answer()
        scene.source.open[0].send(1)
        first, second = [asked for asked in scene.source.open if not asked.answered][:2]
        first.answer(ignoring_range=True)
        second.answer(ignoring_range=True)
        self.assertTrue(second.transport.stopped)
        self.assertFalse(first.transport.stopped)

    def test_a_stream_that_always_breaks_at_the_same_byte_is_given_up(self) -> None:
        scene = self.scene()
        for _ in range(2000):
            for asked in scene.source.open:
                if not asked.answered:
                    asked.answer(ignoring_range=True)
                elif asked.at < MIB:
                    asked.send(MIB)
                else:
                    asked.cut()
            scene.clock.advance(0.5)
            if scene.fill.state is State.SUSPENDED:
                break
        self.assertIs(scene.fill.state, State.SUSPENDED)
        self.assertLess(len(scene.source.asked), 20)

    def test_a_fill_that_ends_while_its_spool_is_being_opened_keeps_nothing(self) -> None:
        scene = Scene(content_of(3 * MIB))
        opening: Deferred[None] = Deferred()
        open_spool = scene.keeper.open_spool

        async def slowly(fill: Any) -> Any:
            await opening
            return await open_spool(fill)

        scene.keeper.open_spool = slowly  # type: ignore[method-assign]
        scene.fill.start()
        gone = RegistryError("UNAVAILABLE", "stopped", 503)
        discarding = Deferred.fromCoroutine(scene.fill.discard(gone))
        self.assertNoResult(discarding)
        opening.callback(None)
        self.successResultOf(discarding)
        spools = self.successResultOf(Deferred.fromCoroutine(scene.keeper.store.spools()))
        self.assertEqual(spools, [])
        self.assertEqual(scene.source.asked, [])

    def test_a_fill_that_gave_up_with_nothing_keeps_no_spool(self) -> None:
        scene = self.scene()
        scene.source.open[0].refuse(SourceRefused(blob_unknown(scene.fill.digest)))
        self.assertIsNone(scene.fill.spool)
        scene.keeper.ends.clear()
        Drinker(scene, 0, 10)
        scene.answer_all()
        self.assertEqual(scene.stored(), scene.content)

    def test_a_spool_that_somebody_removed_is_filled_anew(self) -> None:
        scene = self.scene()
        scene.keeper.failing = FileNotFoundError(errno.ENOENT, "gone")
        for _ in range(40):
            scene.feed()
            scene.clock.advance(0.1)
            if scene.fill.attempt == 2:
                scene.keeper.failing = None
        self.assertEqual(scene.stored(), scene.content)

    def test_retry_after_is_heeded(self) -> None:
        scene = self.scene()
        scene.source.open[0].refuse(SourceFailed("429", 20.0, busy=True))
        scene.clock.pump([0.5] * 38)
        self.assertEqual(scene.source.open, [])
        scene.clock.pump([0.5] * 4)
        self.assertEqual(len(scene.source.open), 1)

    def test_connections_that_fail_together_count_once(self) -> None:
        scene = self.scene()
        scene.source.open[0].answer()
        scene.source.open[0].send(10**9)
        failing = scene.source.open
        self.assertEqual(len(failing), 4)
        for asked in failing:
            asked.refuse(SourceFailed("403: this URL has expired"))
        self.assertEqual(scene.source.open, [])
        scene.clock.advance(1.25 * BACKOFF)
        self.assertEqual(len(scene.source.open), 1)
        scene.source.open[0].refuse(SourceFailed("403: again"))
        scene.clock.advance(1.25 * BACKOFF)
        self.assertEqual(scene.source.open, [])

    def test_a_wrong_size_after_bytes_have_come_is_a_failure_like_others(self) -> None:
        scene = self.scene()
        scene.source.open[0].answer()
        scene.source.open[0].send(10**9)
        scene.clock.advance(0.1)
        portal = RegistryError("SIZE_INVALID", "the blob has 70 bytes upstream", 502)
        scene.source.open[0].refuse(SourceRefused(portal))
        scene.answer_all()
        self.assertEqual(scene.stored(), scene.content)
        self.assertEqual(sum(map(len, scene.source.sent)), len(scene.content))

    def test_a_reader_that_comes_while_wrong_bytes_are_thrown_away_gets_the_right_ones(
        self,
    ) -> None:
        right = content_of(3 * MIB)
        scene = Scene(content_of(3 * MIB, seed=1), digest=Digest.of(right))
        scene.disk.held = frozenset({"discard"})
        scene.fill.start()
        while not scene.disk.waiting:
            scene.feed()
            scene.clock.advance(0.1)
        late = Drinker(scene, 0, 3 * MIB, whole=True)
        scene.source.content = right
        scene.disk.held = frozenset()
        scene.disk.work()
        scene.answer_all()
        self.assertIsNone(late.broken)
        self.assertEqual(late.got, right)

    def test_a_disk_slower_than_upstream_pauses_the_connections(self) -> None:
        scene = Scene(content_of(MIB), disk=ScriptedDisk(slow=True), held=100_000)
        scene.fill.start()
        scene.source.open[0].answer()
        sent = 0
        for _ in range(50):
            for asked in scene.source.open:
                if not asked.answered:
                    asked.answer()
                elif not asked.transport.paused:
                    asked.send(30_000)
                    sent += 30_000
            scene.clock.advance(0.01)
        self.assertLess(sent, 300_000)
        reading = [asked for asked in scene.source.open if asked.answered]
        self.assertTrue(all(asked.transport.paused for asked in reading))
        scene.disk.slow = False
        scene.answer_all()
        self.assertEqual(scene.stored(), scene.content)

    def test_a_paused_connection_is_not_taken_for_silent(self) -> None:
        scene = Scene(content_of(MIB), disk=ScriptedDisk(slow=True), held=10_000)
        scene.fill.start()
        Drinker(scene, 0, MIB)
        asked = scene.source.open[0]
        asked.answer()
        asked.send(20_000)
        scene.clock.pump([0.5] * 60)
        self.assertFalse(asked.transport.stopped)

    def test_a_full_disk_turns_readers_into_relays(self) -> None:
        scene = self.scene()
        scene.disk.failing = OSError(errno.ENOSPC, "No space left on device")
        drinker = Drinker(scene, 0, 3 * MIB)
        scene.source.open[0].answer()
        scene.source.asked[0].send(1000)
        scene.clock.advance(0.06)
        self.assertIsInstance(drinker.broken, SpoolLost)
        reading = [asked for asked in scene.source.asked if asked.answered]
        self.assertTrue(all(asked.transport.stopped for asked in reading))

    def test_no_room_from_the_start_turns_readers_into_relays(self) -> None:
        scene = Scene(content_of(3 * MIB))
        scene.keeper.store = MemoryStore(capacity=MIB)
        scene.fill.start()
        self.assertIsInstance(Drinker(scene, 0, 10).broken, SpoolLost)
        self.assertEqual(scene.source.asked, [])

    def test_publishing_that_fails_is_tried_again_and_readers_are_served_meanwhile(self) -> None:
        scene = self.scene()
        scene.keeper.failing = OSError(errno.EIO, "Input/output error")
        for _ in range(30):
            scene.feed()
            scene.clock.advance(0.1)
        self.assertIs(scene.fill.state, State.PUBLISHING)
        drinker = Drinker(scene, 0, 3 * MIB, whole=True)
        self.assertEqual(drinker.got, scene.content)
        scene.keeper.failing = None
        scene.clock.advance(30.0)
        self.assertEqual(scene.stored(), scene.content)

    def test_errors_that_nobody_expects_end_neither_ticks_nor_other_fills(self) -> None:
        scene = self.scene()
        other = Scene(content_of(10), clock=scene.clock)
        other.scheduler = scene.scheduler
        other.fill = other.new_fill()
        ticked: list[Fill] = []

        def tick(fill: Fill, now: float) -> None:
            ticked.append(fill)
            if fill is scene.fill:
                raise LookupError("a bug")

        def make_way(*_: object) -> None:
            raise ArithmeticError("another")

        self.patch(Fill, "tick", tick)
        self.patch(Hangs, "make_way", make_way)
        scene.fill.start()
        other.fill.start()
        scene.clock.pump([0.5] * 3)
        self.assertIs(scene.fill.state, State.SUSPENDED)
        self.assertEqual(ticked.count(other.fill), 3)
        for expected in (LookupError, ArithmeticError):
            self.assertEqual(len(self.flushLoggedErrors(expected)), 1)

    def test_a_stopped_fill_goes_on_where_it_stood_in_the_next_process(self) -> None:
        scene = self.scene()
        scene.source.open[0].answer()
        scene.source.asked[0].send(1000)
        self.successResultOf(Deferred.fromCoroutine(scene.fill.stop()))
        (spool,) = self.successResultOf(Deferred.fromCoroutine(scene.keeper.store.spools()))
        self.assertEqual(list(spool.covered()), [Span(0, 1000)])
        scene.fill = scene.new_fill(spool)
        scene.fill.start()
        scene.answer_all()
        self.assertEqual(scene.stored(), scene.content)
        self.assertEqual(sum(map(len, scene.source.sent)), len(scene.content))

    def test_stopping_tells_the_readers(self) -> None:
        scene = self.scene()
        drinker = Drinker(scene, 0, 3 * MIB)
        self.successResultOf(Deferred.fromCoroutine(scene.fill.stop()))
        self.assertEqual(drinker.broken.status, 503)  # type: ignore[union-attr]

    def test_what_is_discarded_leaves_nothing(self) -> None:
        scene = self.scene()
        scene.source.open[0].answer()
        scene.source.asked[0].send(1000)
        gone = RegistryError("UNAVAILABLE", "stopped", 503)
        self.successResultOf(Deferred.fromCoroutine(scene.fill.discard(gone)))
        spools = self.successResultOf(Deferred.fromCoroutine(scene.keeper.store.spools()))
        self.assertEqual(spools, [])

    def test_small_blobs_are_not_stuck_behind_a_large_one(self) -> None:
        scene = self.scene(per_blob=2, in_all=3)
        scene.source.open[0].answer()
        scene.source.open[0].send(1)
        self.assertEqual(len(scene.source.open), 2)
        small = Scene(content_of(10))
        small.scheduler = scene.scheduler
        small.clock = scene.clock
        small.fill = small.new_fill()
        small.fill.start()
        self.assertEqual(len(small.source.open), 1)

    def test_nothing_is_left_ticking(self) -> None:
        scene = self.scene()
        scene.answer_all()
        self.assertEqual(scene.clock.getDelayedCalls(), [])

    def test_another_repository_is_kept_with_the_spool(self) -> None:
        scene = self.scene()
        other = evolve(NAME, namespace="me", model="copy")
        scene.fill.also_in(other)
        assert scene.fill.spool is not None
        self.assertIn(other, scene.fill.spool.repositories)


class FillMachine(RuleBasedStateMachine):
    """
    Any schedule of readers, answers, cuts, silence and slow disks.

    No byte that came is asked for again, every reader gets the right bytes,
    and in the end the blob is stored.
    """

    SIZE = 3 * FIRST + 12_345

    @initialize(per_blob=st.integers(1, 5))
    def begin(self, per_blob: int) -> None:
        self.scene = Scene(content_of(self.SIZE), per_blob=per_blob, in_all=per_blob + 1)
        self.scene.disk.slow = True
        self.scene.fill.start()
        self.drinkers: list[Drinker] = []
        self.streamed = False

    @precondition(lambda self: self.scene.fill.state is not State.DONE)
    @rule(start=st.integers(0, SIZE - 1), length=st.integers(1, SIZE), whole=st.booleans())
    def read(self, start: int, length: int, whole: bool) -> None:
        if whole:
            start, length = 0, self.SIZE
        end = min(self.SIZE, start + length)
        self.drinkers.append(Drinker(self.scene, start, end, whole=whole))

    @precondition(lambda self: self.drinkers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        drinker = data.draw(st.sampled_from(self.drinkers))
        self.drinkers.remove(drinker)
        drinker.close()

    def _unanswered(self) -> list[Any]:
        return [asked for asked in self.scene.source.open if not asked.answered]

    def _flowing(self) -> list[Any]:
        open_ = self.scene.source.open
        return [asked for asked in open_ if asked.answered and not asked.transport.paused]

    @precondition(lambda self: self._unanswered())
    @rule(data=st.data(), how=st.sampled_from(["206"] * 6 + ["200", "fail"]))
    def answer(self, data: st.DataObject, how: str) -> None:
        asked = data.draw(st.sampled_from(self._unanswered()))
        if how == "fail":
            asked.refuse(SourceFailed("broken"))
        else:
            self.streamed |= how == "200"
            asked.answer(ignoring_range=how == "200")

    @precondition(lambda self: self._flowing())
    @rule(data=st.data(), count=st.integers(1, 3 * FIRST))
    def send(self, data: st.DataObject, count: int) -> None:
        data.draw(st.sampled_from(self._flowing())).send(count)

    @precondition(lambda self: self._flowing())
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self._flowing())).cut()

    @precondition(lambda self: self.scene.disk.waiting)
    @rule()
    def work(self) -> None:
        self.scene.disk.work()

    @rule(seconds=st.sampled_from([0.01, 0.06, 0.5, 3.0]))
    def wait(self, seconds: float) -> None:
        self.scene.clock.advance(seconds)

    @invariant()
    def readers_have_the_right_bytes(self) -> None:
        for drinker in self.drinkers:
            expected = self.scene.content[drinker.start : drinker.at]
            assert drinker.got == expected
            assert drinker.broken is None or isinstance(drinker.broken, RegistryError)

    @invariant()
    def nothing_comes_twice(self) -> None:
        if self.streamed:
            return
        came = SpanSet()
        for span in self.scene.source.sent:
            before = came.total
            came.add(span.start, span.end)
            assert came.total == before + len(span), f"{span} came twice"

    @invariant()
    def bounds_hold(self) -> None:
        assert len(self.scene.source.open) <= self.scene.scheduler.in_all
        assert len(self.scene.fill.fetches) <= self.scene.scheduler.per_blob

    def teardown(self) -> None:
        if not hasattr(self, "scene"):
            return
        self.scene.disk.slow = False
        while self.scene.disk.waiting:
            self.scene.disk.work()
        late = None
        while self.scene.fill.state is not State.DONE:
            # It may have been about to give up: then the next reader succeeds.
            late = Drinker(self.scene, 0, self.SIZE, whole=True)
            self.scene.keeper.ends.clear()
            self.scene.answer_all()
        assert self.scene.stored() == self.scene.content
        assert late is None or late.got == self.scene.content, late.broken
        self.readers_have_the_right_bytes()
        for drinker in self.drinkers:
            assert drinker.done or drinker.broken is not None


class AnySchedule(SynchronousTestCase):
    def test_any_schedule_of_readers_fetchers_cuts_and_ends(self) -> None:
        run_state_machine_as_test(FillMachine)
