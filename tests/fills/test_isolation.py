"""What one blob's host or one client does is not felt by the others."""

from __future__ import annotations

from math import inf
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import Asked, Scene
from tests.fills.simulated import MB
from tests.fills.test_fill import Drinker
from tests.fills.test_shared_line import Network
from yukari.fills import scheduler as scheduler_module
from yukari.fills.hangs import FLOOR_SECONDS
from yukari.fills.plan import Plan
from yukari.fills.scheduler import FetchScheduler
from yukari.net.budget import ConnectionBudget, HostLimit
from yukari.net.throttle import Line
from yukari.sources.base import SourceFailed
from yukari.sources.pace import HostPace

TICK = 0.1


class StuckBlobTests(SynchronousTestCase):
    """Blobs that come at twenty bytes a second on each connection."""

    def scenes(self, stuck: int, *, read: bool) -> tuple[Clock, list[Scene], Scene]:
        """So many of those, after they have taken what they could, and a healthy one of 6 MB."""
        clock, pace = Clock(), HostPace(has_sent=True, has_brought_much=True, serves_several=True)
        scheduler = FetchScheduler(clock, 32, 64)
        scenes = [Scene(bytes(6 * MB + at), clock=clock) for at in range(stuck + 1)]
        for scene in scenes:
            scene.scheduler, scene.source.pace_now = scheduler, pace
            scene.fill = scene.new_fill()
        *slow, healthy = scenes
        network = Network(inf, 0.1, each=20.0)
        for scene in slow:
            scene.fill.start()
            if read:
                for part in range(32):
                    Drinker(scene, part * 180_000, 6 * MB)
        for _ in range(300):
            self.pass_on(clock, slow, network)
        self.assertGreaterEqual(sum(len(scene.source.open) for scene in slow), 48)
        return clock, slow, healthy

    def pass_on(self, clock: Clock, scenes: list[Scene], network: Network) -> None:
        asked = [asked for scene in scenes for asked in scene.source.open]
        network.pass_on(asked, clock.seconds(), TICK)
        clock.advance(TICK)

    def test_a_healthy_blob_gets_connections_soon(self) -> None:
        for read in (True, False):
            clock, slow, healthy = self.scenes(3, read=read)
            slowly, quickly = Network(inf, 0.1, each=20.0), Network(inf, 0.1, each=2.0 * MB)
            began = clock.seconds()
            drinker = Drinker(healthy, 0, 6 * MB)
            while not drinker.done:
                network_slow = [asked for scene in slow for asked in scene.source.open]
                slowly.pass_on(network_slow, clock.seconds(), TICK)
                self.pass_on(clock, [healthy], quickly)
                self.assertLess(clock.seconds() - began, FLOOR_SECONDS + 10.0)

    def test_nor_is_it_kept_out_where_the_host_bears_two_at_once(self) -> None:
        clock, slow, healthy = self.scenes(3, read=True)
        limit = healthy.source.pace_now.limit
        limit.refused(clock.seconds(), began=clock.seconds() - 0.1, definite=True)
        limit._bears = 2
        for scene in slow:
            for asked in scene.source.open[1:]:
                asked.cut() if asked.answered else asked.refuse(SourceFailed("reset"))
        self.assertGreaterEqual(limit.active, 2)
        slowly, quickly = Network(inf, 0.1, each=20.0), Network(inf, 0.1, each=2.0 * MB)
        began = clock.seconds()
        drinker = Drinker(healthy, 0, 6 * MB)
        while not drinker.done:
            stuck = [asked for scene in slow for asked in scene.source.open]
            slowly.pass_on(stuck, clock.seconds(), TICK)
            self.pass_on(clock, [healthy], quickly)
            self.assertLess(clock.seconds() - began, 4 * FLOOR_SECONDS + 10.0)

    def test_those_that_nobody_reads_give_way_first(self) -> None:
        clock, slow, healthy = self.scenes(4, read=False)
        read = slow[0]
        for part in range(64):
            Drinker(read, part * 90_000, 6 * MB)
        network = Network(inf, 0.1, each=20.0)
        for _ in range(100):
            self.pass_on(clock, slow, network)
        before = len(read.fill.fetches)
        self.assertEqual(sum(len(scene.source.open) for scene in slow), 64)
        Drinker(healthy, 0, 6 * MB)
        while not healthy.fill.fetches:
            self.pass_on(clock, [*slow, healthy], network)
        self.assertEqual(len(read.fill.fetches), before)

    def test_crowd_is_not_looked_through_for_each_who_joins_a_busy_host(self) -> None:
        """Beside 2,000 ranges of 25 blobs hits took seconds: each looked through all blobs."""
        clock, pace = Clock(), HostPace(has_sent=True, has_brought_much=True)
        scheduler = FetchScheduler(clock, 32, 64)
        scenes = [Scene(bytes(MB + at), clock=clock) for at in range(5)]
        for scene in scenes:
            scene.scheduler, scene.source.pace_now = scheduler, pace
            scene.fill = scene.new_fill()
        self.patch(HostLimit, "has_room", lambda limit, *_, **__: limit.active < 2)
        for scene in scenes:
            Drinker(scene, 0, MB)
        self.assertEqual([len(scene.fill.fetches) for scene in scenes], [1, 1, 0, 0, 0])
        real, looks = FetchScheduler._next, list[float]()

        def look(each: FetchScheduler) -> Any:
            looks.append(clock.seconds())
            return real(each)

        self.patch(FetchScheduler, "_next", look)
        for at in range(100):
            Drinker(scenes[at % 5], 1000 * at + 500, MB)
        self.assertEqual(looks, [])

    def test_one_registry_that_is_only_busy_keeps_none_from_the_readers_of_another(self) -> None:
        """No way was made for anybody while the first who waited could not be helped."""
        clock = Clock()
        scheduler = FetchScheduler(clock, 4, 8)
        budgets = ConnectionBudget(4), ConnectionBudget(4)
        paces = [
            HostPace(budget=budget, has_sent=True, has_brought_much=True) for budget in budgets
        ]
        scenes = [Scene(bytes(6 * MB + at), clock=clock) for at in range(4)]
        for number, scene in enumerate(scenes):
            scene.scheduler, scene.source.pace_now = scheduler, paces[number // 2]
            scene.fill = scene.new_fill()
        busy, waits, stuck, healthy = scenes
        good, bad = Network(inf, 0.1, each=1500.0), Network(inf, 0.1, each=20.0)

        def pass_on() -> None:
            bad.pass_on(stuck.source.open, clock.seconds(), TICK)
            self.pass_on(clock, [busy, waits], good)

        for scene in (busy, stuck):
            for part in range(4):
                Drinker(scene, part * MB, 6 * MB)
        while len(busy.fill.fetches) + len(stuck.fill.fetches) < 8:
            pass_on()
        for scene in (waits, healthy):
            Drinker(scene, 0, 6 * MB)
        for _ in range(80):  # None of the good requests ends so soon.
            if healthy.fill.fetches:
                break
            pass_on()
        self.assertEqual(len(healthy.fill.fetches), 1)

    def test_a_slow_host_makes_no_way_for_one_that_bears_no_more(self) -> None:
        """What was dropped brought the reader nothing."""
        clock = Clock()
        scheduler = FetchScheduler(clock, 4, 16)
        full, slow = (
            HostPace(has_sent=True, has_brought_much=True),
            HostPace(has_sent=True, has_brought_much=True),
        )
        scenes = [Scene(bytes(6 * MB + at), clock=clock) for at in range(3)]
        for scene, pace in zip(scenes, (full, full, slow)):
            scene.scheduler, scene.source.pace_now = scheduler, pace
            scene.fill = scene.new_fill()
        busy, waits, stuck = scenes
        for scene in (busy, stuck):
            for part in range(4):
                Drinker(scene, part * MB, 6 * MB)
        good, bad = Network(inf, 0.1, each=1500.0), Network(inf, 0.1, each=20.0)
        while len(busy.fill.fetches) + len(stuck.fill.fetches) < 8:
            bad.pass_on(stuck.source.open, clock.seconds(), TICK)
            self.pass_on(clock, [busy], good)
        full.limit.refused(clock.seconds(), began=clock.seconds() - 0.1, definite=True)
        Drinker(waits, 0, 6 * MB)
        for _ in range(80):
            bad.pass_on(stuck.source.open, clock.seconds(), TICK)
            self.pass_on(clock, [busy], good)
        self.assertEqual((len(waits.fill.fetches), len(stuck.fill.fetches)), (0, 4))


@define(eq=False)
class FavouringHost:
    """
    Gives 1.5 MB/s to each of its first two connections, and 2 KB/s to each other one. An idle
    connection is used again, the last one first.
    """

    _of: dict[Asked, bool] = field(factory=dict)
    """Whether each request's connection is one of the two."""
    _idle: list[bool] = field(factory=list)
    _left: dict[Asked, float] = field(factory=dict)

    def pass_on(self, requests: list[Asked], seconds: float) -> None:
        for asked in [asked for asked in self._of if not asked.open]:
            favoured = self._of.pop(asked)
            if not asked.transport.stopped:
                self._idle.append(favoured)
        for asked in requests:
            if asked not in self._of:
                known = [*self._of.values(), *self._idle]
                self._of[asked] = self._idle.pop() if self._idle else sum(known) < 2
                asked.answer()
            elif asked.open and not asked.transport.paused:
                rate = 1.5 * MB if self._of[asked] else 2000.0
                count = rate * seconds + self._left.get(asked, 0.0)
                self._left[asked] = count - int(count)
                asked.send(int(count))


class FavouringHostTests(SynchronousTestCase):
    def pull(self, parts: int) -> tuple[float, float, Scene]:
        """Pull 6 MB; the seconds that took, and the longest that a part waited for a byte."""
        scene, host, longest = Scene(bytes(6 * MB), per_blob=32, in_all=64), FavouringHost(), 0.0
        scene.fill.start()
        step = 6 * MB // parts
        drinkers = [Drinker(scene, at * step, (at + 1) * step) for at in range(parts)]
        moved = {drinker: (drinker.at, 0.0) for drinker in drinkers}
        while not all(drinker.done for drinker in drinkers):
            host.pass_on(scene.source.open, 0.02)
            scene.clock.advance(0.02)
            now = scene.clock.seconds()
            self.assertLess(now, 60.0)
            for drinker in drinkers:
                if drinker.at > moved[drinker][0] or drinker.done:
                    moved[drinker] = drinker.at, now
                longest = max(longest, now - moved[drinker][1])
        return scene.clock.seconds(), longest, scene

    def test_what_starved_connections_have_is_asked_for_of_others(self) -> None:
        """Some 16 KB each held the pull up for a minute."""
        for parts in (1, 16):
            seconds, longest, scene = self.pull(parts)
            self.assertLess(seconds, 8.0, parts)
            self.assertLess(longest, 5.0, parts)
            self.assertLess(scene.source.pace_now.limit.bears, 5, parts)


class CrowdTests(SynchronousTestCase):
    def pull_beside(self, crowd: int) -> float:
        """
        The seconds that 16 parts of 6 MB take beside so many readers of a byte of another client,
        who come again as soon as they have it, on 12 other blobs.
        """
        clock, pace, network = Clock(), HostPace(), Network(20.0 * MB, 0.02)
        scheduler, random = FetchScheduler(clock, 32, 64), Random(1)
        scenes = [Scene(bytes(6 * MB + at), clock=clock) for at in range(13)]
        for scene in scenes:
            scene.scheduler, scene.source.pace_now = scheduler, pace
            scene.fill = scene.new_fill()
        *others, pulled = scenes

        def reader(number: int) -> Drinker:
            at = random.randrange(6 * MB)
            return Drinker(others[number % len(others)], at, at + 1, client="crowd")

        readers = [reader(number) for number in range(crowd)]
        parts: list[Drinker] = []
        while not parts or not all(part.done for part in parts):
            if not parts and clock.seconds() > 0.5:
                parts = [
                    Drinker(pulled, at * 375_000, (at + 1) * 375_000, client="a machine")
                    for at in range(16)
                ]
                began = clock.seconds()
            self.assertLess(clock.seconds(), 20)
            asked = [asked for scene in scenes for asked in scene.source.open]
            network.pass_on(asked, clock.seconds(), 0.02)
            clock.advance(0.02)
            for number, each in enumerate(readers):
                if each.done:
                    each.close()
                    readers[number] = reader(number)
        return clock.seconds() - began

    def test_crowd_of_one_client_hardly_delays_the_pull_of_another(self) -> None:
        """Each reader had a turn, and requests that were short for all of them."""
        alone = self.pull_beside(0)
        self.assertLess(self.pull_beside(400), 5 * alone)

    def test_two_thousand_readers_of_a_byte_are_counted_as_they_come_and_go(self) -> None:
        looks = 0
        wanted = Plan.wanted

        def counted(plan: Plan, position: int) -> object:
            nonlocal looks
            looks += 1
            return wanted(plan, position)

        self.patch(Plan, "wanted", counted)
        scene = Scene(bytes(20 * MB), per_blob=32, in_all=64)
        line = scene.scheduler.line = scene.source.line = Line(2.0 * MB, scene.clock, 64)
        scene.source.pace_now = HostPace(line.rate / line.most)
        drinkers = [Drinker(scene, at * 10_000, at * 10_000 + 1) for at in range(2000)]
        for _ in range(2000):
            if all(drinker.done for drinker in drinkers):
                break
            for asked in scene.source.open:
                if not asked.answered:
                    asked.answer()
                elif not asked.transport.paused:
                    asked.send(line.share_of(line.most))
            scene.clock.advance(0.01)
        self.assertTrue(all(drinker.done for drinker in drinkers))
        self.assertLess(looks, 20 * 2000)


class HourTests(SynchronousTestCase):
    """Blobs that nobody reads wait for their hours."""

    def setUp(self) -> None:
        self.scene = Scene(bytes(1_000_000))
        self.is_hour = False
        self.scene.scheduler.may_fetch_ahead = lambda: self.is_hour
        self.scene.fill.start()
        self.addCleanup(self.scene.scheduler.remove, self.scene.fill)

    def test_nothing_is_asked_for_before_and_all_of_it_then(self) -> None:
        self.scene.clock.advance(100.0)
        self.assertEqual(self.scene.source.asked, [])
        self.is_hour = True
        self.scene.clock.advance(TICK)
        self.scene.answer_all()
        self.assertEqual(self.scene.stored(), bytes(1_000_000))

    def test_a_pull_does_not_wait_for_the_hour(self) -> None:
        with self.scene.fill.pulled():
            self.scene.answer_all()
            self.assertEqual(self.scene.stored(), bytes(1_000_000))

    def test_the_rest_waits_again_once_a_pull_has_gone(self) -> None:
        with self.scene.fill.pulled():
            asked = len(self.scene.source.asked)
        self.scene.fill.drop_fetches("the pull has gone")
        self.scene.clock.advance(100.0)
        self.assertEqual((asked, len(self.scene.source.asked)), (1, 1))

    def test_a_pull_waits_for_no_blobs_that_wait_for_the_hour(self) -> None:
        """Catches a queue of open fills that is full of what has no turn before the hour."""
        self.patch(scheduler_module, "OPEN_AHEAD", 1)
        other = Scene(bytes(2_000_000), clock=self.scene.clock)
        other.scheduler = self.scene.scheduler
        other.fill = other.new_fill()
        other.fill.start()
        with other.fill.pulled():
            other.answer_all()
        self.assertEqual(other.stored(), bytes(2_000_000))
        self.assertEqual(self.scene.source.asked, [])

    def test_spools_are_as_many_as_there_are_descriptors_for(self) -> None:
        """Of 400 layers 128 were open at once, and 512 descriptors were not enough."""
        scheduler = self.scene.scheduler
        scheduler.most_open, self.is_hour = 4, True
        others = []
        for _ in range(6):
            other = Scene(bytes(2_000_000), clock=self.scene.clock)
            other.scheduler = scheduler
            other.fill = other.new_fill()
            others.append(other)
            other.fill.start()
        self.assertEqual(len(scheduler._open), 2)
        self.assertTrue(scheduler.may_open)
        for other in others:  # Readers do not wait; what is too much is not stored.
            other.fill.open_reader(0, whole=False)
        self.assertFalse(scheduler.may_open)

    def test_spools_whose_blobs_are_being_published_count(self) -> None:
        """Into a bucket blobs wait for their turn: 86 spools were open instead of 32."""
        scheduler = self.scene.scheduler
        scheduler.most_open = 2  # One is open already.
        for _ in range(2):
            other = Scene(bytes(10), clock=self.scene.clock)
            scheduler.submit(other.fill)
            scheduler.remove(other.fill, has_spool=True)
        self.assertFalse(scheduler.may_open)
        scheduler.remove(other.fill)
        self.assertTrue(scheduler.may_open)

    def test_a_reader_does_not_wait_for_the_hour(self) -> None:
        reader = self.scene.fill.open_reader(0, whole=False)
        self.addCleanup(reader.close)
        ready = Deferred.fromCoroutine(reader.ready(0))
        self.scene.feed()
        self.scene.feed()
        self.successResultOf(ready)
