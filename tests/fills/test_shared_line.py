"""Clients of one blob over a bounded line: no part waits as long as any client's patience."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import Scene
from tests.fills.test_fill import Drinker
from yukari.fills.pace import SECONDS_SHARED, HostPace
from yukari.rates import Line

PATIENCE = 5.0
"""Seconds of the clock after which the strictest client gives a part up."""
EACH = 8000
"""Bytes a second of the line for each part and connection at least, as the README says."""
TICK = 0.01


def longest_wait(rate: int, parts: int, size: int, late: float = 0.0) -> tuple[float, float]:
    """
    The longest that one of the parts waited for its first or its next byte, and how long they all
    took, in seconds of the clock; clients come when the blob has been on its way ``late`` seconds.
    """
    scene = Scene(bytes(size), per_blob=32, in_all=64)
    line = scene.crew.line = scene.source.line = Line(rate, scene.clock, 64)
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
    @settings(max_examples=40)  # each takes a tenth of a second
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
