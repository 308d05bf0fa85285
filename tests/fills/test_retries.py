"""What follows from requests that fail, whatever happened before."""

from __future__ import annotations

from typing import Optional

from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.fills.retries import (
    BACKOFF,
    LONGEST_BACKOFF,
    PATIENCE,
    PATIENCE_AT_FIRST,
    SILENCE,
    RetryState,
)
from yukari.sources.base import SourceFailed

MOST = 8
SPREAD = 1.25


@frozen
class Failure:
    """A request that began ``took`` seconds before it failed."""

    took: float
    brought: bool = False
    retry_after: Optional[float] = None
    busy: bool = False
    others: int = 0

    def tell(self, tries: RetryState, now: float) -> float:
        error = SourceFailed("broken", self.retry_after, busy=self.busy)
        began = now - self.took
        return tries.failed(error, now, began=began, brought=self.brought, others=self.others)


def failures() -> st.SearchStrategy[Failure]:
    return st.builds(
        Failure,
        st.floats(0, 100),
        st.booleans(),
        st.none() | st.floats(0, 100),
        st.booleans(),
        st.integers(0, MOST - 1),
    )


class FailedTests(SynchronousTestCase):
    @given(st.lists(st.tuples(st.floats(0, 100), failures()), max_size=20))
    def test_no_request_begins_before_upstream_wishes(
        self, history: list[tuple[float, Failure]]
    ) -> None:
        tries, now = RetryState(MOST), 0.0
        for passed, failure in history:
            now += passed
            delay = failure.tell(tries, now)
            self.assertGreaterEqual(tries.not_before, now + (failure.retry_after or 0.0))
            self.assertLessEqual(delay, max(LONGEST_BACKOFF * SPREAD, failure.retry_after or 0.0))
            self.assertTrue(1 <= tries.cap <= MOST)
            if failure.retry_after is not None:
                tries.begin_anew()
                self.assertGreaterEqual(tries.not_before, now + failure.retry_after)

    def test_those_that_were_under_way_together_count_once(self) -> None:
        tries = RetryState(MOST)
        for _ in range(MOST):
            self.assertLessEqual(Failure(took=1.0).tell(tries, 100.0), BACKOFF * SPREAD)
        self.assertGreater(Failure(took=1.0).tell(tries, 102.0), BACKOFF * SPREAD)

    def test_one_that_brought_something_is_tried_again_soon(self) -> None:
        tries = RetryState(MOST)
        for now in range(0, 100, 10):
            delay = Failure(took=1.0, brought=True).tell(tries, now)
            self.assertLessEqual(delay, BACKOFF * SPREAD)
            self.assertFalse(tries.are_failing)

    def test_a_busy_source_is_asked_half_as_much_until_it_goes_well(self) -> None:
        tries = RetryState(MOST)
        Failure(took=1.0, busy=True, others=MOST - 1).tell(tries, 100.0)
        self.assertEqual(tries.cap, MOST // 2)
        for _ in range(MOST):
            tries.succeeded()
        self.assertEqual(tries.cap, MOST)


class PatienceTests(SynchronousTestCase):
    def test_patience_is_short_until_the_first_byte_and_longer_from_then_on(self) -> None:
        for came, patience in ((False, PATIENCE_AT_FIRST), (True, PATIENCE)):
            tries = RetryState(MOST)
            tries.begin(100.0)
            if came:
                tries.came(100.0)
            self.assertFalse(tries.are_hopeless(1e6), "nothing has failed")
            Failure(took=0.0).tell(tries, 100.0)
            self.assertFalse(tries.are_hopeless(100.0 + patience - 1))
            self.assertTrue(tries.are_hopeless(100.0 + patience))

    def test_waiting_as_upstream_wishes_does_not_try_it(self) -> None:
        tries = RetryState(MOST)
        tries.begin(100.0)
        delay = Failure(took=0.0, retry_after=50.0).tell(tries, 100.0)
        self.assertFalse(tries.are_hopeless(100.0 + delay))
        self.assertTrue(tries.are_hopeless(100.0 + delay + PATIENCE_AT_FIRST))

    def test_silence_is_borne_longer_each_time_until_something_comes(self) -> None:
        tries = RetryState(MOST)
        borne = []
        for _ in range(3):
            borne.append(tries.longest_silence(waited_for=False))
            tries.fell_silent()
        self.assertEqual(borne, [SILENCE, 2 * SILENCE, 4 * SILENCE])
        tries.came(100.0)
        self.assertEqual(tries.longest_silence(waited_for=False), SILENCE)
