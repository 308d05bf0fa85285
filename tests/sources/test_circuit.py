"""When upstream is asked, and when its last failure is the answer."""

from traceback import walk_tb

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from yukari.errors import RegistryError, upstream_unreachable
from yukari.names import Repository
from yukari.sources.circuit import (
    FAILURES,
    REST_FIRST,
    REST_LONGEST,
    Circuit,
    Circuits,
    Reachability,
)


class CircuitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.circuit = Circuit(self.clock)

    def fail_times(self, times: int) -> None:
        for at in range(times):
            self.circuit.failed(upstream_unreachable(f"failure {at}"))

    def test_a_few_failures_do_not_open_it(self) -> None:
        self.fail_times(FAILURES - 1)
        self.circuit.enter()

    def test_open_it_answers_with_the_last_failure(self) -> None:
        self.fail_times(FAILURES)
        error = self.assertRaises(RegistryError, self.circuit.enter)
        self.assertEqual(error.message, f"failure {FAILURES - 1}")

    def test_answering_with_it_over_and_over_gathers_nothing(self) -> None:
        """An exception that is raised again keeps the frames of each time."""
        self.fail_times(FAILURES)
        for _ in range(100):
            error = self.assertRaises(RegistryError, self.circuit.enter)
        self.assertLess(len(list(walk_tb(error.__traceback__))), 10)

    def test_after_a_rest_one_at_a_time_may_try(self) -> None:
        self.fail_times(FAILURES)
        self.clock.advance(REST_FIRST)
        self.circuit.enter()
        self.assertRaises(RegistryError, self.circuit.enter)

    def test_a_probe_that_succeeds_closes_it(self) -> None:
        self.fail_times(FAILURES)
        self.clock.advance(REST_FIRST)
        self.circuit.enter()
        self.circuit.succeeded()
        self.circuit.enter()
        self.circuit.enter()

    def test_a_probe_that_was_given_up_leaves_room_for_the_next(self) -> None:
        self.fail_times(FAILURES)
        self.clock.advance(REST_FIRST)
        self.circuit.enter()
        self.circuit.left()
        self.circuit.enter()

    def test_rests_grow_to_a_bound(self) -> None:
        rests = []
        self.fail_times(FAILURES)
        for _ in range(12):
            rest = 0.0
            while True:
                try:
                    self.circuit.enter()
                    break
                except RegistryError:
                    self.clock.advance(0.5)
                    rest += 0.5
            rests.append(rest)
            self.fail_times(1)
        self.assertEqual(rests, sorted(rests))
        self.assertEqual((rests[0], rests[-1]), (REST_FIRST, REST_LONGEST))


class CircuitsTests(SynchronousTestCase):
    def test_a_wish_to_wait_is_shown_until_it_ends_or_is_taken_back(self) -> None:
        clock = Clock()
        circuits = Circuits(clock)
        self.assertEqual(circuits.state.wait, 0.0)
        circuits.asked_to_wait(60.0)
        clock.advance(20.0)
        self.assertEqual(circuits.state, Reachability(wait=40.0))
        clock.advance(50.0)
        self.assertEqual(circuits.state.wait, 0.0)
        circuits.asked_to_wait(60.0)
        circuits.asked_to_wait(0.0)
        self.assertEqual(circuits.state.wait, 0.0)

    def test_a_connection_without_a_reply_is_no_answer(self) -> None:
        circuits, name = Circuits(Clock()), Repository.parse("library/m")
        circuits.failed(name, upstream_unreachable("no reply"))
        self.assertFalse(circuits.state.answered)
        circuits.succeeded(name)
        circuits.failed(name, upstream_unreachable("no reply"))
        self.assertTrue(circuits.state.answered)
