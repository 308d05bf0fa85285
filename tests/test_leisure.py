"""Work in the background that gives way to requests."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.ending import begin
from yukari.leisure import LONGEST, QUIET, STEP, Leisure


class LeisureTests(SynchronousTestCase):
    """How long a rest is, after a second's slice."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.own = self.others = 0.0
        self.leisure = Leisure(self.clock, lambda: (self.own, self.others))

    def rested(self, busy: float, *, others: float = 1.0, until: float = 1e9) -> float:
        """
        Seconds of the rest, while the reactor's thread is ``busy`` for that part of the time.

        In the slice the other threads used so much CPU; at ``until`` the reactor becomes idle.
        """
        self.leisure.begin()
        self.clock.advance(1.0)
        self.own, self.others = self.own + 1.0, self.others + others
        began = self.clock.seconds()
        resting = begin(self, self.leisure.rest())
        while not resting.called:
            (call,) = self.clock.getDelayedCalls()
            step = call.getTime() - self.clock.seconds()
            self.own += step * busy if self.clock.seconds() - began < until else 0.0
            self.clock.advance(step)
        return self.clock.seconds() - began

    def test_rest_is_short_while_the_reactor_is_idle(self) -> None:
        self.assertAlmostEqual(self.rested(0.1), STEP)

    def test_busy_reactor_leaves_a_twentieth_of_the_time(self) -> None:
        self.assertAlmostEqual(self.rested(0.9), LONGEST)

    def test_rest_ends_soon_after_the_reactor_becomes_idle(self) -> None:
        """A look at 100,000 models is not held up by a moment's requests."""
        rested = self.rested(0.9, until=0.5)
        self.assertGreater(rested, 0.5)
        self.assertLess(rested, 2.5)

    def test_slice_that_waited_for_a_bucket_needs_no_rest(self) -> None:
        self.assertAlmostEqual(self.rested(0.9, others=0.01), 0.01 * LONGEST)

    def test_threads_that_work_beside_the_slice_do_not_lengthen_the_rest(self) -> None:
        self.assertAlmostEqual(self.rested(0.9, others=4.0), LONGEST)

    def test_work_is_alone_a_moment_after_the_last_request(self) -> None:
        requests = 5
        leisure = Leisure(self.clock, requests=lambda: requests)
        self.assertFalse(leisure.is_alone())
        self.clock.advance(QUIET)
        self.assertTrue(leisure.is_alone())
        requests += 1
        self.assertFalse(leisure.is_alone())
