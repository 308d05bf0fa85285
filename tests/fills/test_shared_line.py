"""Clients over a line that is the limit: no part waits as long as any client's patience."""

from __future__ import annotations

from math import inf

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import Asked, Scene
from tests.fills.test_fill import Drinker
from yukari.fills.scheduler import FetchScheduler
from yukari.net.budget import HostLimit
from yukari.net.throttle import Line
from yukari.net.useful import LEAST, Useful
from yukari.sources.pace import SECONDS_SHARED, HostPace

PATIENCE = 5.0
"""Seconds of the clock after which the strictest client gives a part up."""
EACH = 8000
"""Bytes a second of the line for each part and connection at least, as the README says."""
TICK = 0.01
COARSE_TICK = 0.02


def longest_wait(rate: int, parts: int, size: int, late: float = 0.0) -> tuple[float, float]:
    """
    The longest that one of the parts waited for its first or its next byte, and how long they all
    took, in seconds of the clock; clients come when the blob has been on its way ``late`` seconds.
    """
    scene = Scene(bytes(size), per_blob=32, in_all=64)
    line = scene.scheduler.line = scene.source.line = Line(rate, scene.clock, 64)
    scene.source.pace_now = HostPace(line.rate / line.most)
    scene.fill.start()
    drinkers: list[Drinker] = []
    moved = [(0, 0.0)] * parts
    longest = 0.0
    came = None
    while not drinkers or not all(drinker.done for drinker in drinkers):
        now = scene.clock.seconds()
        if came is None and now >= late:
            came = now
            step = size // parts
            drinkers = [Drinker(scene, at * step, (at + 1) * step) for at in range(parts)]
            moved = [(drinker.at, now) for drinker in drinkers]
        for asked in scene.source.open:
            if not asked.answered:
                asked.answer()
            elif not asked.transport.paused:
                asked.send(line.share_of(line.most))
        scene.clock.advance(TICK)
        now = scene.clock.seconds()
        for number, drinker in enumerate(drinkers):
            at, since = moved[number]
            if not drinker.done:
                longest = max(longest, now - since)
            if drinker.at > at:
                moved[number] = drinker.at, now
        if now > 10 * size / rate + 60:
            raise AssertionError("it does not end")
    assert came is not None
    return longest, scene.clock.seconds() - came


class SharedLineTests(SynchronousTestCase):
    @settings(max_examples=25)  # each takes a quarter of a second
    @given(
        st.sampled_from([0, 250_000, 1_000_000, 2_000_000, 20_000_000]),
        st.integers(1, 64),
        st.floats(0, 0.9),
    )
    def test_no_part_waits_long(self, rate: int, parts: int, there: float) -> None:
        rate = max(rate, EACH * max(parts, 32))
        size = min(20_000_000, rate * 8)
        late = there * size / rate
        longest, took = longest_wait(rate, parts, size, late)
        self.assertLess(longest, PATIENCE)
        # All of the line is used, but for what a last request or two waits for.
        self.assertLess(late + took, size / rate * 1.05 + 0.5)

    def test_a_line_of_two_megabytes_keeps_64_parts_waiting_no_longer_than_a_round(self) -> None:
        for late in (0.0, 1.0, 3.0):
            longest, _ = longest_wait(2_000_000, 64, 16_000_000, late)
            self.assertLess(longest, SECONDS_SHARED)


@define(eq=False)
class Network:
    """
    What upstream's line does by itself: ``rate`` bytes a second in fair shares, none above ``each``
    (bytes a second of a connection), and answers after ``latency`` seconds.
    """

    rate: float
    latency: float
    each: float = inf
    _asked_at: dict[Asked, float] = field(factory=dict)
    _left: dict[Asked, float] = field(factory=dict)

    def pass_on(self, requests: list[Asked], now: float, seconds: float) -> None:
        """So much time has gone by."""
        for asked in requests:
            if now - self._asked_at.setdefault(asked, now) >= self.latency and not asked.answered:
                asked.answer()
        sending = [asked for asked in requests if asked.answered and not asked.transport.paused]
        for asked in sending:
            share = min(self.each, self.rate / len(sending)) * seconds
            count = int(share + self._left.get(asked, 0.0))
            self._left[asked] = share + self._left.get(asked, 0.0) - count
            if count and asked.open:
                asked.send(count)


def waits_of_layers(
    network: Network, layers: int, parts: int, seconds: float = 9.0, apart: float = 0.0
) -> float:
    """
    The longest that a part of any of several layers waited for a byte, where clients come to one
    after the other, ``apart`` seconds; each layer is ``seconds`` of the line, over all of them.
    """
    clock, pace = Clock(), HostPace()
    scheduler = FetchScheduler(clock, 32, 64)
    size = int(min(network.rate, 64 * network.each) * seconds / layers)
    scenes = [Scene(bytes(size + layer), clock=clock) for layer in range(layers)]
    drinkers: list[Drinker] = []
    moved: dict[Drinker, tuple[int, float]] = {}
    longest = 0.0
    for scene in scenes:
        scene.scheduler, scene.source.pace_now = scheduler, pace
        scene.fill = scene.new_fill()
    while len(drinkers) < layers * parts or not all(drinker.done for drinker in drinkers):
        now = clock.seconds()
        if len(drinkers) < layers * parts and now >= len(drinkers) // parts * apart:
            scene, step = scenes[len(drinkers) // parts], size // parts
            came = [Drinker(scene, at * step, (at + 1) * step) for at in range(parts)]
            drinkers += came
            moved.update((drinker, (drinker.at, now)) for drinker in came)
        network.pass_on(
            [asked for scene in scenes for asked in scene.source.open], now, COARSE_TICK
        )
        clock.advance(COARSE_TICK)
        for drinker in drinkers:
            at, since = moved[drinker]
            if not drinker.done:
                longest = max(longest, clock.seconds() - since)
            if drinker.at > at:
                moved[drinker] = drinker.at, clock.seconds()
        if now > 3 * seconds + layers * apart:
            raise AssertionError("it does not end")
    for scene in scenes:
        if sum(map(len, scene.source.sent)) > size + layers:
            raise AssertionError("bytes came twice")
    return longest


class UnknownLineTests(SynchronousTestCase):
    """Pulls over a line whose rate is not known."""

    def test_layers_that_come_at_once_keep_each_other_waiting_for_less_than_three_seconds(
        self,
    ) -> None:
        for rate, latency in ((500_000, 0.02), (2_000_000, 0.1)):
            longest = waits_of_layers(Network(rate, latency), layers=3, parts=64)
            self.assertLess(longest, 3.0, (rate, latency))

    def test_a_part_does_not_wait_for_the_turns_of_work_ahead(self) -> None:
        for rate in (500_000, 2_000_000):
            longest = waits_of_layers(Network(rate, 0.1), layers=1, parts=4)
            self.assertLess(longest, 0.5, rate)

    def test_a_layer_that_comes_later_does_not_wait_for_those_before_it(self) -> None:
        longest = waits_of_layers(Network(2_000_000, 0.1), layers=3, parts=16, apart=3.1)
        self.assertLess(longest, 1.0)

    def test_small_blob_does_not_wait_for_a_turn_of_a_large_one(self) -> None:
        """
        While the host had more requests than are of use, none began until enough had ended: on a
        line of 40 kB a second a config came after three seconds.
        """
        clock, pace = Clock(), HostPace(limit=HostLimit(Useful(LEAST)))
        network, scheduler = Network(40_000, 0.05), FetchScheduler(clock, 32, 64)
        large, small = scenes = [Scene(bytes(size), clock=clock) for size in (2_000_000, 500)]
        for scene in scenes:
            scene.scheduler, scene.source.pace_now = scheduler, pace
            scene.fill = scene.new_fill()
        for at in range(0, 2_000_000, 125_000):
            Drinker(large, at, at + 125_000)
        reading = None
        while reading is None or not reading.done:
            if reading is None and pace.limit.active > 16 > pace.limit.useful.allowed:
                reading, since = Drinker(small, 0, 500), clock.seconds()
            requests = [asked for scene in scenes for asked in scene.source.open]
            network.pass_on(requests, clock.seconds(), COARSE_TICK)
            clock.advance(COARSE_TICK)
        self.assertLess(clock.seconds() - since, 1.0)

    def test_connections_that_are_slow_each_keep_nobody_waiting(self) -> None:
        network = Network(inf, 0.1, each=50_000)
        self.assertLess(waits_of_layers(network, layers=3, parts=16), 1.0)
