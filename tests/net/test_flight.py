"""The bound on what is on its way: none without a queue, and with one as much as the line holds."""

from __future__ import annotations

from math import inf

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.net.flight import (
    AT_FIRST,
    AT_FIRST_UNREAD,
    DRAINED_SEGMENTS,
    LEAST_SEGMENTS,
    TARGET_READ,
    TARGET_UNREAD,
    Flight,
)
from yukari.net.tcp import Reading

SEGMENT = 1448


@define
class Line:
    """Connections over a line, whose senders have so much on its way as they may and want."""

    rate: float
    base: float
    connections: int = 8
    wants: float = 4e6
    """Bytes on their way that the senders come to without a bound."""
    others: float = 0.0
    """Seconds that others' bytes queue."""
    flight: Flight = field(factory=Flight)
    now: float = 50.0
    received: float = 0.0
    on_its_way: float = 1.0
    congestion: float = 50_000
    """What the senders would have on its way without a bound."""
    is_read: bool = True

    @property
    def round_trip(self) -> float:
        """Seconds, with the queue."""
        return max(self.base, self.on_its_way / self.rate) + self.others

    def run(self, seconds: float) -> None:
        """Let time pass."""
        ends = self.now + seconds
        while self.now < ends:
            tick = 0.05
            self.received += tick * min(self.rate, self.on_its_way / self.round_trip)
            self.now += tick
            if self.flight.is_due(self.now):
                each = Reading(
                    int(self.received / self.connections),
                    self.round_trip,
                    None,
                    self.base,
                    SEGMENT,
                )
                readings = dict.fromkeys(range(self.connections), each)
                window = self.flight.look(self.now, readings, is_read=self.is_read)
                allowed = inf if window is None else window * self.connections
                self.congestion = min(self.wants, 2 * self.congestion)
                self.on_its_way = min(allowed, self.congestion)
                if window is not None:
                    assert window >= DRAINED_SEGMENTS * SEGMENT


LINES = st.builds(Line, st.floats(1e6, 1e8), st.floats(0.0005, 0.2))


class FlightTests(SynchronousTestCase):
    @given(LINES, st.booleans())
    def test_the_queue_comes_to_the_target_and_the_line_stays_full(
        self, line: Line, is_read: bool
    ) -> None:
        line.is_read, line.wants = is_read, 10 * line.rate * (line.base + 0.4)
        line.run(5.0)
        target = TARGET_READ if is_read else TARGET_UNREAD
        least = line.connections * LEAST_SEGMENTS * SEGMENT / line.rate
        before, queues, began = line.received, [], line.now
        while line.now < began + 16.0:
            line.run(0.05)
            queues.append(line.round_trip - line.base)
        queues.sort()
        # One line in four hundred swings up to 1.8 times the target.
        bound = max(2 * target, least - line.base) + 8 * SEGMENT / line.rate
        self.assertLess(queues[int(0.95 * len(queues))], bound + 0.001, (line.rate, line.base))
        self.assertGreater(line.received - before, 0.85 * line.rate * 16.0)

    @given(LINES)
    def test_nothing_is_bounded_without_a_queue(self, line: Line) -> None:
        line.wants = line.rate * (line.base + TARGET_UNREAD / 2)
        line.run(20.0)
        self.assertEqual(line.flight.bound, inf)

    def test_the_bound_goes_when_the_senders_want_less(self) -> None:
        line = Line(1e7, 0.02)
        line.run(5.0)
        self.assertLess(line.flight.bound, inf)
        line.wants = 1e7 * 0.01
        line.run(15.0)
        self.assertEqual(line.flight.bound, inf)

    def test_what_nobody_reads_yields_to_others(self) -> None:
        line = Line(1e7, 0.02, is_read=False)
        line.run(5.0)
        line.others = 0.2
        line.run(10.0)
        self.assertLessEqual(line.on_its_way, line.connections * LEAST_SEGMENTS * SEGMENT)

    def test_a_reader_that_is_crowded_out_competes(self) -> None:
        line = Line(1e7, 0.02)
        line.run(5.0)
        line.others = 0.4
        seen = []
        for _ in range(100):
            line.run(0.1)
            seen.append(line.flight.bound)
        self.assertEqual(seen[-1], inf)

    def test_a_way_that_becomes_longer_is_not_taken_for_a_queue_for_ever(self) -> None:
        line = Line(1e7, 0.02)
        line.run(20.0)
        line.base = 0.12
        line.run(90.0)
        before = line.received
        line.run(10.0)
        self.assertGreater(line.received - before, 0.8 * 1e8)

    def test_a_moment_with_little_on_its_way_is_told_until_it_is_over(self) -> None:
        """Fewer connections on trial seemed to bring less because of it, and all came back."""
        line = Line(1e7, 0.02)
        line.run(5.0)
        full, steady = line.flight.bound, []
        for _ in range(160):
            line.run(0.05)
            steady.append(line.flight.is_steady)
            if line.flight.bound < full / 2:
                self.assertFalse(steady[-1])
        self.assertGreater(steady.count(False), 0)
        self.assertGreater(steady.count(True), 0.8 * len(steady))

    def test_the_first_look_after_a_while_compares_with_nothing(self) -> None:
        flight = Flight()
        reading = Reading(10**9, 0.5, None, 0.01, SEGMENT)
        self.assertEqual(flight.look(1000.0, {1: reading}, is_read=True), AT_FIRST)
        self.assertEqual(flight.rate, 0.0)

    def test_a_host_that_was_slow_before_a_long_pause_is_as_fast_as_one_that_is_new(self) -> None:
        """Its bound grew by a quarter each round trip, from next to nothing."""
        received = []
        for slow in (0.0, 20.0):
            line = Line(40_000.0, 0.02, wants=4e7)
            line.run(slow)
            line.now += 60.0
            line.rate, line.base, before = 50e6, 0.1, line.received
            line.congestion = 500_000
            line.run(1.5)
            received.append(line.received - before)
        new, known = received
        self.assertGreater(known, 0.9 * new)

    def test_connections_that_bring_nothing_are_not_counted(self) -> None:
        flight = Flight()
        for now in (10.0, 10.5):
            received = int(1e6 * (now - 10.0))
            readings = {
                1: Reading(received, 0.5, None, 0.01, SEGMENT),
                2: Reading(77, 0.02, None, 0.02, SEGMENT),
            }
            window = flight.look(now, readings, is_read=True)
        assert window is not None
        self.assertEqual(flight.trips.now, 0.5)
        # The line's million bytes a second times 35 ms, for the other one alone.
        self.assertEqual(window, 35_000)

    def test_few_bytes_are_on_their_way_at_first_until_a_reader_waits(self) -> None:
        flight = Flight()
        self.assertEqual(flight.share(), AT_FIRST_UNREAD)
        flight.waited_for()
        self.assertEqual(flight.share(), AT_FIRST)
        line = Line(1e6, 0.02)
        line.run(2.0)
        known = line.flight.bound
        line.flight.waited_for()
        self.assertEqual(line.flight.bound, known)

    def test_without_readers_a_queue_at_first_is_one_that_a_request_has_shown(self) -> None:
        """A host that sends by fits and starts got four connections for a whole pull."""
        for shown, is_read, queues in (
            (0.01, False, False),
            (0.5, False, True),
            (None, False, False),
            (None, True, True),
        ):
            flight = Flight()
            for at in range(3):
                received = 100_000 + 50_000 * at
                reading = Reading(received, 0.5, shown and shown + at / 1e6, 0.01, SEGMENT)
                flight.look(10.0 + at / 10, {1: reading}, is_read=is_read)
            self.assertEqual(flight.queues, queues, (shown, is_read))
            self.assertEqual(flight.wants_proof, shown is None and not queues)

    def test_what_no_request_shows_is_a_queue_after_a_while(self) -> None:
        line = Line(1e6, 0.02, is_read=False)
        line.run(1.0)
        self.assertTrue(line.flight.queues)
