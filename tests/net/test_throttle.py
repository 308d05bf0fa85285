"""A shared line keeps its rate, serves everyone in turn, and never stops."""

from __future__ import annotations

from math import inf
from typing import Any, Optional

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from yukari.net.throttle import BURST, LARGE, LEAST, ROUND, YIELDED, Bucket, Line, Lines, Taker

RATES = st.integers(64_000, 2_000_000_000)


class Socket:
    """Takes from a line as a socket does: ``chunk`` bytes at a time, held or not."""

    def __init__(self, clock: Clock, line: Line, chunk: int, *, yields: bool = False) -> None:
        self.clock = clock
        self.chunk = chunk
        self.took = 0
        self.longest = 0.0
        self.last = clock.seconds()
        self.running = True
        self.yields = yields
        self.taker: Taker = line.join(self._hold, self._release, lambda: self.yields)

    def _hold(self) -> None:
        self.running = False

    def _release(self) -> None:
        self.running = True

    def turn(self, most: Optional[int] = None) -> None:
        """Do one round of the reactor, with ``most`` bytes ready."""
        if self.running:
            now = self.clock.seconds()
            self.longest = max(self.longest, now - self.last)
            self.last = now
            count = self.chunk if most is None else most
            self.took += count
            self.taker.took(count)


def run(clock: Clock, seconds: float, *sockets: Socket, step: float = 0.005) -> None:
    for _ in range(round(seconds / step)):
        for socket in sockets:
            socket.turn()
        clock.advance(step)


class BucketTests(SynchronousTestCase):
    @given(RATES, st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), max_size=30))
    def test_it_never_gives_more_than_its_rate_and_its_burst(
        self, rate: int, steps: list[tuple[float, float]]
    ) -> None:
        bucket = Bucket(rate, rate * BURST)
        now = taken = 0.0
        for wait, part in steps:
            now += wait
            count = max(0.0, bucket.level(now)) * part
            bucket.take(count)
            taken += count
            self.assertLessEqual(taken, rate * (now + BURST) * (1 + 1e-9))

    @given(RATES, st.floats(0, 100))
    def test_after_its_wait_there_is_no_debt(self, rate: int, seconds: float) -> None:
        bucket = Bucket(rate, rate * BURST)
        bucket.take(rate * (seconds + BURST))
        wait = bucket.wait(0.0)
        self.assertAlmostEqual(wait, seconds, places=6)
        self.assertGreaterEqual(bucket.level(wait + 1e-6), 0)

    def test_a_clock_that_steps_back_gives_nothing_twice(self) -> None:
        bucket = Bucket(100, 10)
        bucket.take(110)
        self.assertEqual([bucket.level(now) for now in (1.0, 0.0, 1.0)], [0.0, 0.0, 0.0])


class LineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def sockets(self, line: Line, count: int, **keywords: Any) -> list[Socket]:
        chunk = min(256 * 1024, line.share_of(count))
        return [Socket(self.clock, line, chunk, **keywords) for _ in range(count)]

    @given(RATES, st.integers(1, 64))
    def test_the_rate_is_kept_and_shared_and_nobody_waits_long(self, rate: int, count: int) -> None:
        self.clock = Clock()
        line = Line(rate, self.clock)
        sockets = self.sockets(line, count)
        run(self.clock, 12.0, *sockets)
        took = [socket.took for socket in sockets]
        # Beyond the rate, a share each may be used up already, and a read more.
        allowed = rate * (12.0 + BURST) + line.share_of(1) + count * sockets[0].chunk
        allowed += count * line.share_of(count)
        self.assertLessEqual(sum(took), allowed)
        # A socket that has 256 KiB each 5 ms is no faster.
        possible = min(rate, count * sockets[0].chunk / 0.005)
        self.assertGreater(sum(took), possible * 12.0 * 0.9)
        # The first taker was given the share of a single one.
        tolerated = line.share_of(1) + 3 * (line.share_of(count) + sockets[0].chunk)
        self.assertLessEqual(max(took) - min(took), tolerated + sum(took) / count * 0.1)
        turn = max(ROUND, count * LEAST / rate)
        self.assertLess(max(socket.longest for socket in sockets), 3 * turn)

    @given(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 10**6), st.floats(0, 1))))
    def test_a_held_taker_is_always_released(self, steps: list[tuple[int, int, float]]) -> None:
        clock = Clock()
        line = Line(1_000_000, clock)
        sockets = [Socket(clock, line, 1) for _ in range(6)]
        for who, count, wait in steps:
            if who < len(sockets):
                sockets[who].turn(count)
            elif sockets:
                sockets.pop().taker.end()
            clock.advance(wait)
        for _ in range(1000):
            clock.advance(0.1)
        self.assertTrue(all(socket.running for socket in sockets))
        for socket in sockets:
            socket.taker.end()
        self.assertFalse(clock.getDelayedCalls())

    def test_a_large_take_is_followed_by_a_longer_wait(self) -> None:
        line = Line(1_000_000, self.clock)
        large, small = Socket(self.clock, line, 500_000), Socket(self.clock, line, 10_000)
        run(self.clock, 60.0, large, small)
        self.assertLess(abs(large.took - small.took), 1_500_000)

    def test_unused_shares_go_to_others(self) -> None:
        line = Line(1_000_000, self.clock)
        busy, *_ = self.sockets(line, 10)
        run(self.clock, 10.0, busy)
        self.assertGreater(busy.took, 9_000_000)

    def test_another_rate_counts_from_then_on(self) -> None:
        line = Line(1_000_000, self.clock)
        sockets = self.sockets(line, 4)
        run(self.clock, 10.0, *sockets)
        before = sum(each.took for each in sockets)
        line.change(4_000_000)
        run(self.clock, 10.0, *sockets)
        took = sum(each.took for each in sockets) - before
        self.assertLess(abs(took - 40_000_000), 4_000_000)

    def test_a_yielding_taker_gets_the_rest_and_does_not_starve(self) -> None:
        line = Line(1_000_000, self.clock)
        busy, ahead = self.sockets(line, 4), self.sockets(line, 4, yields=True)
        run(self.clock, 40.0, *busy, *ahead)
        self.assertTrue(line.is_short)
        self.assertLess(sum(each.took for each in ahead), 0.15 * sum(each.took for each in busy))
        self.assertLess(max(each.longest for each in ahead), YIELDED + 3 * ROUND)
        before = [each.took for each in ahead]
        for each in busy:
            each.taker.end()
        self.clock.advance(1.0)
        self.assertFalse(line.is_short)
        run(self.clock, 10.0, *ahead)
        self.assertGreater(sum(each.took for each in ahead) - sum(before), 9_000_000)

    def test_a_taker_that_stops_yielding_gets_its_turn_at_once(self) -> None:
        line = Line(1_000_000, self.clock)
        busy, ahead = self.sockets(line, 4), self.sockets(line, 1, yields=True)
        run(self.clock, 5.0, *busy, *ahead)
        before = ahead[0].took
        ahead[0].yields = False
        run(self.clock, 10.0, *busy, *ahead)
        self.assertGreater(ahead[0].took - before, 10_000_000 / 5 * 0.8)

    def test_the_rest_of_a_share_is_given_back(self) -> None:
        line = Line(1_000_000, self.clock)
        for _ in range(100):
            (one,) = self.sockets(line, 1)
            self.assertTrue(one.running)
            one.turn(10)
            one.taker.end()
            one.taker.end()
        self.assertFalse(self.clock.getDelayedCalls())

    def test_short_takers_one_after_the_other_keep_to_the_rate(self) -> None:
        line = Line(1_000_000, self.clock)
        took = 0
        for _ in range(2000):
            (one,) = self.sockets(line, 1)
            one.turn(50_000)
            took += one.took
            one.taker.end()
            self.clock.advance(0.005)
        self.assertLess(took, 1_000_000 * 10 * 1.05 + LARGE)
        self.assertGreater(took, 1_000_000 * 10 * 0.5)


class HourTests(SynchronousTestCase):
    """A line whose rate differs by the hour."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.rate = inf
        self.line = Line(inf, self.clock, 4)
        self.line.follow(lambda: self.rate, 100_000)
        self.sockets = [Socket(self.clock, self.line, 5000) for _ in range(4)]

    def took(self, seconds: float) -> int:
        before = sum(socket.took for socket in self.sockets)
        run(self.clock, seconds, *self.sockets)
        return sum(socket.took for socket in self.sockets) - before

    def test_nothing_is_held_while_there_is_no_bound(self) -> None:
        self.assertEqual(self.took(2.0), 4 * 5000 * 400)

    def test_those_who_take_are_bounded_as_soon_as_there_is_a_rate(self) -> None:
        self.took(2.0)
        self.rate = 200_000
        self.took(1.0)
        self.assertLess(self.took(5.0), 1_300_000)
        self.assertGreater(self.took(5.0), 900_000)

    def test_those_who_wait_go_on_when_the_bound_goes(self) -> None:
        self.rate = 200_000
        self.took(5.0)
        self.rate = inf
        self.took(2.0)
        self.assertEqual(self.took(1.0), 4 * 5000 * 200)

    def test_reads_are_as_short_as_the_lowest_rate_wants_them(self) -> None:
        self.assertEqual(self.line.smallest_share, int(100_000 * ROUND / 4))
        self.assertEqual(Line(inf, self.clock, 4).smallest_share, LARGE)


class LinesTests(SynchronousTestCase):
    def test_each_has_the_rate_for_itself_however_many_connections_it_has(self) -> None:
        clock = Clock()
        lines = Lines(1_000_000, clock)
        running: dict[str, list[bool]] = {"a": [], "b": []}
        takers = {
            who: [lines.join(who, lambda: None, lambda: None) for _ in range(count)]
            for who, count in (("a", 16), ("b", 1))
        }
        took = dict.fromkeys(running, 0)
        for _ in range(2000):
            for who, mine in takers.items():
                for taker in mine:
                    if not taker.held:
                        taker.took(10_000)
                        took[who] += 10_000
            clock.advance(0.005)
        for who in took:
            self.assertLess(abs(took[who] - 10_000_000), 1_500_000, who)

    def test_each_of_many_connections_gets_something_every_second(self) -> None:
        clock = Clock()
        line = Line(1_000_000, clock)
        sockets = [Socket(clock, line, line.share_of(48)) for _ in range(48)]
        run(clock, 10.0, *sockets)
        self.assertLess(max(socket.longest for socket in sockets), 1.0)

    def test_another_rate_is_that_of_every_client(self) -> None:
        clock = Clock()
        lines = Lines(1_000_000, clock)
        known = lines.join("a", lambda: None, lambda: None)
        lines.change(2_000_000)
        new = lines.join("b", lambda: None, lambda: None)
        self.assertEqual([each._line.rate for each in (known, new)], [2_000_000] * 2)

    def test_a_returning_client_still_has_its_debt(self) -> None:
        clock = Clock()
        lines = Lines(1_000_000, clock)
        taker = lines.join("a", lambda: None, lambda: None)
        taker.took(3_000_000)
        taker.end()
        lines.join("b", lambda: None, lambda: None)
        self.assertTrue(lines.join("a", lambda: None, lambda: None).held)

    def test_a_client_without_debt_is_forgotten(self) -> None:
        clock = Clock()
        lines = Lines(1_000_000, clock)
        for number in range(1000):
            taker = lines.join(number, lambda: None, lambda: None)
            taker.took(1000)
            taker.end()
            clock.advance(1.0)
        self.assertLess(len(lines._lines), 3)
