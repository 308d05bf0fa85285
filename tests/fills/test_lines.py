"""The simulated line does what a real one does: else what is tested over it says nothing."""

from __future__ import annotations

from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.lines import FIRST_WINDOW, PROMISED, SEGMENT, Flow, Line

TICK = 0.002
MBIT = 125_000


def carried(line: Line, seconds: float) -> float:
    """What all flows have received after so many seconds, as a share of what the line carries."""
    for _ in range(round(seconds / TICK)):
        line.advance(TICK)
    return sum(flow.arrived for flow in line.flows) / line.rate / seconds


class LineTests(SynchronousTestCase):
    def test_one_sender_takes_the_whole_line_and_fills_its_queue(self) -> None:
        line = Line(80 * MBIT, 0.02, 0.1)
        flow = line.join(Flow(wanted=inf))
        self.assertGreater(carried(line, 10.0), 0.95)
        self.assertGreater(max(line.waits), 0.095)
        self.assertLessEqual(max(line.waits), 0.1)
        self.assertGreater(flow.lost, 0)

    def test_a_window_bounds_the_queue_and_costs_nothing(self) -> None:
        line = Line(80 * MBIT, 0.02, 0.4)
        line.join(Flow(wanted=inf, window=line.rate * (line.base + 0.03)))
        self.assertGreater(carried(line, 10.0), 0.95)
        self.assertLess(max(line.waits), 0.035)

    def test_too_small_a_window_leaves_the_line_idle(self) -> None:
        line = Line(80 * MBIT, 0.1, 0.4)
        line.join(Flow(wanted=inf, window=line.rate * line.base / 2))
        self.assertLess(carried(line, 10.0), 0.55)
        self.assertEqual(line.flows[0].lost, 0)

    def test_a_receiver_takes_back_nothing_that_it_has_promised(self) -> None:
        line = Line(80 * MBIT, 0.02, 0.4)
        flow = line.join(Flow(wanted=inf))
        flow.window = SEGMENT
        most = 0.0
        while flow.arrived < PROMISED + SEGMENT:
            line.advance(TICK)
            most = max(most, flow.under_way)
        self.assertGreater(most, 2 * FIRST_WINDOW - SEGMENT)
        carried(line, 0.1)
        self.assertLessEqual(flow.under_way, SEGMENT)

    def test_alike_senders_get_alike_shares(self) -> None:
        line = Line(80 * MBIT, 0.02, 0.1)
        flows = [line.join(Flow(wanted=inf)) for _ in range(4)]
        carried(line, 20.0)
        shares = [flow.arrived for flow in flows]
        self.assertGreater(min(shares) / max(shares), 0.5, shares)

    def test_a_sender_that_is_slow_itself_queues_nothing(self) -> None:
        line = Line(80 * MBIT, 0.02, 0.4)
        line.join(Flow(each=20 * MBIT, wanted=inf))
        self.assertAlmostEqual(carried(line, 10.0), 0.25, 1)
        self.assertLess(max(line.waits), 0.006)

    @settings(max_examples=20)
    @given(
        st.floats(1, 100),
        st.floats(0.001, 0.2),
        st.floats(0.01, 0.5),
        st.lists(st.floats(0.01, 1), min_size=1, max_size=5),
    )
    def test_every_byte_arrives_once(
        self, rate: float, base: float, queue: float, seconds: list[float]
    ) -> None:
        line = Line(rate * MBIT, base, queue)
        sizes = [max(SEGMENT, int(each * line.rate)) for each in seconds]
        flows = [line.join(Flow(wanted=size)) for size in sizes]
        for _ in range(round(60 / TICK)):
            if all(abs(flow.wanted + flow.under_way) < 1 for flow in flows):
                break
            line.advance(TICK)
        for flow, size in zip(flows, sizes):
            self.assertLess(abs(flow.arrived - size), 2)
            self.assertGreaterEqual(flow.least, base - 1e-9)
