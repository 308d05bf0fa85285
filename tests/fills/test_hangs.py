"""Hosts that bear one request at a time, which models of which nothing comes would hold."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import NAME, Scene, content_of
from tests.fills.simulated import MB
from tests.fills.test_fill import Drinker
from yukari.fills.hangs import FLOOR_SECONDS, RESTS, RESTS_LONGEST, Hangs
from yukari.fills.scheduler import FetchScheduler
from yukari.sources.base import SourceFailed
from yukari.sources.pace import HostPace

TICK = 0.1


class OneConnectionTests(SynchronousTestCase):
    """UPSTREAM_CONNECTIONS is 1."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.scheduler = FetchScheduler(self.clock, 1, 1)
        self.pace = HostPace()
        self.seed = 0

    def scene(self, model: str) -> Scene:
        self.seed += 1
        scene = Scene(bytes(MB + self.seed), clock=self.clock)
        scene.scheduler, scene.source.pace_now = self.scheduler, self.pace
        scene.fill = scene.new_fill()
        scene.fill.models = {model: None}
        return scene

    def drink(self, scene: Scene) -> Drinker:
        return Drinker(scene, 0, len(scene.content))

    def seconds_beside(self, models: int, layers: int, *, read: bool) -> float:
        """The longest wait of three pulls beside so many ``models`` with silent ``layers``."""
        for model in range(models):
            for _ in range(layers):
                scene = self.scene(f"silent {model}")
                scene.fill.start()
                if read:
                    self.drink(scene)
        self.clock.pump([TICK] * 10)
        longest = 0.0
        for _ in range(3):
            healthy = self.scene("healthy")
            drinker, began = self.drink(healthy), self.clock.seconds()
            while not drinker.done:
                healthy.feed()
                self.clock.advance(TICK)
                self.assertLess(self.clock.seconds() - began, 90.0)
            longest = max(longest, self.clock.seconds() - began)
        return longest

    def test_pull_waits_no_longer_however_many_models_are_silent(self) -> None:
        """Each of their layers, and then each model, had its five seconds before it."""
        for read in (True, False):
            for models, layers in ((1, 1), (1, 30), (3, 10), (40, 1)):
                self.setUp()
                seconds = self.seconds_beside(models, layers, read=read)
                self.assertLess(seconds, FLOOR_SECONDS + 2.0, (models, layers))

    def test_pull_that_came_before_most_silent_ones_waits_for_seconds(self) -> None:
        """Each of forty had its five seconds."""
        for before in (0, 1, 3, 20, 39):
            self.setUp()
            silent = [self.scene(f"silent {at}") for at in range(40)]
            for scene in silent[:before]:
                self.drink(scene)
            healthy = self.scene("healthy")
            drinker = self.drink(healthy)
            for scene in silent[before:]:
                self.drink(scene)
            while not drinker.done:
                self.assertLess(self.clock.seconds(), 60.0, before)
                healthy.feed()
                self.clock.advance(TICK)

    def test_silent_models_take_half_of_the_time_at_most_from_one_that_comes(self) -> None:
        for at in range(40):
            self.drink(self.scene(f"silent {at}"))
        self.clock.pump([TICK] * 70)
        healthy = self.scene("healthy")
        drinker, began = self.drink(healthy), self.clock.seconds()
        while not drinker.done:
            self.assertLess(self.clock.seconds() - began, 40.0)
            for asked in healthy.source.open:
                asked.send(8_000) if asked.answered else asked.answer()  # 13 s without others.
            self.clock.advance(TICK)

    def test_at_a_host_that_answers_soon_silent_requests_have_less_time(self) -> None:
        self.pace.has_sent = self.pace.has_brought_much = True
        self.pace.headers_after(0.05)
        self.assertLess(self.seconds_beside(3, 10, read=True), 3 * FLOOR_SECONDS)

    def test_host_that_is_slow_to_answer_brings_all_layers(self) -> None:
        """Each was dropped after five seconds for another, for ever."""
        for delay in (6.0, 12.0, 25.0):
            self.setUp()
            scenes = [self.scene("slow") for _ in range(3)]
            drinkers = [self.drink(scene) for scene in scenes]
            while not all(drinker.done for drinker in drinkers):
                self.assertLess(self.clock.seconds(), 20 * delay)
                for at, scene in enumerate(scenes):
                    if drinkers[at].broken is not None:
                        drinkers[at] = self.drink(scene)  # As clients do.
                    for asked in scene.source.open:
                        fetch = next(iter(scene.fill.fetches))
                        if not asked.answered:
                            if self.clock.seconds() - fetch.began_at >= delay:
                                asked.answer()
                        else:
                            asked.send(MB // 10)
                self.clock.advance(TICK)

    def test_readers_of_a_silent_blob_are_told_however_many_others_wait(self) -> None:
        """It gave way again and again, which was neither a failure nor a silence."""
        silent = self.scene("silent")
        waits, healthy = self.drink(silent), self.scene("healthy")
        reads = self.drink(healthy)
        while waits.broken is None:
            self.assertLess(self.clock.seconds(), 70.0)
            if reads.done:
                healthy = self.scene("healthy")
                reads = self.drink(healthy)
            healthy.feed()
            self.clock.advance(0.5)

    def test_readers_of_blob_that_gave_way_and_has_no_turn_any_more_are_told(self) -> None:
        silent, other = self.scene("silent"), self.scene("other")
        waits = self.drink(silent)
        self.drink(other)
        for _ in range(2):
            began = self.clock.seconds()
            while waits.broken is None:
                self.assertLess(self.clock.seconds() - began, 40.0)
                for asked in other.source.open:
                    asked.send(1_500) if asked.answered else asked.answer()
                self.clock.advance(0.5)
            waits = self.drink(silent)

    def test_readers_of_blobs_that_drip_in_turn_are_told(self) -> None:
        """Each had brought something, and never had its turn for long."""
        scenes = [self.scene(f"drips {at}") for at in range(5)]
        drinkers = [self.drink(scene) for scene in scenes]
        while any(drinker.broken is None for drinker in drinkers):
            self.assertLess(self.clock.seconds(), 90.0)
            for asked in (asked for scene in scenes for asked in scene.source.open):
                if not asked.answered:
                    asked.answer()
                asked.send(1)
            self.clock.advance(0.5)

    def test_blob_of_which_bytes_come_again_does_not_come_last_any_more(self) -> None:
        stuck, other = self.scene("stuck"), self.scene("other")
        self.drink(stuck)
        self.drink(other)
        self.clock.pump([0.5] * 12)
        self.assertTrue(self.scheduler.hangs.are_last(stuck.fill.models))
        while not other.fill.coverage.plan.whole:
            other.feed()
            self.clock.advance(TICK)
        while not stuck.fill.coverage.plan.whole:
            stuck.feed()
            self.clock.advance(TICK)
        self.assertFalse(self.scheduler.hangs)


class SlowedTests(SynchronousTestCase):
    def test_requests_that_have_become_slow_do_not_hold_all_connections(self) -> None:
        """They were for what a quick host brings in seconds; of a slow one they lasted hours."""
        clock, pace = Clock(), HostPace()
        scheduler = FetchScheduler(clock, 4, 4)
        slowed, healthy = Scene(bytes(20 * MB), clock=clock), Scene(bytes(MB), clock=clock)
        for scene, model in ((slowed, "slowed"), (healthy, "healthy")):
            scene.scheduler, scene.source.pace_now = scheduler, pace
            scene.fill = scene.new_fill()
            scene.fill.models = {model: None}
        for part in range(4):
            Drinker(slowed, part * 5 * MB, 5 * MB + part * 5 * MB)

        def serve(scene: Scene, rate: float) -> None:
            for asked in scene.source.open:
                if not asked.answered:
                    asked.answer()
                else:
                    asked.send(int(rate * TICK))

        def least_left() -> int:
            left = [each.claim.end - each.claim.cursor for each in slowed.fill.fetches]
            return min(left) if len(left) == 4 else 0

        while least_left() < 100_000:  # A minute and more.
            self.assertLess(clock.seconds(), 10.0)
            serve(slowed, MB)
            clock.advance(TICK)
        drinker, began = Drinker(healthy, 0, MB), clock.seconds()
        while not drinker.done:
            serve(slowed, 1500)
            serve(healthy, MB)
            clock.advance(TICK)
            self.assertLess(clock.seconds() - began, 15.0)


class TrickleTests(SynchronousTestCase):
    """Readers of the whole of a small blob get nothing before the verdict."""

    def setUp(self) -> None:
        self.scene = Scene(content_of(300_000), clock=Clock())
        self.drinker = Drinker(self.scene, 0, 300_000)

    def serve(self, each: int, *, until: float, cut: bool = False) -> None:
        """All requests get so many bytes every half second."""
        while self.scene.clock.seconds() < until and self.drinker.broken is None:
            for asked in self.scene.source.open:
                if not asked.answered:
                    asked.answer()
                asked.send(each)
                if cut and asked.open:
                    asked.cut()
            self.scene.clock.advance(0.5)

    def test_readers_of_a_blob_that_drips_are_told(self) -> None:
        """They had nothing for hours."""
        for each, cut in ((1, False), (1, True)):
            self.setUp()
            self.serve(each, until=90.0, cut=cut)
            said = "the connection broke" if cut else "next to nothing"
            self.assertIn(said, str(self.drinker.broken))

    def test_readers_of_a_blob_of_which_some_bytes_never_come_are_told(self) -> None:
        """Each reply ended in its middle; that was taken for an outage, for a minute and more."""
        while self.drinker.broken is None:
            self.assertLess(self.scene.clock.seconds(), 45.0)
            for asked in self.scene.source.open:
                asked.answer()
                if len(asked.span) > 1:
                    asked.send(len(asked.span) // 2)
                asked.cut()
            self.scene.clock.advance(0.5)

    def test_outage_of_most_of_a_minute_breaks_no_reader(self) -> None:
        self.serve(20_000, until=1.0)
        while self.scene.clock.seconds() < 50.0:
            for asked in self.scene.source.open:
                if asked.answered:
                    asked.cut()
                else:
                    asked.refuse(SourceFailed("503"))
            self.scene.clock.advance(0.5)
        self.assertIsNone(self.drinker.broken)

    def test_blob_that_is_asked_for_again_has_its_time_again(self) -> None:
        self.serve(1, until=90.0)
        self.scene.clock.advance(100.0)
        began, self.drinker = self.scene.clock.seconds(), Drinker(self.scene, 0, 300_000)
        self.serve(1, until=began + 20.0)
        self.assertIsNone(self.drinker.broken)

    def test_blob_that_is_hopeless_at_one_place_is_asked_for_at_another(self) -> None:
        """Its readers were told, and had to come again, though another registry had it."""
        for each in (0, 1):  # silent, or dripping
            self.setUp()
            source, clock = self.scene.source, self.scene.clock
            source.elsewhere = [True]
            while source.elsewhere:
                self.assertLess(clock.seconds(), 32.0 if each else 6.0)
                for asked in source.open if each else ():
                    if not asked.answered:
                        asked.answer()
                    asked.send(each)
                clock.advance(0.5)
            self.scene.answer_all()
            self.assertEqual(self.drinker.got, self.scene.content)

    def test_other_registry_is_not_left_alone_because_one_asks_for_that(self) -> None:
        """Its model could not be pulled for an hour."""
        source = self.scene.source
        source.open[0].refuse(SourceFailed("429", 3600.0, busy=True))
        self.assertIsNotNone(self.drinker.broken)
        source.elsewhere = [True]
        self.scene.fill.also_in(NAME)
        self.drinker = Drinker(self.scene, 0, 300_000)
        while not self.drinker.done:
            self.assertLess(self.scene.clock.seconds(), 20.0)
            self.scene.feed()
            self.scene.clock.advance(0.5)

    def test_blob_that_keeps_failing_is_asked_for_elsewhere_before_clients_are_told(self) -> None:
        """The manifest of another registry's model said that the first one failed."""
        source, told = self.scene.source, []
        source.elsewhere = [True]
        self.scene.fill.first_word.wait().addCallback(told.append)
        while source.elsewhere:
            self.assertLess(self.scene.clock.seconds(), 20.0)
            for asked in source.open:
                asked.refuse(SourceFailed("500", broken=True))
            self.scene.clock.advance(0.5)
        self.assertFalse(self.scene.fill.tries.keep_failing)
        self.assertEqual(told, [])
        self.scene.answer_all()
        self.assertEqual(self.drinker.got, self.scene.content)

    def test_blob_on_a_slow_line_is_not_given_up(self) -> None:
        self.serve(64, until=90.0)
        self.assertIsNone(self.drinker.broken)

    def test_blob_is_not_given_up_for_what_our_disk_or_our_line_holds_back(self) -> None:
        self.serve(1, until=20.0)
        for fetch in self.scene.fill.fetches:
            fetch.pause()
        self.scene.clock.pump([0.5] * 200)
        self.assertIsNone(self.drinker.broken)


class HangsTests(SynchronousTestCase):
    def test_model_comes_last_for_longer_each_time(self) -> None:
        clock = Clock()
        hangs = Hangs(clock)
        for rests in (RESTS, 2 * RESTS, 4 * RESTS, RESTS_LONGEST, RESTS_LONGEST):
            hangs.gave_way(["m"])
            clock.advance(rests / 2)
            hangs.gave_way(["m"])  # Another of its blobs: that counts once.
            self.assertTrue(hangs.are_last(["m"]))
            clock.advance(rests / 2)
            self.assertFalse(hangs.are_last(["m"]))
        hangs.brought(["m"])
        self.assertFalse(hangs)

    def test_those_that_came_last_do_so_again_with_any_other(self) -> None:
        clock = Clock()
        hangs = Hangs(clock)
        hangs.gave_way(["one"])
        clock.advance(RESTS - 1)
        hangs.gave_way(["two"])
        clock.advance(RESTS - 1)
        self.assertTrue(hangs.are_last(["one"]))
        clock.advance(1)
        self.assertFalse(hangs.are_last(["one"]))

    def test_blob_comes_last_only_if_all_of_its_models_do(self) -> None:
        """A model that names another's blobs would have that one's come last, too."""
        hangs = Hangs(Clock())
        hangs.gave_way(["bad"])
        for models, are_last in ((["bad"], True), (["bad", "good"], False), (["good"], False)):
            self.assertIs(hangs.are_last(models), are_last)
