"""Pulls leave the line usable: no standing queue where the line is the limit, and no speed lost."""

from __future__ import annotations

from math import inf

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.lines import Flow, Line
from tests.fills.pulled_over_a_line import Daemon, pass_time
from yukari.net.useful import FIRST_TRIAL

MBIT = 125_000


def usual_wait(line: Line, part: float = 0.95) -> float:
    """The seconds of queueing that so many of the ticks do not exceed, from the first one on."""
    waits = sorted(line.waits)
    return waits[int(part * (len(waits) - 1))]


class OneDaemonTests(SynchronousTestCase):
    def pull(self, line: Line, seconds: float, parts: int) -> tuple[Daemon, float]:
        """A pull of what the line carries in so many seconds; how long it took."""
        daemon = Daemon(line, int(line.rate * seconds), parts)
        daemon.start()
        pass_time(line, [daemon], 10 * seconds)
        self.assertTrue(daemon.is_whole)
        return daemon, daemon.clock.seconds()

    def share(self, parts: int, seconds: float) -> float:
        """A pull's share of the bytes of a line whose queue another sender fills."""
        line = Line(80 * MBIT, 0.02, 0.2)
        other = Flow(wanted=inf)
        daemon = Daemon(line, int(line.rate * 100), parts)
        daemon.start()
        line.join(other)
        pass_time(line, [daemon], seconds)
        return daemon.got / (daemon.got + other.arrived)

    def test_a_reader_has_the_whole_line_and_a_short_queue(self) -> None:
        for rate, base, queue in ((20, 0.02, 0.4), (80, 0.008, 0.1), (80, 0.02, 0.4)):
            line = Line(rate * MBIT, base, queue)
            _, took = self.pull(line, 8.0, 16)
            cell = rate, base, queue
            self.assertLess(took, 8.0 * 1.05 + 10 * base, cell)
            self.assertLess(usual_wait(line), 0.08 if rate == 20 else 0.04, cell)

    def test_what_nobody_reads_queues_half_as_long(self) -> None:
        for rate, most in ((20, 0.04), (80, 0.02)):
            line = Line(rate * MBIT, 0.02, 0.4)
            daemon, took = self.pull(line, 8.0, 0)
            self.assertLess(took, 8.0 * 1.05 + 0.3, rate)
            self.assertLess(usual_wait(line), most, rate)
            self.assertLess(daemon.scene.source.pace_now.limit.useful.allowed, 16, rate)

    def test_a_line_that_is_far_is_filled_all_the_same(self) -> None:
        for base in (0.05, 0.1, 0.2):
            line = Line(80 * MBIT, base, 0.4)
            _, took = self.pull(line, 6.0, 16)
            # It doubles each round trip at first, and few connections grow into the rest.
            self.assertLess(took, 6.0 * 1.05 + 15 * base, base)

    def test_many_losses_count_as_a_queue_that_is_too_short_to_be_seen(self) -> None:
        """Connections that overflow it together were kept until the third second, all of them."""
        line = Line(80 * MBIT, 0.02, 0.002)
        daemon = Daemon(line, int(line.rate * 10), 0)
        daemon.start()
        pass_time(line, [daemon], FIRST_TRIAL)
        self.assertGreater(sum(flow.lost for flow in line.flows), 0)
        self.assertLess(daemon.scene.source.pace_now.limit.useful.allowed, 32)

    def test_what_nobody_reads_leaves_the_line_to_others(self) -> None:
        self.assertLess(self.share(parts=0, seconds=12.0), 0.2)

    def test_a_reader_is_not_crowded_out_by_a_sender_that_fills_the_queue(self) -> None:
        self.assertGreater(self.share(parts=16, seconds=20.0), 0.4)

    def test_slow_connections_are_bounded_by_nothing(self) -> None:
        seconds = []
        for tells in (False, True):
            line = Line(1000 * MBIT, 0.05, 0.1)
            daemon = Daemon(line, 200_000_000, 16, each=3_000_000, tells=tells)
            daemon.start()
            pass_time(line, [daemon], 10.0)
            seconds.append(daemon.clock.seconds())
            self.assertEqual({flow.window for flow in line.flows}, {inf})
        without, with_it = seconds
        # What is on its way doubles until there is no bound.
        self.assertLess(with_it, 1.02 * without + 3 * 0.05)

    def test_a_host_that_answers_late_has_all_its_connections_after_three_answers(self) -> None:
        """They became twice as many whenever a sum of bytes had come, from four on."""
        for parts in (1, 16):
            line = Line(8000 * MBIT, 0.004, 0.1)
            daemon = Daemon(line, 1_000_000_000, parts, each=20_000_000, latency=0.1)
            daemon.start()
            pass_time(line, [daemon], 3 * 0.12)
            self.assertGreater(daemon.most, 28, parts)

    def test_what_nobody_reads_has_all_connections_soon_if_they_are_the_limit(self) -> None:
        """Where they were far or late, four had the whole blob between them, to its end."""
        for latency, base in ((0.1, 0.004), (0.3, 0.1), (0.6, 0.004)):
            line = Line(8000 * MBIT, base, 0.1)
            daemon = Daemon(line, 1_000_000_000, 0, each=5_000_000, latency=latency)
            daemon.start()
            pass_time(line, [daemon], 1.5 + 10 * (base + latency))
            self.assertGreater(daemon.most, 28, (latency, base))


class TwoDaemonsTests(SynchronousTestCase):
    def test_two_readers_share_the_line(self) -> None:
        for late in (0.0, 5.0):
            line = Line(80 * MBIT, 0.02, 0.4)
            clock = Clock()
            size = int(line.rate * 100)
            one = Daemon(line, size, 16, clock=clock)
            other = Daemon(line, size, 16, clock=clock)
            one.start()
            pass_time(line, [one], late)
            other.start()
            before = one.got
            pass_time(line, [one, other], late + 20.0)
            share = other.got / (one.got - before + other.got)
            self.assertGreater(share, 0.3, late)
            self.assertLess(share, 0.7, late)
